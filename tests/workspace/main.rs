//! The Workspace example, tried from outside: a real process, real sockets, a real file.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "every line here is a test, and a test that panics is one that fails"
)]

mod addresses;
mod attempts;
mod cookie;
mod dashboard;
mod env_local;
mod http2;
mod keys;
mod priority;
mod settings;
#[path = "../support/mod.rs"]
mod support;

use serde_json::{Value, json};

use self::{
    cookie::Cookie,
    support::{Answer, Call, Client, Home},
};

const NEXTAUTH_SECRET: &str = "a secret made for the tests of this crate";
const ADMIN: &str = "0123456789abcdef0123456789abcdef";

fn home() -> Home {
    Home::of("workspace")
}

/// With the three sources of credentials that don't come from the dashboard.
fn launch(home: &Home) -> support::Launch {
    home.launch()
        .env("NEXTAUTH_SECRET", NEXTAUTH_SECRET)
        .env("ADMIN_API_KEY", ADMIN)
        .env("VALID_API_KEYS", "client-key-1, client-key-2,client-key-3")
}

fn ask(client: &Client) -> Call {
    let question = json!({"workspaceId": "workspace-123", "question": "How does this code work?"});
    client.post("/api/ask").json(&question)
}

async fn make_key(client: &Client, session: &Cookie) -> Value {
    let call = client.post("/api/keys").json(&json!({"name": "ci"}));
    session.on(call).send().await.expect(201).json()
}

#[track_caller]
fn refused(answer: &Answer, status: u16, text: &str) {
    assert_eq!(answer.refusal(&[status]), json!({"error": text}));
}
