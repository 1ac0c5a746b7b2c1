//! The usage log and the transactions: their rows, their order, their pages.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use crate::support::{Account, CHAT_PRICE, PROCESS_PRICE, after, home, nanos, now};

const USAGE: &str = "/api/monitoring/usage";
const TRANSACTIONS: &str = "/api/payments/transactions";

#[tokio::test]
async fn a_usage_row_says_what_happened() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let chat = key
        .chat(&server, "Hello!")
        .header("x-request-id", "named-by-the-caller");
    chat.send().await.expect(200);

    let row = account.used(&server, "named-by-the-caller").await;
    assert!(row.says(&key.id), "the key: {row:?}");
    assert!(
        row.text("route").contains("/api/hub/agents/chat"),
        "{row:?}"
    );
    assert_eq!(row.value("status"), 200);
    assert_eq!(row.money("held"), CHAT_PRICE);
    assert_eq!(row.money("charged"), CHAT_PRICE);
    let is_latency = |name: &str, value: &str| {
        name.starts_with("latency") && value.parse::<f64>().is_ok_and(|it| it >= 0.0)
    };
    assert!(
        row.members().any(|(name, value)| is_latency(name, value)),
        "{row:?}"
    );
    let is_time = |value: &str| {
        value
            .trim_matches('"')
            .parse::<jiff::Timestamp>()
            .is_ok_and(is_recent)
    };
    assert!(row.members().any(|(_, value)| is_time(value)), "{row:?}");
    assert!(
        row.members().all(|(_, value)| !value.contains(&key.value)),
        "{row:?}"
    );
}

fn is_recent(time: jiff::Timestamp) -> bool {
    now().duration_since(time).as_secs().abs() < 60
}

#[tokio::test]
async fn usage_is_newest_first_and_comes_in_pages() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    for number in 0..7 {
        let call = key
            .chat(&server, "Hello!")
            .header("x-request-id", &format!("call-{number}"));
        call.send().await.expect(200);
    }
    let rows = account.usage(&server).await;
    let times: Vec<_> = rows.iter().map(|row| row.text("time")).collect();
    assert!(
        times.is_sorted_by(|newer, older| newer >= older),
        "{times:?}"
    );
    let whole: Vec<String> = rows.iter().map(|row| row.text("request_id")).collect();
    let expected: Vec<String> = (0..7)
        .rev()
        .map(|number| format!("call-{number}"))
        .collect();
    assert_eq!(whole, expected);

    let mut paged = Vec::new();
    let mut query = "?limit=3".to_owned();
    for size in [3, 3, 1] {
        let (page, cursor) = account.page(&server, USAGE, &query).await;
        assert_eq!(page.len(), size);
        paged.extend(page.iter().map(|row| row.text("request_id")));
        assert_eq!(
            cursor.is_some(),
            size == 3 && paged.len() < 7,
            "after {paged:?}"
        );
        query = after("3", &cursor.unwrap_or_default());
    }
    assert_eq!(paged, whole);
    assert_eq!(
        account.page(&server, USAGE, "").await.0.len(),
        7,
        "without a limit"
    );
}

/// A new row at the front doesn't push an old one onto the next page.
#[tokio::test]
async fn a_cursor_keeps_its_place() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    for _ in 0..4 {
        key.chat(&server, "Hello!").send().await.expect(200);
    }
    let (first, cursor) = account.page(&server, USAGE, "?limit=2").await;
    for _ in 0..3 {
        key.chat(&server, "Hello!").send().await.expect(200);
    }
    let query = after("2", &cursor.expect("two more"));
    let (second, _) = account.page(&server, USAGE, &query).await;
    let ids: BTreeSet<String> = first
        .iter()
        .chain(&second)
        .map(|row| row.text("request_id"))
        .collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
}

#[tokio::test]
async fn transactions_are_every_credit_and_debit_newest_first() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1.5").await;
    key.chat(&server, "Hello!").send().await.expect(200);
    key.chat(&server, "!fail").send().await.expect(500);
    account.top_up(&server, "0.25").await;
    key.paid(&server, "/api/omm/process", "Hello!")
        .send()
        .await
        .expect(200);
    account.settled(&server).await;

    let rows = account.transactions(&server).await;
    let amounts: Vec<i64> = rows
        .iter()
        .map(|row| row.money("amount").abs())
        .filter(|amount| *amount > 0)
        .collect();
    assert_eq!(
        amounts,
        [PROCESS_PRICE, 250_000_000, CHAT_PRICE, 1_500_000_000]
    );

    let (page, cursor) = account.page(&server, TRANSACTIONS, "?limit=1").await;
    assert_eq!(page.len(), 1);
    assert_eq!(page[0].money("amount").abs(), PROCESS_PRICE);
    assert!(cursor.is_some());
}

#[tokio::test]
async fn a_bad_page_is_no_failure() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    key.chat(&server, "Hello!").send().await.expect(200);
    let queries = [
        "?limit=0",
        "?limit=-1",
        "?limit=abc",
        "?limit=1.5",
        "?limit=",
        "?limit=1&limit=2",
        "?cursor=",
        "?cursor=garbage",
        "?cursor=-1",
        "?cursor=9223372036854775808",
        "?cursor=18446744073709551615",
        "?cursor=99999999999999999999",
        "?cursor=%00",
        "?cursor=%ff%fe",
        "?cursor='%20OR%201=1",
        "?limit=1&cursor=garbage",
        "?&&&==",
    ];
    for path in [USAGE, TRANSACTIONS] {
        for query in queries {
            let answer = server
                .get(&format!("{path}{query}"))
                .bearer(&account.token)
                .send()
                .await;
            if answer.status.is_success() {
                assert_ne!(query, "?limit=0");
                answer.page();
            } else {
                answer.refused(&[400, 422]);
            }
        }
    }
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_limit_that_is_too_large_is_the_largest_page() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    key.chat(&server, "Hello!").send().await.expect(200);
    let huge = format!("1{}", "0".repeat(30));
    let page = async |path: &str, limit: &str| {
        let call = server.get(&format!("{path}?limit={limit}"));
        call.bearer(&account.token).send().await
    };
    for path in [USAGE, TRANSACTIONS] {
        for limit in ["1", "1000", "1001", "65535", "65536", "4294967296", &huge] {
            assert!(!page(path, limit).await.expect(200).page().0.is_empty());
        }
        for limit in [
            "0",
            "00",
            "-1",
            "-99999999999999999999",
            "%2B1",
            "1e3",
            "0x10",
            "",
        ] {
            page(path, limit).await.refused(&[400]);
        }
    }
    server.stop().await.without_panic();
}

/// No float on the way: what is written is what was counted, without an exponent.
#[tokio::test]
async fn amounts_are_written_exactly() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    account.top_up(&server, "0.000000001").await;
    let answer = server
        .get("/api/payments/balance")
        .bearer(&account.token)
        .send()
        .await;
    assert_eq!(answer.money("balance"), 1);
    // One more than 2^53, where a float of nano-dollars begins to skip.
    let amount = "9007199.254740992";
    account.top_up(&server, amount).await;
    let answer = server
        .get("/api/payments/balance")
        .bearer(&account.token)
        .send()
        .await;
    assert_eq!(answer.money("balance"), nanos(amount) + 1);
    let newest = &account.transactions(&server).await[0];
    assert_eq!(newest.money("amount"), nanos(amount));
}

/// More than a store hands out at once; what is revoked is listed too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_is_in_the_list() {
    const AT_ONCE: usize = 10;
    let home = home();
    let server = home.launch().unhurried().start().await;
    let account = Account::new(&server).await;
    let mut made = BTreeSet::new();
    for _ in 0..1_020 / AT_ONCE {
        let keys = (0..AT_ONCE).map(|_| async {
            let key = account.key(&server).await;
            account.revoke(&server, &key.id).send().await.expect(200);
            key.id
        });
        made.extend(join_all(keys).await);
    }
    let keys = account.keys(&server).await;
    let listed: BTreeSet<String> = keys
        .iter()
        .map(|key| key["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(keys.len(), 1_020);
    assert_eq!(listed, made);
}

/// A list that is sent in parts is one list.
#[tokio::test]
async fn a_long_list_of_keys_is_whole_and_in_order() {
    let home = home();
    let server = home.launch().unhurried().start().await;
    let account = Account::new(&server).await;
    let listed = async || {
        let list = server.get("/api/keys").bearer(&account.token).send().await;
        let list = list.expect(200);
        assert_eq!(list.header("content-type"), "application/json");
        let keys = list.json().as_array().expect("a bare array").clone();
        let names = keys
            .iter()
            .map(|key| key["name"].as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(listed().await, Vec::<String>::new());
    let mut expected = Vec::new();
    for number in 1..=97 {
        let name = format!("key-{number}");
        account
            .key_with(&server, serde_json::json!({ "name": name }))
            .await;
        expected.insert(0, name);
        if [1, 31, 32, 33, 64, 97].contains(&number) {
            assert_eq!(listed().await, expected);
        }
    }
}
