//! Several soft limits, and scripts of an older version beside.

use std::sync::Mutex;

use super::*;
use crate::{
    domain::budget::{RollingLimit, RollingWindow, SoftLimits, SpendingLimits, Thresholds},
    store::redis::tests::order,
};

fn at(amounts: &[i64]) -> Thresholds {
    Thresholds::new(amounts.iter().copied().map(Money::from_nanos)).unwrap()
}

/// A ledger, and the limits that it tells of.
async fn listening(server: &RedisServer) -> (RedisLedger, Arc<ManualClock>, Arc<Mutex<Vec<i64>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let (ledger, clock) = ledger(server, |it| {
        it.on_alert(move |alert| heard.lock().unwrap().push(alert.limit.nanos()))
    })
    .await;
    (ledger, clock, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_changed_counts_without_the_others() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock, told) = listening(&server).await;
    let (ann, key) = (account("ann"), budget(0));
    let window = RollingWindow::new(Duration::from_secs(600)).unwrap();
    let mut limits = SpendingLimits {
        soft: SoftLimits {
            daily: at(&[10, 20, 30]),
            total: at(&[15, 25]),
            ..SoftLimits::default()
        },
        rolling: Some(RollingLimit {
            soft: at(&[5, 22]),
            ..RollingLimit::new(window, Money::from_nanos(500))
        }),
        ..SpendingLimits::default()
    };
    ledger.set_limits(&ann, &key, limits.clone()).await.unwrap();
    let kept: Vec<String> = say(&server, &["KEYS", "*books*"]).await;
    let [books] = kept.as_slice() else {
        panic!("{kept:?}");
    };
    // It sets the soft limits that it knows: one of the day, none of all time, one that rolls.
    let stored: String = say(&server, &["HGET", books, &format!("b:{key}")]).await;
    let mut words: Vec<&str> = stored.split(' ').collect();
    (words[3], words[5]) = ("12", "-");
    order(
        &server,
        &["HSET", books, &format!("b:{key}"), &words.join(" ")],
    )
    .await;
    let stored: String = say(&server, &["HGET", books, &format!("r:{key}")]).await;
    let stored = stored.replacen(" 5 ", " 6 ", 1);
    order(&server, &["HSET", books, &format!("r:{key}"), &stored]).await;

    limits.soft.daily = at(&[12]);
    limits.soft.total = Thresholds::NONE;
    limits.rolling.as_mut().unwrap().soft = at(&[6]);
    let found = ledger.budget(&ann, &key).await.unwrap();
    assert_eq!(found.limits, limits);
    let held = hold(&ledger, &clock, 40).await;
    ledger.settle(held, costs(40)).await.unwrap();
    ledger.flush().await.unwrap();
    assert_eq!(*told.lock().unwrap(), [12, 6]);
    ledger.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_read_counts_as_the_smallest_and_stops_no_call() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock, told) = listening(&server).await;
    let (ann, key) = (account("ann"), budget(0));
    let window = RollingWindow::new(Duration::from_secs(600)).unwrap();
    let limits = |daily: &[i64], rolling: &[i64]| SpendingLimits {
        soft: SoftLimits {
            daily: at(daily),
            ..SoftLimits::default()
        },
        rolling: Some(RollingLimit {
            soft: at(rolling),
            ..RollingLimit::new(window, Money::MAX)
        }),
        ..SpendingLimits::default()
    };
    let mut spent = 0;
    for damaged in [
        "",
        "-",
        "1,2",
        "10,x - - 5,x",
        "10,@ - - 5,6@x",
        "10,,20 - - 5,",
        "10,+20 - - 5,6@1e9",
        "10,20 - - 5,6 -",
        "10,30,20 - - 5,6,6",
        "10,9223372036854775808 - - 5,99999999999999999999",
        "10,11,12,13,14,15,16,17,18 - - 5,-6",
    ] {
        let both = limits(&[spent + 10, spent + 20], &[spent + 5, spent + 6]);
        ledger.set_limits(&ann, &key, both).await.unwrap();
        let books: Vec<String> = say(&server, &["KEYS", "*books*"]).await;
        // Each word begins with the smallest of its window.
        let word = |word: &str| match (word.strip_prefix("10"), word.strip_prefix('5')) {
            (Some(rest), _) => format!("{}{rest}", spent + 10),
            (_, Some(rest)) => format!("{}{rest}", spent + 5),
            _ => word.to_owned(),
        };
        let words: Vec<String> = damaged.split(' ').map(word).collect();
        let field = format!("s:{key}");
        order(&server, &["HSET", &books[0], &field, &words.join(" ")]).await;
        let found = ledger.budget(&ann, &key).await.unwrap();
        let smallest = limits(&[spent + 10], &[spent + 5]);
        assert_eq!(found.limits, smallest, "{damaged}");
        told.lock().unwrap().clear();
        let held = hold(&ledger, &clock, 40).await;
        ledger.settle(held, costs(40)).await.unwrap();
        ledger.flush().await.unwrap();
        assert_eq!(*told.lock().unwrap(), [spent + 10, spent + 5], "{damaged}");
        spent += 40;
        let found = ledger.budget(&ann, &key).await.unwrap();
        assert_eq!(found.total.settled.nanos(), spent, "{damaged}");
    }
    ledger.close().await.unwrap();
}
