//! Every command of the documentation, as curl would send it, before and after a restart.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};

use crate::support::{Account, Answer, CHAT_PRICE, Client, Key, home, now, time};

/// `curl -X METHOD URL -H … -d DATA`. Without a content type of its own, curl says that data is a
/// form.
async fn curl(
    client: &Client,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    data: Option<&str>,
) -> Answer {
    let mut call = client
        .call(method, path)
        .header("user-agent", "curl/8.5.0")
        .header("accept", "*/*");
    for (name, value) in headers {
        call = call.header(name, value);
    }
    if let Some(data) = data {
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        {
            call = call.header("content-type", "application/x-www-form-urlencoded");
        }
        call = call.body(data);
    }
    call.send().await
}

const JSON: (&str, &str) = ("Content-Type", "application/json");
const HELLO: &str = r#"{
"messages": [{"role": "user", "content": "Hello!"}]
}"#;

#[track_caller]
fn is_user(user: &Value, email: &str, username: &str) {
    assert!(user["id"].as_str().unwrap().starts_with("user-"), "{user}");
    assert_eq!(user["email"], email);
    assert_eq!(user["username"], username);
    assert_eq!(user["role"], "user");
    assert!(
        user.get("password").is_none() && user.get("password_hash").is_none(),
        "{user}"
    );
}

/// "Registration", "Login", "Using JWT Tokens" and "Test JWT Authentication".
#[tokio::test]
async fn the_account_commands_answer_as_documented() {
    let home = home();
    let server = home.start().await;
    let register = r#"{
"email": "user@example.com",
"password": "SecurePassword123!",
"username": "myusername"
}"#;
    let made = curl(
        &server,
        Method::POST,
        "/api/auth/register",
        &[JSON],
        Some(register),
    )
    .await
    .expect(201);
    let registered = made.json();
    is_user(&registered, "user@example.com", "myusername");
    assert_eq!(registered["is_email_verified"], false);
    let age = now().duration_since(time(&registered["created_at"]));
    assert!(age.as_secs().abs() < 60, "{registered}");

    server.stop().await.without_panic();
    for _restart in 1..=2 {
        let server = home.start().await;
        let login = r#"{
"email": "user@example.com",
"password": "SecurePassword123!"
}"#;
        let answer = curl(
            &server,
            Method::POST,
            "/api/auth/login",
            &[JSON],
            Some(login),
        )
        .await
        .expect(200);
        let answer = answer.json();
        is_user(&answer["user"], "user@example.com", "myusername");
        assert_eq!(answer["user"]["id"], registered["id"]);

        let token = answer["token"].as_str().unwrap();
        is_a_token_of_one_day(token);
        let bearer = format!("Bearer {token}");
        let authorization = [("Authorization", bearer.as_str())];
        let me = curl(&server, Method::GET, "/api/auth/me", &authorization, None)
            .await
            .expect(200);
        let me = me.json();
        is_user(&me, "user@example.com", "myusername");
        assert_eq!(me["id"], registered["id"]);
        server.stop().await.without_panic();
    }
}

fn is_a_token_of_one_day(token: &str) {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{token}");
    let decode = |part: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    assert_eq!(decode(parts[0])["alg"], "HS256");
    let claims = decode(parts[1]);
    let moment = |claim: &str| claims[claim].as_i64().unwrap();
    assert_eq!(moment("exp") - moment("iat"), 86_400);
    let left = moment("exp") - now().as_second();
    assert!(
        (86_400 - 60..=86_400).contains(&left),
        "{left} s left of a day"
    );
}

/// "Generating Access Tokens", "Access Token Expiration", "Token Rotation", "Principle of Least
/// Privilege" and "Monitor Token Usage".
async fn the_key_commands(client: &Client, account: &Account) -> Vec<Key> {
    let bearer = format!("Bearer {}", account.token);
    let authorization = ("Authorization", bearer.as_str());
    let with_type = [authorization, JSON];
    let without_type = [authorization];
    let mut keys = Vec::new();
    for (data, is_typed) in [
        (
            r#"{ "name": "Production API Key", "expires_at": null }"#,
            true,
        ),
        (
            r#"{ "name": "Temporary API Key", "expires_at": "2024-02-15T12:00:00Z" }"#,
            true,
        ),
        (r#"{"name": "New Production Key"}"#, false),
        (
            r#"{ "name": "Development Token", "expires_at": "2024-02-15T12:00:00Z" }"#,
            false,
        ),
        (r#"{ "name": "Production Token" }"#, false),
    ] {
        let headers: &[_] = if is_typed { &with_type } else { &without_type };
        let made = curl(client, Method::POST, "/api/keys", headers, Some(data))
            .await
            .expect(201);
        is_a_new_key(&made.json(), &serde_json::from_str(data).unwrap());
        keys.push(Key::shown_by(&made));
    }

    let path = format!("/api/keys/{}/limits", keys[3].id);
    let data = r#"{ "daily_limit": 1.00, "monthly_limit": 10.00 }"#;
    let limits = curl(client, Method::PUT, &path, &without_type, Some(data))
        .await
        .expect(200);
    assert_eq!(limits.money("daily_limit"), 1_000_000_000);
    assert_eq!(limits.money("monthly_limit"), 10_000_000_000);

    let path = format!("/api/keys/{}/revoke", keys[4].id);
    curl(client, Method::POST, &path, &without_type, None)
        .await
        .expect(200);

    let list = curl(client, Method::GET, "/api/keys", &without_type, None)
        .await
        .expect(200)
        .json();
    for key in &keys {
        let mut listed = list
            .as_array()
            .unwrap()
            .iter()
            .filter(|listed| listed["id"] == key.id);
        is_listed(listed.next().unwrap(), key);
        assert!(listed.next().is_none(), "{} is listed twice", key.id);
    }
    keys
}

fn is_a_new_key(made: &Value, expected: &Value) {
    assert!(made["id"].as_str().unwrap().starts_with("key-"), "{made}");
    assert_eq!(made["name"], expected["name"]);
    assert_eq!(
        made["expires_at"], expected["expires_at"],
        "null too is written out"
    );
    assert!(made.get("expires_at").is_some(), "{made}");
    assert!(made["is_active"].is_boolean(), "{made}");
    if expected["expires_at"].is_null() {
        assert_eq!(made["is_active"], true);
    }
    time(&made["created_at"]);
    let value = made["key_value"].as_str().unwrap();
    let random = value.strip_prefix("ps_live_").unwrap();
    assert_eq!(random.len(), 32, "{value}");
    assert!(
        random.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{value}"
    );
}

fn is_listed(listed: &Value, key: &Key) {
    let (start, end) = (&key.value[..12], &key.value[key.value.len() - 4..]);
    assert_eq!(listed["key_value_preview"], format!("{start}...{end}"));
    assert!(listed["name"].is_string(), "{listed}");
    assert!(listed["is_active"].is_boolean(), "{listed}");
    assert!(listed["last_used_at"].is_null(), "never used: {listed}");
    time(&listed["created_at"]);
    for member in ["last_used_at", "expires_at"] {
        assert!(
            listed.get(member).is_some(),
            "{member} is written out: {listed}"
        );
    }
    assert!(listed.get("key_value").is_none(), "shown once: {listed}");
    assert!(
        !listed.to_string().contains(&key.value),
        "shown once: {listed}"
    );
}

/// "Using Access Tokens", both methods, the scripts of "Language-Specific Examples", and "Test
/// Access Token Authentication".
async fn the_call_commands(client: &Client, key: &Key) {
    let bearer = format!("Bearer {}", key.value);
    for credential in [
        ("X-API-Key", key.value.as_str()),
        ("Authorization", bearer.as_str()),
    ] {
        let headers = [credential, JSON];
        let path = "/api/hub/agents/chat";
        let chat = curl(client, Method::POST, path, &headers, Some(HELLO))
            .await
            .expect(200);
        chat.json();
    }
    let headers = [("X-API-Key", key.value.as_str())];
    curl(client, Method::GET, "/api/hub/health", &headers, None)
        .await
        .expect(200)
        .json();
}

#[tokio::test]
async fn the_key_commands_answer_as_documented_after_a_restart_too() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    account.top_up(&server, "1").await;

    let before = the_key_commands(&server, &account).await;
    the_call_commands(&server, &before[0]).await;
    server.stop().await.without_panic();

    let server = home.start().await;
    the_call_commands(&server, &before[0]).await;
    before[1].health(&server).await.expired_key();
    before[2].health(&server).await.expect(200);
    before[3].health(&server).await.expired_key();
    before[4].health(&server).await.invalid_key();
    let after = the_key_commands(&server, &account).await;
    the_call_commands(&server, &after[0]).await;
    assert_eq!(account.keys(&server).await.len(), 10);
    assert_eq!(
        account.settled(&server).await,
        1_000_000_000 - 6 * CHAT_PRICE
    );
}

/// "Authentication Error Responses", word for word.
#[tokio::test]
async fn the_error_responses_are_the_documented_ones() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let path = "/api/hub/agents/chat";
    let invalid = "ps_live_abcdef123456789";
    for headers in [
        [("X-API-Key", invalid), JSON],
        [("Authorization", "Bearer ps_live_abcdef123456789"), JSON],
    ] {
        curl(&server, Method::POST, path, &headers, Some(HELLO))
            .await
            .invalid_key();
    }
    curl(&server, Method::POST, path, &[JSON], Some(HELLO))
        .await
        .missing_key();
    curl(&server, Method::GET, "/api/hub/health", &[], None)
        .await
        .missing_key();

    let expired = account
        .key_with(&server, json!({"expires_at": "2024-02-15T12:00:00Z"}))
        .await;
    expired.chat(&server, "Hello!").send().await.expired_key();
    let elsewhere = account
        .key_with(&server, json!({"allowed_ips": ["192.0.2.1"]}))
        .await;
    elsewhere
        .chat(&server, "Hello!")
        .send()
        .await
        .access_denied();

    let key = account.key(&server).await;
    key.chat(&server, "Hello!")
        .send()
        .await
        .insufficient("$0.0020");
    account.top_up(&server, "1").await;
    account
        .limits(&server, &key.id, "0.001", "10")
        .send()
        .await
        .expect(200);
    key.chat(&server, "Hello!").send().await.limit_exceeded();

    let body = json!({"email": account.email, "password": "not the password"});
    let login = server
        .post("/api/auth/login")
        .json(&body)
        .send()
        .await
        .refused(&[401])
        .json();
    assert_eq!(login["error"], "Invalid credentials");
}
