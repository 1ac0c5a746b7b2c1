//! What a call's money costs on PostgreSQL: hold and settle by 256 callers, and beside it what the
//! same server does with one single-row update a transaction, by pgbench.
//!
//! `cargo bench --features postgres --bench postgres`; it starts a private server, with every flush
//! of the disk on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    dead_code,
    reason = "a bench measures with the system's clock, and ends where it fails"
)]

#[path = "../tests/support/postgres.rs"]
mod server;

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use server::{Server, pool};
use tollgate::{
    clock::Timestamp,
    money::Money,
    store::{AccountId, BudgetId, KeyId, Ledger, PostgresStore},
    usage::{Call, Credit, Expiry, HoldRequest, Outcome, Settlement},
};

const IN_FLIGHT: u64 = 256;
const ROUNDS: usize = 5;
const SECONDS: u64 = 4;

fn request(account: &AccountId, budgets: &Arc<[BudgetId]>) -> HoldRequest {
    HoldRequest {
        call: Call {
            request_id: "01J9ZQ4M5T8Q0R3S6V7W9X2Y4Z".into(),
            account: account.clone(),
            principal: Arc::from(account.as_str()),
            key: Some(KeyId::new("key_8f14e45fceea167a").unwrap()),
            route: Arc::from("POST /v1/chat/completions"),
            started_at: Timestamp::now(),
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

fn names(number: u64) -> (AccountId, Arc<[BudgetId]>) {
    let account = AccountId::new(&format!("user-{number}")).unwrap();
    let budget = BudgetId::new(&format!("key-{number}")).unwrap();
    (account, Arc::from([budget]))
}

/// Deductions a second by 256 callers over `accounts` accounts.
async fn deduct(store: &PostgresStore, accounts: u64) -> u64 {
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let callers: Vec<_> = (0..IN_FLIGHT)
        .map(|caller| {
            let (store, done) = (store.clone(), Arc::clone(&done));
            let (account, budgets) = names(caller.checked_rem(accounts).unwrap());
            tokio::spawn(async move {
                while started.elapsed() < Duration::from_secs(SECONDS) {
                    let hold = store
                        .hold(request(&account, &budgets))
                        .await
                        .unwrap()
                        .unwrap();
                    store.settle(hold, settlement()).await.unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    per_second(done.load(Ordering::Relaxed), started.elapsed())
}

fn per_second(number: u64, spent: Duration) -> u64 {
    let micros = u64::try_from(spent.as_micros()).unwrap().max(1);
    number
        .saturating_mul(1_000_000)
        .checked_div(micros)
        .unwrap()
}

/// Updates a second of one row in `rows`, each a transaction of its own.
fn pgbench(server: &Server, rows: u32, clients: u32) -> u64 {
    let script = server.folder().join(format!("update-{rows}.sql"));
    let update = format!(
        "\\set id random(1, {rows})\nUPDATE bench_row SET balance = balance - 1 WHERE id = :id;\n"
    );
    std::fs::write(&script, update).unwrap();
    // It may stand elsewhere than the server.
    let beside = Server::binary("pgbench").filter(|program| program.is_file());
    let run = Command::new(beside.unwrap_or_else(|| "pgbench".into()))
        .args(["-n", "-M", "prepared", "-U", "tollgate", "-j", "2"])
        .args(["-c", &clients.to_string(), "-T", &SECONDS.to_string()])
        .arg("-h")
        .arg(server.folder())
        .arg("-f")
        .arg(script)
        .arg("bench")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&run.stdout).into_owned();
    let tps = told
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .and_then(|rest| rest.split('.').next())
        .and_then(|whole| whole.parse().ok());
    tps.unwrap_or_else(|| panic!("{told}{}", String::from_utf8_lossy(&run.stderr)))
}

fn median(mut rates: Vec<u64>) -> u64 {
    rates.sort_unstable();
    *rates.get(rates.len().div_euclid(2)).unwrap()
}

#[tokio::main]
async fn main() {
    let Some(server) = Server::start("-c shared_buffers=256MB") else {
        return;
    };
    let place = server.create_database("bench").await;
    let raw = pool(place.clone(), 1).await;
    sqlx::raw_sql(
        "CREATE TABLE bench_row (id INTEGER PRIMARY KEY, balance BIGINT) WITH (fillfactor = 50);
         INSERT INTO bench_row SELECT id, 1000000000 FROM generate_series(1, 256) AS id",
    )
    .execute(&raw)
    .await
    .unwrap();
    let store = PostgresStore::open(pool(place, 12).await).await.unwrap();
    for number in 0..IN_FLIGHT {
        let (account, _) = names(number);
        let credit = Credit {
            reference: format!("fund-{}", account.as_str()),
            account,
            amount: Money::from_dollars(5_000_000_000).unwrap(),
        };
        store.credit(credit).await.unwrap();
    }
    let (mut one, mut many) = (Vec::new(), Vec::new());
    let (mut row, mut rows) = (Vec::new(), Vec::new());
    // By turns, because a disk has its moods.
    for _ in 0..ROUNDS {
        one.push(deduct(&store, 1).await);
        many.push(deduct(&store, IN_FLIGHT).await);
        row.push(pgbench(&server, 1, 64));
        rows.push(pgbench(&server, 256, 64));
    }
    println!("hold and settle a second, 256 in flight:");
    println!("  one account     {}", median(one));
    println!("  256 accounts    {}", median(many));
    println!("pgbench, one update a transaction, 64 clients:");
    println!("  one row         {}", median(row));
    println!("  one of 256 rows {}", median(rows));
    store.close().await.unwrap();
}
