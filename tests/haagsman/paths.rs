//! Paths and methods that are written otherwise: never a way round the table.

use crate::{
    home, key, refused, start,
    support::{Client, Http2, RawCall},
};

/// Ways to write a path that a router might take for the plain one.
fn variants(path: &str) -> Vec<String> {
    let (start, last) = path.rsplit_once('/').expect("a path");
    let (initial, rest) = last.split_at(1);
    let encoded = format!("%{:02x}", initial.as_bytes()[0]);
    vec![
        format!("/{path}"),
        format!("{path}/"),
        format!("{path}//"),
        format!("{start}//{last}"),
        format!("{start}/./{last}"),
        format!("{start}/triage/../{last}"),
        format!("/api/v1/auth/../{last}"),
        format!("/api/v1/auth/login/../../{last}"),
        format!("/public/..{path}"),
        format!("{start}/x/%2e%2e/{last}"),
        format!("{start}%2f{last}"),
        format!("{start}%5c{last}"),
        format!("{start}\\{last}"),
        format!("{start}/{encoded}{rest}"),
        format!("{start}/{}{rest}", initial.to_uppercase()),
        format!("{path};x"),
        format!("{path}%3bx"),
        format!("{path}%00"),
        format!("{path}%20"),
        format!("{path}%0d%0a"),
        format!("{path}.json"),
        path.to_uppercase(),
    ]
}

async fn status(server: &Client, method: &str, target: &str, key: &str) -> u16 {
    let call = RawCall::new(method, target).line(format!("x-api-key: {key}"));
    let answer = call.send(server).await;
    assert!(!answer.status.is_success(), "{method} {target}");
    answer.status.as_u16()
}

#[tokio::test]
async fn no_spelling_of_a_path_gives_a_viewer_more() {
    let home = home();
    let server = start(&home).await;
    let viewer = key(&home, "viewer").await;
    for (method, path) in [
        ("GET", "/api/v1/users"),
        ("GET", "/api/v1/audit"),
        ("PUT", "/api/v1/config"),
        ("DELETE", "/api/v1/gdpr/x"),
        ("POST", "/api/v1/documents"),
    ] {
        for target in variants(path) {
            let status = status(&server, method, &target, &viewer).await;
            assert!(
                [400, 403, 404].contains(&status),
                "{method} {target}: {status}"
            );
        }
        for target in [
            path.to_owned(),
            format!("{path}?"),
            format!("{path}?/../../triage"),
            format!("http://localhost{path}"),
            format!("http://elsewhere.example{path}"),
        ] {
            assert_eq!(
                status(&server, method, &target, &viewer).await,
                403,
                "{method} {target}"
            );
        }
    }
}

#[tokio::test]
async fn a_stranger_learns_nothing_of_what_there_is() {
    let home = home();
    let server = start(&home).await;
    let told = async |method: &str, target: &str| {
        let answer = RawCall::new(method, target).send(&server).await;
        refused(&answer, 401);
        let names = answer.headers.keys().map(ToString::to_string);
        let mut names: Vec<_> = names.collect();
        names.sort();
        (names, answer.body)
    };
    for method in ["PUT", "GET", "OPTIONS", "DELETE"] {
        let nothing = told(method, "/api/v1/nope").await;
        for path in ["users", "users/x", "config", "auth/logout", "documents/%ff"] {
            let something = told(method, &format!("/api/v1/{path}")).await;
            assert_eq!(something, nothing, "{method} {path}");
        }
    }
    let key = key(&home, "viewer").await;
    let call = RawCall::new("PATCH", "/api/v1/users").line(format!("x-api-key: {key}"));
    let answer = call.send(&server).await;
    assert!(!answer.headers.contains_key("allow") || answer.status == 405);
}

#[tokio::test]
async fn what_cannot_be_an_id_is_answered_like_one_that_never_was() {
    let home = home();
    let server = start(&home).await;
    let admin = key(&home, "admin").await;
    let long = "u".repeat(256);
    for id in ["user-never-was", &long, "%ff", "a%C3"] {
        let path = format!("/api/v1/users/{id}");
        let change = server.call(http::Method::PATCH, &path).key(&admin);
        let answer = change
            .json(&serde_json::json!({ "active": false }))
            .send()
            .await;
        let said = refused(&answer, 404);
        let answer = server.delete(&path).key(&admin).send().await;
        assert_eq!(refused(&answer, 404), said, "{id}");
    }
    // One that can mean two things is none of a path in the table.
    let answer = server
        .delete("/api/v1/users/a%00b")
        .key(&admin)
        .send()
        .await;
    answer.refusal(&[403, 404]);
}

#[tokio::test]
async fn a_caller_s_own_limit_is_told_where_there_is_nothing() {
    let home = home();
    let launch = home.launch().env("KEY_RATE_LIMIT_PER_MINUTE", "2");
    let server = launch.start().await;
    let key = key(&home, "viewer").await;
    for (path, status) in [
        ("/nope", 404),
        ("/api/v1/auth/login", 405),
        ("/api/v1/triage", 429),
        ("/nope", 429),
    ] {
        let answer = server.get(path).key(&key).send().await;
        refused(&answer, status);
        assert_eq!(answer.number("x-ratelimit-limit"), 2, "{path}");
    }
    for path in ["/nope", "/api/v1/auth/login"] {
        let stranger = server.get(path).send().await;
        let guess = server.get(path).key("hai_guess").send().await;
        assert_eq!(guess.status, stranger.status);
        assert_eq!(
            guess.number("x-ratelimit-limit"),
            stranger.number("x-ratelimit-limit")
        );
    }
}

#[tokio::test]
async fn no_header_changes_method_or_path() {
    let home = home();
    let server = start(&home).await;
    let viewer = key(&home, "viewer").await;
    for line in [
        "x-http-method-override: GET",
        "x-method-override: GET",
        "x-original-url: /api/v1/triage",
        "x-rewrite-url: /api/v1/triage",
        "x-forwarded-prefix: /api/v1/triage",
        "x-forwarded-host: admin.example",
        "x-forwarded-for: 127.0.0.1",
        "forwarded: for=127.0.0.1;host=admin.example",
    ] {
        let call = RawCall::new("GET", "/api/v1/users").line(format!("x-api-key: {viewer}"));
        refused(&call.line(line).send(&server).await, 403);
        let call = RawCall::new("GET", "/api/v1/triage").line(format!("x-api-key: {viewer}"));
        let line = line
            .replace("GET", "DELETE")
            .replace("/api/v1/triage", "/api/v1/users");
        call.line(line).send(&server).await.expect(200);
    }
}

#[tokio::test]
async fn head_over_http2_is_answered_without_content() {
    let home = home();
    let server = start(&home).await;
    let viewer = key(&home, "viewer").await;
    let mut client = Http2::connect(server.address).await;
    let with_key = [("x-api-key", viewer.as_str())];
    for (path, lines, status) in [
        ("/nowhere", [].as_slice(), 404),
        ("/api/v1/nowhere", &[], 401),
        ("/api/v1/nowhere", &with_key, 403),
        ("/api/v1/users", &with_key, 403),
        ("/api/v1/documents/stats", &with_key, 200),
    ] {
        let answer = client.head_is_get_without_content(path, lines).await;
        assert_eq!(answer.status(), status, "{path}");
    }
}
