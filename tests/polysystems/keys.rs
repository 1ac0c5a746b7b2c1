//! The life of a key: made, listed, revoked, deleted, rotated.

use std::{collections::BTreeSet, time::Duration};

use jiff::ToSpan;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{Account, Client, Key, away_from_midnight, home, now, time, within};

#[tokio::test]
async fn a_key_names_its_environment() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let cases = [
        (json!({}), "ps_live_"),
        (json!({"environment": "live"}), "ps_live_"),
        (json!({"environment": "test"}), "ps_test_"),
    ];
    let mut seen = BTreeSet::new();
    for (settings, prefix) in cases {
        let key = account.key_with(&server, settings).await;
        let random = key.value.strip_prefix(prefix).expect(prefix);
        assert_eq!(random.len(), 32);
        assert!(
            random.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "{random}"
        );
        let preview = format!("{prefix}{}...{}", &random[..4], &random[28..]);
        let listed = account.listed(&server, &key.id).await;
        assert_eq!(listed["key_value_preview"], preview);
        key.health(&server).await.expect(200);
        seen.insert(random.to_owned());
    }
    assert_eq!(seen.len(), 3);
    for environment in [
        json!("prod"),
        json!(""),
        json!("LIVE "),
        json!(1),
        json!(["live"]),
    ] {
        let body = json!({"name": "x", "environment": environment});
        let call = server.post("/api/keys").bearer(&account.token).json(&body);
        call.send().await.refused(&[400, 422]);
    }
}

#[tokio::test]
async fn a_key_is_shown_once() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    let random = &key.value[8..];
    let answers = [
        server.get("/api/keys").bearer(&account.token).send().await,
        account.limits(&server, &key.id, "1", "2").send().await,
        account.me(&server).await,
        server
            .get("/api/monitoring/usage")
            .bearer(&account.token)
            .send()
            .await,
        account.rotate(&server, &key.id, &json!({})).send().await,
        account.revoke(&server, &key.id).send().await,
    ];
    for answer in answers {
        let answer = answer.ok();
        assert!(!answer.text().contains(random), "{}", answer.text());
    }
}

#[tokio::test]
async fn the_last_use_is_listed() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let (used, unused) = (account.key(&server).await, account.key(&server).await);
    assert!(account.listed(&server, &used.id).await["last_used_at"].is_null());
    let before = now() - 1.second();
    used.health(&server).await.expect(200);

    let written = async || {
        let listed = account.listed(&server, &used.id).await;
        (!listed["last_used_at"].is_null()).then_some(listed)
    };
    let listed = within(Duration::from_secs(15), "the last use is written", written).await;
    let last = time(&listed["last_used_at"]);
    assert!(before <= last && last <= now() + 1.second(), "{listed}");
    assert!(account.listed(&server, &unused.id).await["last_used_at"].is_null());
}

/// What was still to be written when the server was told to stop is written.
#[tokio::test]
async fn the_last_use_outlives_the_server() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    key.health(&server).await.expect(200);
    server.stop().await.without_panic();
    let server = home.start().await;
    time(&account.listed(&server, &key.id).await["last_used_at"]);
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let (key, other) = (account.key(&server).await, account.key(&server).await);
    for _ in 0..3 {
        key.health(&server).await.expect(200);
    }
    account.revoke(&server, &key.id).send().await.expect(200);
    key.health(&server).await.invalid_key();
    server
        .get("/api/hub/health")
        .bearer(&key.value)
        .send()
        .await
        .invalid_key();
    other.health(&server).await.expect(200);
    assert_eq!(account.listed(&server, &key.id).await["is_active"], false);
    assert_eq!(account.listed(&server, &other.id).await["is_active"], true);

    // A late write of the last use must not bring it back.
    sleep(Duration::from_secs(2)).await;
    key.health(&server).await.invalid_key();
    assert_eq!(account.listed(&server, &key.id).await["is_active"], false);
    server.stop().await.without_panic();
    let server = home.start().await;
    key.health(&server).await.invalid_key();
    assert_eq!(account.listed(&server, &key.id).await["is_active"], false);
}

#[tokio::test]
async fn a_deleted_key_is_gone() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let paid = key.chat(&server, "Hello!").send().await.expect(200);
    let deleted = account.delete(&server, &key.id).send().await.expect(204);
    assert!(deleted.body.is_empty());
    assert!(!deleted.request_id().is_empty());
    key.health(&server).await.invalid_key();
    assert!(account.keys(&server).await.is_empty());

    account
        .delete(&server, &key.id)
        .send()
        .await
        .refused(&[404]);
    account
        .revoke(&server, &key.id)
        .send()
        .await
        .refused(&[404]);
    account
        .rotate(&server, &key.id, &json!({}))
        .send()
        .await
        .refused(&[404]);
    account
        .limits(&server, &key.id, "1", "1")
        .send()
        .await
        .refused(&[404]);
    assert_eq!(
        account
            .used(&server, paid.request_id())
            .await
            .value("status"),
        200
    );
    assert_eq!(account.settled(&server).await, 998_000_000);
}

#[tokio::test]
async fn an_expiry_is_kept_as_it_was_said() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    for expiry in ["2024-02-15T12:00:00Z", "2999-12-31T23:59:59Z"] {
        let key = account
            .key_with(&server, json!({"expires_at": expiry}))
            .await;
        let listed = account.listed(&server, &key.id).await;
        assert_eq!(time(&listed["expires_at"]), expiry.parse().unwrap());
    }
    for expiry in [
        json!("tomorrow"),
        json!(""),
        json!(7),
        json!(true),
        json!(["2999"]),
    ] {
        let body = json!({"name": "x", "expires_at": expiry});
        let call = server.post("/api/keys").bearer(&account.token).json(&body);
        call.send().await.refused(&[400, 422]);
    }
}

/// What stands for never where there is no null: further than a moment can be.
#[tokio::test]
async fn the_last_days_of_9999_are_a_time_to_expire() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    for expiry in [
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59.999999999+00:00",
        "9999-12-30T23:00:00-12:00",
    ] {
        let key = account
            .key_with(&server, json!({"expires_at": expiry}))
            .await;
        key.health(&server).await.expect(200);
        let listed = account.listed(&server, &key.id).await;
        assert!(time(&listed["expires_at"]) > "9999-12-30T00:00:00Z".parse().unwrap());
    }
    for expiry in [
        "9999-12-31",
        "9999-12-32T00:00:00Z",
        "9999-12-31T25:00:00Z",
        "10000-01-01T00:00:00Z",
        "2030-01-01T00:00:00+25:00",
        "2030-01-01T00:00:00-24:00",
    ] {
        let body = json!({"name": "x", "expires_at": expiry});
        let call = server.post("/api/keys").bearer(&account.token).json(&body);
        call.send().await.refused(&[400, 422]);
    }
}

/// A warm key, too: what is remembered of it is not its admission.
#[tokio::test]
async fn a_key_ends_when_it_expires() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    // Whole seconds, which every way of keeping a time can keep.
    let end = jiff::Timestamp::from_second(now().as_second() + 5).expect("a time");
    let key = account
        .key_with(&server, json!({"expires_at": end.to_string()}))
        .await;
    while now() < end - 500.milliseconds() {
        let answer = key.health(&server).await;
        if now() < end {
            answer.expect(200);
        }
        sleep(Duration::from_millis(200)).await;
    }
    while now() <= end + 1.second() {
        sleep(Duration::from_millis(100)).await;
    }
    key.health(&server).await.expired_key();
}

async fn rotated(server: &Client, account: &Account, id: &str, body: Value) -> Key {
    Key::shown_by(&account.rotate(server, id, &body).send().await.expect(201))
}

#[tokio::test]
async fn a_rotation_without_overlap_replaces_the_key_at_once() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let old = account.key(&server).await;
    old.health(&server).await.expect(200);
    let new = rotated(&server, &account, &old.id, json!({"overlap_seconds": 0})).await;
    assert_ne!(new.id, old.id);
    assert_ne!(new.value, old.value);
    assert_eq!(new.value.len(), 40);
    new.health(&server).await.expect(200);
    old.health(&server).await.refused(&[401]);
    server.stop().await.without_panic();
    let server = home.start().await;
    new.health(&server).await.expect(200);
    old.health(&server).await.refused(&[401]);
}

#[tokio::test]
async fn the_old_key_works_until_the_overlap_ends() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let old = account.key(&server).await;
    let new = rotated(&server, &account, &old.id, json!({"overlap_seconds": 3})).await;
    old.health(&server).await.expect(200);
    new.health(&server).await.expect(200);
    sleep(Duration::from_secs(4)).await;
    old.health(&server).await.refused(&[401]);
    new.health(&server).await.expect(200);
}

#[tokio::test]
async fn the_default_overlap_keeps_both_keys_working() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let old = account.key(&server).await;
    let new = rotated(&server, &account, &old.id, json!({})).await;
    sleep(Duration::from_secs(2)).await;
    old.health(&server).await.expect(200);
    new.health(&server).await.expect(200);
    account.revoke(&server, &old.id).send().await.expect(200);
    old.health(&server).await.invalid_key();
    new.health(&server).await.expect(200);
}

#[tokio::test]
async fn a_rotated_key_keeps_its_limits_and_what_was_spent() {
    away_from_midnight().await;
    let home = home();
    let server = home.start().await;
    for (daily, monthly) in [("0.006", "null"), ("null", "0.006")] {
        let (account, old) = Account::with_money(&server, "1").await;
        account
            .limits(&server, &old.id, daily, monthly)
            .send()
            .await
            .expect(200);
        old.chat(&server, "Hello!").send().await.expect(200);
        old.chat(&server, "Hello!").send().await.expect(200);
        let new = rotated(&server, &account, &old.id, json!({"overlap_seconds": 0})).await;
        new.chat(&server, "Hello!").send().await.expect(200);
        new.chat(&server, "Hello!").send().await.limit_exceeded();
        assert_eq!(account.settled(&server).await, 994_000_000);
    }
}

/// A rotation changes the secret, not what the key is for.
#[tokio::test]
async fn a_rotated_key_is_for_what_it_was_for() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let settings = json!({
        "environment": "test", "allowed_ips": ["192.0.2.1"], "name": "A name to keep",
    });
    let old = account.key_with(&server, settings).await;
    let new = rotated(&server, &account, &old.id, json!({})).await;
    assert!(new.value.starts_with("ps_test_"), "{}", new.value);
    assert_eq!(
        account.listed(&server, &new.id).await["name"],
        "A name to keep"
    );
    new.health(&server).await.access_denied();
}

#[tokio::test]
async fn a_bad_overlap_is_refused() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    let path = format!("/api/keys/{}/rotate", key.id);
    let rotate = |body: String| server.post(&path).bearer(&account.token).body(body);
    for overlap in ["-1", "\"60\"", "1.5", "true", "[]", "{}", "NaN", "1e400"] {
        let body = format!(r#"{{"overlap_seconds": {overlap}}}"#);
        rotate(body).send().await.refused(&[400, 422]);
    }
    assert_eq!(account.keys(&server).await.len(), 1);
    for huge in [
        "9223372036854775807",
        "18446744073709551615",
        "99999999999999999999",
    ] {
        let answer = rotate(format!(r#"{{"overlap_seconds": {huge}}}"#))
            .send()
            .await;
        if !answer.status.is_success() {
            answer.refused(&[400, 404, 409, 422]);
        }
    }
    key.health(&server).await.expect(200);
    server.stop().await.without_panic();
}
