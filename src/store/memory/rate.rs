//! Rate limits in this process: governor's GCRA, all windows of a key under one short lock.
//!
//! Each window's next state is staged by governor and written only when every window admits, so a
//! refused request has consumed nothing from any.

use std::{
    cell::Cell,
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use governor::{
    NotUntil, RateLimiter as Gcra,
    clock::{Clock as GovernorClock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::StateStore,
};
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::domain::{clock::Clock, quota::Quota};

/// Locks that keys are spread over.
const SHARDS: usize = 64;
/// Keys of a shard below which idle ones are not looked for.
const SWEEP_FLOOR: usize = 256;
/// How long a shard rests between two sweeps.
const SWEEP_INTERVAL_NANOS: u64 = 1_000_000_000;

/// The state of each window of one key: governor's theoretical arrival time, in nanoseconds.
type States = SmallVec<[u64; 3]>;

/// What is left in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowReading {
    /// Requests that would be admitted now.
    pub remaining: u32,
    /// Until all of the burst is there again.
    pub reset: Duration,
}

/// What a limiter decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateDecision {
    /// `None`: admitted. Otherwise how long to wait until all windows would admit.
    pub retry_after: Option<Duration>,
    /// What is left, window by window.
    pub readings: SmallVec<[WindowReading; 3]>,
}

/// Counts requests by key against several quotas at once.
///
/// Memory is bounded: at most `capacity` keys are kept (about 120 bytes each). A key whose windows are
/// full again is forgotten, which changes nothing. When all are in use, new keys share one bucket:
/// nobody's count is reset, and a flood of new keys gets no more than one key would.
pub struct MemoryRateLimiter {
    quotas: Box<[Quota]>,
    shards: Box<[Mutex<Shard>]>,
    capacity_of_shard: usize,
    hashers: [RandomState; 2],
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct Shard {
    states: HashMap<u128, States, BuildHasherDefault<HashedAlready>>,
    sweep_at: usize,
    swept_at_nanos: u64,
}

impl MemoryRateLimiter {
    /// A limiter for `quotas`, of which there is at least one; keeps at most `capacity` keys.
    #[must_use]
    pub fn new(quotas: impl Into<Box<[Quota]>>, capacity: usize, clock: Arc<dyn Clock>) -> Self {
        let shard = || {
            Mutex::new(Shard {
                sweep_at: SWEEP_FLOOR,
                ..Shard::default()
            })
        };
        Self {
            quotas: quotas.into(),
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            capacity_of_shard: capacity.div_ceil(SHARDS).max(1),
            hashers: [RandomState::new(), RandomState::new()],
            clock,
        }
    }

    /// The quotas.
    #[must_use]
    pub fn quotas(&self) -> &[Quota] {
        &self.quotas
    }

    /// How many keys are kept now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).states.len())
            .sum()
    }

    /// Whether no key is kept now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes one request from every window of `key`, or from none.
    #[must_use]
    pub fn take(&self, key: &(impl Hash + ?Sized)) -> RateDecision {
        let now = u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let [high, low] = self.hashers.each_ref().map(|hasher| hasher.hash_one(key));
        let hash = (u128::from(high) << 64) | u128::from(low);
        let index = usize::try_from(high)
            .unwrap_or(usize::MAX)
            .checked_rem(SHARDS)
            .unwrap_or(0);
        let Some(shard) = self.shards.get(index) else {
            return self.refuse_all();
        };
        lock(shard).take(hash, &self.quotas, now, self.capacity_of_shard)
    }

    fn refuse_all(&self) -> RateDecision {
        let reading = |quota: &Quota| WindowReading {
            remaining: 0,
            reset: quota.period(),
        };
        let readings = self.quotas.iter().map(reading).collect();
        RateDecision {
            retry_after: Some(Duration::from_secs(1)),
            readings,
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> std::sync::MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn take(&mut self, key: u128, quotas: &[Quota], now: u64, capacity: usize) -> RateDecision {
        if let Some(states) = self.states.get_mut(&key) {
            return take_all(states, quotas, now);
        }
        self.make_room(now, capacity);
        // The key that stands for all that find no room; no hash is reserved for it, so one client in
        // 2^128 would share it.
        let key = if self.states.len() >= capacity {
            0
        } else {
            key
        };
        let fresh = || std::iter::repeat_n(0, quotas.len()).collect();
        take_all(self.states.entry(key).or_insert_with(fresh), quotas, now)
    }

    /// Forgets the keys whose windows are all full again, when the shard has doubled since it last did
    /// or is full, and not more often than once a second.
    fn make_room(&mut self, now: u64, capacity: usize) {
        let crowded = self.states.len() >= self.sweep_at.min(capacity);
        let rested = now.saturating_sub(self.swept_at_nanos) >= SWEEP_INTERVAL_NANOS;
        if !crowded || !(rested || self.swept_at_nanos == 0) {
            return;
        }
        self.states
            .retain(|_, states| states.iter().any(|state| *state > now));
        let kept = self.states.len();
        self.sweep_at = kept.saturating_mul(2).max(SWEEP_FLOOR);
        if kept.saturating_mul(4) < self.states.capacity() {
            self.states.shrink_to(self.sweep_at);
        }
        self.swept_at_nanos = now.max(1);
    }
}

fn take_all(states: &mut States, quotas: &[Quota], now: u64) -> RateDecision {
    let mut staged: States = SmallVec::with_capacity(quotas.len());
    let mut retry_after: Option<Duration> = None;
    for (state, quota) in states.iter().zip(quotas) {
        match stage(*state, quota, now) {
            Ok(next) => staged.push(next),
            Err(wait) => retry_after = retry_after.max(Some(wait)),
        }
    }
    if retry_after.is_none() {
        states.copy_from_slice(&staged);
    }
    let readings = states
        .iter()
        .zip(quotas)
        .map(|(state, quota)| read(*state, quota, now))
        .collect();
    RateDecision {
        retry_after,
        readings,
    }
}

/// What one window's state becomes if it admits, or how long to wait until it would.
fn stage(state: u64, quota: &Quota, now: u64) -> Result<u64, Duration> {
    let rule = governor::Quota::with_period(quota.interval())
        .map(|rule| rule.allow_burst(quota.burst_nonzero()))
        .ok_or(quota.period())?;
    let stage = Stage {
        state: Some(state).filter(|state| *state > now),
        next: Cell::new(state),
    };
    let limiter = Gcra::<Unkeyed, Stage, StillClock, NoOpMiddleware<Tick>>::new(
        rule,
        stage,
        StillClock {
            next: Cell::new(Tick(0)),
            now: Tick(now),
        },
    );
    match limiter.check_key_n(&Unkeyed, NonZeroU32::MIN) {
        Ok(Ok(())) => Ok(limiter.into_state_store().next.get()),
        Ok(Err(refusal)) => Err(wait(&refusal, now)),
        Err(_) => Err(quota.period()),
    }
}

fn wait(refusal: &NotUntil<Tick>, now: u64) -> Duration {
    refusal
        .wait_time_from(Tick(now))
        .max(Duration::from_nanos(1))
}

fn read(state: u64, quota: &Quota, now: u64) -> WindowReading {
    let interval = u64::try_from(quota.interval().as_nanos()).unwrap_or(u64::MAX);
    let owed = state.saturating_sub(now);
    let burst = interval.saturating_mul(u64::from(quota.burst_size()));
    let remaining = burst
        .saturating_sub(owed)
        .checked_div(interval)
        .unwrap_or(0);
    WindowReading {
        remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
        reset: Duration::from_nanos(owed),
    }
}

/// A moment, in nanoseconds of the clock's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tick(u64);

impl std::ops::Add<Nanos> for Tick {
    type Output = Self;

    fn add(self, later: Nanos) -> Self {
        Self(self.0.saturating_add(later.as_u64()))
    }
}

impl Reference for Tick {
    fn duration_since(&self, earlier: Self) -> Nanos {
        Nanos::new(self.0.saturating_sub(earlier.0))
    }

    fn saturating_sub(&self, by: Nanos) -> Self {
        Self(self.0.saturating_sub(by.as_u64()))
    }
}

/// Stands still for the length of a decision. Its first reading is 0, which governor takes for the
/// beginning that states count from.
#[derive(Clone, Debug)]
struct StillClock {
    next: Cell<Tick>,
    now: Tick,
}

impl GovernorClock for StillClock {
    type Instant = Tick;

    fn now(&self) -> Tick {
        self.next.replace(self.now)
    }
}

/// One window's state: read once, and the next one noted instead of written.
struct Stage {
    state: Option<u64>,
    next: Cell<u64>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Unkeyed;

impl StateStore for Stage {
    type Key = Unkeyed;

    fn measure_and_replace<T, F, E>(&self, _: &Unkeyed, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, next) = measure(self.state.map(Nanos::new))?;
        self.next.set(next.as_u64());
        Ok(outcome)
    }
}

/// The keys of the maps are hashes already.
#[derive(Debug, Default)]
struct HashedAlready(u64);

impl Hasher for HashedAlready {
    fn write(&mut self, _: &[u8]) {}

    fn write_u128(&mut self, hash: u128) {
        let [a, b, c, d, e, f, g, h, ..] = hash.to_le_bytes();
        self.0 = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl fmt::Debug for MemoryRateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRateLimiter")
            .field("quotas", &self.quotas)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers in tests are small")]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::clock::ManualClock;

    fn limiter(quotas: &[Quota], capacity: usize) -> (MemoryRateLimiter, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        clock.advance(Duration::from_secs(1));
        (
            MemoryRateLimiter::new(quotas, capacity, {
                let clock: Arc<dyn Clock> = clock.clone();
                clock
            }),
            clock,
        )
    }

    fn admits(limiter: &MemoryRateLimiter, key: &str) -> bool {
        limiter.take(key).retry_after.is_none()
    }

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let (limiter, clock) = limiter(&[Quota::per_minute(60)], 10);
        assert_eq!((0..100).filter(|_| admits(&limiter, "a")).count(), 60);
        let refused = limiter.take("a");
        assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
        assert_eq!(
            refused.readings[0],
            WindowReading {
                remaining: 0,
                reset: Duration::from_secs(60)
            }
        );
        clock.advance(Duration::from_secs(1));
        assert!(admits(&limiter, "a") && !admits(&limiter, "a"));
        assert!(admits(&limiter, "b"), "keys don't share");
    }

    #[test]
    fn a_refused_request_consumes_nothing_from_any_window() {
        let (limiter, clock) = limiter(&[Quota::per_second(1), Quota::per_minute(3)], 10);
        assert!(admits(&limiter, "a"));
        for _ in 0..50 {
            let refused = limiter.take("a");
            assert!(refused.retry_after.is_some());
            assert_eq!(refused.readings[1].remaining, 2);
        }
        clock.advance(Duration::from_secs(1));
        assert!(admits(&limiter, "a"));
    }

    #[test]
    fn threads_never_pass_more_than_the_limit() {
        let (limiter, _) = limiter(&[Quota::per_minute(100), Quota::per_hour(5_000)], 10);
        let admitted: usize = std::thread::scope(|scope| {
            let worker = || (0..200).filter(|_| admits(&limiter, "a")).count();
            let workers: Vec<_> = (0..16).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum()
        });
        assert_eq!(admitted, 100);
    }

    #[test]
    fn a_flood_of_new_keys_stays_bounded_and_resets_nobody() {
        let (limiter, clock) = limiter(&[Quota::per_hour(2)], 640);
        assert!(admits(&limiter, "victim") && admits(&limiter, "victim"));
        let admitted = (0..100_000)
            .filter(|i| admits(&limiter, &format!("key-{i}")))
            .count();
        assert!(limiter.len() <= 640 + SHARDS);
        assert!(admitted <= 2 * (640 + SHARDS));
        assert!(!admits(&limiter, "victim"));
        clock.advance(Duration::from_secs(7_200));
        assert!(admits(&limiter, "victim"));
        for i in 0..1_000 {
            let _ = admits(&limiter, &format!("later-{i}"));
        }
        clock.advance(Duration::from_secs(7_200));
        for i in 0..128 {
            let _ = admits(&limiter, &format!("last-{i}"));
        }
        assert!(
            limiter.len() < 320,
            "idle keys are forgotten: {}",
            limiter.len()
        );
    }

    proptest! {
        /// Against a list of admitted times: N at once, then one more each interval, never more, never fewer.
        #[test]
        fn it_admits_exactly_what_the_rule_says(
            limit in 1_u32..6,
            waits in prop::collection::vec(0_u64..40, 1..80),
        ) {
            let quota = Quota::per(Duration::from_millis(u64::from(limit) * 10), limit);
            let (limiter, clock) = limiter(&[quota], 10);
            let (mut now_ms, mut bucket) = (0_u64, VecDeque::<u64>::new());
            for wait in waits {
                clock.advance(Duration::from_millis(wait));
                now_ms += wait;
                // Each admitted request occupies the bucket until its own interval of 10 ms has drained.
                while bucket.front().is_some_and(|drained| *drained <= now_ms) {
                    bucket.pop_front();
                }
                let expected = bucket.len() < usize::try_from(limit).unwrap();
                prop_assert_eq!(admits(&limiter, "a"), expected);
                if expected {
                    let begin = bucket.back().copied().unwrap_or(now_ms).max(now_ms);
                    bucket.push_back(begin + 10);
                }
            }
        }
    }
}
