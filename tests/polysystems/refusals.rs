//! Every refusal has the shape of the service, whoever makes it.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Account, Answer, Call, PRICED, home};

#[tokio::test]
async fn an_unknown_route_is_404_in_shape() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    for path in [
        "/nope",
        "/api",
        "/api/nope",
        "/favicon.ico",
        "/api/auth/nope",
    ] {
        server.get(path).send().await.refused(&[404]);
        server
            .post(path)
            .json(&json!({}))
            .send()
            .await
            .refused(&[404]);
    }
    // Below a group that asks for a credential, the credential may be asked for first.
    for path in [
        "/api/keys/x/nope",
        "/api/payments/nope",
        "/api/monitoring/nope",
        "/api/hub/nope",
    ] {
        server.get(path).send().await.refused(&[401, 404]);
    }
    for path in [
        "/api/keys/x/nope",
        "/api/payments/nope",
        "/api/monitoring/nope",
    ] {
        server
            .get(path)
            .bearer(&account.token)
            .send()
            .await
            .refused(&[404]);
    }
    for path in ["/api/hub/nope", "/api/omm/nope", "/api/yggdrasil/nope"] {
        server
            .get(path)
            .key(&key.value)
            .send()
            .await
            .refused(&[404]);
        server
            .post(path)
            .key(&key.value)
            .json(&json!({}))
            .send()
            .await
            .refused(&[404]);
    }
    assert_eq!(account.settled(&server).await, 1_000_000_000);
}

#[tokio::test]
async fn a_wrong_method_is_405_in_shape() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    for path in ["/api/auth/register", "/api/auth/login"] {
        server.get(path).send().await.refused(&[405]);
        server.delete(path).send().await.refused(&[405]);
    }
    let token = &account.token;
    server
        .post("/api/auth/me")
        .bearer(token)
        .send()
        .await
        .refused(&[405]);
    server
        .put("/api/keys")
        .bearer(token)
        .json(&json!({}))
        .send()
        .await
        .refused(&[405]);
    server
        .call(Method::PATCH, "/api/keys")
        .bearer(token)
        .send()
        .await
        .refused(&[405]);
    server
        .get("/api/payments/topup")
        .bearer(token)
        .send()
        .await
        .refused(&[405]);
    server
        .delete("/api/payments/balance")
        .bearer(token)
        .send()
        .await
        .refused(&[405]);
    let limits = format!("/api/keys/{}/limits", key.id);
    server
        .post(&limits)
        .bearer(token)
        .json(&json!({}))
        .send()
        .await
        .refused(&[405]);
    for (path, _, _) in PRICED {
        server
            .get(path)
            .key(&key.value)
            .send()
            .await
            .refused(&[405]);
        server
            .delete(path)
            .key(&key.value)
            .send()
            .await
            .refused(&[405]);
    }
    server
        .post("/api/hub/health")
        .key(&key.value)
        .send()
        .await
        .refused(&[405]);
    assert_eq!(account.settled(&server).await, 1_000_000_000);
}

#[tokio::test]
async fn a_malformed_body_is_400_or_422_in_shape() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    server
        .post("/api/auth/register")
        .body("{")
        .send()
        .await
        .refused(&[400, 422]);
    server
        .post("/api/auth/login")
        .body("{")
        .send()
        .await
        .refused(&[400, 422]);
    for path in [
        "/api/auth/change-password",
        "/api/keys",
        "/api/payments/topup",
    ] {
        server
            .post(path)
            .bearer(&account.token)
            .body("{")
            .send()
            .await
            .refused(&[400, 422]);
    }
    let path = format!("/api/keys/{}/limits", key.id);
    server
        .put(&path)
        .bearer(&account.token)
        .body("{")
        .send()
        .await
        .refused(&[400, 422]);
    for (path, _, _) in PRICED {
        server
            .post(path)
            .key(&key.value)
            .body("{")
            .send()
            .await
            .refused(&[400, 422]);
    }
    let path = "/v1/chat/completions";
    server
        .post(path)
        .key(&key.value)
        .body("{")
        .send()
        .await
        .refused_openai(&[400, 422]);
}

#[tokio::test]
async fn every_jwt_route_refuses_a_stranger_in_shape() {
    let home = home();
    let server = home.start().await;
    let routes = [
        (Method::GET, "/api/auth/me"),
        (Method::POST, "/api/auth/change-password"),
        (Method::POST, "/api/keys"),
        (Method::GET, "/api/keys"),
        (Method::POST, "/api/keys/key-123/revoke"),
        (Method::DELETE, "/api/keys/key-123"),
        (Method::POST, "/api/keys/key-123/rotate"),
        (Method::PUT, "/api/keys/key-123/limits"),
        (Method::POST, "/api/payments/topup"),
        (Method::GET, "/api/payments/balance"),
        (Method::GET, "/api/payments/transactions"),
        (Method::GET, "/api/monitoring/usage"),
    ];
    for (method, path) in routes {
        let call = || server.call(method.clone(), path).body("{}");
        call().send().await.refused(&[401]);
        call().bearer("not.a.token").send().await.refused(&[401]);
        call()
            .bearer("ps_live_abcdef123456789")
            .send()
            .await
            .refused(&[401]);
    }
}

#[tokio::test]
async fn every_key_route_refuses_a_stranger_in_its_own_words() {
    let home = home();
    let server = home.start().await;
    for (path, _, _) in PRICED {
        server.post(path).body("{").send().await.missing_key();
        server
            .post(path)
            .key("nonsense")
            .body("{")
            .send()
            .await
            .invalid_key();
    }
    server.get("/api/hub/health").send().await.missing_key();
    server
        .get("/api/hub/health")
        .key("nonsense")
        .send()
        .await
        .invalid_key();
}

const COMPLETIONS: &str = "/v1/chat/completions";

fn completion(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "a b"}]})
}

#[tokio::test]
async fn refusals_under_v1_are_openai_shaped() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let good = account.key(&server).await.value;
    let old = json!({"expires_at": "2024-02-15T12:00:00Z"});
    let old = account.key_with(&server, old).await.value;
    let far = json!({"allowed_ips": ["192.0.2.1"]});
    let far = account.key_with(&server, far).await.value;
    let models = || server.get("/v1/models");
    let chat = || server.post(COMPLETIONS).json(&completion("any"));
    let refusals: [(Call, &[u16]); 14] = [
        (server.get("/v1"), &[404]),
        (server.post("/v1").key(&good).body("{}"), &[404]),
        (server.get("/v1/"), &[404]),
        (models(), &[401]),
        (models().key("nonsense"), &[401]),
        (models().bearer(&account.token), &[401]),
        (chat(), &[401]),
        (chat().bearer("nonsense"), &[401]),
        (chat().key(&old), &[401]),
        (chat().key(&far), &[403]),
        (server.get("/v1/nope").key(&good), &[404]),
        (server.get("/v1/nope"), &[401, 404]),
        (server.get(COMPLETIONS).key(&good), &[405]),
        (server.post("/v1/models").key(&good).body("{}"), &[405]),
    ];
    for (call, among) in refusals {
        call.send().await.refused_openai(among);
    }
    for other in ["/v10", "/v1beta/models", "/api/v1"] {
        server.get(other).send().await.refused(&[404]);
    }
}

/// With `x-should-retry: false`: more of the same will not help.
#[tokio::test]
async fn an_exhausted_budget_under_v1_is_402() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    let model = key.model(&server).await;
    let chat = || {
        server
            .post(COMPLETIONS)
            .key(&key.value)
            .json(&completion(&model))
    };
    let exhausted = |answer: Answer| {
        let answer = answer.refused_openai(&[402]);
        assert_eq!(answer.header("x-should-retry"), "false");
        assert!(!answer.headers.contains_key("retry-after"));
    };
    exhausted(chat().send().await);
    account.top_up(&server, "1").await;
    chat().send().await.expect(200);
    let limits = account.limits(&server, &key.id, "0.000000001", "null");
    limits.send().await.expect(200);
    exhausted(chat().send().await);
}

/// RFC 6750, section 3.1: a request that brought nothing is told of no error, one that brought a
/// bad token is.
#[tokio::test]
async fn the_challenge_follows_rfc_6750() {
    let home = home();
    let server = home.start().await;
    let challenge = async |token: Option<&str>| {
        let call = server.get("/api/auth/me");
        let call = if let Some(token) = token {
            call.bearer(token)
        } else {
            call
        };
        let answer = call.send().await.refused(&[401]);
        answer.header("www-authenticate").to_owned()
    };
    let missing = challenge(None).await;
    assert!(!missing.contains("error="), "{missing}");
    let invalid = challenge(Some("not.a.token")).await;
    assert!(invalid.contains(r#"error="invalid_token""#), "{invalid}");
}

/// Rate limit, authentication, pricing, balance, spending limits, and only then the handler.
#[tokio::test]
async fn the_first_stage_that_refuses_answers() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    account
        .limits(&server, &key.id, "0.001", "null")
        .send()
        .await
        .expect(200);
    let broken = || server.post("/api/hub/agents/chat").body("{");

    broken().send().await.missing_key();
    broken()
        .key(&key.value)
        .send()
        .await
        .insufficient("$0.0020");
    account.top_up(&server, "1").await;
    broken().key(&key.value).send().await.limit_exceeded();
    account
        .limits(&server, &key.id, "null", "null")
        .send()
        .await
        .expect(200);
    broken().key(&key.value).send().await.refused(&[400, 422]);
}
