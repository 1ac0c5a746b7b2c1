//! The OpenAI-shaped routes: what they answer, and what a word costs.

use std::time::Duration;

use futures_util::StreamExt;
use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use crate::support::{
    Account, Answer, Call, Client, Http2, Key, RawCall, WORD_IN, WORD_OUT, home, now, within,
};

const PATH: &str = "/v1/chat/completions";
const DOLLAR: i64 = 1_000_000_000;

async fn completion(client: &Client, key: &Key, texts: &[&str], options: Value) -> Call {
    let last = texts.len().saturating_sub(1);
    let messages: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(at, text)| {
            json!({"role": if at == last { "user" } else { "system" }, "content": text})
        })
        .collect();
    let mut body = json!({"model": key.model(client).await, "messages": messages});
    body.as_object_mut()
        .unwrap()
        .extend(options.as_object().unwrap().clone());
    client.post(PATH).key(&key.value).json(&body)
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn cost(words_in: i64, words_out: i64) -> i64 {
    words_in * WORD_IN + words_out * WORD_OUT
}

#[track_caller]
fn is_usage(usage: &Value, words_in: i64, words_out: i64) {
    assert_eq!(usage["prompt_tokens"], words_in, "{usage}");
    assert_eq!(usage["completion_tokens"], words_out, "{usage}");
    assert_eq!(usage["total_tokens"], words_in + words_out, "{usage}");
}

#[tokio::test]
async fn a_completion_costs_its_words() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let cases: [(&[&str], i64, i64); 4] = [
        (&["one two three"], 3, 3),
        (&["You are a parrot.", "one two three"], 7, 3),
        (&["a b", "c", "  spaced \t out \n words  "], 6, 3),
        (&["x", "\u{4f60}\u{597d} w\u{f6}rld \u{1f980}"], 4, 3),
    ];
    let mut expected = DOLLAR;
    for (texts, words_in, words_out) in cases {
        let call = completion(&server, &key, texts, json!({})).await;
        let answer = call.send().await.expect(200);
        let body = answer.json();
        assert_eq!(body["object"], "chat.completion");
        assert!(body["id"].is_string() && body["model"].is_string());
        let age = now().as_second() - body["created"].as_i64().unwrap();
        assert!((0..60).contains(&age), "{body}");
        let choice = &body["choices"][0];
        assert_eq!(choice["index"], 0);
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(choice["message"]["role"], "assistant");
        let content = choice["message"]["content"].as_str().unwrap();
        assert_eq!(words(content), words(texts.last().unwrap()));
        is_usage(&body["usage"], words_in, words_out);

        expected -= cost(words_in, words_out);
        assert_eq!(account.settled(&server).await, expected);
        let row = account.used(&server, answer.request_id()).await;
        assert_eq!(row.money("charged"), cost(words_in, words_out));
        assert!(row.money("held") >= row.money("charged"), "{row:?}");
        assert_eq!(row.value("status"), 200);
        assert!(row.text("route").contains(PATH));
    }
}

/// Who has little is not asked for as much as the longest body could cost, whoever doesn't say how
/// long his is.
#[tokio::test]
async fn a_body_of_no_told_length_is_held_for_by_what_came() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "0.01").await;
    let model = key.model(&server).await;
    let body = json!({"model": model, "messages": [{"role": "user", "content": "one two"}]});
    let body = body.to_string();
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let call = || {
        RawCall::new("POST", PATH)
            .line(format!("x-api-key: {}", key.value))
            .line("content-type: application/json")
    };
    let sent = call().line("transfer-encoding: chunked");
    let answer = sent
        .sent_as(chunked.as_bytes())
        .send(&server)
        .await
        .expect(200);
    is_usage(&answer.json()["usage"], 2, 2);
    let row = account.used(&server, answer.request_id()).await;
    assert_eq!(row.money("charged"), cost(2, 2));
    let bytes = i64::try_from(body.len()).unwrap();
    assert_eq!(row.money("held"), cost(bytes, bytes));
    // What is coded is read as it is, and so is no JSON: whoever sends it is told that, and not
    // that he is poor.
    for coding in ["gzip", "br"] {
        let coded = call().line(format!("content-encoding: {coding}"));
        let answer = coded.body(&[0x1f, 0x8b, 8, 0, 0]).send(&server).await;
        answer.refused_openai(&[400, 415, 422]);
    }
    let mut http2 = Http2::connect(server.address).await;
    let lines = [("x-api-key", key.value.as_str())];
    let empty = http2.call(Method::POST, PATH, &lines).await;
    assert_eq!(empty.status(), 400, "{empty:?}");
    // One that is too long is refused for that.
    let long = "x".repeat(3 << 20);
    let long = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    let sent = call().line("transfer-encoding: chunked");
    let answer = sent.sent_as(long.as_bytes()).send(&server).await;
    answer.refused_openai(&[413]);
    assert_eq!(account.settled(&server).await, DOLLAR / 100 - cost(2, 2));
}

/// Whatever a message of OpenAI's may be: parts of a text, a picture, a call of a tool that has no
/// text.
#[tokio::test]
async fn each_part_of_a_message_counts_by_its_own_words() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let text = |text: &str| json!({"type": "text", "text": text});
    let picture = json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}});
    let call =
        json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let cases = [
        (
            json!([{"role": "user", "content": [text("a"), text("b")]}]),
            2,
            "a b",
        ),
        (
            json!([
                {"role": "system", "content": [text("be brief")]},
                {"role": "user", "content": [text("what is"), picture, text("this?")]},
            ]),
            5,
            "what is this?",
        ),
        (
            json!([
                {"role": "user", "content": "one two"},
                {"role": "assistant", "content": null, "tool_calls": call},
                {"role": "tool", "tool_call_id": "1", "content": "three"},
            ]),
            3,
            "three",
        ),
        (json!([{"role": "assistant", "tool_calls": call}]), 0, ""),
    ];
    let mut expected = DOLLAR;
    for (messages, words_in, echoed) in cases {
        let body = json!({"model": key.model(&server).await, "messages": messages});
        let call = server.post(PATH).key(&key.value).json(&body);
        let body = call.send().await.expect(200).json();
        let content = body["choices"][0]["message"]["content"].as_str().unwrap();
        assert_eq!(words(content), words(echoed));
        let words_out = i64::try_from(words(echoed).len()).unwrap();
        is_usage(&body["usage"], words_in, words_out);
        expected -= cost(words_in, words_out);
        assert_eq!(account.settled(&server).await, expected);
    }
}

/// The payloads of `data:` lines.
fn events(body: &str) -> Vec<&str> {
    body.lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(str::trim)
        .collect()
}

#[track_caller]
fn is_event_stream(answer: &Answer, text: &str, words_in: i64) {
    assert!(
        answer
            .header("content-type")
            .starts_with("text/event-stream")
    );
    let events = events(answer.text());
    let (done, chunks) = events.split_last().expect("events");
    assert_eq!(*done, "[DONE]");
    let chunks: Vec<Value> = chunks
        .iter()
        .map(|chunk| serde_json::from_str(chunk).expect("JSON"))
        .collect();
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk", "{chunk}");
        assert_eq!(chunk["id"], chunks[0]["id"], "one id for all");
    }
    let (last, content) = chunks.split_last().expect("a usage chunk");
    let expected = words(text);
    is_usage(
        &last["usage"],
        words_in,
        i64::try_from(expected.len()).unwrap(),
    );
    let deltas: Vec<&Value> = content
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"])
        .collect();
    let said: String = deltas
        .iter()
        .filter_map(|delta| delta["content"].as_str())
        .collect();
    assert_eq!(words(&said), expected);
    // Who speaks is said first and once: clients put the pieces of a member together.
    let ([first, said @ ..], Some((finish, unfinished))) = (&deltas[..], content.split_last())
    else {
        panic!("a start and an end")
    };
    assert_eq!(**first, json!({"role": "assistant", "content": ""}));
    assert!(said.iter().all(|delta| delta.get("role").is_none()));
    assert_eq!(finish["choices"][0]["delta"], json!({}));
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert!(
        unfinished
            .iter()
            .all(|chunk| chunk["choices"][0]["finish_reason"].is_null())
    );
    assert!(
        content.iter().all(|chunk| chunk["usage"].is_null()),
        "usage comes last"
    );
}

#[tokio::test]
async fn a_stream_costs_what_the_whole_would() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let texts = ["You are a parrot.", "one two three four five"];
    let call = completion(&server, &key, &texts, json!({"stream": true})).await;
    let answer = call.send().await.expect(200);
    is_event_stream(&answer, texts[1], 9);
    assert_eq!(account.settled(&server).await, DOLLAR - cost(9, 5));
    let row = account.used(&server, answer.request_id()).await;
    assert_eq!(row.money("charged"), cost(9, 5));
    assert_eq!(row.value("status"), 200);

    let call = completion(&server, &key, &["plain"], json!({"stream": false})).await;
    let plain = call.send().await.expect(200);
    assert_eq!(plain.json()["object"], "chat.completion");
    assert_eq!(
        account.settled(&server).await,
        DOLLAR - cost(9, 5) - cost(1, 1)
    );
}

/// More than sockets buffer: nothing is lost, doubled or left on hold on the way.
#[tokio::test]
async fn a_long_stream_arrives_whole() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "10").await;
    let text: String = (0..20_000).map(|number| format!("w{number} ")).collect();
    let call = completion(&server, &key, &[&text], json!({"stream": true})).await;
    let answer = call.send().await.expect(200);
    is_event_stream(&answer, &text, 20_000);
    assert_eq!(
        account.settled(&server).await,
        10 * DOLLAR - cost(20_000, 20_000)
    );
}

#[tokio::test]
async fn an_empty_account_is_refused_before_the_stream() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    for stream in [false, true] {
        let call = completion(&server, &key, &["one two"], json!({"stream": stream})).await;
        call.send().await.refused_openai(&[402]);
    }
    account.top_up(&server, "1").await;
    account
        .limits(&server, &key.id, "0.000000001", "null")
        .send()
        .await
        .expect(200);
    for stream in [false, true] {
        let call = completion(&server, &key, &["one two"], json!({"stream": stream})).await;
        call.send().await.refused_openai(&[402]);
    }
    assert_eq!(account.settled(&server).await, DOLLAR);
}

/// Completions may never cost more than there is, however many run at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_at_once_stay_within_the_money() {
    let home = home();
    let server = home.launch().unhurried().start().await;
    let (account, key) = Account::with_money(&server, "0.1").await;
    let text = "word ".repeat(1_000);
    let mut calls = Vec::new();
    for number in 0..80 {
        let options = json!({"stream": number % 2 == 0});
        let call = completion(&server, &key, &[&text], options).await;
        calls.push(tokio::spawn(call.send()));
    }
    let mut admitted = 0;
    for call in calls {
        let answer = call.await.expect("no panic");
        if answer.status.is_success() {
            admitted += 1;
        } else {
            answer.refused_openai(&[402]);
        }
    }
    assert!((1..=50).contains(&admitted), "{admitted} × $0.002 of $0.1");
    assert_eq!(
        account.settled(&server).await,
        100_000_000 - admitted * cost(1_000, 1_000)
    );
}

/// A reader who keeps the window of its socket small, so that the server cannot run ahead of it.
async fn first_bytes(client: &Client, key: &Key, body: &str, request_id: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(client.address).await.unwrap();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {}\r\nx-request-id: {request_id}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        key.value,
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let mut buffer = [0; 1_024];
    while !String::from_utf8_lossy(&read).contains("data:") {
        let size = stream.read(&mut buffer).await.unwrap();
        assert!(
            size > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&read)
        );
        read.extend_from_slice(&buffer[..size]);
    }
    assert!(
        read.starts_with(b"HTTP/1.1 200"),
        "{:?}",
        String::from_utf8_lossy(&read)
    );
    stream
}

/// A stop waits for half a minute, and so does this.
#[tokio::test]
async fn a_stop_charges_a_reader_who_is_too_slow_for_what_was_produced() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "10").await;
    let (count, model) = (60_000, key.model(&server).await);
    let body = json!({
        "model": model, "stream": true,
        "messages": [{"role": "user", "content": "w ".repeat(count)}],
    });
    let body = body.to_string();
    let mut stream = first_bytes(&server, &key, &body, "too-slow").await;
    server.signal("TERM");
    // Something of it is read every now and then, so that it doesn't stand still.
    let reading = async {
        let mut buffer = vec![0; 64 * 1_024];
        while let Ok(1..) = stream.read(&mut buffer).await {
            sleep(Duration::from_millis(250)).await;
        }
    };
    let ended = server.ended();
    let ((), ended) = tokio::join!(reading, ended);
    ended.without_panic();

    let server = home.start().await;
    let rows = account.usage(&server).await;
    let row = rows.iter().find(|row| row.text("request_id") == "too-slow");
    let row = row.expect("the call is in the usage log");
    assert_eq!(row.text("outcome"), "disconnected", "{row:?}");
    let charged = row.money("charged");
    let least = cost(i64::try_from(count).unwrap(), 1);
    assert!(
        (least..cost(60_000, 60_000)).contains(&charged),
        "{charged} of {row:?}"
    );
    assert_eq!(account.settled(&server).await, 10 * DOLLAR - charged);
}

#[tokio::test]
async fn a_reader_who_leaves_pays_for_what_was_produced() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "10").await;
    let count = 60_000;
    let model = key.model(&server).await;
    let text = "w ".repeat(count);
    let body = json!({
        "model": model, "stream": true, "messages": [{"role": "user", "content": text}],
    })
    .to_string();
    let reading = first_bytes(&server, &key, &body, "left-early");
    timeout(Duration::from_secs(60), reading)
        .await
        .expect("a first chunk");

    let row = async || {
        let rows = account.usage(&server).await;
        rows.into_iter()
            .find(|row| row.text("request_id") == "left-early")
    };
    let row = within(Duration::from_secs(30), "the call is in the usage log", row).await;
    let whole = cost(60_000, 60_000);
    let charged = row.money("charged");
    assert!(charged > 0 && charged < whole, "{charged} of {whole}");
    assert_eq!(account.settled(&server).await, 10 * DOLLAR - charged);
    server.stop().await.without_panic();
}

/// Through a client that is dropped at any moment: held money always comes back.
#[tokio::test]
async fn readers_who_leave_at_any_moment_leave_nothing_held() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "10").await;
    let text = "word ".repeat(5_000);
    for chunks in 0..8 {
        let call = completion(&server, &key, &[&text], json!({"stream": true})).await;
        let mut body = call.begin().await.expect("a head").bytes_stream();
        for _ in 0..chunks {
            let _ = body.next().await;
        }
    }
    let call = completion(&server, &key, &[&text], json!({"stream": true})).await;
    // Before there is any answer.
    let _ = timeout(Duration::from_millis(1), call.begin()).await;

    // The last of them may still be on its way into the server.
    let balanced = async || {
        let balance = account.settled(&server).await;
        let usage = account.usage(&server).await;
        let charged: i64 = usage.iter().map(|row| row.money("charged")).sum();
        (balance + charged == 10 * DOLLAR).then_some(usage)
    };
    let usage = within(Duration::from_secs(10), "the books balance", balanced).await;
    let whole = cost(5_000, 5_000);
    assert!(
        usage
            .iter()
            .all(|row| (0..=whole).contains(&row.money("charged")))
    );
    server.stop().await.without_panic();
}
