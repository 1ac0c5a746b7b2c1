//! What a call's money costs through Redis: hold and settle by 1, 64 and 256 callers, beside the
//! same two scripts with the same arguments, called through redis-rs on as many connections.
//!
//! `cargo bench --features redis --bench redis_ledger`; it starts private servers: one that flushes
//! its log at every write, as the ledger advises, and one that keeps none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    dead_code,
    reason = "a bench measures with the system's clock, and ends where it fails"
)]

#[path = "../tests/support/redis.rs"]
mod server;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::AsyncConnectionConfig;
use server::RedisServer;
use tollgate::{
    clock::Timestamp,
    money::Money,
    store::{AccountId, BudgetId, KeyId, Ledger, RedisClient, RedisLedger},
    usage::{Call, Credit, Expiry, HoldRequest, Outcome, Settlement},
};

const ACCOUNTS: usize = 64;
const CONNECTIONS: usize = 4;
const TURN: Duration = Duration::from_millis(500);
const TURNS: usize = 9;
const REQUEST_ID: &str = "01J9ZQ4M5T8Q0R3S6V7W9X2Y4Z";
const KEY: &str = "key_8f14e45fceea167a";
const ROUTE: &str = "POST /v1/chat/completions";

const BOOKS: &str = include_str!("../src/store/redis/ledger/books.lua");
const HOLD: &str = include_str!("../src/store/redis/ledger/hold.lua");
const FINISH: &str = include_str!("../src/store/redis/ledger/finish.lua");
const SETTLE: &str = include_str!("../src/store/redis/ledger/settle.lua");

type Pair = Pin<Box<dyn Future<Output = ()> + Send>>;

fn names(account: usize) -> (AccountId, Arc<[BudgetId]>) {
    let budget = BudgetId::new(&format!("key-{account}")).unwrap();
    let account = AccountId::new(&format!("user-{account}")).unwrap();
    (account, Arc::from([budget]))
}

fn request(account: &AccountId, budgets: &Arc<[BudgetId]>) -> HoldRequest {
    HoldRequest {
        call: Call {
            request_id: REQUEST_ID.into(),
            account: account.clone(),
            principal: Arc::from(account.as_str()),
            key: Some(KeyId::new(KEY).unwrap()),
            route: Arc::from(ROUTE),
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

/// Hold and settle through the ledger.
fn ours(ledger: &RedisLedger) -> impl Fn(usize) -> Pair + Clone + Send + 'static {
    let ledger = ledger.clone();
    let accounts: Arc<Vec<_>> = Arc::new((0..ACCOUNTS).map(names).collect());
    move |at| {
        let (ledger, accounts) = (ledger.clone(), Arc::clone(&accounts));
        Box::pin(async move {
            let (account, budgets) = &accounts[at % ACCOUNTS];
            let hold = ledger.hold(request(account, budgets)).await.unwrap();
            ledger.settle(hold.unwrap(), settlement()).await.unwrap();
        })
    }
}

/// The keys that the scripts want of an account, and which instance's.
fn keys(account: usize) -> [String; 7] {
    let name = |what: &str| format!("bench:{{account:user-{account}}}:{what}");
    [
        name("books"),
        name("once"),
        name("once-ends"),
        name("open:00000000000000aa"),
        name("marks:00000000000000aa"),
        name("usage"),
        name("charges"),
    ]
}

/// The two scripts, and nothing else, in the books that the ledger has filled.
async fn bare(server: &RedisServer) -> impl Fn(usize) -> Pair + Clone + Send + 'static {
    let client = redis::Client::open(server.url()).unwrap();
    // As the ledger's own are; redis-rs would give up after half a second.
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_pipeline_buffer_size(1_024);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        connections.push(connection.await.unwrap());
    }
    let hold = Arc::new(redis::Script::new(&format!("{BOOKS}{HOLD}")));
    let settle = Arc::new(redis::Script::new(&format!("{BOOKS}{FINISH}{SETTLE}")));
    let accounts: Arc<Vec<_>> = Arc::new((0..ACCOUNTS).map(keys).collect());
    let (number, now) = (Arc::new(AtomicU64::new(1)), Timestamp::now());
    let day = now.as_second() / 86_400 * 86_400;
    let call = format!(
        r#"{{"id":"{REQUEST_ID}","by":"user-1","key":"{KEY}","route":"{ROUTE}","at":"{now}"}}"#
    );
    let written = r#"{"outcome":"completed","status":200,"latency_us":120000,"input_tokens":700,"output_tokens":300}"#;
    let (call, now) = (Arc::<str>::from(call), Arc::<str>::from(now.to_string()));
    move |at| {
        let (hold, settle) = (Arc::clone(&hold), Arc::clone(&settle));
        let (accounts, call, now) = (Arc::clone(&accounts), Arc::clone(&call), Arc::clone(&now));
        let number = format!("{:x}", number.fetch_add(1, Ordering::Relaxed));
        let at = at % ACCOUNTS;
        let mut connection = connections[at % CONNECTIONS].clone();
        Box::pin(async move {
            let keys = &accounts[at];
            let mut begin = hold.prepare_invoke();
            begin
                .key(&keys[..5])
                .arg(&number)
                .arg(2_000_000)
                .arg(day)
                .arg(day);
            begin
                .arg("release")
                .arg(&*call)
                .arg("")
                .arg("")
                .arg(0)
                .arg(0);
            begin.arg(format!("key-{at}"));
            let held: Vec<String> = begin.invoke_async(&mut connection).await.unwrap();
            assert_eq!(held[0], "held");
            let mut end = settle.prepare_invoke();
            end.key(&keys[..]).arg(&number).arg(1_500_000).arg(written);
            end.arg(&*now).arg(10_000).arg(0);
            let settled: Vec<String> = end.invoke_async(&mut connection).await.unwrap();
            assert_eq!(settled[0], "settled");
        })
    }
}

/// Pairs a second of so many tasks, each of which waits for its answers.
async fn rate(pair: impl Fn(usize) -> Pair + Clone + Send + 'static, tasks: usize) -> u64 {
    let count = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let (pair, count, stop) = (pair.clone(), Arc::clone(&count), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    pair(task).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(TURN).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap();
    count.load(Ordering::Relaxed) * 1_000_000 / micros
}

async fn compare(server: &RedisServer) {
    let client = RedisClient::new(server.url()).connections(CONNECTIONS);
    let ledger = RedisLedger::open(client.prefix("bench")).await.unwrap();
    for account in 0..ACCOUNTS {
        let (account, _) = names(account);
        let credit = Credit {
            reference: format!("fund-{}", account.as_str()),
            account,
            amount: Money::from_dollars(5_000_000).unwrap(),
        };
        ledger.credit(credit).await.unwrap();
    }
    let (bare, ours) = (bare(server).await, ours(&ledger));
    let median = |figures: &mut Vec<u64>| {
        figures.sort_unstable();
        figures[figures.len() / 2]
    };
    for tasks in [1, 64, 256] {
        let (mut raws, mut rates, mut shares) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let before = rate(bare.clone(), tasks).await;
            let of_ours = rate(ours.clone(), tasks).await;
            // What the machine does meanwhile falls on both sides of a turn.
            let between = (before + rate(bare.clone(), tasks).await) / 2;
            raws.push(between);
            rates.push(of_ours);
            shares.push(of_ours * 100 / between);
        }
        println!(
            "  {tasks:>3} in flight: {:>6}/s, the bare scripts {:>6}/s: {:>3} %",
            median(&mut rates),
            median(&mut raws),
            median(&mut shares)
        );
    }
    ledger.close().await.unwrap();
}

#[tokio::main]
async fn main() {
    println!(
        "hold and settle a second through Redis, {ACCOUNTS} accounts, the median of {TURNS} turns:"
    );
    let flushed = ["--appendonly", "yes", "--appendfsync", "always"];
    for (title, arguments) in [("every write flushed", &flushed[..]), ("no log", &[])] {
        let Some(server) = RedisServer::start_with(arguments) else {
            return;
        };
        println!("{title}");
        compare(&server).await;
    }
}
