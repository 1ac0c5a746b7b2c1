//! People with accounts, keys and money.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Answer, Call, Client, Row, demo_body, within};

/// Within this, a hold that nobody settles any more must be gone.
const HOLDS_GONE_WITHIN: Duration = Duration::from_secs(10);
/// Within this, a call is in the usage log.
const LOGGED_WITHIN: Duration = Duration::from_secs(5);
const PAGES_MAX: usize = 2_000;

/// The query of a page after the first.
pub(crate) fn after(limit: &str, cursor: &str) -> String {
    format!(
        "?limit={limit}&cursor={}",
        utf8_percent_encode(cursor, NON_ALPHANUMERIC)
    )
}

/// A registered user who is logged in.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) token: String,
}

/// A key at its creation.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) value: String,
}

/// What is there to spend, and what calls in flight have put aside, in nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) balance: i64,
    pub(crate) held: i64,
}

impl Account {
    /// Registers somebody new and logs them in.
    pub(crate) async fn new(client: &Client) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let username = format!("user{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut account = Self {
            id: String::new(),
            email: format!("{username}@example.com"),
            password: format!("Secure {username} Password 123!"),
            username,
            token: String::new(),
        };
        let body = json!({
            "email": account.email, "password": account.password, "username": account.username,
        });
        let user = client
            .post("/api/auth/register")
            .json(&body)
            .send()
            .await
            .expect(201)
            .json();
        account.id = text(&user, "id");
        account.log_in(client).await;
        account
    }

    /// Somebody new with money and a key.
    pub(crate) async fn with_money(client: &Client, dollars: &str) -> (Self, Key) {
        let account = Self::new(client).await;
        account.top_up(client, dollars).await;
        let key = account.key(client).await;
        (account, key)
    }

    pub(crate) async fn log_in(&mut self, client: &Client) {
        let answer = self
            .try_password(client, &self.password)
            .await
            .expect(200)
            .json();
        self.token = text(&answer, "token");
    }

    pub(crate) async fn try_password(&self, client: &Client, password: &str) -> Answer {
        let body = json!({"email": self.email, "password": password});
        client.post("/api/auth/login").json(&body).send().await
    }

    pub(crate) async fn me(&self, client: &Client) -> Answer {
        client.get("/api/auth/me").bearer(&self.token).send().await
    }

    pub(crate) async fn change_password(&mut self, client: &Client, password: &str) {
        let body = json!({"current_password": self.password, "new_password": password});
        client
            .post("/api/auth/change-password")
            .bearer(&self.token)
            .json(&body)
            .send()
            .await
            .ok();
        password.clone_into(&mut self.password);
    }

    pub(crate) async fn key(&self, client: &Client) -> Key {
        self.key_with(client, json!({})).await
    }

    /// A key with more settings than a name.
    pub(crate) async fn key_with(&self, client: &Client, mut settings: Value) -> Key {
        let members = settings.as_object_mut().expect("settings are an object");
        members.entry("name").or_insert_with(|| json!("A key"));
        members.entry("expires_at").or_insert(Value::Null);
        let made = client
            .post("/api/keys")
            .bearer(&self.token)
            .json(&settings)
            .send()
            .await;
        Key::shown_by(&made.expect(201))
    }

    /// The keys as listed.
    pub(crate) async fn keys(&self, client: &Client) -> Vec<Value> {
        let list = client
            .get("/api/keys")
            .bearer(&self.token)
            .send()
            .await
            .expect(200)
            .json();
        list.as_array().expect("a bare array").clone()
    }

    pub(crate) async fn listed(&self, client: &Client, id: &str) -> Value {
        let found = self
            .keys(client)
            .await
            .into_iter()
            .find(|key| key["id"] == id);
        found.unwrap_or_else(|| panic!("{id} is not listed"))
    }

    pub(crate) fn revoke(&self, client: &Client, id: &str) -> Call {
        client
            .post(&format!("/api/keys/{id}/revoke"))
            .bearer(&self.token)
    }

    pub(crate) fn delete(&self, client: &Client, id: &str) -> Call {
        client
            .delete(&format!("/api/keys/{id}"))
            .bearer(&self.token)
    }

    pub(crate) fn rotate(&self, client: &Client, id: &str, body: &Value) -> Call {
        client
            .post(&format!("/api/keys/{id}/rotate"))
            .bearer(&self.token)
            .json(body)
    }

    /// Limits as JSON text, so that they arrive as they are written.
    pub(crate) fn limits(&self, client: &Client, id: &str, daily: &str, monthly: &str) -> Call {
        let body = format!(r#"{{"daily_limit": {daily}, "monthly_limit": {monthly}}}"#);
        client
            .put(&format!("/api/keys/{id}/limits"))
            .bearer(&self.token)
            .body(body)
    }

    /// A top-up by the JSON text of its amount.
    pub(crate) fn top_up_call(&self, client: &Client, amount: &str) -> Call {
        let body = format!(r#"{{"amount": {amount}}}"#);
        client
            .post("/api/payments/topup")
            .bearer(&self.token)
            .body(body)
    }

    pub(crate) async fn top_up(&self, client: &Client, amount: &str) {
        self.top_up_call(client, amount).send().await.ok();
    }

    pub(crate) async fn balance(&self, client: &Client) -> Balance {
        let answer = client
            .get("/api/payments/balance")
            .bearer(&self.token)
            .send()
            .await;
        let row = answer.expect(200).row();
        assert_eq!(row.text("currency"), "USD");
        let balance = Balance {
            balance: row.money("balance"),
            held: row.money("held"),
        };
        assert!(
            balance.balance >= 0 && balance.held >= 0,
            "below zero: {balance:?}"
        );
        balance
    }

    /// The balance once nothing is held any more.
    pub(crate) async fn settled(&self, client: &Client) -> i64 {
        let open = async || {
            let balance = self.balance(client).await;
            (balance.held == 0).then_some(balance.balance)
        };
        within(HOLDS_GONE_WITHIN, "every hold has ended", open).await
    }

    /// The whole usage log, newest first.
    pub(crate) async fn usage(&self, client: &Client) -> Vec<Row> {
        self.all(client, "/api/monitoring/usage").await
    }

    /// The row of one call. That a whole answer has its row before it ends is for the tests of
    /// durability to show.
    pub(crate) async fn used(&self, client: &Client, request_id: &str) -> Row {
        let row = async || {
            let mut rows = self.usage(client).await.into_iter();
            let row = rows.find(|row| row.text("request_id") == request_id)?;
            let is_alone = rows.all(|row| row.text("request_id") != request_id);
            assert!(is_alone, "{request_id} is in the usage log twice");
            Some(row)
        };
        within(LOGGED_WITHIN, "the call is in the usage log", row).await
    }

    pub(crate) async fn transactions(&self, client: &Client) -> Vec<Row> {
        self.all(client, "/api/payments/transactions").await
    }

    /// One page of a list; `query` begins with `?`.
    pub(crate) async fn page(
        &self,
        client: &Client,
        path: &str,
        query: &str,
    ) -> (Vec<Row>, Option<String>) {
        client
            .get(&format!("{path}{query}"))
            .bearer(&self.token)
            .send()
            .await
            .expect(200)
            .page()
    }

    async fn all(&self, client: &Client, path: &str) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut query = "?limit=100".to_owned();
        for _ in 0..PAGES_MAX {
            let (page, cursor) = self.page(client, path, &query).await;
            rows.extend(page);
            let Some(cursor) = cursor else { return rows };
            query = after("100", &cursor);
        }
        panic!("{path} does not end");
    }
}

impl Key {
    #[track_caller]
    pub(crate) fn shown_by(answer: &Answer) -> Self {
        let made = answer.json();
        Self {
            id: text(&made, "id"),
            value: text(&made, "key_value"),
        }
    }

    /// A chat with this key, not yet sent.
    pub(crate) fn chat(&self, client: &Client, text: &str) -> Call {
        self.paid(client, "/api/hub/agents/chat", text)
    }

    /// A call to any of the demo routes.
    pub(crate) fn paid(&self, client: &Client, path: &str, text: &str) -> Call {
        client.post(path).key(&self.value).json(&demo_body(text))
    }

    /// The first model there is.
    pub(crate) async fn model(&self, client: &Client) -> String {
        let list = client
            .get("/v1/models")
            .key(&self.value)
            .send()
            .await
            .expect(200)
            .json();
        assert_eq!(list["object"], "list");
        let models = list["data"].as_array().expect("a list of models");
        for model in models {
            assert_eq!(model["object"], "model");
            assert!(model["id"].is_string(), "{model}");
        }
        text(&models[0], "id")
    }

    /// A call that costs nothing.
    pub(crate) async fn health(&self, client: &Client) -> Answer {
        client.get("/api/hub/health").key(&self.value).send().await
    }
}

#[track_caller]
fn text(object: &Value, member: &str) -> String {
    object[member]
        .as_str()
        .unwrap_or_else(|| panic!("no text `{member}` in {object}"))
        .to_owned()
}
