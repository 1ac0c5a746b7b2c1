//! Four processes that take units ahead, of keys that they share, until nothing is left.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use tollgate::{
    quota::{Quota, Quotas},
    store::{Degraded, RateStore, RedisRateLimiter},
};

use super::{RedisServer, key};

const PROCESSES: u64 = 4;
const TASKS: usize = 16;
const KEYS: usize = 8;
const LIMIT: u32 = 20_000;
const LEASE: u32 = 64;
/// The address of the server, for a process of the four.
const SERVER: &str = "TOLLGATE_BENCH_REDIS";

/// What this process has to do, if it is one of the four.
pub(crate) fn work() -> Option<impl Future<Output = ()>> {
    let url = std::env::var(SERVER).ok()?;
    Some(async move {
        let limiter = RedisRateLimiter::builder(url.as_str())
            .deadline(Duration::from_secs(5))
            .degraded(Degraded::closed())
            .lease(LEASE)
            .build()
            .unwrap();
        limiter.connect().await.unwrap();
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| tokio::spawn(ask(limiter.clone(), task % KEYS)))
            .collect();
        let mut admitted = 0;
        for task in tasks {
            admitted += task.await.unwrap();
        }
        let statistics = limiter.statistics();
        println!("{admitted} {}", statistics.round_trips);
    })
}

/// Asks for one unit after the other until there is none.
async fn ask(limiter: RedisRateLimiter, number: usize) -> u64 {
    let quotas = Quotas::from(Quota::per(Duration::from_secs(86_400 * 365), LIMIT));
    let (key, mut admitted) = (key(number), 0);
    loop {
        let decision = limiter.take(&key, &quotas, 1).await.unwrap();
        if !decision.is_admitted() {
            return admitted;
        }
        admitted += 1;
    }
}

pub(crate) fn of_four_processes(server: &RedisServer) {
    let mine = std::env::current_exe().unwrap();
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| {
            let mut child = Command::new(&mine);
            child.env(SERVER, server.url()).stdout(Stdio::piped());
            child.spawn().unwrap()
        })
        .collect();
    let (mut admitted, mut trips) = (0, 0);
    for child in children {
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success());
        let said = String::from_utf8(ended.stdout).unwrap();
        let (of_admitted, of_trips) = said.trim().split_once(' ').unwrap();
        admitted += of_admitted.parse::<u64>().unwrap();
        trips += of_trips.parse::<u64>().unwrap();
    }
    let limit = u64::from(LIMIT) * u64::try_from(KEYS).unwrap();
    println!("leases of {LEASE}, {PROCESSES} processes, {KEYS} keys of {LIMIT} each");
    println!(
        "  {admitted} admitted of {limit}, {} lost; {trips} round trips, {} admitted a round trip",
        limit - admitted.min(limit),
        admitted / trips.max(1)
    );
    assert!(admitted <= limit, "more than the limit");
}
