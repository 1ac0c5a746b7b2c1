use http::Request;

use super::*;
use crate::{
    domain::{credential::CredentialKind, denial::DenialKind, principal::Principal},
    guard::{Decision, Policy, Verdict},
};

fn admin() -> Principal {
    let caller = Principal::builder("user-1", CredentialKind::Token);
    caller.role("admin").build()
}

fn bound(resource: &str) -> Principal {
    let caller = Principal::builder("user-1", CredentialKind::ApiKey);
    caller.role("admin").resource(resource).build()
}

fn request(method: &str, target: &str, principal: Option<Principal>) -> Request<()> {
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .body(())
        .unwrap();
    if let Some(principal) = principal {
        request.extensions_mut().insert(principal);
    }
    request
}

fn judged(layer: &RbacLayer, request: &Request<()>) -> Option<DenialKind> {
    let head = RequestHead::of(request);
    let decided = match layer.gate.policy().decide(&head) {
        Decision::Ready(Verdict::Admit(())) => None,
        Decision::Ready(Verdict::Refuse(denial)) => Some(denial.kind()),
        _ => panic!("neither admitted nor refused"),
    };
    let explained = layer.explain(&head).denial().map(|denial| denial.kind());
    assert_eq!(explained, decided, "it is explained as it was decided");
    decided
}

fn table() -> RbacLayer {
    let table = RouteTable::new()
        .route("GET", "/admin", "configure")
        .and_then(|table| table.route("POST", "/admin", "configure"))
        .and_then(|table| table.route("GET", "/public/{*rest}", Requirement::nothing()))
        .and_then(|table| table.route("GET", "/users/{id}", "read"))
        .and_then(|table| table.route("GET", "/users/me", Requirement::authenticated()))
        .and_then(|table| table.route("POST", "/agents/{bot_id}/query", "read"))
        .unwrap();
    RbacLayer::routes(&RoleSet::viewer_operator_admin(), table)
}

#[test]
fn a_scope_bounds_what_a_role_grants() {
    let roles = RoleSet::viewer_operator_admin();
    let required = Requirement::permission("read").add_scope("documents");
    let layer = RbacLayer::require(&roles, required);
    let caller = |role: &str, scopes: &[&str]| {
        let caller = Principal::builder("user-1", CredentialKind::Token).role(role);
        let caller = scopes
            .iter()
            .fold(caller, |caller, scope| caller.scope(scope));
        Some(caller.build())
    };
    let judge = |principal| judged(&layer, &request("GET", "/", principal));
    let refused = Some(DenialKind::NotPermitted);
    assert_eq!(judge(caller("viewer", &["chat", "documents"])), None);
    for scopes in [
        &[][..],
        &["chat"],
        &["document"],
        &["documents:read"],
        &["Documents"],
    ] {
        assert_eq!(judge(caller("admin", scopes)), refused, "{scopes:?}");
    }
    assert_eq!(
        judge(caller("nobody", &["documents"])),
        refused,
        "no more than its user"
    );
    assert_eq!(
        judge(caller("documents", &[])),
        refused,
        "a role is no scope"
    );
    assert_eq!(judge(None), Some(DenialKind::CredentialMissing));

    let two = RbacLayer::require(&roles, Requirement::scope("a").add_scope("b"));
    let judge = |principal| judged(&two, &request("GET", "/", principal));
    assert_eq!(judge(caller("nobody", &["b", "c", "a"])), None);
    assert_eq!(judge(caller("admin", &["a"])), refused);
    let anyone = RbacLayer::require(&roles, Requirement::nothing().add_scope("a"));
    let nobody = judged(&anyone, &request("GET", "/", None));
    assert_eq!(nobody, Some(DenialKind::CredentialMissing));
}

#[test]
fn no_spelling_of_a_path_gets_round_the_table() {
    let layer = table();
    for path in [
        "//admin",
        "/admin/",
        "/admin//",
        "/./admin",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/..%2fadmin",
        "/public/a//b",
        "/public/./a",
        "/%61dmin",
        "/Admin",
        "/ADMIN",
        "/admin;x",
        "/admin%3b",
        "/admin%2f",
        "/admin%00",
        "/admin%20",
        "/admin%5c",
        "/admin.json",
        "/public",
        "/users/1/",
        "/users//1",
        "/",
        "/unknown",
    ] {
        let refused = judged(&layer, &request("GET", path, Some(admin())));
        assert_eq!(refused, Some(DenialKind::NotPermitted), "{path}");
    }
    assert_eq!(
        judged(&layer, &request("GET", "/admin", Some(admin()))),
        None
    );
    assert_eq!(judged(&layer, &request("GET", "/public/a/b", None)), None);
}

#[test]
fn only_the_method_and_the_path_of_the_first_line_count() {
    let layer = table();
    let viewer = Principal::builder("user-2", CredentialKind::Token);
    let viewer = Some(viewer.role("viewer").build());
    let refused = Some(DenialKind::NotPermitted);
    let absolute = request("GET", "http://public.example/admin", viewer.clone());
    assert_eq!(judged(&layer, &absolute), refused);

    let mut disguised = request("GET", "/admin", viewer.clone());
    for (name, value) in [
        ("host", "public.example"),
        ("x-original-url", "/public/a"),
        ("x-rewrite-url", "/public/a"),
        ("x-forwarded-prefix", "/public"),
        ("x-http-method-override", "OPTIONS"),
    ] {
        disguised.headers_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(judged(&layer, &disguised), refused);

    let mut overridden = request("GET", "/users/1", viewer);
    let delete = "DELETE".parse().unwrap();
    overridden
        .headers_mut()
        .insert("x-http-method-override", delete);
    assert_eq!(judged(&layer, &overridden), None, "it is a GET");
}

#[test]
fn head_is_get_and_other_methods_are_not() {
    let layer = table();
    let of = |method: &str, path: &str| judged(&layer, &request(method, path, Some(admin())));
    assert_eq!(of("HEAD", "/admin"), None);
    assert_eq!(
        of("HEAD", "/agents/7/query"),
        Some(DenialKind::MethodNotAllowed)
    );
    for method in ["DELETE", "OPTIONS", "TRACE", "get", "PROPFIND"] {
        assert_eq!(
            of(method, "/admin"),
            Some(DenialKind::MethodNotAllowed),
            "{method}"
        );
    }
    let allowed = |path: &str| {
        let request = request("DELETE", path, None);
        let why = layer.explain(&RequestHead::of(&request));
        let methods = why.denial().unwrap().allowed_methods();
        methods.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(allowed("/admin"), "GET, HEAD, POST");
    assert_eq!(allowed("/agents/7/query"), "POST");
}

#[test]
fn nobody_is_somebody_only_where_nothing_is_required() {
    let layer = table();
    let missing = Some(DenialKind::CredentialMissing);
    assert_eq!(judged(&layer, &request("GET", "/users/me", None)), missing);
    assert_eq!(judged(&layer, &request("GET", "/users/1", None)), missing);
    let stranger = Principal::builder("user-3", CredentialKind::Token).build();
    let at = |path: &str| judged(&layer, &request("GET", path, Some(stranger.clone())));
    assert_eq!(at("/users/me"), None);
    assert_eq!(at("/users/1"), Some(DenialKind::NotPermitted));
}

#[test]
fn a_table_that_contradicts_itself_cannot_be() {
    let table = || RouteTable::new().route("GET", "/a/{id}", "x").unwrap();
    for (method, pattern) in [
        ("GET", "/a/{id}"),
        ("POST", "/a/{name}"),
        ("HEAD", "/b"),
        ("get", "/b"),
        ("", "/b"),
        ("GET", "b"),
        ("GET", ""),
        ("GET", "/b//c"),
        ("GET", "/b/../c"),
        ("GET", "/%62"),
        ("GET", "/{"),
    ] {
        let refused = table().route(method, pattern, "x");
        assert!(refused.is_err(), "{method} {pattern}");
    }
    let table = table().route("DELETE", "/a/{id}", "y").unwrap();
    assert_eq!(table.routes().count(), 2);
}

#[test]
fn a_bound_credential_is_good_at_its_resource_and_nowhere_else() {
    let layer = table().scope_from_path("bot_id");
    let of = |method: &str, path: &str, caller: Principal| {
        judged(&layer, &request(method, path, Some(caller)))
    };
    let refused = Some(DenialKind::NotPermitted);
    assert_eq!(
        of(
            "POST",
            "/agents/bot 7/query".replace(' ', "%20").as_str(),
            bound("bot 7")
        ),
        None
    );
    assert_eq!(of("POST", "/agents/7/query", bound("7")), None);
    assert_eq!(of("POST", "/agents/8/query", bound("7")), refused);
    assert_eq!(of("POST", "/agents/07/query", bound("7")), refused);
    assert_eq!(
        of("GET", "/users/7", bound("7")),
        refused,
        "the route names no bot"
    );
    assert_eq!(
        of("POST", "/agents/8/query", admin()),
        None,
        "bound to nothing"
    );
}

#[test]
fn a_tenant_stays_among_its_own() {
    let table = RouteTable::new()
        .route("GET", "/t/{tenant}/files", "read")
        .and_then(|table| table.route("GET", "/files", "read"))
        .unwrap();
    let layer = RbacLayer::routes(&RoleSet::viewer_operator_admin(), table);
    let layer = layer.tenant_from_path("tenant");
    let acme = Principal::builder("user-1", CredentialKind::Token).role("admin");
    let acme = acme.attributes([("tenant".to_owned(), "acme".to_owned())].into());
    let acme = acme.build();
    let of = |path: &str, caller: &Principal| {
        judged(&layer, &request("GET", path, Some(caller.clone())))
    };
    let refused = Some(DenialKind::NotPermitted);
    assert_eq!(of("/t/acme/files", &acme), None);
    assert_eq!(of("/t/other/files", &acme), refused);
    assert_eq!(of("/files", &acme), refused);
    assert_eq!(of("/t/acme/files", &admin()), refused, "of no tenant");
}

#[test]
fn a_scope_without_a_pattern_fails_closed() {
    let layer = RbacLayer::authenticated().scope_from_path("bot_id");
    let refused = judged(
        &layer,
        &request("POST", "/agents/7/query", Some(bound("7"))),
    );
    assert_eq!(refused, Some(DenialKind::NotPermitted));
}

/// In axum: what a nested router cuts off counts, and so does what it calls the route.
#[cfg(feature = "axum")]
mod in_axum {
    use axum::{Router, routing::post};
    use tower::ServiceExt;

    use super::*;

    async fn status(app: &Router, path: &str, caller: Principal) -> u16 {
        let request = request("POST", path, Some(caller)).map(|()| axum::body::Body::empty());
        app.clone()
            .oneshot(request)
            .await
            .unwrap()
            .status()
            .as_u16()
    }

    fn query(layer: RbacLayer) -> Router {
        let query = post(async || "answer").route_layer(layer);
        let agents = Router::new().route("/{bot_id}/query/", query);
        let api = Router::new().nest("/agents", agents);
        Router::new().nest("/api", api)
    }

    #[tokio::test]
    async fn the_scope_is_read_from_the_full_pattern() {
        let app = query(RbacLayer::authenticated().scope_from_path("bot_id"));
        assert_eq!(status(&app, "/api/agents/7/query/", bound("7")).await, 200);
        assert_eq!(status(&app, "/api/agents/8/query/", bound("7")).await, 403);
        assert_eq!(
            status(&app, "/api/agents/%37/query/", bound("7")).await,
            403
        );
        assert_eq!(status(&app, "/api/agents/8/query/", admin()).await, 200);
        let other = query(RbacLayer::authenticated().scope_from_path("agent"));
        assert_eq!(
            status(&other, "/api/agents/7/query/", bound("7")).await,
            403
        );
    }

    #[tokio::test]
    async fn the_table_sees_the_full_path_inside_nested_routers() {
        let table = |pattern| {
            let table = RouteTable::new().route("POST", pattern, "configure");
            RbacLayer::routes(&RoleSet::viewer_operator_admin(), table.unwrap())
        };
        let full = query(table("/api/agents/{bot_id}/query/"));
        assert_eq!(status(&full, "/api/agents/7/query/", admin()).await, 200);
        let stripped = query(table("/{bot_id}/query/"));
        assert_eq!(
            status(&stripped, "/api/agents/7/query/", admin()).await,
            403
        );
    }

    #[tokio::test]
    async fn a_wildcard_route_opens_nothing_by_dots() {
        let table = RouteTable::new().route("POST", "/public/{*rest}", Requirement::nothing());
        let layer = RbacLayer::routes(&RoleSet::new(), table.unwrap());
        let app = Router::new()
            .route("/public/{*rest}", post(async || "public"))
            .layer(layer);
        assert_eq!(status(&app, "/public/a", admin()).await, 200);
        for path in ["/public/../admin", "/public//admin", "/public/%2e%2e/admin"] {
            assert_eq!(status(&app, path, admin()).await, 403, "{path}");
        }
    }
}

#[test]
fn a_name_that_nobody_holds_is_refused_before_anybody_is() {
    let roles = RoleSet::viewer_operator_admin().add_role("auditor", ["logs:*"]);
    let error = |requirement: Requirement| {
        let table = RouteTable::new()
            .route("GET", "/a", Requirement::authenticated())
            .and_then(|table| table.route("GET", "/b", requirement.clone()))
            .unwrap();
        let by_route = RbacLayer::routes(&roles, table).checked().err();
        let everywhere = RbacLayer::require(&roles, requirement).checked().err();
        let names = [&by_route, &everywhere].map(|error| error.as_ref().map(UnheldName::name));
        assert_eq!(names[0], names[1]);
        let text = everywhere.map(|error| error.to_string());
        let of_route = text.as_ref().map(|text| format!("route GET /b: {text}"));
        assert_eq!(by_route.map(|error| error.to_string()), of_route);
        text
    };
    for good in [
        Requirement::permission("read"),
        Requirement::permission("logs:read").add_scope("anything"),
        Requirement::all_of(["read", "configure", "logs:x:y"]),
        Requirement::any_of(["read", "write"]),
        Requirement::role("auditor"),
        Requirement::nothing(),
        Requirement::scope("documents"),
        // What is for nobody.
        Requirement::any_of([""; 0]),
    ] {
        assert_eq!(error(good), None);
    }
    for (bad, text) in [
        (Requirement::permission("raed"), "no role holds raed"),
        (Requirement::permission("Read"), "no role holds Read"),
        (Requirement::permission("logs"), "no role holds logs"),
        (Requirement::all_of(["read", "x"]), "no role holds x"),
        (Requirement::any_of(["read", "x"]), "no role holds x"),
        (Requirement::role("admins"), "there is no role admins"),
        (Requirement::role("read"), "there is no role read"),
    ] {
        assert_eq!(error(bad).as_deref(), Some(text));
    }
}

#[test]
fn without_roles_only_permissions_are_missed() {
    let none = RoleSet::new();
    assert!(RbacLayer::role("admin").checked().is_ok());
    assert!(RbacLayer::authenticated().checked().is_ok());
    assert!(RbacLayer::require(&none, "read").checked().is_err());
}

/// A role that only a token knows, and one of several permissions, can be fulfilled.
#[test]
fn what_somebody_may_fulfil_is_not_refused_unasked() {
    let roles = RoleSet::viewer_operator_admin();
    let needed = |requirement| RbacLayer::require(&roles, requirement).check_needed_names();
    for good in [
        Requirement::role("service"),
        Requirement::any_of(["read", "legacy:read"]),
        Requirement::all_of(["read", "write"]),
    ] {
        assert!(needed(good).is_ok());
    }
    for bad in [
        Requirement::permission("raed"),
        Requirement::any_of(["raed", "legacy:read"]),
        Requirement::all_of(["read", "raed"]),
    ] {
        assert!(needed(bad).is_err());
    }
}
