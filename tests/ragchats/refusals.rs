//! Every refusal has the service's shape.

use serde_json::{Value, json};

use crate::{PASSWORD, Person, home, refused};

#[tokio::test]
async fn missing_invalid_and_doubled_tokens_are_told_apart() {
    let home = home();
    let server = home.start().await;
    let ann = Person::new(&server, "ann").await;
    for path in ["/api/agents/", "/api/agents/x/query/", "/auth/logout/"] {
        let call = if path == "/api/agents/" {
            server.get(path)
        } else {
            server.post(path)
        };
        refused(&call.send().await, 401, "token_missing");
    }
    let tampered = format!("{}x", ann.access);
    for bad in ["x", "a.b.c", &tampered, "eyJhbGciOiJub25lIn0.e30."] {
        let call = server.get("/api/agents/").bearer(bad);
        refused(&call.send().await, 401, "token_invalid");
    }
    let twice = server.get("/api/agents/").bearer(&ann.access);
    let twice = twice.bearer(&ann.access).send().await;
    refused(&twice, 401, "token_invalid");
    let in_query = server.get(&format!("/api/agents/?access_token={}", ann.access));
    refused(&in_query.send().await, 401, "token_missing");
    for refresh in [&ann.access, "x"] {
        let body = json!({ "refresh": refresh });
        let call = server.post("/api/auth/token/refresh/").json(&body);
        refused(&call.send().await, 401, "token_invalid");
    }
}

#[tokio::test]
async fn what_is_not_there_or_not_understood_has_the_same_shape() {
    let home = home();
    let server = home.start().await;
    let ann = Person::new(&server, "ann").await;
    for path in ["/", "/api/agents", "/api/auth/login", "/auth/", "/agents/"] {
        refused(&server.get(path).send().await, 404, "not_found");
    }
    refused(
        &server.get("/auth/login/").send().await,
        405,
        "method_not_allowed",
    );
    let broken = server.post("/auth/login/").body("{");
    refused(&broken.send().await, 400, "bad_request");
    let odd: [Value; 4] = [json!([]), json!({}), json!({ "email": 1 }), json!(null)];
    for body in odd {
        let call = server.post("/auth/login/").json(&body);
        refused(&call.send().await, 422, "validation_error");
    }
    for name in ["", "  ", "a\nb", &"x".repeat(201)] {
        let person = json!({
            "email": "bob@example.com", "password": PASSWORD, "firstName": "Bob", "lastName": name,
        });
        let answer = server
            .post("/api/auth/register/")
            .json(&person)
            .send()
            .await;
        refused(&answer, 422, "validation_error");
        let rule = answer.json()["message"].to_string();
        assert!(rule.contains("lastName: 1 to 200 characters"), "{rule}");
        let answer = ann.post("/api/agents/", &json!({ "name": name })).await;
        refused(&answer, 422, "validation_error");
    }
    let register = |email: &str, password: &str, first: &str| {
        let body = json!({
            "email": email, "password": password, "firstName": first, "lastName": "Doe",
        });
        server.post("/auth/register/").json(&body).send()
    };
    refused(
        &register("no address", PASSWORD, "J").await,
        422,
        "validation_error",
    );
    refused(
        &register("b@example.com", "short", "J").await,
        422,
        "validation_error",
    );
    refused(
        &register("b@example.com", PASSWORD, "").await,
        422,
        "validation_error",
    );
    refused(
        &register("ANN@example.com", PASSWORD, "J").await,
        409,
        "conflict",
    );
}

#[tokio::test]
async fn a_limit_counts_by_user_and_by_key() {
    let home = home();
    let server = home
        .launch()
        .env("RATE_LIMIT_PER_MINUTE", "3")
        .start()
        .await;
    let ann = Person::new(&server, "ann").await;
    let bob = Person::new(&server, "bob").await;
    for left in [2, 1, 0] {
        let answer = ann.get("/api/agents/").await.expect(200);
        assert_eq!(answer.number("x-ratelimit-remaining"), left);
    }
    let answer = ann.get("/api/agents/").await;
    let details = refused(&answer, 429, "rate_limited");
    assert_eq!(
        details["retry_after"].as_u64(),
        Some(answer.number("retry-after"))
    );
    bob.get("/api/agents/").await.expect(200);
}

#[tokio::test]
async fn lifetimes_that_can_not_be_are_said_at_start() {
    for name in [
        "ACCESS_TTL_SECONDS",
        "REFRESH_TTL_SECONDS",
        "RATE_LIMIT_PER_MINUTE",
    ] {
        let home = home();
        let ended = home.launch().env(name, "soon").refused().await;
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
    }
    for name in ["ACCESS_TTL_SECONDS", "REFRESH_TTL_SECONDS"] {
        for value in ["0", "315360001"] {
            let home = home();
            let ended = home.launch().env(name, value).refused().await;
            assert!(ended.stderr.contains(name), "{}", ended.stderr);
        }
    }
    let home = home();
    let ended = home.launch().env("JWT_SECRET", "too short").refused().await;
    assert!(ended.stderr.contains("JWT_SECRET"));
}

/// Whoever is known is counted, and told what is left, also where there is nothing.
#[tokio::test]
async fn what_is_not_there_counts_and_tells_what_is_left() {
    let home = home();
    let server = home
        .launch()
        .env("RATE_LIMIT_PER_MINUTE", "8")
        .start()
        .await;
    let ann = Person::new(&server, "ann").await;
    let agent = ann.agent("one").await;
    let key = ann.key(&agent).await;
    let query = format!("/api/agents/{agent}/query/");
    let mut left = 6;
    for (path, status, code) in [
        ("/api/agents/nowhere/at/all/", 404, "not_found"),
        ("/nowhere/", 404, "not_found"),
        ("/auth/logout/", 405, "method_not_allowed"),
        (&query, 405, "method_not_allowed"),
    ] {
        refused(&server.get(path).send().await, status, code);
        left -= 1;
        let answer = ann.get(path).await;
        refused(&answer, status, code);
        assert_eq!(answer.number("x-ratelimit-remaining"), left, "{path}");
        assert!(
            answer.header("ratelimit").contains(&format!("r={left}")),
            "{path}"
        );
    }
    let answer = server.get(&query).bearer(&key).send().await;
    refused(&answer, 405, "method_not_allowed");
    assert_eq!(answer.number("x-ratelimit-remaining"), 7, "a key's own");
    assert_eq!(answer.header("allow"), "POST");
    for path in ["/nowhere/", "/api/agents/nowhere/at/all/"] {
        let bad = server.get(path).bearer("x").send().await;
        refused(&bad, 404, "not_found");
        let stranger = server.get(path).send().await;
        assert_eq!(
            bad.number("x-ratelimit-limit"),
            stranger.number("x-ratelimit-limit")
        );
    }
    for _ in 0..2 {
        refused(&ann.get("/nowhere/").await, 404, "not_found");
    }
    let answer = ann.get("/nowhere/").await;
    refused(&answer, 429, "rate_limited");
}
