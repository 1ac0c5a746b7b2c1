//! A hundred at once, with money for ten.

use futures_util::future::join_all;

use crate::support::{Account, CHAT_PRICE, Client, Key, away_from_midnight, home};

const CALLERS: usize = 100;

/// Sends a chat with each of these keys at once; how many were admitted. Everybody else is told
/// that it was for the money.
async fn chats(client: &Client, keys: &[Key]) -> usize {
    let calls: Vec<_> = (0..CALLERS)
        .map(|number| {
            let call = keys[number % keys.len()].chat(client, "Hello!");
            tokio::spawn(call.send())
        })
        .collect();
    let answers = join_all(calls).await;
    let mut admitted = 0;
    for answer in answers {
        let answer = answer.expect("no panic");
        if answer.status.is_success() {
            admitted += 1;
        } else {
            answer.refused(&[402]);
        }
    }
    admitted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_for_ten_admits_ten_of_a_hundred() {
    let home = home();
    let server = home.launch().unhurried().start().await;
    let (account, key) = Account::with_money(&server, "0.02").await;
    assert_eq!(chats(&server, std::slice::from_ref(&key)).await, 10);
    assert_eq!(account.settled(&server).await, 0);
    assert_eq!(paid_rows(&server, &account).await, 10);
    key.chat(&server, "Hello!")
        .send()
        .await
        .insufficient("$0.0020");

    server.stop().await.without_panic();
    let server = home.start().await;
    assert_eq!(account.settled(&server).await, 0);
    assert_eq!(paid_rows(&server, &account).await, 10);
}

async fn paid_rows(client: &Client, account: &Account) -> usize {
    let usage = account.usage(client).await;
    let charged: i64 = usage.iter().map(|row| row.money("charged")).sum();
    assert_eq!(charged, 10 * CHAT_PRICE);
    usage.iter().filter(|row| row.money("charged") > 0).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daily_limit_for_ten_admits_ten_of_a_hundred() {
    away_from_midnight().await;
    let home = home();
    let server = home.launch().unhurried().start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    account
        .limits(&server, &key.id, "0.02", "null")
        .send()
        .await
        .expect(200);
    assert_eq!(chats(&server, std::slice::from_ref(&key)).await, 10);
    assert_eq!(account.settled(&server).await, 980_000_000);
    assert_eq!(paid_rows(&server, &account).await, 10);
    key.chat(&server, "Hello!").send().await.limit_exceeded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monthly_limit_for_ten_admits_ten_of_a_hundred() {
    away_from_midnight().await;
    let home = home();
    let server = home.launch().unhurried().start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    account
        .limits(&server, &key.id, "1", "0.0219")
        .send()
        .await
        .expect(200);
    assert_eq!(chats(&server, std::slice::from_ref(&key)).await, 10);
    assert_eq!(account.settled(&server).await, 980_000_000);
    key.chat(&server, "Hello!").send().await.limit_exceeded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_share_one_balance() {
    let home = home();
    let server = home.launch().unhurried().start().await;
    let account = Account::new(&server).await;
    account.top_up(&server, "0.02").await;
    let mut keys = Vec::new();
    for _ in 0..10 {
        keys.push(account.key(&server).await);
    }
    assert_eq!(chats(&server, &keys).await, 10);
    assert_eq!(account.settled(&server).await, 0);
}

/// A refusal for one reason must not eat into what the other would have admitted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_smaller_of_balance_and_limit_decides() {
    away_from_midnight().await;
    let home = home();
    let server = home.launch().unhurried().start().await;
    let (account, limited) = Account::with_money(&server, "0.02").await;
    let free = account.key(&server).await;
    account
        .limits(&server, &limited.id, "0.006", "null")
        .send()
        .await
        .expect(200);
    assert_eq!(chats(&server, std::slice::from_ref(&limited)).await, 3);
    assert_eq!(account.settled(&server).await, 14_000_000);
    assert_eq!(chats(&server, std::slice::from_ref(&free)).await, 7);
    assert_eq!(account.settled(&server).await, 0);
}

/// Failures hold money while they last; all of it is free again afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_failures_leave_the_money_where_it_was() {
    let home = home();
    let server = home.launch().unhurried().start().await;
    let (account, key) = Account::with_money(&server, "0.02").await;
    let calls = (0..CALLERS).map(|_| tokio::spawn(key.chat(&server, "!fail").send()));
    for answer in join_all(calls.collect::<Vec<_>>()).await {
        let status = answer.expect("no panic").status.as_u16();
        assert!([402, 500].contains(&status), "{status}");
    }
    assert_eq!(account.settled(&server).await, 20_000_000);
    assert_eq!(chats(&server, std::slice::from_ref(&key)).await, 10);
    assert_eq!(account.settled(&server).await, 0);
    server.stop().await.without_panic();
}

/// Two top-ups at once both count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_ups_at_once_all_count() {
    let home = home();
    let server = home.launch().unhurried().start().await;
    let account = Account::new(&server).await;
    let calls: Vec<_> = (0..50)
        .map(|_| tokio::spawn(account.top_up_call(&server, "0.01").send()))
        .collect();
    for answer in join_all(calls).await {
        answer.expect("no panic").ok();
    }
    assert_eq!(account.settled(&server).await, 500_000_000);
}
