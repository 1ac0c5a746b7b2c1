//! The Haagsman example, tried from outside: a real process, real sockets, a real file.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    reason = "every line here is a test, and a test that panics is one that fails"
)]

mod audit;
mod logins;
mod matrix;
mod paths;
mod process;
#[cfg(feature = "redis")]
#[allow(dead_code, reason = "tests of other kinds use the rest")]
#[path = "../support/redis.rs"]
mod redis;
#[cfg(feature = "redis")]
mod shared_limits;
#[path = "../support/mod.rs"]
mod support;

use serde_json::{Value, json};
use support::{Answer, Client, Home, Server};

const ADMIN: (&str, &str) = ("admin@example.com", "correct horse battery");

fn home() -> Home {
    Home::of("haagsman")
}

/// A server with an administrator, and no limit that a test would meet.
async fn start(home: &Home) -> Server {
    let launch = home.launch().unhurried();
    launch
        .env("ADMIN_EMAIL", ADMIN.0)
        .env("ADMIN_PASSWORD", ADMIN.1)
        .start()
        .await
}

/// A new key of that role, made by another process.
async fn key(home: &Home, role: &str) -> String {
    let made = home
        .launch()
        .args(&["generate-key", "--role", role])
        .run()
        .await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let key = made.stdout.strip_suffix('\n').expect("a line").to_owned();
    assert!(!key.contains('\n'), "exactly one key");
    assert!(!made.stderr.contains(&key), "a key is in no log");
    key
}

async fn login(client: &Client, who: (&str, &str)) -> Value {
    let body = json!({ "email": who.0, "password": who.1 });
    let answer = client.post("/api/v1/auth/login").json(&body).send().await;
    answer.expect(200).json()
}

fn access(login: &Value) -> &str {
    login["access_token"].as_str().expect("an access token")
}

/// Makes a user, and logs the user in.
async fn user(client: &Client, admin: &str, role: &str) -> (String, Value) {
    let email = format!("the-{role}@example.com");
    let body = json!({ "email": email, "password": "battery staple", "role": role });
    let made = client.post("/api/v1/users").bearer(admin).json(&body);
    let made = made.send().await.expect(201).json();
    assert_eq!(
        (&made["role"], &made["active"]),
        (&json!(role), &json!(true))
    );
    let id = made["id"].as_str().expect("an id").to_owned();
    (id, login(client, (&email, "battery staple")).await)
}

/// A refusal in the service's shape.
#[track_caller]
fn refused(answer: &Answer, status: u16) -> String {
    let body = answer.refusal(&[status]);
    let members = body.as_object().expect("an object");
    assert_eq!(members.len(), 1, "{body}");
    body["detail"].as_str().expect("a text").to_owned()
}
