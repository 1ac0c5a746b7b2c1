//! Second by second while Redis is killed, comes back, falls silent and speaks again.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tollgate::{
    quota::{Quota, Quotas},
    store::{Degraded, RateStore, RedisRateLimiter},
};

use super::{RedisServer, key};

const LIMIT: u32 = 100;
const SECONDS: u32 = 16;

#[derive(Default)]
struct Second {
    admitted: u64,
    refused: u64,
    failed: u64,
    micros: Vec<u128>,
}

impl Second {
    fn part(&self, hundredths: usize) -> u128 {
        let last = self.micros.len().saturating_sub(1);
        let at = (last * hundredths).div_ceil(100);
        self.micros.get(at).copied().unwrap_or(0)
    }
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

/// Asks every 10 ms, whatever the answer, until there is no second left to count in.
async fn ask(limiter: RedisRateLimiter, began: Instant, seconds: Arc<Vec<Mutex<Second>>>) {
    let quotas = Quotas::from(Quota::per_second(LIMIT));
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        tick.tick().await;
        let at = usize::try_from(began.elapsed().as_secs()).unwrap();
        let Some(second) = seconds.get(at) else {
            return;
        };
        let asked = Instant::now();
        let decision = limiter.take(&key(0), &quotas, 1).await;
        let admitted = decision.map(|decision| decision.is_admitted()).ok();
        note(second, asked.elapsed(), admitted);
    }
}

/// Two processes, as it were, and one client who asks for four times of what it has.
pub(crate) async fn trace(server: &mut RedisServer) {
    let began = Instant::now();
    let seconds: Arc<Vec<Mutex<Second>>> =
        Arc::new((0..SECONDS).map(|_| Mutex::default()).collect());
    let (mut tasks, mut limiters) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let two = NonZeroU32::MIN.saturating_add(1);
        let limiter = RedisRateLimiter::builder(server.url())
            .degraded(Degraded::local(two))
            .build()
            .unwrap();
        limiter.connect().await.unwrap();
        limiters.push(limiter.clone());
        for _ in 0..2 {
            let seconds = Arc::clone(&seconds);
            tasks.push(tokio::spawn(ask(limiter.clone(), began, seconds)));
        }
    }
    let wait_until = async |second: u64| {
        tokio::time::sleep_until((began + Duration::from_secs(second)).into()).await;
    };
    wait_until(3).await;
    server.kill();
    wait_until(6).await;
    server.restart();
    wait_until(9).await;
    server.pause();
    wait_until(12).await;
    server.resume();
    for task in tasks {
        task.await.unwrap();
    }
    print(&seconds);
    for limiter in limiters {
        println!("  {:?}", limiter.statistics());
    }
}

fn print(seconds: &[Mutex<Second>]) {
    println!(
        "{LIMIT} a second shared by two, 400 asked; killed at 3 s, back at 6, silent at 9, back at 12"
    );
    println!("   s  admitted  refused  failed  p50 µs  p99 µs  max µs");
    let (mut all, mut admitted, mut failed) = (Second::default(), 0, 0);
    for (at, second) in seconds.iter().enumerate() {
        let mut second = second.lock().unwrap();
        second.micros.sort_unstable();
        let (p50, p99, max) = (second.part(50), second.part(99), second.part(100));
        println!(
            "  {at:>2}  {:>8}  {:>7}  {:>6}  {p50:>6}  {p99:>6}  {max:>6}",
            second.admitted, second.refused, second.failed
        );
        admitted += second.admitted;
        failed += second.failed;
        all.micros.append(&mut second.micros);
    }
    all.micros.sort_unstable();
    // What the rule gives in that time, with its burst, and a burst anew at each return: the server
    // that was killed has lost its counts, and the other doesn't know what was admitted without it.
    let bound = u64::from(LIMIT) * u64::from(SECONDS + 1 + 2);
    println!(
        "  all: {admitted} admitted, at most {bound}; {failed} failed; p99 {} µs, max {} µs",
        all.part(99),
        all.part(100)
    );
    assert!(admitted <= bound && failed == 0);
}
