//! What a limit costs: in this process by keys and windows, through Redis beside the bare script, with
//! units taken ahead, and while Redis is killed, comes back, falls silent and speaks again.
//!
//! `cargo bench --features redis,test-util --bench limits`
#![allow(missing_docs, reason = "a program that prints a table")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "a bench measures with the system's clock, and ends where it fails"
)]

#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/support/redis.rs"]
mod redis_server;

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis_server::RedisServer;
use tollgate::{
    clock::{Clock, ManualClock, SystemClock},
    quota::{Quota, Quotas},
    store::{Degraded, MemoryRateLimiter, RateKey, RateStore, RedisRateLimiter},
};

const TASKS: usize = 64;
const KEYS: usize = 1_000;
const TURN: Duration = Duration::from_secs(2);
const TURNS: usize = 3;

/// Three windows that are never full.
fn wide() -> Quotas {
    let most = 1_000_000_000;
    Quotas::from([
        Quota::per_second(most),
        Quota::per_minute(most),
        Quota::per_hour(most),
    ])
}

fn key(number: usize) -> RateKey {
    RateKey::new(&"bench".into(), &number.to_be_bytes())
}

fn main() {
    in_process();
    many_keys();
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(through_redis(&server));
    runtime.block_on(outage(&mut server));
}

fn in_process() {
    println!("in this process, one thread");
    let one = Quotas::from(Quota::per_minute(1_000_000_000));
    let strict = Quotas::from(Quota::per_minute(1_000_000_000).strict());
    for (name, quotas) in [
        ("1 window", one),
        ("3 windows", wide()),
        ("1 strict window", strict),
    ] {
        for keys in [1_000_usize, 1_000_000] {
            let limiter = MemoryRateLimiter::new(2_000_000, SystemClock::shared());
            let names: Vec<u64> = (0..keys).map(|key| u64::try_from(key).unwrap()).collect();
            for name in &names {
                let _ = limiter.take(name, &quotas, 1);
            }
            let rounds = 2_000_000;
            let mut at = 0_usize;
            let began = Instant::now();
            for _ in 0..rounds {
                at = (at + 7_919) % keys;
                assert!(limiter.take(&names[at], &quotas, 1).is_admitted());
            }
            let nanos = began.elapsed().as_nanos() / rounds;
            println!("  {name:16} {keys:>9} keys  {nanos:>5} ns");
        }
    }
}

/// Resident memory, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4_096
}

fn many_keys() {
    let clock = Arc::new(ManualClock::default());
    let shared: Arc<dyn Clock> = clock.clone();
    let limiter = MemoryRateLimiter::new(2_000_000, shared);
    let quotas = Quotas::from([
        Quota::per_second(10),
        Quota::per_minute(60),
        Quota::per_hour(600),
    ]);
    let before = resident();
    for key in 0..1_000_000_u64 {
        let _ = limiter.take(&key, &quotas, 1);
    }
    let full = resident() - before;
    let kept = limiter.len();
    clock.advance(Duration::from_secs(60));
    for _ in 0..64 {
        clock.advance(Duration::from_secs(1));
        let _ = limiter.take("last", &quotas, 1);
    }
    let after = resident().saturating_sub(before);
    println!(
        "{kept} keys: {} bytes each; afterwards {} keys, {after} bytes in all",
        full / kept,
        limiter.len()
    );
}

/// Calls a second of `TASKS` tasks that ask for one turn.
async fn rate<F>(ask: impl Fn(usize) -> F + Clone + Send + 'static) -> u64
where
    F: Future<Output = ()> + Send,
{
    let (count, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (ask, count, stop) = (ask.clone(), Arc::clone(&count), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut at = task * 17;
                while !stop.load(Ordering::Relaxed) {
                    at = (at + 7_919) % KEYS;
                    ask(at).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(TURN).await;
    stop.store(true, Ordering::Relaxed);
    let total = count.load(Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    total / TURN.as_secs()
}

async fn limiter(server: &RedisServer, lease: u32) -> RedisRateLimiter {
    let builder = RedisRateLimiter::builder(&server.url()).lease(lease);
    let limiter = builder
        .deadline(Duration::from_secs(5))
        .degraded(Degraded::closed())
        .build()
        .unwrap();
    limiter.connect().await.unwrap();
    limiter
}

async fn through_redis(server: &RedisServer) {
    let client = redis::Client::open(server.url()).unwrap();
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(client.get_multiplexed_async_connection().await.unwrap());
    }
    let script = Arc::new(redis::Script::new(include_str!(
        "../src/store/redis/rate.lua"
    )));
    let names: Arc<Vec<String>> = Arc::new(
        (0..KEYS)
            .map(|key| format!("bare:{{bench:{key:032x}}}"))
            .collect(),
    );
    let bare = move |at: usize| {
        let (script, names, mut connection) = (
            Arc::clone(&script),
            Arc::clone(&names),
            connections[at % 4].clone(),
        );
        async move {
            let mut call = script.prepare_invoke();
            call.key(&names[at]).arg("take").arg(1).arg(0);
            for window in ["second", "minute", "hour"] {
                call.arg(window)
                    .arg("gcra")
                    .arg(1_000_000)
                    .arg(1_000_000_000)
                    .arg(1_000_000_000)
                    .arg(0)
                    .arg(0);
            }
            let _: Vec<i64> = call.invoke_async(&mut connection).await.unwrap();
        }
    };
    let names: Arc<Vec<RateKey>> = Arc::new((0..KEYS).map(key).collect());
    let through = |limiter: RedisRateLimiter| {
        let (names, quotas) = (Arc::clone(&names), wide());
        move |at: usize| {
            let (limiter, names, quotas) = (limiter.clone(), Arc::clone(&names), quotas.clone());
            async move {
                assert!(
                    limiter
                        .take(&names[at], &quotas, 1)
                        .await
                        .unwrap()
                        .is_admitted()
                );
            }
        }
    };
    let (exact, leasing) = (limiter(server, 0).await, limiter(server, 64).await);
    let (mut of_bare, mut of_exact, mut of_lease) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        of_bare.push(rate(bare.clone()).await);
        of_exact.push(rate(through(exact.clone())).await);
        of_lease.push(rate(through(leasing.clone())).await);
    }
    let median = |rates: &mut Vec<u64>| {
        rates.sort_unstable();
        rates[rates.len() / 2]
    };
    let rates = [
        median(&mut of_bare),
        median(&mut of_exact),
        median(&mut of_lease),
    ];
    print_rates(rates, &leasing);
}

fn print_rates([bare, exact, lease]: [u64; 3], leasing: &RedisRateLimiter) {
    println!("through Redis, 3 windows, {TASKS} at once, {KEYS} keys");
    println!("  the bare script   {bare:>8}/s");
    println!(
        "  exact             {exact:>8}/s   {} % of it",
        exact * 100 / bare
    );
    let statistics = leasing.statistics();
    let calls = statistics.round_trips + statistics.admitted_from_lease;
    let trips = statistics.round_trips;
    println!(
        "  leases of 64      {lease:>8}/s   {} calls a round trip",
        calls / trips
    );
}

#[derive(Default)]
struct Second {
    admitted: u64,
    refused: u64,
    failed: u64,
    micros: Vec<u128>,
}

fn note(second: &Mutex<Second>, took: Duration, admitted: Option<bool>) {
    let mut second = second.lock().unwrap();
    second.micros.push(took.as_micros());
    match admitted {
        Some(true) => second.admitted += 1,
        Some(false) => second.refused += 1,
        None => second.failed += 1,
    }
}

/// Two processes, as it were, and one client who asks for twice of what it has.
async fn outage(server: &mut RedisServer) {
    let quotas = Quotas::from(Quota::per_second(100));
    let began = Instant::now();
    let seconds: Arc<Vec<Mutex<Second>>> = Arc::new((0..14).map(|_| Mutex::default()).collect());
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let two = NonZeroU32::MIN.saturating_add(1);
        let limiter = RedisRateLimiter::builder(&server.url())
            .degraded(Degraded::local(two))
            .build()
            .unwrap();
        limiter.connect().await.unwrap();
        for _ in 0..4 {
            let (limiter, quotas, seconds) =
                (limiter.clone(), quotas.clone(), Arc::clone(&seconds));
            tasks.push(tokio::spawn(async move {
                while let Some(second) =
                    seconds.get(usize::try_from(began.elapsed().as_secs()).unwrap())
                {
                    let asked = Instant::now();
                    let decision = limiter.take(&key(0), &quotas, 1).await;
                    note(
                        second,
                        asked.elapsed(),
                        decision.map(|it| it.is_admitted()).ok(),
                    );
                    tokio::time::sleep(Duration::from_millis(40)).await;
                }
            }));
        }
    }
    let wait_until = async |second: u64| {
        tokio::time::sleep_until((began + Duration::from_secs(second)).into()).await
    };
    wait_until(2).await;
    server.kill();
    wait_until(5).await;
    server.restart();
    wait_until(8).await;
    server.pause();
    wait_until(11).await;
    server.resume();
    for task in tasks {
        task.await.unwrap();
    }
    println!(
        "100 a second shared by two, 200 asked; killed at 2 s, back at 5, silent at 8, back at 11"
    );
    println!("   s  admitted  refused  failed  p50 µs  p99 µs  max µs");
    for (at, second) in seconds.iter().enumerate() {
        let mut second = second.lock().unwrap();
        second.micros.sort_unstable();
        let part = |hundredths: usize| {
            let last = second.micros.len().saturating_sub(1);
            second
                .micros
                .get(last * hundredths / 100)
                .copied()
                .unwrap_or(0)
        };
        let (p50, p99, max) = (part(50), part(99), part(100));
        println!(
            "  {at:>2}  {:>8}  {:>7}  {:>6}  {p50:>6}  {p99:>6}  {max:>6}",
            second.admitted, second.refused, second.failed
        );
    }
}
