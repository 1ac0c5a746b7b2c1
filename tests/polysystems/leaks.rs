//! Secrets are in no log line, no error body and no file.

use std::fs;

use serde_json::json;

use crate::support::{Account, Home, Key, SECRET, home};

const BAD_KEY: &str = "ps_live_canaryofabadkey0123456789abcdefgh";
const BAD_PASSWORD: &str = "canary of a wrong password";
const IN_QUERY: &str = "canary-in-a-query";
const BAD_TOKEN: &str = "canary.of.a-bad-token";

#[tokio::test]
async fn a_secret_is_neither_logged_nor_stored() {
    let home = home();
    let server = home.launch().env("RUST_LOG", "trace").start().await;
    let (mut account, key) = Account::with_money(&server, "0.002").await;
    let mut secrets = vec![account.password.clone(), account.token.clone()];
    key.chat(&server, "Hello!").send().await.expect(200);
    key.chat(&server, "Hello!").send().await.expect(402);
    let rotated = account
        .rotate(&server, &key.id, &json!({}))
        .send()
        .await
        .expect(201);
    secrets.push(Key::shown_by(&rotated).value[8..].to_owned());
    secrets.push(key.value[8..].to_owned());

    account
        .change_password(&server, "canary of a new password")
        .await;
    secrets.push(account.password.clone());
    account.log_in(&server).await;
    secrets.push(account.token.clone());
    account.revoke(&server, &key.id).send().await.expect(200);
    key.health(&server).await.invalid_key();

    let refusals = [
        server.get("/api/hub/health").key(BAD_KEY).send().await,
        server
            .get(&format!("/api/hub/health?api_key={IN_QUERY}"))
            .send()
            .await,
        server
            .get(&format!("/api/auth/me?token={IN_QUERY}"))
            .bearer(BAD_TOKEN)
            .send()
            .await,
        account.try_password(&server, BAD_PASSWORD).await,
        server
            .post("/api/auth/login")
            .body(format!(r#"{{"password":"{BAD_PASSWORD}"#))
            .send()
            .await,
        server
            .get(&format!("/nope?key={IN_QUERY}"))
            .key(&key.value)
            .send()
            .await,
    ];
    secrets.extend([BAD_KEY, BAD_PASSWORD, IN_QUERY, BAD_TOKEN, SECRET].map(str::to_owned));
    for refusal in refusals {
        assert!(refusal.status.is_client_error(), "{refusal:?}");
        for secret in &secrets {
            assert!(
                !refusal.text().contains(secret),
                "{secret} in {}",
                refusal.text()
            );
        }
    }
    let ended = server.stop().await;
    ended.without_panic();
    assert!(
        !ended.stderr.is_empty(),
        "at this level something must have been logged"
    );
    for secret in &secrets {
        is_not_printed(secret, &ended.stdout);
        is_not_printed(secret, &ended.stderr);
        is_not_stored(secret, &home);
    }
}

/// Clients put a key where its id belongs, and a token behind a slash.
#[tokio::test]
async fn a_secret_in_a_path_is_not_logged() {
    let home = home();
    let server = home.launch().env("RUST_LOG", "trace").start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    let (value, token) = (&key.value, &account.token);
    for call in [
        server.post(&format!("/api/keys/{value}/revoke")),
        server.delete(&format!("/api/keys/{BAD_KEY}")),
        server.get(&format!("/nope/{value}")),
        server.get(&format!("/v1/models/{token}")),
    ] {
        let answer = call.bearer(token).send().await;
        assert!(answer.status.is_client_error(), "{answer:?}");
    }
    let ended = server.stop().await;
    assert!(ended.stderr.contains("/api/keys/ps_live_***"));
    for secret in [&value[8..], &BAD_KEY[8..], token] {
        is_not_printed(secret, &ended.stderr);
        is_not_stored(secret, &home);
    }
}

fn is_not_printed(secret: &str, text: &str) {
    let line = text.lines().find(|line| line.contains(secret));
    assert_eq!(line, None, "{secret} is logged");
}

fn is_not_stored(secret: &str, home: &Home) {
    for file in fs::read_dir(home.path()).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let mut windows = bytes.windows(secret.len());
        let is_there = windows.any(|window| window == secret.as_bytes());
        assert!(!is_there, "{secret} in {}", path.display());
    }
}
