//! The RAG Chats example, tried from outside: a real process, real sockets, a real file.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "every line here is a test, and a test that panics is one that fails"
)]

mod agents;
#[path = "../support/mod.rs"]
mod common;
mod people;
#[cfg(feature = "redis")]
#[allow(dead_code, reason = "tests of other kinds use the rest")]
#[path = "../support/redis.rs"]
mod redis;
mod refusals;
#[cfg(feature = "redis")]
mod shared_limits;

use common::{Answer, Client, Home, Server};
use serde_json::{Value, json};

pub(crate) const PASSWORD: &str = "correct horse battery";

pub(crate) fn home() -> Home {
    Home::of("ragchats")
}

/// Somebody who has registered and logged in.
pub(crate) struct Person {
    pub(crate) client: Client,
    pub(crate) email: String,
    pub(crate) access: String,
    pub(crate) refresh: String,
}

impl Person {
    pub(crate) async fn new(server: &Server, name: &str) -> Self {
        let email = format!("{name}@example.com");
        let body = json!({
            "email": email, "password": PASSWORD, "firstName": "John", "lastName": "Doe",
        });
        let answer = server.post("/api/auth/register/").json(&body).send().await;
        answer.expect(201);
        Self::login((**server).clone(), &email).await
    }

    pub(crate) async fn login(client: Client, email: &str) -> Self {
        let body = json!({ "email": email, "password": PASSWORD });
        let answer = client.post("/api/auth/login/").json(&body).send().await;
        let tokens = answer.expect(200).json();
        let text = |name: &str| tokens[name].as_str().expect("a token").to_owned();
        Self {
            client,
            email: email.to_owned(),
            access: text("access"),
            refresh: text("refresh"),
        }
    }

    pub(crate) async fn again(&self) -> Self {
        Self::login(self.client.clone(), &self.email).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.client.get(path).bearer(&self.access).send().await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let call = self.client.post(path).bearer(&self.access).json(body);
        call.send().await
    }

    pub(crate) async fn refreshed(&self) -> Answer {
        let body = json!({ "refresh": self.refresh });
        let call = self.client.post("/api/auth/token/refresh/").json(&body);
        call.send().await
    }

    /// The id of a new agent.
    pub(crate) async fn agent(&self, name: &str) -> String {
        let answer = self.post("/api/agents/", &json!({ "name": name })).await;
        let agent = answer.expect(201).json();
        assert_eq!(agent["name"], name);
        agent["id"].as_str().unwrap().to_owned()
    }

    /// A new key of an agent.
    pub(crate) async fn key(&self, agent: &str) -> String {
        let path = format!("/api/agents/{agent}/api-keys/");
        let answer = self.post(&path, &json!({ "name": "server" })).await;
        let key = answer.expect(201).json();
        assert_eq!(key["name"], "server");
        assert!(key["id"].is_string());
        key["key"].as_str().unwrap().to_owned()
    }
}

pub(crate) async fn query(client: &Client, agent: &str, credential: &str) -> Answer {
    let call = client.post(&format!("/api/agents/{agent}/query/"));
    let call = call.bearer(credential).json(&json!({ "message": "Hello" }));
    call.send().await
}

/// Refused in the service's shape: with that status, that code, a sentence, and details. Returns
/// the details.
#[track_caller]
pub(crate) fn refused(answer: &Answer, status: u16, code: &str) -> Value {
    let body = answer.refusal(&[status]);
    assert_eq!(body["error"], code, "{body}");
    assert!(
        body["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    assert!(body["details"].is_object(), "{body}");
    assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
    let places = ["\"error\"", "\"message\"", "\"details\""].map(|name| answer.text().find(name));
    assert!(places.is_sorted(), "as documented: {}", answer.text());
    body["details"].clone()
}
