//! What every answer carries: a request id and the state of the caller's rate limit.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{Account, Answer, Client, Key, RawCall, home};

/// One answer of every kind.
async fn answers(client: &Client, account: &Account, key: &Key) -> Vec<Answer> {
    let model = key.model(client).await;
    let body = json!({"model": model, "messages": [{"role": "user", "content": "a b"}]});
    vec![
        account.me(client).await.expect(200),
        key.health(client).await.expect(200),
        key.chat(client, "Hello!").send().await.expect(200),
        client
            .get("/v1/models")
            .key(&key.value)
            .send()
            .await
            .expect(200),
        client
            .post("/v1/chat/completions")
            .key(&key.value)
            .json(&body)
            .send()
            .await
            .expect(200),
        account
            .rotate(client, &key.id, &json!({}))
            .send()
            .await
            .expect(201),
        client
            .post("/api/auth/login")
            .body("{")
            .send()
            .await
            .refused(&[400, 422]),
        client.get("/api/auth/me").send().await.expect(401),
        client.get("/api/hub/health").send().await.expect(401),
        client.get("/v1/models").send().await.expect(401),
        client.get("/nope").send().await.expect(404),
        client.get("/api/auth/login").send().await.expect(405),
        key.chat(client, "!fail").send().await.expect(500),
    ]
}

#[tokio::test]
async fn every_answer_has_a_request_id_of_its_own() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let answers = answers(&server, &account, &key).await;
    let ids: BTreeSet<&str> = answers.iter().map(Answer::request_id).collect();
    assert_eq!(ids.len(), answers.len(), "{ids:?}");
    assert!(!ids.contains(""));
}

#[tokio::test]
async fn a_well_formed_request_id_is_echoed() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    for id in ["0c9b5cf5-3f7a-4a6e-9c3e-5a1b2c3d4e5f", "caller-7"] {
        let health = server.get("/api/hub/health").header("x-request-id", id);
        assert_eq!(
            health.key(&key.value).send().await.expect(200).request_id(),
            id
        );
        let stranger = server.get("/api/hub/health").header("x-request-id", id);
        assert_eq!(stranger.send().await.expect(401).request_id(), id);
        let lost = server.get("/nope").header("x-request-id", id);
        assert_eq!(lost.send().await.expect(404).request_id(), id);

        // Free calls are logged too, so the one that is looked up has an id of its own.
        let id = format!("{id}-chat");
        let chat = key.chat(&server, "Hello!").header("x-request-id", &id);
        assert_eq!(chat.send().await.expect(200).request_id(), id);
        account.used(&server, &id).await;
    }
}

#[tokio::test]
async fn an_ill_formed_request_id_is_replaced() {
    let home = home();
    let server = home.start().await;
    let long = "a".repeat(5_000);
    let ill_formed: [&[u8]; 5] = [
        b"",
        b"\xff\xfe\xfd",
        long.as_bytes(),
        b"\"><script>",
        "caf\u{e9}".as_bytes(),
    ];
    for id in ill_formed {
        let line = [b"x-request-id: ", id].concat();
        let first = RawCall::new("GET", "/nope")
            .line(&line)
            .send(&server)
            .await
            .expect(404);
        let second = RawCall::new("GET", "/nope")
            .line(&line)
            .send(&server)
            .await
            .expect(404);
        assert!(!first.request_id().is_empty());
        assert!(
            first.request_id().len() < 200,
            "{} bytes",
            first.request_id().len()
        );
        assert_ne!(first.request_id().as_bytes(), id);
        assert_ne!(first.request_id(), second.request_id());
    }
}

#[tokio::test]
async fn every_answer_tells_the_rate_limit() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    for answer in answers(&server, &account, &key).await {
        let limit = answer.number("x-ratelimit-limit");
        let remaining = answer.number("x-ratelimit-remaining");
        let reset = answer.number("x-ratelimit-reset");
        assert!(limit > 0 && remaining < limit, "{remaining} of {limit}");
        assert!(reset <= 61, "seconds from now, not {reset}");

        let policy = answer.header("ratelimit-policy");
        assert!(policy.contains(&format!(";q={limit}")), "{policy}");
        assert!(policy.contains(";w=60"), "{policy}");
        let state = answer.header("ratelimit");
        assert!(
            state.starts_with('"') && state.contains(&format!(";r={remaining}")),
            "{state}"
        );
        assert!(state.contains(";t="), "{state}");
    }
}

/// 600 a minute for a key or a user, 6000 for an address that nobody vouches for.
#[tokio::test]
async fn the_default_limits_are_the_documented_ones() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    assert_eq!(key.health(&server).await.number("x-ratelimit-limit"), 600);
    assert_eq!(account.me(&server).await.number("x-ratelimit-limit"), 600);
    assert_eq!(
        server.get("/nope").send().await.number("x-ratelimit-limit"),
        6_000
    );
}
