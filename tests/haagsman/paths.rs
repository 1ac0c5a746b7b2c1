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
