//! Two processes under load while their Redis is killed, comes back, falls silent and speaks again:
//! every request is answered soon, none with a failure, and the limit holds as it is said to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::redis::{Client, aio::MultiplexedConnection, cmd};
use tokio::time::{Instant, sleep};

use crate::{
    redis::RedisServer,
    support::{Account, Home, Key, Server, home},
};

const LIMIT: usize = 60;
const PROCESSES: usize = 2;
/// Connections of one process: four that count, and one for news of changes.
const CONNECTIONS: usize = 5;
const WORKERS: usize = 8;
const PHASE: Duration = Duration::from_millis(1_500);
/// No answer takes longer: far more than the deadline, so that a busy machine is no failure.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

async fn start(home: &Home, redis: &RedisServer) -> Server {
    let launch = home.launch().unhurried();
    let launch = launch.env("REDIS_URL", &redis.url());
    let launch = launch.env("KEY_RATE_LIMIT_PER_MINUTE", "60");
    launch.start().await
}

/// Asks now the one, now the other, until it is told to stop: how many were admitted, and the
/// waits.
async fn ask(servers: Arc<[Server; PROCESSES]>, key: Key, stop: Arc<AtomicBool>) -> Tally {
    let mut tally = Tally::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        let answer = key.health(&servers[number % PROCESSES]).await;
        tally.waits.push(began.elapsed());
        let status = answer.status.as_u16();
        assert!(matches!(status, 200 | 429), "{status}: {}", answer.text());
        tally.admitted += usize::from(status == 200);
        sleep(Duration::from_millis(5)).await;
    }
    tally
}

#[derive(Default)]
struct Tally {
    admitted: usize,
    waits: Vec<Duration>,
}

/// A look at the server's connections, over one of its own.
struct Watch(MultiplexedConnection);

impl Watch {
    async fn on(redis: &RedisServer) -> Self {
        let client = Client::open(redis.url()).unwrap();
        Self(client.get_multiplexed_async_connection().await.unwrap())
    }

    async fn says(&mut self, command: &str, argument: &str) -> String {
        let mut question = cmd(command);
        let answer = question.arg(argument).query_async(&mut self.0).await;
        answer.unwrap()
    }

    /// How many there are, without this one.
    async fn open(&mut self) -> usize {
        self.says("CLIENT", "LIST").await.lines().count() - 1
    }

    /// How many were ever made.
    async fn made(&mut self) -> usize {
        let stats = self.says("INFO", "stats").await;
        let mut lines = stats.lines();
        let made = lines.find_map(|line| line.strip_prefix("total_connections_received:"));
        made.expect("a count of connections").parse().unwrap()
    }

    /// Waits until the processes have all their connections again, and sees that they make no more.
    async fn found_again(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.open().await < PROCESSES * CONNECTIONS {
            assert!(Instant::now() < deadline, "not connected again");
            sleep(Duration::from_millis(20)).await;
        }
        sleep(PHASE).await;
        assert_eq!(self.open().await, PROCESSES * CONNECTIONS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_outage_of_redis_is_felt_and_its_return_meets_no_herd() {
    let Some(mut redis) = RedisServer::start() else {
        return;
    };
    let home = home();
    let servers = Arc::new([start(&home, &redis).await, start(&home, &redis).await]);
    let (_, key) = Account::with_money(&servers[0], "1").await;
    let (stop, began) = (Arc::new(AtomicBool::new(false)), Instant::now());
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| tokio::spawn(ask(Arc::clone(&servers), key.clone(), Arc::clone(&stop))))
        .collect();

    sleep(PHASE).await;
    redis.kill();
    sleep(PHASE).await;
    redis.restart();
    let mut watch = Watch::on(&redis).await;
    watch.found_again().await;
    // Beside this one and the one that waited for the start; an attempt may have come too early for
    // all.
    let made = watch.made().await - 2;
    assert!(made <= PROCESSES * 2 * CONNECTIONS, "{made} connections");

    let before = watch.made().await;
    redis.pause();
    sleep(PHASE).await;
    redis.resume();
    watch.found_again().await;
    // Attempts while it was silent are counted too: of each process one at a time, half a second
    // each.
    let after = watch.made().await - before;
    assert!(after <= PROCESSES * 2 * CONNECTIONS, "{after} connections");
    println!("connections made: {made} after the loss, {after} after the silence");

    stop.store(true, Ordering::Relaxed);
    let mut all = Tally::default();
    for worker in workers {
        let mut tally = worker.await.unwrap();
        all.admitted += tally.admitted;
        all.waits.append(&mut tally.waits);
    }
    all.waits.sort();
    let p99 = all.waits[all.waits.len() * 99 / 100];
    let most = all.waits[all.waits.len() - 1];
    println!(
        "{} answers, {} admitted; p99 {p99:?}, longest {most:?}",
        all.waits.len(),
        all.admitted
    );
    assert!(most < ANSWERED_WITHIN, "p99 {p99:?}, longest {most:?}");
    // Redis's own count, what is left of each process's half of it, and the count of a Redis that
    // came back with an empty memory; refilled by the second. A few may be counted here and there.
    let refilled = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    let bound = LIMIT + LIMIT / 2 + LIMIT + refilled + WORKERS;
    assert!(
        (LIMIT..=bound).contains(&all.admitted),
        "{} of {bound}",
        all.admitted
    );
    let servers = Arc::into_inner(servers).expect("nobody asks any more");
    for server in servers {
        server.stop().await.without_panic();
    }
}
