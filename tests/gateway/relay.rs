//! What a provider gets to see, and what customers get to see of it.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{CHAT, balance, chat, customer, launch, refused, usage, within_a_minute};
use crate::support::{Home, Server};

type Seen = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// A gateway to a provider that answers with the status in a request's `seed`, or if that is 102
/// never, and what the provider was sent.
async fn start() -> (Home, Server, Seen) {
    let seen = Seen::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/v1/", listener.local_addr().expect("its address"));
    let noted = Arc::clone(&seen);
    let answer = async move |headers: HeaderMap, Json(body): Json<Value>| {
        let status = match body["seed"].as_u64() {
            Some(status) => StatusCode::from_u16(status.try_into().unwrap()).unwrap(),
            None => StatusCode::OK,
        };
        let is_silent = body["seed"] == 102;
        noted.lock().unwrap().push((headers, body));
        if is_silent {
            std::future::pending::<()>().await;
        }
        let usage = json!({ "prompt_tokens": 4, "completion_tokens": 1 });
        let answer = json!({ "model": "gpt-4o", "usage": usage, "error": "of the provider" });
        let own = [("set-cookie", "a=b"), ("openai-organization", "ours")];
        (status, own, Json(answer))
    };
    let routes = Router::new().route(CHAT, post(answer));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let home = Home::of("gateway");
    let server = launch(&home)
        .env("UPSTREAM_URL", &url)
        .env("UPSTREAM_API_KEY", "of-the-gateway");
    let server = server.start().await;
    (home, server, seen)
}

#[tokio::test]
async fn the_provider_sees_the_gateways_key_and_a_bound_that_is_paid_for() {
    let (_home, server, seen) = start().await;
    let key = customer(&server, "ann").await;
    for (more, most) in [
        (json!({}), 1_000),
        (
            json!({ "max_tokens": 0, "max_completion_tokens": null }),
            1_000,
        ),
        (json!({ "max_completion_tokens": 7, "stream": false }), 7),
        (json!({ "max_tokens": 5, "stream": true }), 5),
    ] {
        let call = chat(&server, &key, &more).header("cookie", "c=d");
        let answer = call.send().await;
        assert!(!answer.headers.contains_key("set-cookie"));
        assert!(!answer.headers.contains_key("openai-organization"));
        let (headers, body) = seen.lock().unwrap().pop().expect("it was asked");
        assert_eq!(headers["authorization"], "Bearer of-the-gateway");
        for name in ["x-api-key", "cookie", "accept-encoding"] {
            assert!(!headers.contains_key(name), "{name}");
        }
        assert!(headers.values().all(|value| value != key.as_str()));
        assert_eq!(body["max_tokens"], most);
        assert_eq!(body.get("max_completion_tokens"), None);
        let streams = more["stream"] == true;
        let wanted = streams.then(|| json!({ "include_usage": true }));
        assert_eq!(body.get("stream_options"), wanted.as_ref());
    }
    let ended = server.stop().await;
    ended.without_panic();
    assert!(!ended.stderr.contains("of-the-gateway"));
}

#[tokio::test]
async fn what_is_wrong_between_gateway_and_provider_is_no_customers_fault() {
    let (_home, server, seen) = start().await;
    let key = customer(&server, "ann").await;
    for status in [307, 401, 403, 404, 429, 500, 529] {
        let answer = refused(chat(&server, &key, &json!({ "seed": status })), 503).await;
        assert!(!answer.text().contains("of the provider"), "{status}");
    }
    let wrong = chat(&server, &key, &json!({ "seed": 400 })).send().await;
    assert_eq!(wrong.expect(400).json()["error"], "of the provider");
    assert_eq!(seen.lock().unwrap().len(), 8, "nothing is asked twice");
    assert_eq!(balance(&server, "ann").await, json!(1));
    server.stop().await.without_panic();
}

#[tokio::test]
async fn who_leaves_before_an_answer_pays_what_was_held() {
    let (_home, server, seen) = start().await;
    let key = customer(&server, "ann").await;
    let call = tokio::spawn(chat(&server, &key, &json!({ "seed": 102 })).begin());
    within_a_minute(async || !seen.lock().unwrap().is_empty()).await;
    call.abort();
    within_a_minute(async || !usage(&server, "ann").await.is_empty()).await;
    let row = usage(&server, "ann").await.remove(0);
    assert_eq!(row["outcome"], "disconnected");
    assert_eq!(row["charged"], row["held"]);
    assert_ne!(row["held"], "0");
    server.stop().await.without_panic();
}
