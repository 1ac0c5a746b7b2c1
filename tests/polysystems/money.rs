//! What calls cost, and what costs nothing.

use serde_json::{Value, json};

use crate::support::{
    Account, CHAT_PRICE, Key, PRICED, PROCESS_PRICE, QUERY_PRICE, demo_body, home,
};

const DOLLAR: i64 = 1_000_000_000;

#[tokio::test]
async fn a_new_account_has_nothing() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let balance = account.balance(&server).await;
    assert_eq!((balance.balance, balance.held), (0, 0));
    assert!(account.usage(&server).await.is_empty());
    assert!(account.transactions(&server).await.is_empty());
    let key = account.key(&server).await;
    for (path, _, price) in PRICED {
        key.paid(&server, path, "Hello!")
            .send()
            .await
            .insufficient(price);
    }
    assert_eq!(account.settled(&server).await, 0);
}

#[tokio::test]
async fn every_route_costs_its_price() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let mut expected = DOLLAR;
    for (path, price, _) in PRICED {
        let answer = key.paid(&server, path, "Hello!").send().await.expect(200);
        expected -= price;
        assert_eq!(account.settled(&server).await, expected, "{path}");
        let row = account.used(&server, answer.request_id()).await;
        assert_eq!(row.money("charged"), price, "{path}");
        assert_eq!(row.value("status"), 200);
        assert!(row.text("route").contains(path), "{row:?}");
    }
}

#[tokio::test]
async fn a_retry_under_an_idempotency_key_is_charged_once() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let path = "/api/yggdrasil/query";
    let call = |text| key.paid(&server, path, text).header("idempotency-key", "a");
    let first = call("Hello!").send().await.expect(200);
    let again = call("Hello!").send().await.expect(200);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.json(), first.json());
    call("Other!").send().await.refusal(&[422]);
    assert_eq!(account.settled(&server).await, DOLLAR - QUERY_PRICE);
    assert_eq!(account.usage(&server).await.len(), 1);
}

#[tokio::test]
async fn a_retry_by_the_key_that_took_the_place_of_another_is_charged_once() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let call = |key: &Key| {
        let call = key.paid(&server, "/api/yggdrasil/query", "Hello!");
        call.header("idempotency-key", "a").send()
    };
    let first = call(&key).await.expect(200);
    let rotated = account.rotate(&server, &key.id, &json!({}));
    let new = Key::shown_by(&rotated.send().await.expect(201));
    let again = call(&new).await.expect(200);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.json(), first.json());
    let another = account.key(&server).await;
    call(&another).await.refusal(&[422]);
    assert_eq!(account.settled(&server).await, DOLLAR - QUERY_PRICE);
}

/// The largest body that is taken without the header is taken with it.
#[tokio::test]
async fn an_idempotency_key_makes_no_body_too_large() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let call = |bytes: usize| {
        let body = format!("\"{}\"", "x".repeat(bytes - 2));
        let call = server.post("/api/omm/process").key(&key.value);
        call.header("idempotency-key", "a").body(body)
    };
    const MAX: usize = 2 * 1_024 * 1_024;
    call(MAX + 1).send().await.refusal(&[413]);
    call(MAX).send().await.expect(200);
    assert_eq!(account.settled(&server).await, DOLLAR - PROCESS_PRICE);
}

#[tokio::test]
async fn free_routes_are_free() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    for _ in 0..3 {
        key.health(&server).await.expect(200);
        server
            .get("/v1/models")
            .key(&key.value)
            .send()
            .await
            .expect(200);
    }
    account.top_up(&server, "1").await;
    account
        .limits(&server, &key.id, "0.001", "0.001")
        .send()
        .await
        .expect(200);
    for _ in 0..3 {
        key.health(&server).await.expect(200);
        server
            .get("/v1/models")
            .key(&key.value)
            .send()
            .await
            .expect(200);
    }
    assert_eq!(account.settled(&server).await, DOLLAR);
    let charged: i64 = account
        .usage(&server)
        .await
        .iter()
        .map(|row| row.money("charged"))
        .sum();
    assert_eq!(charged, 0);
}

#[tokio::test]
async fn money_for_exactly_one_call_pays_for_exactly_one() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "0.001999999").await;
    key.chat(&server, "Hello!")
        .send()
        .await
        .insufficient("$0.0020");
    account.top_up(&server, "0.000000001").await;
    key.chat(&server, "Hello!").send().await.expect(200);
    assert_eq!(account.settled(&server).await, 0);
    key.chat(&server, "Hello!")
        .send()
        .await
        .insufficient("$0.0020");
    account.top_up(&server, "0.0099").await;
    key.paid(&server, "/api/yggdrasil/query", "Hello!")
        .send()
        .await
        .insufficient("$0.0100");
    account.top_up(&server, "0.0001").await;
    key.paid(&server, "/api/yggdrasil/query", "Hello!")
        .send()
        .await
        .expect(200);
    assert_eq!(account.settled(&server).await, 0);
}

#[tokio::test]
async fn a_handler_that_fails_costs_nothing() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "0.002").await;
    for _ in 0..3 {
        let failed = key.chat(&server, "!fail").send().await.expect(500);
        assert_eq!(account.settled(&server).await, CHAT_PRICE);
        let row = account.used(&server, failed.request_id()).await;
        assert_eq!(row.money("charged"), 0);
        assert_eq!(row.value("status"), 500);
    }
    key.chat(&server, "Hello!").send().await.expect(200);
    assert_eq!(account.settled(&server).await, 0);
    server.stop().await.without_panic();
}

/// Only the last message decides whether the demo fails.
#[tokio::test]
async fn a_failure_is_asked_for_by_the_last_message() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let messages = |texts: [&str; 2]| {
        let messages: Vec<Value> = texts
            .iter()
            .map(|text| json!({"role": "user", "content": text}))
            .collect();
        server
            .post("/api/hub/agents/chat")
            .key(&key.value)
            .json(&json!({"messages": messages}))
    };
    messages(["!fail", "Hello!"]).send().await.expect(200);
    messages(["Hello!", "!fail"]).send().await.expect(500);
    assert_eq!(account.settled(&server).await, DOLLAR - CHAT_PRICE);
}

#[tokio::test]
async fn a_refused_call_costs_nothing() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let far = account
        .key_with(&server, json!({"allowed_ips": ["192.0.2.1"]}))
        .await;
    let dead = account.key(&server).await;
    account.revoke(&server, &dead.id).send().await.expect(200);
    for (path, _, _) in PRICED {
        for body in ["", "{", "[1,2", "\"x\"x", "\u{0}"] {
            let call = server.post(path).key(&key.value).body(body);
            call.send().await.refused(&[400, 422]);
        }
        server
            .get(path)
            .key(&key.value)
            .send()
            .await
            .refused(&[405]);
        far.paid(&server, path, "Hello!")
            .send()
            .await
            .access_denied();
        dead.paid(&server, path, "Hello!")
            .send()
            .await
            .invalid_key();
    }
    let path = "/v1/chat/completions";
    server
        .post(path)
        .key(&key.value)
        .body("{")
        .send()
        .await
        .refused_openai(&[400, 422]);
    assert_eq!(account.settled(&server).await, DOLLAR);
    let charged: i64 = account
        .usage(&server)
        .await
        .iter()
        .map(|row| row.money("charged"))
        .sum();
    assert_eq!(charged, 0);
}

/// The caller may choose the request id; it must not buy a second call with the money of the first.
#[tokio::test]
async fn a_repeated_request_id_is_no_free_ride() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let (other, foreign) = Account::with_money(&server, "1").await;
    let mut admitted = 0;
    for _ in 0..5 {
        let call = key
            .chat(&server, "Hello!")
            .header("x-request-id", "the-same-id");
        let answer = call.send().await;
        assert!(!answer.status.is_server_error(), "{answer:?}");
        admitted += i64::from(answer.status.is_success());
    }
    assert!(admitted >= 1);
    assert_eq!(
        account.settled(&server).await,
        DOLLAR - admitted * CHAT_PRICE
    );

    let call = foreign.paid(&server, "/api/yggdrasil/query", "x");
    call.header("x-request-id", "the-same-id")
        .send()
        .await
        .expect(200);
    assert_eq!(other.settled(&server).await, DOLLAR - QUERY_PRICE);
    assert_eq!(
        other.used(&server, "the-same-id").await.money("charged"),
        QUERY_PRICE
    );
    assert_eq!(
        account.settled(&server).await,
        DOLLAR - admitted * CHAT_PRICE
    );
}

#[tokio::test]
async fn the_books_balance_after_a_mixed_day() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "0.05").await;
    for round in 0..12 {
        let (path, _, _) = PRICED[round % PRICED.len()];
        let text = if round % 4 == 0 { "!fail" } else { "Hello!" };
        let answer = key.paid(&server, path, text).send().await;
        assert!(
            [200, 402, 500].contains(&answer.status.as_u16()),
            "{answer:?}"
        );
        server.post(path).key(&key.value).body("{").send().await;
    }
    let balance = account.settled(&server).await;
    let usage = account.usage(&server).await;
    assert!(usage.iter().all(|row| row.money("charged") >= 0));
    let charged: i64 = usage.iter().map(|row| row.money("charged")).sum();
    assert_eq!(balance + charged, 50_000_000);
}

#[tokio::test]
async fn a_body_is_json_whatever_its_type_says() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let types = [
        "application/json",
        "application/json; charset=utf-8",
        "application/x-www-form-urlencoded",
        "text/plain",
        "application/octet-stream",
        "multipart/form-data; boundary=x",
        "not a type",
    ];
    let body = demo_body("Hello!").to_string();
    for kind in types {
        let call = server.post("/api/hub/agents/chat").key(&key.value);
        call.header("content-type", kind)
            .body(body.as_str())
            .send()
            .await
            .expect(200);
        let login = json!({"email": account.email, "password": account.password}).to_string();
        let call = server
            .post("/api/auth/login")
            .header("content-type", kind)
            .body(login);
        call.send().await.expect(200);
    }
    server
        .post("/api/hub/agents/chat")
        .key(&key.value)
        .body(body)
        .send()
        .await
        .expect(200);
}
