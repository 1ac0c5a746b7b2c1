//! On a Redis that writes down what it answers.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tollgate::{
    clock::ManualClock,
    money::Money,
    store::{Ledger, RedisLedger, RedisLedgerBuilder},
    usage::{Outcome, Settlement},
};

use super::{
    ACCOUNTS, CALLERS, LONG, PAYMENT, account, key, kill_clients, kills, payment, request,
    rows_since,
};

#[allow(
    dead_code,
    clippy::expect_used,
    reason = "tests of other kinds use the rest"
)]
#[path = "../support/redis.rs"]
mod server;

use server::RedisServer;

const KEPT: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

fn builder(url: &str) -> RedisLedgerBuilder {
    RedisLedger::builder(url).usage_rows_max(10_000_000)
}

pub(crate) async fn open(url: &str) -> RedisLedger {
    builder(url).open().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_once_after_each_of_many_kills() {
    let Some(server) = RedisServer::start_with(KEPT) else {
        return;
    };
    let url = server.url();
    let open =
        async |clock: Arc<ManualClock>| builder(&url).with_clock(clock).open().await.unwrap();
    let close = async |ledger: RedisLedger| ledger.close().await.unwrap();
    kill_clients(&url, (kills(10), LONG), None, open, close).await;
}

/// What callers were told.
#[derive(Default)]
struct Told {
    /// What was settled, whether or not the answer came: a process that lives sees to it.
    settled: HashMap<String, i64>,
    paid: HashMap<String, i64>,
    failures: usize,
}

async fn call_as_well_as_it_goes(
    ledger: &RedisLedger,
    caller: u64,
    round: u64,
    told: &Mutex<Told>,
) {
    let name = &format!("{caller}-{round}");
    match ledger.hold(request(caller, name, round)).await {
        Ok(Ok(hold)) => {
            let cost = i64::try_from(round % 13).unwrap();
            told.lock().unwrap().settled.insert(name.clone(), cost);
            let settlement = Settlement::new(Money::from_nanos(cost), Outcome::Completed);
            if ledger.settle(hold, settlement).await.is_err() {
                told.lock().unwrap().failures += 1;
            }
        }
        // A payment is tried again by its reference.
        Ok(Err(_)) => {
            while ledger.credit(payment(caller, name)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let mut told = told.lock().unwrap();
            *told.paid.entry(account(caller).to_string()).or_default() += PAYMENT;
        }
        Err(_) => {
            told.lock().unwrap().failures += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_loses_nothing_and_charges_nothing_twice() {
    let Some(mut server) = RedisServer::start_with(KEPT) else {
        return;
    };
    let ledger = builder(&server.url()).deadline(Duration::from_millis(500));
    let ledger = ledger.open().await.unwrap();
    let (told, stop) = (
        Arc::new(Mutex::new(Told::default())),
        Arc::new(AtomicBool::new(false)),
    );
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (ledger, told, stop) = (ledger.clone(), told.clone(), stop.clone());
            tokio::spawn(async move {
                for round in 0_u64.. {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    call_as_well_as_it_goes(&ledger, caller, round, &told).await;
                }
            })
        })
        .collect();
    let kills = kills(5);
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(400 + kill * 37 % 200)).await;
        server.kill();
        // Sometimes it is gone for long enough that all who wait are told.
        tokio::time::sleep(Duration::from_millis(kill % 3 * 300)).await;
        server.restart();
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    stop.store(true, Ordering::Release);
    for caller in callers {
        caller.await.unwrap();
    }
    // A server with much to read comes back late.
    let mut closed = ledger.close().await;
    for _ in 0..30 {
        if closed.is_ok() {
            break;
        }
        closed = ledger.close().await;
    }
    closed.unwrap();
    let clock = Arc::new(ManualClock::default());
    let ledger = builder(&server.url())
        .with_clock(clock)
        .open()
        .await
        .unwrap();
    let mut told = std::mem::take(&mut *told.lock().unwrap());
    check(&ledger, &mut told).await;
    eprintln!(
        "{kills} kills of the server, {} calls were told of it",
        told.failures
    );
    assert!(told.failures > 0);
}

async fn check(ledger: &RedisLedger, told: &mut Told) {
    let mut count = 0;
    for number in 0..ACCOUNTS {
        let account = account(number);
        let balance = ledger.balance(&account).await.unwrap();
        assert_eq!(balance.held, Money::ZERO);
        let mut names = HashSet::new();
        let mut sum = 0;
        for row in rows_since(ledger, &account, 0).await {
            let name = row.call.request_id.to_string();
            assert!(names.insert(name.clone()), "{name} is there twice");
            let charged = row.settlement.charged.nanos();
            sum += charged;
            match told.settled.remove(&name) {
                Some(cost) => assert_eq!(charged, cost, "{name}"),
                // Granted, and nobody heard of it.
                None => assert_eq!(charged, 0, "{name}"),
            }
            count += 1;
        }
        assert_eq!(balance.settled.nanos(), sum, "the log's sum");
        let spent = ledger.budget(&account, &key()).await.unwrap();
        assert_eq!(
            (spent.total.settled, spent.total.held),
            (balance.settled, Money::ZERO)
        );
        let paid = told.paid.remove(account.as_str()).unwrap_or_default();
        assert_eq!(balance.deposited.nanos(), paid, "payments");
    }
    let lost: Vec<_> = told.settled.keys().collect();
    assert!(lost.is_empty(), "settled and lost: {lost:?}");
    assert!(count > 100, "{count} calls");
}
