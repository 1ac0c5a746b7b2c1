//! Through Redis: the limiter beside the bare script, which is called through redis-rs with the
//! same arguments on as many connections.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::AsyncConnectionConfig;
use tollgate::{
    quota::{Quota, Quotas},
    store::{Degraded, RateStore, RedisClient, RedisRateLimiter},
};

use super::{RedisServer, key};

const TASKS: usize = 64;
const KEYS: usize = 1_000;
const CONNECTIONS: usize = 4;
const TURN: Duration = Duration::from_millis(500);
const TURNS: usize = 15;
const MOST: u32 = 1_000_000_000;

/// The windows of [`wide`] as the limiter tells them to the script: an interval in ticks, ticks in
/// a microsecond, the burst.
const WIDE: [(&str, u64, u64); 3] = [
    ("second", 1_000_000, 1_000_000_000),
    ("minute", 2_251_800, 37_529_996),
    ("hour", 2_251_797, 625_499),
];

/// Three windows that are never full.
fn wide() -> Quotas {
    Quotas::from([
        Quota::per_second(MOST),
        Quota::per_minute(MOST),
        Quota::per_hour(MOST),
    ])
}

/// Calls a second of `TASKS` tasks, each of which waits for its answer.
async fn rate<F>(ask: impl Fn(usize) -> F + Clone + Send + 'static) -> u64
where
    F: Future<Output = ()> + Send,
{
    let (count, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let began = Instant::now();
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
    for task in tasks {
        task.await.unwrap();
    }
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap();
    count.load(Ordering::Relaxed) * 1_000_000 / micros
}

async fn limiter(server: &RedisServer, lease: u32, degraded: Degraded) -> RedisRateLimiter {
    let client = RedisClient::new(server.url()).connections(CONNECTIONS);
    let limiter = RedisRateLimiter::builder(client)
        .lease(lease)
        .deadline(Duration::from_secs(5))
        .degraded(degraded)
        .build()
        .unwrap();
    limiter.connect().await.unwrap();
    limiter
}

async fn bare(
    server: &RedisServer,
) -> impl Fn(usize) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Clone + Send + 'static {
    let client = redis::Client::open(server.url()).unwrap();
    // As the limiter's own are; redis-rs would give up after half a second.
    let config = AsyncConnectionConfig::new();
    let config = config
        .set_response_timeout(None)
        .set_pipeline_buffer_size(1_024);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        connections.push(connection.await.unwrap());
    }
    let script = Arc::new(redis::Script::new(include_str!(
        "../../src/store/redis/rate.lua"
    )));
    let names: Arc<Vec<String>> = Arc::new(
        (0..KEYS)
            .map(|key| format!("bare:{{bench:{key:032x}}}"))
            .collect(),
    );
    move |at: usize| {
        let (script, names) = (Arc::clone(&script), Arc::clone(&names));
        let mut connection = connections[at % CONNECTIONS].clone();
        Box::pin(async move {
            let mut call = script.prepare_invoke();
            call.key(&names[at]).arg("take").arg(1).arg(0);
            for (name, interval, ticks) in WIDE {
                call.arg(name).arg("gcra").arg(interval).arg(ticks);
                call.arg(MOST);
            }
            let answer: Vec<i64> = call.invoke_async(&mut connection).await.unwrap();
            assert_eq!(answer[0], 1);
        })
    }
}

fn through(
    limiter: RedisRateLimiter,
) -> impl Fn(usize) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Clone + Send + 'static {
    let names = Arc::new((0..KEYS).map(key).collect::<Vec<_>>());
    let quotas = wide();
    move |at: usize| {
        let (limiter, names, quotas) = (limiter.clone(), Arc::clone(&names), quotas.clone());
        Box::pin(async move {
            let decision = limiter.take(&names[at], &quotas, 1).await.unwrap();
            assert!(decision.is_admitted());
        })
    }
}

pub(crate) async fn beside_the_bare_script(server: &RedisServer) {
    let bare = bare(server).await;
    let closed = limiter(server, 0, Degraded::closed()).await;
    let local = limiter(server, 0, Degraded::default()).await;
    let leasing = limiter(server, 64, Degraded::default()).await;
    let sides = [&closed, &local, &leasing].map(|limiter| through(limiter.clone()));
    let (mut of_bare, mut shares) = (Vec::new(), [const { Vec::new() }; 3]);
    for _ in 0..TURNS {
        let before = rate(bare.clone()).await;
        let mut of_sides = [0; 3];
        for (of, side) in of_sides.iter_mut().zip(&sides) {
            *of = rate(side.clone()).await;
        }
        // What the machine does meanwhile falls on both sides of a turn.
        let between = (before + rate(bare.clone()).await) / 2;
        of_bare.push(between);
        for (share, of) in shares.iter_mut().zip(of_sides) {
            share.push(of * 100 / between);
        }
    }
    let median = |figures: &mut Vec<u64>| {
        figures.sort_unstable();
        figures[figures.len() / 2]
    };
    let rate = median(&mut of_bare);
    let [closed, local, lease] = shares.each_mut().map(median);
    println!(
        "through Redis, 3 windows, {TASKS} at once, {KEYS} keys, {CONNECTIONS} connections: the median of {TURNS} turns"
    );
    println!("  the bare script               {rate:>8}/s");
    println!("  exact, closed without Redis   {closed:>8} % of it");
    println!("  exact, counting along         {local:>8} % of it");
    println!("  leases of 64                  {lease:>8} % of it");
    let statistics = leasing.statistics();
    let calls = statistics.round_trips + statistics.admitted_from_lease;
    println!(
        "                                {:>8} calls a round trip",
        calls / statistics.round_trips.max(1)
    );
}
