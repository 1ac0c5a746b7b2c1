//! The LLM gateway, from outside.

#![cfg(unix)]
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "every line here is a test, and a test that panics is one that fails"
)]

mod relay;
#[path = "../support/mod.rs"]
mod support;

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::{Answer, Call, Client, Home, Launch, Server};

pub(crate) const CHAT: &str = "/v1/chat/completions";
const ADMIN: &str = "an-admin-key-of-32-characters-at-least";

pub(crate) fn launch(home: &Home) -> Launch {
    home.launch().env("ADMIN_API_KEY", ADMIN)
}

async fn start() -> (Home, Server) {
    let home = Home::of("gateway");
    let server = launch(&home).start().await;
    (home, server)
}

/// The administrator's routes.
fn manage(call: Call) -> Call {
    call.header("x-admin-key", ADMIN)
}

async fn key(server: &Client, account: &str, plan: &str) -> String {
    let new = json!({ "account": account, "plan": plan, "name": "a key" });
    let made = manage(server.post("/admin/keys")).json(&new).send().await;
    let key = made.expect(201).json()["key"].as_str().map(str::to_owned);
    key.expect("it is shown once")
}

/// Pays a dollar in, once, and returns what there is now.
async fn balance(server: &Client, account: &str) -> Value {
    let reference = format!("first of {account}");
    let paid = json!({ "account": account, "amount": 1, "reference": reference });
    let paid = manage(server.post("/admin/credits")).json(&paid).send();
    paid.await.expect(200).json()["available"].clone()
}

/// The key of a customer with a dollar.
pub(crate) async fn customer(server: &Client, account: &str) -> String {
    balance(server, account).await;
    key(server, account, "pro").await
}

/// Four words to a model, and what else the request says.
pub(crate) fn asking(more: &Value) -> Value {
    let messages = json!([{ "role": "user", "content": "Say a few words" }]);
    let mut body = json!({ "model": "gpt-4o", "messages": messages });
    let members = body.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    body
}

pub(crate) fn chat(server: &Client, key: &str, more: &Value) -> Call {
    server.post(CHAT).bearer(key).json(&asking(more))
}

/// The rows of an account's chats, newest first, by the names of their columns.
async fn usage(server: &Client, account: &str) -> Vec<HashMap<String, String>> {
    let csv = manage(server.get(&format!("/admin/usage/{account}"))).send();
    let csv = csv.await.expect(200);
    assert!(csv.header("content-type").starts_with("text/csv"));
    let mut lines = csv.text().lines();
    let names: Vec<&str> = lines.next().expect("a header").split(',').collect();
    let rows = lines.map(|line| {
        let cells = names.iter().zip(line.split(','));
        cells.map(|(name, cell)| ((*name).to_owned(), cell.to_owned()))
    });
    rows.map(HashMap::from_iter)
        .filter(|row: &HashMap<String, String>| row["route"] == format!("POST {CHAT}"))
        .collect()
}

fn dollars(row: &HashMap<String, String>, column: &str) -> f64 {
    row[column].parse().expect("an amount")
}

/// A refusal in the shape that OpenAI's clients read.
async fn refused(call: Call, status: u16) -> Answer {
    let answer = call.send().await;
    assert!(answer.refusal(&[status])["error"]["message"].is_string());
    answer
}

/// 4 tokens at $3 a million, 2 of them from the cache at half of that, and 10 at $12.
#[tokio::test]
async fn a_call_costs_what_it_used_and_a_fifth_more_than_the_provider_takes() {
    let (_home, server) = start().await;
    let key = customer(&server, "ann").await;
    let call = |more: &Value| chat(&server, &key, more).header("x-project", "alpha");
    let ten = json!({ "max_tokens": 10 });
    let whole = call(&ten).send().await.expect(200);
    assert_eq!(whole.json()["model"], "gpt-4o-2024-11-20");
    assert_eq!(whole.json()["usage"]["completion_tokens"], 10);
    // A token for each byte that was sent.
    let held = asking(&ten).to_string().len() * 3 + 10 * 12;
    assert_eq!(whole.header("x-cost-held"), format!("0.{held:06}"));
    assert_eq!(balance(&server, "ann").await, json!(0.999871));

    let more = json!({ "max_completion_tokens": 10, "stream": true });
    let stream = call(&more).send().await.expect(200);
    assert_eq!(stream.header("content-type"), "text/event-stream");
    assert_eq!(stream.text().matches(r#""content":"word ""#).count(), 10);
    assert!(stream.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(balance(&server, "ann").await, json!(0.999742));

    let rows = usage(&server, "ann").await;
    assert_eq!(rows.len(), 2);
    for row in &rows {
        let tokens = ["input_tokens", "cached_tokens", "output_tokens"];
        assert_eq!(tokens.map(|name| row[name].as_str()), ["4", "2", "10"]);
        assert_eq!(row["charged"], "0.000129");
        assert_eq!(row["model"], "gpt-4o-2024-11-20");
        assert_eq!(row["usage_is_missing"], "false");
        assert_eq!(row["tags"], r#""{""project"":""alpha""}""#);
    }
    server.stop().await.without_panic();
}

#[tokio::test]
async fn what_is_not_sold_is_refused_and_free() {
    let (_home, server) = start().await;
    let key = customer(&server, "ann").await;
    for (more, status) in [
        (json!({ "max_tokens": 16_001 }), 400),
        (json!({ "max_completion_tokens": 9_000, "n": 2 }), 400),
        (json!({ "model": "gpt-5" }), 400),
        (json!({ "model": null }), 400),
        (json!({ "service_tier": "priority" }), 422),
    ] {
        refused(chat(&server, &key, &more), status).await;
    }
    let models = server.get("/v1/models").key(&key).send().await.expect(200);
    assert_eq!(models.json()["data"][1]["id"], "gpt-4o-mini");
    assert_eq!(balance(&server, "ann").await, json!(1));
    server.stop().await.without_panic();
}

#[tokio::test]
async fn each_has_their_own_routes() {
    let (_home, server) = start().await;
    let key = customer(&server, "ann").await;
    let chat = || server.post(CHAT).json(&asking(&json!({})));
    let stranger = refused(chat(), 401).await;
    assert!(!stranger.text().contains("x-admin-key"));
    assert!(stranger.text().contains("X-API-Key"));
    refused(chat().bearer("gw_guess"), 401).await;
    refused(manage(chat()), 403).await;
    refused(chat().header("x-admin-key", &key), 401).await;
    refused(server.get("/admin/usage/ann"), 401).await;
    refused(server.get("/admin/usage/ann").key(&key), 403).await;
    refused(server.get("/admin/usage/ann").key(ADMIN), 401).await;
    let paid = json!({ "account": "ann", "amount": 1, "reference": "by herself" });
    let pay = server.post("/admin/credits").key(&key).json(&paid);
    refused(pay, 403).await;
    let new = json!({ "account": "ann", "plan": "gold" });
    refused(manage(server.post("/admin/keys")).json(&new), 422).await;
    refused(server.get("/nowhere").key(&key), 404).await;
    let get = refused(server.get(CHAT).key(&key), 405).await;
    assert_eq!(get.header("allow"), "POST");
    assert_eq!(balance(&server, "ann").await, json!(1));
    let ended = server.stop().await;
    ended.without_panic();
    assert!(!ended.stderr.contains(&key) && !ended.stderr.contains(ADMIN));
}

/// A call that states no bound holds 1.2 cents for 1,000 words.
#[tokio::test]
async fn of_two_calls_at_once_with_money_for_one_the_second_waits() {
    let (_home, server) = start().await;
    let key = key(&server, "ann", "pro").await;
    let paid = json!({ "account": "ann", "amount": 0.02, "reference": "two cents" });
    let paid = manage(server.post("/admin/credits")).json(&paid).send();
    paid.await.expect(200);
    let call = || chat(&server, &key, &json!({ "stream": true }));
    let first = call().begin().await.expect("an answer begins");
    assert_eq!(first.status(), 200);
    let second = refused(call(), 402).await;
    assert_eq!(second.header("x-should-retry"), "true");
    assert_eq!(second.number("retry-after"), 1);
    drop(first);
    // The second fits once the first is settled.
    within_a_minute(async || {
        call()
            .begin()
            .await
            .is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    server.stop().await.without_panic();
}

async fn within_a_minute(is_so: impl AsyncFn() -> bool) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within a minute");
}

#[tokio::test]
async fn who_leaves_pays_for_what_was_written_by_then() {
    let (_home, server) = start().await;
    let key = customer(&server, "ann").await;
    let call = chat(
        &server,
        &key,
        &json!({ "max_tokens": 16_000, "stream": true }),
    );
    let mut answer = call.begin().await.expect("an answer begins");
    assert!(answer.chunk().await.expect("a word").is_some());
    drop(answer);
    within_a_minute(async || !usage(&server, "ann").await.is_empty()).await;
    let row = usage(&server, "ann").await.remove(0);
    assert_eq!(row["outcome"], "disconnected");
    assert!(dollars(&row, "held") > 0.19, "{row:?}");
    let charged = dollars(&row, "charged");
    assert!(charged > 0.0 && charged < 0.02, "{row:?}");
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_refund_gives_a_call_back_once() {
    let (home, server) = start().await;
    let key = customer(&server, "ann").await;
    chat(&server, &key, &json!({})).send().await.expect(200);
    let charged = json!(0.987_991);
    assert_eq!(balance(&server, "ann").await, charged);
    let row = usage(&server, "ann").await.remove(0);
    let position: u64 = row["position"].parse().expect("a number");
    let refund = |account: &str, request: &str, more: &Value| {
        let mut refund = json!({ "account": account, "position": position, "request_id": request });
        let members = refund.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        manage(server.post("/admin/refunds")).json(&refund)
    };
    let request = row["request_id"].as_str();
    refused(refund("bob", request, &json!({})), 404).await;
    refused(refund("ann", "another", &json!({})), 404).await;
    refused(refund("ann", request, &json!({ "amount": 0.02 })), 422).await;
    assert_eq!(balance(&server, "ann").await, charged);
    for _ in 0..2 {
        let given = refund("ann", request, &json!({})).send().await;
        assert_eq!(given.expect(200).json()["available"], json!(1));
    }
    refused(refund("ann", request, &json!({ "amount": 0.001 })), 409).await;
    // The customer's budget has it back too.
    let limits = json!({ "account": "ann", "limits": {} });
    let budget = manage(server.put("/admin/limits")).json(&limits).send();
    assert_eq!(
        budget.await.expect(200).json()["total"]["settled"],
        json!(0)
    );
    server.stop().await.without_panic();

    let server = launch(&home).start().await;
    assert_eq!(balance(&server, "ann").await, json!(1), "also later");
    server.stop().await.without_panic();
}

/// Each chat costs $0.000129, of which the operator hears at the second.
#[tokio::test]
async fn the_operator_is_told_once_of_each_amount_that_a_customer_has_spent() {
    let (_home, server) = start().await;
    let keys = [
        customer(&server, "ann").await,
        key(&server, "ann", "pro").await,
    ];
    let limit = |limits: &Value| {
        let new = json!({ "account": "ann", "limits": limits });
        manage(server.put("/admin/limits")).json(&new)
    };
    let soft = json!({ "soft": { "total": [1, 0.0002] } });
    let set = limit(&soft).send().await.expect(200);
    assert_eq!(set.json()["limits"]["soft"]["total"], json!([0.0002, 1]));
    refused(limit(&json!({ "soft": { "totle": 1 } })), 422).await;
    refused(server.put("/admin/limits").key(&keys[0]).json(&soft), 403).await;
    let ten = json!({ "max_tokens": 10 });
    for key in [&keys[0], &keys[1], &keys[0]] {
        chat(&server, key, &ten).send().await.expect(200);
    }
    let spent = limit(&json!({ "total": 0.0004, "soft": { "total": 0.0002 } }));
    let spent = spent.send().await.expect(200);
    assert_eq!(spent.json()["total"]["settled"], json!(0.000387));
    refused(chat(&server, &keys[1], &ten), 402).await;
    let ended = server.stop().await;
    ended.without_panic();
    let lines = ended.stderr.lines();
    let told: Vec<_> = lines.filter(|line| line.contains("a soft limit")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    for words in [
        "account=ann",
        "budget=customer",
        "window=Total",
        "limit=$0.0002",
    ] {
        assert!(told[0].contains(words), "{}", told[0]);
    }
}

#[tokio::test]
async fn a_repeated_call_is_charged_once() {
    let (_home, server) = start().await;
    let key = customer(&server, "ann").await;
    let call = |most: u64| {
        let call = chat(
            &server,
            &key,
            &json!({ "max_tokens": most, "stream": true }),
        );
        call.header("idempotency-key", "order-7")
    };
    let first = call(10).send().await.expect(200);
    let again = call(10).send().await.expect(200);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.body, first.body);
    refused(call(11), 422).await;
    assert_eq!(balance(&server, "ann").await, json!(0.999871));
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_plan_limits_all_keys_of_a_customer_together() {
    let (_home, server) = start().await;
    let keys = [key(&server, "ann", "free"), key(&server, "ann", "free")];
    let keys = join_all(keys).await;
    let pro = key(&server, "bob", "pro").await;
    let models = async |key: &str| server.get("/v1/models").key(key).send().await;
    assert_eq!(
        models(&keys[0]).await.number("x-ratelimit-limit-tokens"),
        20_000
    );
    assert_eq!(
        models(&pro).await.number("x-ratelimit-limit-tokens"),
        1_000_000
    );
    let mut admitted = [0, 0];
    for turn in 0..40 {
        let (ann, bob) = (models(&keys[turn % 2]).await, models(&pro).await);
        admitted[0] += usize::from(ann.status == 200);
        admitted[1] += usize::from(bob.status == 200);
        assert!(ann.status == 200 || ann.status == 429);
    }
    assert!((19..40).contains(&admitted[0]), "{admitted:?}");
    assert_eq!(admitted[1], 40);
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_plan_limits_tokens_too() {
    let (_home, server) = start().await;
    balance(&server, "ann").await;
    let key = key(&server, "ann", "free").await;
    let call = |most: u64| chat(&server, &key, &json!({ "max_tokens": most }));
    call(16_000).send().await.expect(200);
    let hurried = refused(call(16_000), 429).await;
    assert!((20..=60).contains(&hurried.number("retry-after")));
    call(10).send().await.expect(200);
    server.stop().await.without_panic();
}
