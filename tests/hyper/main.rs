//! The example on plain hyper, from outside.

#![cfg(unix)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "every line here is a test, and a test that panics is one that fails"
)]

#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use support::{Answer, Call, Demo, Http2};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A refusal in the one shape that all have.
async fn refused(call: Call, status: u16, error: &str) -> Answer {
    let answer = call.send().await;
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_ne!(answer.request_id(), "");
    assert_eq!(answer.json()["error"], error);
    assert!(answer.json()["message"].is_string());
    answer
}

#[tokio::test]
async fn each_role_has_its_routes() {
    let demo = Demo::of("hyper");
    let (viewer, operator) = (demo.key("viewer").await, demo.key("operator").await);
    let admin = demo.key("admin").await;
    let server = demo.start(&[]).await;
    let missing = refused(server.get("/hello"), 401, "Missing credentials").await;
    let expected =
        "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key or token";
    assert_eq!(missing.json()["message"], expected);
    assert_eq!(missing.header("www-authenticate"), r#"Bearer realm="api""#);

    let hello = server.get("/hello").key(&viewer).send().await;
    assert_ne!(hello.header("ratelimit"), "");
    assert_eq!(hello.json(), json!({ "hello": "viewer" }));
    assert_eq!(hello.number("content-length"), 18, "it is known");

    let echo = |key: &str| server.post("/echo").bearer(key).body("a b");
    refused(echo(&viewer), 403, "Access denied").await;
    assert_eq!(echo(&operator).send().await.text(), "a b");

    let account = |key: &str, user: &str| server.get(&format!("/admin/accounts/{user}")).key(key);
    refused(account(&operator, "operator"), 403, "Access denied").await;
    let told = account(&admin, "operator").send().await;
    assert_eq!(told.text(), r#"{"available":9.998,"held":0}"#);
    let told = account(&admin, "viewer").send().await;
    assert_eq!(
        told.text(),
        r#"{"available":10,"held":0}"#,
        "a refusal is free"
    );
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_user_may_have_as_many_generated_keys_as_are_wanted() {
    let demo = Demo::of("hyper");
    demo.home().fill("viewer").await;
    let viewer = demo.key("viewer").await;
    let server = demo.start(&[]).await;
    let hello = server.get("/hello").key(&viewer).send().await;
    assert_eq!(hello.status, 200);
}

#[tokio::test]
async fn refusals_are_json_of_one_shape() {
    let demo = Demo::of("hyper");
    let poor = ["generate-key", "--role", "operator", "--balance", "0"];
    let key = demo.command(&poor).await;
    let token = demo
        .command(&["generate-token", "--user", "somebody-else"])
        .await;
    let server = demo.start(&[("KEY_RATE_LIMIT_PER_MINUTE", "25")]).await;
    refused(server.get("/hello").bearer("x.y.z"), 401, "Invalid token").await;
    refused(server.get("/nowhere").key(&key), 404, "Not found").await;
    for method in [Method::GET, Method::POST, Method::DELETE, Method::HEAD] {
        for path in ["/", "/nowhere", "/hello/", "/admin/accounts/a/b", "//hello"] {
            let answer = server.call(method.clone(), path).key(&key).send().await;
            assert_eq!(answer.status, 404, "{method} {path}");
            assert!(!answer.headers.contains_key("allow"), "{method} {path}");
        }
    }
    let delete = server.call(Method::DELETE, "/hello").key(&key);
    let delete = refused(delete, 405, "Method not allowed").await;
    assert_eq!(delete.header("allow"), "GET, HEAD");
    let unpaid = refused(server.post("/echo").key(&key), 402, "Insufficient credits").await;
    assert!(unpaid.text().contains("$0.0020"));
    for _ in 0..2 {
        assert_eq!(server.get("/hello").key(&key).send().await.status, 200);
    }
    let hurried = refused(server.get("/hello").key(&key), 429, "Rate limit exceeded").await;
    assert!((1..=12).contains(&hurried.number("retry-after")));
    let other = server.get("/hello").bearer(&token).send().await;
    assert_eq!(other.status, 200, "somebody else is counted apart");
    server.stop().await.without_panic();
}

#[tokio::test]
async fn head_over_http2_is_answered_without_content() {
    let demo = Demo::of("hyper");
    let viewer = demo.key("viewer").await;
    let server = demo.start(&[]).await;
    let mut client = Http2::connect(server.address).await;
    let with_key = [("x-api-key", viewer.as_str())];
    for (path, lines, status) in [
        ("/hello", [].as_slice(), 401),
        ("/hello", &with_key, 200),
        ("/nowhere", &with_key, 404),
        ("/admin/accounts/viewer", &with_key, 403),
    ] {
        let answer = client.head_is_get_without_content(path, lines).await;
        assert_eq!(answer.status(), status, "{path}");
    }
    server.stop().await.without_panic();
}

#[tokio::test]
async fn who_may_not_is_told_so_and_not_of_money() {
    let demo = Demo::of("hyper");
    let poor = ["generate-key", "--role", "viewer", "--balance", "0"];
    let viewer = demo.command(&poor).await;
    let server = demo.start(&[]).await;
    refused(server.post("/echo").key(&viewer), 403, "Access denied").await;
    refused(server.post("/nowhere").key(&viewer), 404, "Not found").await;
    server.stop().await.without_panic();
}

/// A refusal that is sent before the body was read is not overtaken by the end of its connection.
#[tokio::test]
async fn a_refusal_in_front_of_a_large_body_arrives() {
    let demo = Demo::of("hyper");
    let server = demo.start(&[]).await;
    for _ in 0..20 {
        let large = server
            .post("/echo")
            .key("demo_nobody")
            .body(vec![0; 3 << 20]);
        refused(large, 401, "Invalid API key").await;
    }
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_ended() {
    use support::silent;

    let demo = Demo::of("hyper");
    let server = demo.start(&[]).await;
    let starts: [&[u8]; 5] = [
        b"",
        b"P",
        b"PRI * HTTP/2.0\r\n",
        b"GET /hello HTTP/1.1\r\nhost: a\r\n",
        b"GET /hello HTTP/1.1\r\nhost: a\r\n\r\n",
    ];
    let ends = starts.map(|start| silent(&server, start));
    futures_util::future::join_all(ends).await;
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_and_free() {
    let demo = Demo::of("hyper");
    let key = demo.key("admin").await;
    let server = demo.start(&[]).await;
    let large = server.post("/echo").key(&key).body(vec![0; 1_048_577]);
    refused(large, 413, "Request too large").await;
    let told = server.get("/admin/accounts/admin").key(&key).send().await;
    assert_eq!(told.text(), r#"{"available":10,"held":0}"#);
    server.stop().await.without_panic();
}

/// The body of a request that goes silent holds a place for so long, and no longer.
#[tokio::test]
async fn a_body_that_goes_silent_is_refused_and_free() {
    let demo = Demo::of("hyper");
    let key = demo.key("admin").await;
    let server = demo.start(&[]).await;
    let start = format!(
        "POST /echo HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\ncontent-length: 9\r\n\r\nab"
    );
    let said = timeout(
        Duration::from_secs(20),
        support::silent(&server, start.as_bytes()),
    );
    let said = said.await.expect("an end");
    assert!(
        said.starts_with(b"HTTP/1.1 408 "),
        "{}",
        said.escape_ascii()
    );
    let told = server.get("/admin/accounts/admin").key(&key).send().await;
    assert_eq!(told.text(), r#"{"available":10,"held":0}"#);
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_retry_is_charged_once_and_another_body_is_refused() {
    let demo = Demo::of("hyper");
    let key = demo.key("admin").await;
    let server = demo.start(&[]).await;
    let echo = |body: &'static str| {
        let call = server.post("/echo").key(&key);
        call.header("idempotency-key", "order-7").body(body)
    };
    let first = echo("a b").send().await;
    assert_eq!((first.status.as_u16(), first.text()), (200, "a b"));
    for _ in 0..2 {
        let again = echo("a b").send().await;
        assert_eq!((again.status.as_u16(), again.text()), (200, "a b"));
        assert_eq!(again.header("idempotency-replayed"), "true");
    }
    refused(echo("a c"), 422, "Unprocessable request").await;
    let large = server
        .post("/echo")
        .key(&key)
        .header("idempotency-key", "large")
        .body(vec![0; 1_048_577]);
    refused(large, 413, "Request too large").await;
    let told = server.get("/admin/accounts/admin").key(&key).send().await;
    assert_eq!(told.text(), r#"{"available":9.998,"held":0}"#);
    server.stop().await.without_panic();
}

#[tokio::test]
async fn an_account_is_named_as_its_escapes_say() {
    let demo = Demo::of("hyper");
    let paid = ["--user", "ann@example.org", "--balance", "7"];
    demo.command(&[&["generate-key"][..], &paid[..]].concat())
        .await;
    let admin = demo.key("admin").await;
    let server = demo.start(&[]).await;
    let account = |name: &str| server.get(&format!("/admin/accounts/{name}")).key(&admin);
    for name in ["ann%40example.org", "ann@example.org"] {
        let told = account(name).send().await;
        assert_eq!(told.text(), r#"{"available":7,"held":0}"#, "{name}");
    }
    for name in ["%FF", "a%2Fb", "%61nn@example.org", &"a".repeat(256)] {
        refused(account(name), 404, "Not found").await;
    }
    server.stop().await.without_panic();
}

/// Who asks and makes no room for the answer keeps it in the server's memory: not for ever.
#[tokio::test]
async fn a_connection_that_leaves_its_answer_lying_is_ended() {
    let demo = Demo::of("hyper");
    let key = demo.key("viewer").await;
    let server = demo.start(&[]).await;
    let stream = TcpStream::connect(server.address)
        .await
        .expect("it listens");
    let client = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream));
    let (mut client, connection) = client.await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = || {
        let request = http::Request::get(format!("http://{}/hello", server.address));
        request
            .header("x-api-key", &key)
            .body(Empty::<Bytes>::new())
            .expect("a request")
    };
    let mut lying = Vec::new();
    for _ in 0..3 {
        let answer = client
            .send_request(request())
            .await
            .expect("the head comes");
        assert_eq!(answer.status(), 200);
        lying.push(answer);
    }
    let ended = timeout(Duration::from_secs(60), connection).await;
    ended.expect("the server ends it").expect("no panic").ok();
    server.stop().await.without_panic();
}

/// Whoever opens one after the other leaves others their places.
#[tokio::test]
async fn one_address_has_so_many_connections() {
    let demo = Demo::of("hyper");
    let server = demo.start(&[("CONNECTIONS_PER_ADDRESS", "2")]).await;
    let connect = async || {
        let stream = TcpStream::connect(server.address).await;
        stream.expect("it listens")
    };
    // The first bytes of an answer; none where the connection is closed.
    let asked = async |mut stream: TcpStream| {
        let request = b"GET /hello HTTP/1.1\r\nhost: example.org\r\n\r\n";
        let _ = stream.write_all(request).await;
        let mut answer = [0; 8];
        let read = timeout(Duration::from_secs(10), stream.read(&mut answer)).await;
        let read = read.expect("it is answered or closed").unwrap_or(0);
        (read > 0).then_some(stream)
    };
    // One that is in the middle of its first head has its place too.
    let mut begun = connect().await;
    begun.write_all(b"GET /hel").await.expect("it is open");
    let held = (begun, asked(connect().await).await);
    assert!(held.1.is_some());
    assert!(asked(connect().await).await.is_none(), "a third one");
    drop(held);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while asked(connect().await).await.is_none() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "its places are free"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await.without_panic();
}

/// One of HTTP/2 stays for longer than between two requests, and not for ever.
#[tokio::test]
async fn a_connection_that_is_idle_is_ended_after_a_while() {
    let demo = Demo::of("hyper");
    let key = demo.key("viewer").await;
    let server = demo.start(&[]).await;
    let stream = TcpStream::connect(server.address)
        .await
        .expect("it listens");
    let client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let client = client.handshake(TokioIo::new(stream)).await;
    let (mut client, connection) = client.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut called = async || {
        let request = http::Request::get(format!("http://{}/hello", server.address));
        let request = request
            .header("x-api-key", &key)
            .body(Empty::<Bytes>::new());
        let answer = client.send_request(request.expect("a request")).await;
        let answer = answer.expect("an answer");
        answer.into_body().collect().await.expect("a body");
    };
    called().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    called().await;
    let ended = timeout(Duration::from_secs(90), connection).await;
    let ended = ended.expect("the server ends it").expect("no panic");
    ended.expect("and says so before");
    server.stop().await.without_panic();
}
