//! Stopped, killed and started again: what was answered has happened, once.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Account, Call, Client, Key, Load, Paid, demo_body, home, within};

/// A thousand dollars, in nano-dollars: no load here spends that much.
const DEPOSIT: i64 = 1_000_000_000_000;

/// No answered call is missing or counted twice, no money is lost or made, nothing is below zero.
async fn the_books_hold(client: &Client, account: &Account, answered: &[Paid]) {
    let balance = account.settled(client).await;
    let usage = account.usage(client).await;
    let mut rows = BTreeMap::new();
    for row in &usage {
        let id = row.text("request_id");
        assert!(
            rows.insert(id.clone(), row).is_none(),
            "{id} is in the usage log twice"
        );
        assert!(row.money("charged") >= 0, "{row:?}");
    }
    for paid in answered {
        let row = rows.get(&paid.request_id);
        let row = row.unwrap_or_else(|| panic!("{} was answered, and is lost", paid.request_id));
        assert_eq!(row.money("charged"), paid.price, "{row:?}");
        assert_eq!(row.value("status"), 200, "{row:?}");
    }
    let charged: i64 = usage.iter().map(|row| row.money("charged")).sum();
    assert_eq!(balance + charged, DEPOSIT, "{} answered", answered.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_no_answered_call_and_no_money() {
    let home = home();
    let mut server = home.launch().unhurried().start().await;
    let (account, key) = Account::with_money(&server, "1000").await;
    let mut answered = Vec::new();
    for round in 1..=3 {
        let load = Load::start(&server, &key, &format!("round{round}")).await;
        load.reaches(150 * round).await;
        server.kill().await;
        answered.extend(load.end().await.0);

        server = home.launch().unhurried().start().await;
        the_books_hold(&server, &account, &answered).await;
        key.chat(&server, "Hello!").send().await.expect(200);
    }
    server.stop().await.without_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_finishes_what_is_in_flight() {
    let home = home();
    let server = home.launch().unhurried().start().await;
    let (account, key) = Account::with_money(&server, "1000").await;
    let load = Load::start(&server, &key, "load").await;
    load.reaches(200).await;
    let ended = server.stop().await;
    ended.without_panic();
    let (answered, cut) = load.end().await;
    assert_eq!(cut, 0, "answers that began and did not end");

    let server = home.launch().unhurried().start().await;
    // Nothing is left for the next process to resolve.
    assert_eq!(account.balance(&server).await.held, 0);
    the_books_hold(&server, &account, &answered).await;
}

/// A stream longer than sockets buffer, so that most of it is still to be made.
async fn long_stream(client: &Client, key: &Key) -> Call {
    let text = "w ".repeat(60_000);
    let body = json!({
        "model": key.model(client).await,
        "stream": true,
        "messages": [{"role": "user", "content": text}],
    });
    client
        .post("/v1/chat/completions")
        .key(&key.value)
        .json(&body)
}

#[tokio::test]
async fn a_stop_lets_a_stream_end() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1000").await;
    let call = long_stream(&server, &key)
        .await
        .header("x-request-id", "in-flight");
    let response = call.begin().await.expect("a head");
    assert_eq!(response.status().as_u16(), 200);
    let mut chunks = response.bytes_stream();
    let mut body = chunks
        .next()
        .await
        .expect("a chunk")
        .expect("a chunk")
        .to_vec();
    server.signal("TERM");
    let rest = async {
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.expect("the stream goes on to its end"));
        }
    };
    timeout(Duration::from_secs(60), rest)
        .await
        .expect("the end of the stream");
    assert!(
        String::from_utf8_lossy(&body)
            .trim_end()
            .ends_with("[DONE]")
    );
    server.ended().await.without_panic();

    let server = home.start().await;
    let paid = Paid {
        request_id: "in-flight".to_owned(),
        price: 60_000 * 2_000,
    };
    the_books_hold(&server, &account, &[paid]).await;
}

#[tokio::test]
async fn a_kill_in_a_stream_leaves_nothing_held() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1000").await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut chunks = long_stream(&server, &key)
            .await
            .begin()
            .await
            .expect("a head")
            .bytes_stream();
        chunks.next().await.expect("a chunk").expect("a chunk");
        streams.push(chunks);
    }
    server.kill().await;
    drop(streams);
    let server = home.start().await;
    the_books_hold(&server, &account, &[]).await;
    key.chat(&server, "Hello!").send().await.expect(200);
}

#[tokio::test]
async fn a_kill_undoes_no_answered_change() {
    let home = home();
    let server = home.start().await;
    let mut account = Account::new(&server).await;
    let old_token = account.token.clone();
    account
        .change_password(&server, "A New Password 123!")
        .await;
    account.log_in(&server).await;
    let live = account.key(&server).await;
    let revoked = account.key(&server).await;
    let deleted = account.key(&server).await;
    let rotated = account.key(&server).await;
    account.top_up(&server, "1").await;
    revoked.health(&server).await.expect(200);
    account
        .limits(&server, &live.id, "0.001", "null")
        .send()
        .await
        .expect(200);
    account
        .revoke(&server, &revoked.id)
        .send()
        .await
        .expect(200);
    account
        .delete(&server, &deleted.id)
        .send()
        .await
        .expect(204);
    let body = json!({"overlap_seconds": 0});
    let made = account
        .rotate(&server, &rotated.id, &body)
        .send()
        .await
        .expect(201);
    server.kill().await;

    let server = home.start().await;
    live.chat(&server, "Hello!").send().await.limit_exceeded();
    revoked.health(&server).await.invalid_key();
    deleted.health(&server).await.invalid_key();
    rotated.health(&server).await.refused(&[401]);
    Key::shown_by(&made).health(&server).await.expect(200);
    server
        .get("/api/auth/me")
        .bearer(&old_token)
        .send()
        .await
        .refused(&[401]);
    account.me(&server).await.expect(200);
    assert_eq!(account.settled(&server).await, 1_000_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_undoes_no_answered_top_up() {
    let home = home();
    let server = home.launch().unhurried().start().await;
    let account = Account::new(&server).await;
    let top_up_until_gone = |client: Client, account: Account| async move {
        let (mut sent, mut answered) = (0_i64, 0_i64);
        loop {
            sent += 1;
            match account.top_up_call(&client, "0.01").attempt().await {
                Ok(answer) if answer.status.is_success() => answered += 1,
                Ok(answer) => panic!("{answer:?}"),
                Err(_) => return (sent, answered),
            }
        }
    };
    let people: Vec<_> = (0..6)
        .map(|_| tokio::spawn(top_up_until_gone((*server).clone(), account.clone())))
        .collect();
    let rich = async || (account.balance(&server).await.balance > 1_000_000_000).then_some(());
    within(Duration::from_secs(60), "a hundred top-ups", rich).await;
    server.kill().await;
    let (mut sent, mut answered) = (0, 0);
    for person in people {
        let (theirs, good) = person.await.expect("no panic");
        sent += theirs;
        answered += good;
    }

    let server = home.start().await;
    let balance = account.settled(&server).await;
    let bounds = answered * 10_000_000..=sent * 10_000_000;
    assert!(bounds.contains(&balance), "{balance} is not in {bounds:?}");
    let credits: i64 = account
        .transactions(&server)
        .await
        .iter()
        .map(|row| row.money("amount"))
        .sum();
    assert_eq!(credits, balance);
}

#[tokio::test]
async fn ctrl_c_stops_as_sigterm_does() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1000").await;
    server
        .post("/api/omm/process")
        .key(&key.value)
        .json(&demo_body("x"))
        .send()
        .await
        .expect(200);
    server.signal("INT");
    server.ended().await.without_panic();
    let server = home.start().await;
    assert_eq!(account.settled(&server).await, DEPOSIT - 4_000_000);
}

/// A request that lies in the socket when the signal comes was sent before it.
#[tokio::test]
async fn a_stop_answers_what_was_sent_before_it_on_connections_that_are_kept() {
    const CONNECTIONS: usize = 16;
    let server = home().start().await;
    let ask = b"GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = TcpStream::connect(server.address).await.unwrap();
        connection.write_all(ask).await.unwrap();
        let answer = read_head(&mut connection).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
        connections.push(connection);
    }
    for connection in &mut connections {
        connection.write_all(ask).await.unwrap();
    }
    server.signal("TERM");
    for connection in &mut connections {
        let answer = read_head(connection).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer:?}");
    }
    server.ended().await.without_panic();
}

/// What comes first on a connection, up to 4 KiB.
async fn read_head(connection: &mut TcpStream) -> String {
    let mut buffer = vec![0; 4_096];
    let read = timeout(Duration::from_secs(30), connection.read(&mut buffer)).await;
    let length = read.expect("an answer in time").expect("an answer");
    buffer.truncate(length);
    String::from_utf8_lossy(&buffer)
        .to_lowercase()
        .replace("http/1.1", "HTTP/1.1")
}
