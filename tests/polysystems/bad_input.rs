//! Bodies that are wrong in every way that is easily thought of: refused in shape, never 5xx.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Account, Answer, Call, Client, Key, RawCall, home};

/// Every route that reads a body, with whatever credential it needs.
struct Routes {
    client: Client,
    account: Account,
    key: Key,
}

impl Routes {
    async fn of(client: &Client) -> Self {
        let (account, key) = Account::with_money(client, "100").await;
        Self {
            client: client.clone(),
            account,
            key,
        }
    }

    /// Routes that need certain members, and so refuse an object without them.
    fn strict(&self) -> Vec<Call> {
        let (client, token) = (&self.client, &self.account.token);
        vec![
            client.post("/api/auth/register"),
            client.post("/api/auth/login"),
            client.post("/api/auth/change-password").bearer(token),
            client.post("/api/keys").bearer(token),
            client.post("/api/payments/topup").bearer(token),
            client.post("/api/hub/agents/chat").key(&self.key.value),
            client.post("/v1/chat/completions").key(&self.key.value),
        ]
    }

    /// Routes of whose body the contract says little, or nothing that must be there.
    fn lax(&self) -> Vec<Call> {
        let (client, token) = (&self.client, &self.account.token);
        let key = format!("/api/keys/{}", self.key.id);
        vec![
            client.put(&format!("{key}/limits")).bearer(token),
            client.post(&format!("{key}/rotate")).bearer(token),
            client.post("/api/omm/process").key(&self.key.value),
            client.post("/api/yggdrasil/query").key(&self.key.value),
        ]
    }
}

/// In the shape that its path has: OpenAI's has an object for an `error`.
#[track_caller]
fn is_refused(answer: Answer, among: &[u16]) {
    assert!(answer.status.is_client_error(), "{answer:?}");
    if answer.json()["error"].is_object() {
        answer.refused_openai(among);
    } else {
        answer.refused(among);
    }
}

#[tokio::test]
async fn what_is_no_object_of_json_is_refused() {
    let home = home();
    let server = home.start().await;
    let routes = Routes::of(&server).await;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let deep_member =
        format!(r#"{{"messages":{deep},"name":{deep},"amount":{deep},"email":{deep}}}"#);
    let bodies: [&[u8]; 17] = [
        b"",
        b" ",
        b"{",
        b"}",
        b"{\"",
        b"{\"name\":",
        b"{\"name\" \"x\"}",
        b"{'name': 'x'}",
        b"{name: 1}",
        b"\x00",
        b"\xff\xfe{\x00}\x00",
        b"{\"name\": \"\xff\xfe\", \"email\": \"\xc3\x28\", \"amount\": \"\xff\"}",
        b"email=a%40example.com&password=x",
        b"<xml/>",
        b"\xef\xbb\xbf",
        deep.as_bytes(),
        deep_member.as_bytes(),
    ];
    for body in bodies {
        for call in routes.strict() {
            is_refused(call.body(body).send().await, &[400, 422]);
        }
        for call in routes.lax() {
            let answer = call.body(body).send().await;
            assert!(!answer.status.is_server_error(), "{answer:?}");
        }
    }
    // A rotation asks for no member, so an empty body may have made a key, but none of another
    // name.
    let keys = routes.account.keys(&server).await;
    assert!(keys.iter().all(|key| key["name"] == "A key"), "{keys:?}");
    server.stop().await.without_panic();
}

#[tokio::test]
async fn json_that_is_no_object_is_refused() {
    let home = home();
    let server = home.start().await;
    let routes = Routes::of(&server).await;
    let bodies = [
        json!(null),
        json!(true),
        json!(1),
        json!(-1.5),
        json!("text"),
        json!([]),
        json!([1]),
        json!(["a@example.com", "Password 123!", "name"]),
        json!([{"name": "x"}]),
        json!({}),
        json!({"": ""}),
    ];
    for body in &bodies {
        for call in routes.strict() {
            is_refused(call.json(body).send().await, &[400, 422]);
        }
        for call in routes.lax() {
            let answer = call.json(body).send().await;
            assert!(!answer.status.is_server_error(), "{answer:?}");
        }
    }
    server.stop().await.without_panic();
}

#[tokio::test]
async fn members_of_the_wrong_type_are_refused() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let (email, password) = (&account.email, &account.password);
    let routes = [
        (
            "/api/auth/register",
            json!({"email": "new@example.com", "password": "Password 123!", "username": "new"}),
        ),
        (
            "/api/auth/login",
            json!({"email": email, "password": password}),
        ),
        (
            "/api/auth/change-password",
            json!({"current_password": password, "new_password": "A New Password 123!"}),
        ),
        ("/api/keys", json!({"name": "x"})),
        ("/api/payments/topup", json!({"amount": 1})),
    ];
    for (path, right) in &routes {
        for member in right.as_object().unwrap().keys() {
            for value in [json!(null), json!(true), json!([]), json!({}), json!([1])] {
                let mut body = right.clone();
                body[member] = value;
                let call = server.post(path).json(&body);
                let needs_token = !["/api/auth/register", "/api/auth/login"].contains(path);
                let call = if needs_token {
                    call.bearer(&account.token)
                } else {
                    call
                };
                call.send().await.refused(&[400, 422]);
            }
        }
    }
    for (member, value) in [
        ("name", json!(1)),
        ("roles", json!("admin")),
        ("roles", json!([1])),
        ("roles", json!(1)),
    ] {
        let mut body = json!({"name": "x"});
        body[member] = value;
        let call = server.post("/api/keys").bearer(&account.token).json(&body);
        call.send().await.refused(&[400, 422]);
    }
    assert_eq!(account.settled(&server).await, 0);
    assert!(account.keys(&server).await.is_empty());
    account.me(&server).await.expect(200);
}

#[tokio::test]
async fn messages_of_the_wrong_type_are_refused() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let model = key.model(&server).await;
    let chat = |path: &str, body: &Value| server.post(path).key(&key.value).json(body);
    for messages in [
        json!(null),
        json!("hi"),
        json!(1),
        json!({}),
        json!([1]),
        json!(["hi"]),
    ] {
        let body = json!({"model": model, "messages": messages});
        let hub = chat("/api/hub/agents/chat", &body).send().await;
        hub.refused(&[400, 422]);
        let openai = chat("/v1/chat/completions", &body).send().await;
        openai.refused_openai(&[400, 422]);
    }
    let messages = json!([{"role": "user", "content": "hi"}]);
    let body = json!({"model": model, "messages": messages, "stream": "yes"});
    let openai = chat("/v1/chat/completions", &body).send().await;
    openai.refused_openai(&[400, 422]);
    assert_eq!(account.settled(&server).await, 1_000_000_000);
}

/// What the contract leaves open: answered somehow, but never by an error of the server.
#[tokio::test]
async fn odd_members_are_no_failure() {
    let home = home();
    let server = home.start().await;
    let routes = Routes::of(&server).await;
    let long = "x".repeat(70_000);
    let texts = [
        "",
        " ",
        "\u{0}",
        "\u{1}\n\r\t",
        "\u{202e}\u{feff}",
        "'; DROP TABLE keys; --",
        &long,
    ];
    for text in texts {
        let all = json!({
            "email": text, "password": text, "username": text, "name": text,
            "current_password": text, "new_password": text,
            "model": text, "input": text, "query": text, "roles": [text], "user": text,
            "messages": [{"role": text, "content": text}], "stream": false,
        });
        for call in routes.strict().into_iter().chain(routes.lax()) {
            let answer = call.json(&all).send().await;
            assert!(!answer.status.is_server_error(), "{answer:?}");
        }
    }
    let contents = [
        json!(null),
        json!(1),
        json!([]),
        json!({}),
        json!([{"type": "text", "text": "hi"}]),
    ];
    for content in contents {
        let body = json!({"model": "echo", "messages": [{"role": "user", "content": content}]});
        for path in ["/api/hub/agents/chat", "/v1/chat/completions"] {
            let answer = server
                .post(path)
                .key(&routes.key.value)
                .json(&body)
                .send()
                .await;
            assert!(!answer.status.is_server_error(), "{answer:?}");
        }
    }
    for extra in [
        json!({"max_tokens": -1}),
        json!({"n": 1_000_000_000}),
        json!({"messages": []}),
    ] {
        let mut body = json!({"model": "echo", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        for path in ["/api/hub/agents/chat", "/v1/chat/completions"] {
            let answer = server
                .post(path)
                .key(&routes.key.value)
                .json(&body)
                .send()
                .await;
            assert!(!answer.status.is_server_error(), "{answer:?}");
        }
    }
    the_books_hold(&server, &routes.account).await;
    server.stop().await.without_panic();
}

async fn the_books_hold(client: &Client, account: &Account) {
    let balance = account.settled(client).await;
    let usage = account.usage(client).await;
    let charged: i64 = usage.iter().map(|row| row.money("charged")).sum();
    assert_eq!(balance + charged, 100_000_000_000);
}

#[tokio::test]
async fn a_megabyte_is_no_failure() {
    let home = home();
    let server = home.start().await;
    let text = "x".repeat(1 << 20);
    let eighth = "x".repeat(1 << 17);
    let words = "x ".repeat(1 << 18);
    let bodies: [Value; 3] = [
        json!(text),
        json!({
            "email": eighth, "password": eighth, "username": eighth, "name": eighth,
            "amount": eighth, "current_password": eighth, "new_password": eighth,
            "messages": eighth,
        }),
        json!({"padding": eighth, "model": "echo", "messages": [{"role": "user", "content": words}]}),
    ];
    for body in &bodies {
        // Its own key for each: a key is rotated once.
        let routes = Routes::of(&server).await;
        for call in routes.strict().into_iter().chain(routes.lax()) {
            let answer = call.json(body).send().await;
            assert!(
                !answer.status.is_server_error(),
                "{} {:?}",
                answer.status,
                answer.headers
            );
            if answer.status.is_client_error() {
                is_refused(answer, &[400, 401, 403, 413, 422]);
            }
        }
        the_books_hold(&server, &routes.account).await;
    }
    let routes = Routes::of(&server).await;
    for call in routes.strict() {
        is_refused(
            call.body("[".repeat(1 << 20)).send().await,
            &[400, 413, 422],
        );
    }
    the_books_hold(&server, &routes.account).await;
    server.stop().await.without_panic();
}

/// A body where none is expected, a length that lies, a query that is none.
#[tokio::test]
async fn a_request_that_is_odd_as_such_is_no_failure() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    for path in ["/api/auth/me", "/api/keys", "/api/payments/balance"] {
        let call = server.call(Method::GET, path).bearer(&account.token);
        call.body("{\"a\": 1}").send().await.expect(200);
    }
    server
        .get("/api/hub/health")
        .key(&key.value)
        .body("{")
        .send()
        .await
        .expect(200);
    for query in ["?", "??", "?%", "?%ff", "?a=%00", "?a[]=1&a[]=2", "?=&=&"] {
        let answer = server
            .get(&format!("/api/hub/health{query}"))
            .key(&key.value)
            .send()
            .await;
        assert!(!answer.status.is_server_error(), "{answer:?}");
    }
    for framing in [
        "content-length: -1",
        "content-length: x",
        "transfer-encoding: nonsense",
    ] {
        let call = RawCall::new("POST", "/api/auth/login");
        let answer = call.line(framing).sent_as(b"{}").attempt(&server).await;
        assert!(
            answer.is_none_or(|answer| answer.status.is_client_error()),
            "{framing}"
        );
    }
    // Half a body, and then nothing more.
    let call = RawCall::new("POST", "/api/hub/agents/chat");
    let call = call
        .line(format!("x-api-key: {}", key.value))
        .line("content-length: 1000");
    let waiting = call.sent_as(b"{\"messages\":").attempt(&server);
    let _ = tokio::time::timeout(std::time::Duration::from_millis(500), waiting).await;
    assert_eq!(account.settled(&server).await, 1_000_000_000);
    server.stop().await.without_panic();
}

/// Whoever begins a body and falls silent is told so, in the shape of all refusals.
#[tokio::test]
async fn a_body_that_falls_silent_is_refused() {
    let home = home();
    let server = home.start().await;
    let start = b"POST /api/auth/login HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{";
    let said = crate::support::silent(&server, start).await;
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(
        said.ends_with("}") && said.contains("\"error\":\"Request timeout\""),
        "{said}"
    );
    server.stop().await.without_panic();
}

/// What anybody may send is short.
#[tokio::test]
async fn a_login_is_no_place_for_a_large_body() {
    let home = home();
    let server = home.start().await;
    let body = |bytes: usize| json!({ "email": "a@example.com", "password": "x".repeat(bytes) });
    for path in ["/api/auth/login", "/api/auth/register"] {
        let large = server.post(path).json(&body(17_000));
        large.send().await.refused(&[413]);
    }
    let short = server.post("/api/auth/login").json(&body(1_000));
    short.send().await.refused(&[401]);
}

#[tokio::test]
async fn a_nul_in_a_name_is_refused_by_every_store() {
    let home = home();
    let client = home.start().await;
    let user = json!({
        "email": "nul@example.com", "password": "Password 123!", "username": "a\u{0}b",
    });
    let answer = client.post("/api/auth/register").json(&user).send().await;
    is_refused(answer, &[422]);
}
