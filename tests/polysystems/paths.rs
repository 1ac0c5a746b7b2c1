//! Paths and methods that are written otherwise: never a way around a refusal or a price.

use http::Method;
use serde_json::json;

use crate::support::{Account, RawCall, demo_body, home};

/// Ways to write a path that a router might take for the plain one.
fn variants(path: &str) -> Vec<String> {
    let (start, last) = path.rsplit_once('/').expect("a path");
    let (initial, rest) = last.split_at(1);
    let encoded = format!("%{:02x}", initial.as_bytes()[0]);
    vec![
        format!("/{path}"),
        format!("{path}/"),
        format!("{start}//{last}"),
        format!("{start}/./{last}"),
        format!("/public/..{path}"),
        format!("{start}/x/../{last}"),
        format!("{start}/x/%2e%2e/{last}"),
        format!("{start}%2f{last}"),
        format!("{start}/{encoded}{rest}"),
        format!("{start}/{}{rest}", initial.to_uppercase()),
        format!("{path};x"),
        format!("{path}%00"),
        format!("{path}%20"),
        format!("{start}\\{last}"),
        path.to_uppercase(),
        format!("http://localhost{path}"),
        format!("http://elsewhere.example{path}"),
    ]
}

#[tokio::test]
async fn no_spelling_of_a_path_lets_a_stranger_in() {
    let home = home();
    let server = home.start().await;
    for path in [
        "/api/auth/me",
        "/api/keys",
        "/api/payments/balance",
        "/api/monitoring/usage",
    ] {
        for target in variants(path) {
            let answer = RawCall::new("GET", &target).send(&server).await;
            assert!(answer.status.is_client_error(), "{target}: {answer:?}");
        }
    }
    for path in ["/api/hub/health", "/v1/models"] {
        for target in variants(path) {
            let answer = RawCall::new("GET", &target).send(&server).await;
            assert!(answer.status.is_client_error(), "{target}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn no_spelling_of_a_path_is_cheaper() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": "a"}]}).to_string();
    let demo = demo_body("Hello!").to_string();
    let routes = [
        ("/api/hub/agents/chat", &demo),
        ("/api/omm/process", &demo),
        ("/api/yggdrasil/query", &demo),
        ("/v1/chat/completions", &body),
    ];
    for (path, body) in routes {
        for target in variants(path) {
            let call = RawCall::new("POST", &target)
                .line(format!("x-api-key: {}", key.value))
                .line("content-type: application/json");
            let answer = call.body(body.as_bytes()).send(&server).await;
            assert!(
                answer.status.is_client_error(),
                "{target}, without money: {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn head_is_no_way_in() {
    let home = home();
    let server = home.start().await;
    for path in ["/api/auth/me", "/api/keys", "/api/hub/health", "/v1/models"] {
        let answer = server.call(Method::HEAD, path).send().await;
        assert!(
            [401, 405].contains(&answer.status.as_u16()),
            "{path}: {answer:?}"
        );
        assert!(!answer.request_id().is_empty());
    }
}

#[tokio::test]
async fn a_method_is_the_one_of_the_request_line() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    let path = format!("/api/keys/{}", key.id);
    for name in [
        "x-http-method-override",
        "x-method-override",
        "x-http-method",
    ] {
        for call in [server.post(&path), server.get(&path)] {
            let answer = call
                .bearer(&account.token)
                .header(name, "DELETE")
                .send()
                .await;
            answer.refused(&[404, 405]);
        }
        let stranger = server.post("/api/keys").header(name, "OPTIONS").body("{}");
        stranger.send().await.refused(&[401]);
    }
    key.health(&server).await.expect(200);
}
