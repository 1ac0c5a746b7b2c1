//! In this process.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tollgate::{
    clock::{Clock, ManualClock, SystemClock},
    quota::{Quota, Quotas},
    store::MemoryRateLimiter,
};

const MOST: u32 = 1_000_000_000;
const ROUNDS: u32 = 500_000;
const TURNS: usize = 5;
const FEW: usize = 1_000;
const MANY: usize = 1_000_000;

pub(crate) fn by_keys_and_windows() {
    println!("in this process, one thread: ns a decision, the median of {TURNS} turns each");
    println!("                    {FEW:>9} keys  {MANY:>9} keys");
    let three = [
        Quota::per_second(MOST),
        Quota::per_minute(MOST),
        Quota::per_hour(MOST),
    ];
    for (name, quotas) in [
        ("1 window", Quotas::from(Quota::per_minute(MOST))),
        ("3 windows", Quotas::from(three)),
        ("1 strict window", Quota::per_minute(MOST).strict().into()),
    ] {
        let sides = [FEW, MANY].map(|keys| {
            let limiter = MemoryRateLimiter::new(2 * MANY, SystemClock::shared());
            let names: Vec<u64> = (0..keys).map(|key| u64::try_from(key).unwrap()).collect();
            for name in &names {
                let _ = limiter.take(name, &quotas, 1);
            }
            (limiter, names)
        });
        let mut nanos = [const { Vec::new() }; 2];
        for _ in 0..TURNS {
            for ((limiter, names), nanos) in sides.iter().zip(&mut nanos) {
                let (mut at, began) = (0, Instant::now());
                for _ in 0..ROUNDS {
                    at = (at + 7_919) % names.len();
                    assert!(limiter.take(&names[at], &quotas, 1).is_admitted());
                }
                nanos.push(began.elapsed().as_nanos() / u128::from(ROUNDS));
            }
        }
        let [few, many] = nanos.map(|mut nanos| {
            nanos.sort_unstable();
            nanos[TURNS / 2]
        });
        println!("  {name:16}  {few:>14}  {many:>14}");
    }
}

/// A million keys, and what is left of them when their windows are full again: what is allocated,
/// since what an allocator keeps for later is its own affair.
pub(crate) fn given_back() {
    let clock = Arc::new(ManualClock::default());
    let shared: Arc<dyn Clock> = clock.clone();
    let limiter = MemoryRateLimiter::new(2 * MANY, shared);
    let quotas = Quotas::from([
        Quota::per_second(10),
        Quota::per_minute(60),
        Quota::per_hour(600),
    ]);
    let full = allocation_counter::measure(|| {
        for key in 0..MANY {
            let _ = limiter.take(&key, &quotas, 1);
        }
    });
    let kept = limiter.len();
    let swept = allocation_counter::measure(|| {
        clock.advance(Duration::from_secs(60));
        for _ in 0..64 {
            clock.advance(Duration::from_secs(1));
            let _ = limiter.take("last", &quotas, 1);
        }
    });
    let full = full.bytes_current;
    println!("a million callers once each, 3 windows");
    println!(
        "  {kept} keys in {} KiB, {} bytes each; two minutes later {} key in {} KiB",
        full / 1_024,
        full / i64::try_from(kept).unwrap(),
        limiter.len(),
        (full + swept.bytes_current) / 1_024
    );
}
