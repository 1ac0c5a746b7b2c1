//! What a call's money costs: hold and settle, in memory, from a lease, and on the disk, and beside
//! it what SQLite itself can do with one update and one insert a deduction in transactions of the
//! same size.
//!
//! `cargo bench --features sqlite --bench ledger`
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench measures with the system's clock, and ends where it fails"
)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rusqlite::{Connection, params};
use tollgate::{
    clock::Timestamp,
    money::Money,
    store::{AccountId, BudgetId, KeyId, LeasedLedger, Ledger, MemoryStore, SqliteStore},
    usage::{Call, Credit, Expiry, HoldRequest, Outcome, Settlement},
};

const IN_FLIGHT: u64 = 256;
/// Of 256 in flight, half wait for a hold and half for a settlement.
const RAW_BATCH: u64 = 128;

fn request(account: &AccountId, budgets: &Arc<[BudgetId]>, now: Timestamp) -> HoldRequest {
    HoldRequest {
        call: Call {
            request_id: "01J9ZQ4M5T8Q0R3S6V7W9X2Y4Z".into(),
            account: account.clone(),
            principal: Arc::from(account.as_str()),
            key: Some(KeyId::new("key_8f14e45fceea167a").unwrap()),
            route: Arc::from("POST /v1/chat/completions"),
            started_at: now,
        },
        budgets: Arc::clone(budgets).into(),
        amount: Money::from_nanos(2_000_000),
        lifetime: Duration::from_secs(600),
        expiry: Expiry::Release,
        idempotency: None,
    }
}

fn settlement() -> Settlement {
    Settlement {
        status: Some(200),
        latency: Duration::from_millis(120),
        input_tokens: Some(700),
        output_tokens: Some(300),
        ..Settlement::new(Money::from_nanos(1_500_000), Outcome::Completed)
    }
}

async fn fund(ledger: &impl Ledger, account: &AccountId) {
    let credit = Credit {
        account: account.clone(),
        amount: Money::from_dollars(5_000_000_000).unwrap(),
        reference: format!("fund-{}", account.as_str()),
    };
    ledger.credit(credit).await.unwrap();
}

fn names(number: u64) -> (AccountId, Arc<[BudgetId]>) {
    let account = AccountId::new(&format!("user-{number}")).unwrap();
    let budget = BudgetId::new(&format!("key-{number}")).unwrap();
    (account, Arc::from([budget]))
}

/// `total` deductions by 256 callers over `accounts` accounts.
async fn deduct(store: &(impl Ledger + Clone), total: u64, accounts: u64) -> Duration {
    let left = Arc::new(AtomicU64::new(total));
    let started = Instant::now();
    let callers: Vec<_> = (0..IN_FLIGHT)
        .map(|caller| {
            let (store, left) = (store.clone(), Arc::clone(&left));
            let (account, budgets) = names(caller.checked_rem(accounts).unwrap());
            tokio::spawn(async move {
                let take = |left: u64| left.checked_sub(1);
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_ok()
                {
                    let request = request(&account, &budgets, Timestamp::now());
                    let hold = store.hold(request).await.unwrap().unwrap();
                    store.settle(hold, settlement()).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    started.elapsed()
}

/// As many deductions with nothing but SQLite: no callers, no holds, no channel.
fn raw(path: &Path, total: u64) -> Duration {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = wal; PRAGMA synchronous = full; PRAGMA wal_autocheckpoint = 4096;
             CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER) STRICT;
             CREATE TABLE IF NOT EXISTS log (position INTEGER PRIMARY KEY, account INTEGER,
                 request TEXT, key TEXT, route TEXT, at INTEGER, charged INTEGER) STRICT;
             INSERT OR IGNORE INTO account VALUES (1, 5000000000000000000);",
        )
        .unwrap();
    let mut update = connection
        .prepare("UPDATE account SET balance = balance - ? WHERE id = 1")
        .unwrap();
    let mut insert = connection
        .prepare("INSERT INTO log (account, request, key, route, at, charged) VALUES (1,?,?,?,?,?)")
        .unwrap();
    let started = Instant::now();
    let mut left = total;
    while left > 0 {
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        for _ in 0..left.min(RAW_BATCH) {
            update.execute([1_500_000]).unwrap();
            insert
                .execute(params![
                    "01J9ZQ4M5T8Q0R3S6V7W9X2Y4Z",
                    "key_8f14e45fceea167a",
                    "POST /v1/chat/completions",
                    Timestamp::now().as_microsecond(),
                    1_500_000
                ])
                .unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        left = left.saturating_sub(RAW_BATCH);
    }
    started.elapsed()
}

/// The two by turns, because a disk has its moods: the medians of what each did in a second, and
/// their ratio.
fn beside_raw(_: &mut Criterion) {
    const ROUNDS: usize = 15;
    const DEDUCTIONS: u64 = 40_000;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = runtime
        .block_on(SqliteStore::open(folder.path().join("tollgate.db")))
        .unwrap();
    runtime.block_on(fund(&store, &names(0).0));
    let per_second = |spent: Duration| {
        let nanos = u128::from(DEDUCTIONS).saturating_mul(1_000_000_000);
        nanos.checked_div(spent.as_nanos()).unwrap()
    };
    let (mut ours, mut raws) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(per_second(runtime.block_on(deduct(&store, DEDUCTIONS, 1))));
        let path = folder.path().join("raw.db");
        raws.push(per_second(raw(&path, DEDUCTIONS)));
    }
    let median = |rates: &mut Vec<u128>| {
        rates.sort_unstable();
        *rates.get(ROUNDS.div_euclid(2)).unwrap()
    };
    let (ours, raws) = (median(&mut ours), median(&mut raws));
    let percent = ours.saturating_mul(100).checked_div(raws).unwrap();
    println!("by turns: {ours} hold+settle/s, raw {raws} deductions/s: {percent} %");
    runtime.block_on(store.close()).unwrap();
}

/// `total` deductions by one caller, in bursts, after each of which what was served is written
/// down: that is not in the time, nor is it in a call's.
fn in_bursts(runtime: &tokio::runtime::Runtime, ledger: &LeasedLedger, total: u64) -> Duration {
    const BURST: u64 = 8_192;
    let (account, budgets) = names(0);
    let now = Timestamp::now();
    let mut spent = Duration::ZERO;
    let mut left = total;
    while left > 0 {
        let started = Instant::now();
        for _ in 0..left.min(BURST) {
            // What the lease doesn't cover goes to the store, and counts.
            let held = match ledger.hold(request(&account, &budgets, now)).into_ready() {
                Ok(held) => held,
                Err(pending) => runtime.block_on(pending),
            };
            let settled = ledger.settle(held.unwrap().unwrap(), settlement());
            match settled.into_ready() {
                Ok(settled) => settled.unwrap(),
                Err(pending) => runtime.block_on(pending).unwrap(),
            }
        }
        spent = spent.saturating_add(started.elapsed());
        left = left.saturating_sub(BURST);
        runtime.block_on(ledger.flush()).unwrap();
    }
    spent
}

fn ledger(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(1));

    let memory = MemoryStore::new();
    let (account, budgets) = names(0);
    runtime.block_on(fund(&memory, &account));
    let now = Timestamp::now();
    group.bench_function("memory: hold and settle", |bencher| {
        bencher.iter(|| {
            let held = memory.hold(request(&account, &budgets, now)).into_ready();
            let hold = held.unwrap().unwrap().unwrap();
            memory.settle(hold, settlement()).into_ready().unwrap()
        });
    });

    let folder = tempfile::tempdir().unwrap();
    let store = runtime
        .block_on(SqliteStore::open(folder.path().join("tollgate.db")))
        .unwrap();
    for number in 0..IN_FLIGHT {
        runtime.block_on(fund(&store, &names(number).0));
    }
    let leased = runtime.block_on(async {
        let builder = LeasedLedger::builder(store.clone());
        builder
            .lease_max(Money::from_dollars(1_000_000).unwrap())
            .start()
            .unwrap()
    });
    in_bursts(&runtime, &leased, 100_000);
    group.bench_function("lease on sqlite: hold and settle", |bencher| {
        bencher.iter_custom(|total| in_bursts(&runtime, &leased, total));
    });
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(8));
    group.bench_function(
        "lease on sqlite: hold and settle, 256 in flight, one account, written down meanwhile",
        |bencher| {
            bencher.iter_custom(|total| runtime.block_on(deduct(&leased, total, 1)));
        },
    );
    println!("leases: {:?}", leased.statistics());
    runtime.block_on(leased.close()).unwrap();
    group.bench_function(
        "sqlite: hold and settle, 256 in flight, one account",
        |bencher| {
            bencher.iter_custom(|total| runtime.block_on(deduct(&store, total, 1)));
        },
    );
    group.bench_function(
        "sqlite: hold and settle, 256 in flight, 256 accounts",
        |bencher| {
            bencher.iter_custom(|total| runtime.block_on(deduct(&store, total, IN_FLIGHT)));
        },
    );
    group.bench_function(
        "raw rusqlite: 1 update and 1 insert, 128 a commit",
        |bencher| {
            bencher.iter_custom(|total| raw(&folder.path().join("raw.db"), total));
        },
    );
    group.finish();
    runtime.block_on(store.close()).unwrap();
}

criterion_group!(benches, beside_raw, ledger);
criterion_main!(benches);
