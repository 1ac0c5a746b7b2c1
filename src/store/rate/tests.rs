//! Processes that share a store which never fails, on a clock that is moved by hand, compared with
//! a model that knows what each window has been debited.

#![expect(clippy::arithmetic_side_effects, reason = "numbers in tests are small")]

mod answers;
mod loss;

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;

use super::{
    Correction, Degraded, RateDecision, RateKey, RateOutcome, RateStore, Readings, RemoteRateStore,
    RemoteSettings, Resilient,
};
use crate::{
    domain::{
        clock::{Clock, ManualClock},
        quota::{CalendarPeriod, Quota, Quotas},
    },
    store::{MemoryRateLimiter, StoreError, StoreErrorKind, StoreFuture},
};

/// The script's rules, implemented by the in-memory engine, until it fails.
#[derive(Clone, Debug)]
struct Remote(Arc<MemoryRateLimiter>, Arc<AtomicBool>, Arc<Fate>);

/// Other faults of a store.
#[derive(Debug, Default)]
struct Fate {
    /// It answers, but has no room for anything new.
    is_full: AtomicBool,
    /// Requests for units ahead never return.
    hangs_leases: AtomicBool,
    /// It delays its answers until it is notified.
    is_slow: AtomicBool,
    tell: tokio::sync::Notify,
    leases: AtomicU32,
    peeks: AtomicU32,
}

impl Remote {
    fn is_gone(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }

    fn refuses_to_write(&self) -> bool {
        self.2.is_full.load(Ordering::Relaxed)
    }

    fn answer<T: Send + Unpin + 'static>(&self, answer: StoreFuture<T>) -> StoreFuture<T> {
        if self.is_gone() {
            let gone = StoreError::new(StoreErrorKind::Unavailable, "gone");
            return StoreFuture::ready(Err(gone));
        }
        if self.2.is_slow.load(Ordering::Relaxed) {
            let fate = Arc::clone(&self.2);
            return StoreFuture::new(async move {
                fate.tell.notified().await;
                answer.await
            });
        }
        answer
    }
}

impl RateStore for Remote {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        let writes = cost > 0 && MemoryRateLimiter::peek(&self.0, key, quotas).remaining() >= cost;
        if writes && self.refuses_to_write() {
            return StoreFuture::ready(Err(StoreError::internal("no room")));
        }
        self.answer(RateStore::take(&self.0, key, quotas, cost))
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()> {
        self.answer(RateStore::correct(&self.0, key, quotas, correction))
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        self.2.peeks.fetch_add(1, Ordering::Relaxed);
        self.answer(RateStore::peek(&self.0, key, quotas))
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        self.answer(RateStore::reset(&self.0, key))
    }
}

impl RemoteRateStore for Remote {
    fn lease(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
        units: u32,
    ) -> StoreFuture<(RateDecision, u32)> {
        self.2.leases.fetch_add(1, Ordering::Relaxed);
        if self.2.hangs_leases.load(Ordering::Relaxed) {
            return StoreFuture::new(std::future::pending());
        }
        let limiter: &MemoryRateLimiter = &self.0;
        let plenty = units > cost && limiter.peek(key, quotas).remaining() >= 2 * units;
        let taken = if plenty { units } else { cost };
        let decision = limiter.take(key, quotas, taken);
        let taken = if decision.is_admitted() { taken } else { 0 };
        self.answer(StoreFuture::ready(Ok((decision, taken))))
    }

    fn correct_and_read(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        correction: Correction,
    ) -> StoreFuture<Readings> {
        if !self.is_gone() {
            drop(RateStore::correct(&self.0, key, quotas, correction));
        }
        self.peek(key, quotas)
    }

    fn revive(&self) -> StoreFuture<()> {
        self.answer(StoreFuture::ready(Ok(())))
    }
}

fn processes(count: usize, lease: u32) -> (Vec<Resilient<Remote>>, Arc<ManualClock>) {
    let (processes, clock, _) = with_fate(count, lease, Degraded::closed());
    (processes, clock)
}

/// Processes, their clock, and the switch that makes their store fail.
fn with_fate(
    count: usize,
    lease: u32,
    degraded: Degraded,
) -> (Vec<Resilient<Remote>>, Arc<ManualClock>, Arc<AtomicBool>) {
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1));
    let shared: Arc<dyn Clock> = clock.clone();
    let limiter = MemoryRateLimiter::new(10_000, Arc::clone(&shared));
    let remote = Remote(Arc::new(limiter), Arc::default(), Arc::default());
    let fate = Arc::clone(&remote.1);
    let settings = RemoteSettings {
        deadline: Duration::from_secs(1),
        degraded,
        lease,
        capacity: 10_000,
        clock: shared,
    };
    let process = || Resilient::new(remote.clone(), settings.clone());
    let processes = std::iter::repeat_with(process).take(count).collect();
    (processes, clock, fate)
}

fn now<T>(answer: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build().unwrap();
    runtime.block_on(answer)
}

const INTERVAL_MS: u64 = 10;

/// A bucket: each unit occupies it until its own interval has drained.
#[derive(Default)]
struct Bucket(VecDeque<u64>);

impl Bucket {
    fn held(&mut self, now_ms: u64) -> usize {
        while self.0.front().is_some_and(|drained| *drained <= now_ms) {
            self.0.pop_front();
        }
        self.0.len()
    }

    fn add(&mut self, units: u32, now_ms: u64) {
        for _ in 0..units {
            let begin = self.0.back().copied().unwrap_or(now_ms).max(now_ms);
            self.0.push_back(begin + INTERVAL_MS);
        }
    }
}

/// Units debited for leases: how many, and until when they can be used.
#[derive(Default)]
struct InHand(VecDeque<(u32, u64)>);

impl InHand {
    fn left(&mut self, now_ms: u64) -> u32 {
        self.0.retain(|(_, until)| now_ms < *until);
        self.0.iter().map(|(units, _)| units).sum()
    }

    fn spend(&mut self, mut cost: u32) {
        for (units, _) in &mut self.0 {
            let by = cost.min(*units);
            (*units, cost) = (*units - by, cost - by);
        }
        assert_eq!(cost, 0, "more than was in hand");
    }

    fn add(&mut self, units: u32, now_ms: u64) {
        self.0.push_back((units, now_ms + 1_000));
    }
}

proptest! {
    /// Whatever is admitted was debited before, by whichever process; what is refused would not
    /// have fitted beside what was debited. So leases lose at most what they didn't use.
    #[test]
    fn leases_admit_no_more_than_was_debited_and_refuse_only_what_does_not_fit(
        limit in 1_u32..60,
        lease in 2_u32..9,
        steps in prop::collection::vec((0_usize..3, 0_u64..300, 1_u32..9), 1..120),
    ) {
        let (processes, clock) = processes(3, lease);
        let period = Duration::from_millis(u64::from(limit) * INTERVAL_MS);
        let quotas = Quotas::from(Quota::per(period, limit));
        let key = RateKey::new(&"test".into(), b"a");
        let (mut bucket, mut now_ms) = (Bucket::default(), 0);
        let mut in_hand = [(); 3].map(|()| InHand::default());
        let room = usize::try_from(limit).unwrap();
        for (process, wait, cost) in steps {
            clock.advance(Duration::from_millis(wait));
            now_ms += wait;
            let held = bucket.held(now_ms);
            let cost = cost.min(lease);
            let (in_hand, cost_units) = (&mut in_hand[process], usize::try_from(cost).unwrap());
            let held_ahead = in_hand.left(now_ms);
            let before = processes[process].statistics();
            let decision = now(processes[process].take(&key, &quotas, cost)).unwrap();
            let asked = processes[process].statistics().round_trips > before.round_trips;
            match decision.outcome {
                RateOutcome::Admitted if !asked => {
                    prop_assert!(held_ahead >= cost, "{held_ahead} in hand");
                    in_hand.spend(cost);
                }
                RateOutcome::Admitted => {
                    prop_assert!(held_ahead < cost, "{held_ahead} in hand");
                    prop_assert!(held + cost_units <= room);
                    let plenty = lease > cost && room - held >= usize::try_from(2 * lease).unwrap();
                    bucket.add(if plenty { lease } else { cost }, now_ms);
                    if plenty {
                        in_hand.add(lease - cost, now_ms);
                    }
                }
                RateOutcome::Refused(_) => {
                    prop_assert!(held + cost_units > room, "{held} held");
                    prop_assert!(held_ahead < cost, "{held_ahead} in hand");
                }
                RateOutcome::TooCostly => prop_assert!(cost > limit),
            }
        }
    }

    /// One process or several, without leases: remembering refusals changes no decision.
    #[test]
    fn several_processes_decide_as_one_would(
        limit in 1_u32..6,
        steps in prop::collection::vec((0_usize..3, 0_u64..40, 1_u32..4), 1..120),
    ) {
        let (processes, clock) = processes(3, 0);
        let period = Duration::from_millis(u64::from(limit) * INTERVAL_MS);
        let quotas = Quotas::from(Quota::per(period, limit));
        let key = RateKey::new(&"test".into(), b"a");
        let (mut bucket, mut now_ms) = (Bucket::default(), 0);
        for (process, wait, cost) in steps {
            clock.advance(Duration::from_millis(wait));
            now_ms += wait;
            let units = usize::try_from(cost).unwrap();
            let fits = bucket.held(now_ms) + units <= usize::try_from(limit).unwrap();
            let decision = now(processes[process].take(&key, &quotas, cost)).unwrap();
            prop_assert_eq!(decision.is_admitted(), fits);
            if fits {
                bucket.add(cost, now_ms);
            }
        }
    }
}

#[test]
fn what_was_decided_is_counted_once_wherever_it_was() {
    let (processes, clock) = processes(1, 4);
    let process = &processes[0];
    let quotas = Quotas::from(Quota::per_hour(10));
    let key = RateKey::new(&"test".into(), b"a");
    let take = || now(process.take(&key, &quotas, 1)).unwrap().is_admitted();
    assert_eq!((0..30).filter(|_| take()).count(), 10);
    let statistics = process.statistics();
    assert_eq!((statistics.admitted, statistics.refused), (10, 20));
    assert_eq!(statistics.admitted_from_lease, 3);
    assert_eq!(statistics.refused_from_memory, 19);
    assert_eq!(statistics.round_trips, 8);
    assert_eq!((statistics.losses, statistics.is_degraded), (0, false));

    assert_eq!(now(process.peek(&key, &quotas)).unwrap().remaining(), 0);
    now(process.reset(&key)).unwrap();
    assert_eq!(now(process.peek(&key, &quotas)).unwrap().remaining(), 10);
    assert!(take(), "and no refusal is remembered");
    clock.advance(Duration::from_secs(1));
    assert!(take());
}

/// A key that one process serves all the time has its part of what is left when the store fails,
/// and is not in debt.
#[test]
fn a_busy_key_goes_on_with_its_part_of_what_is_left() {
    let (processes, clock, fate) = with_fate(2, 0, Degraded::default());
    let process = &processes[0];
    let quotas = Quotas::from([Quota::per_minute(600), Quota::per_second(50)]);
    let key = RateKey::new(&"test".into(), b"a");
    let take = || now(process.take(&key, &quotas, 1)).unwrap();
    for _ in 0..36_000 {
        clock.advance(Duration::from_millis(100));
        assert!(take().is_admitted(), "an hour at the full rate");
    }
    while take().is_admitted() {}
    clock.advance(Duration::from_secs(1));
    assert!((0..50).all(|_| take().is_admitted()) && !take().is_admitted());
    fate.store(true, Ordering::Relaxed);
    clock.advance(Duration::from_secs(1));
    let admitted = (0..600).filter(|_| take().is_admitted()).count();
    assert_eq!(admitted, 25, "half of a second's, and not more");
    assert!(process.statistics().is_degraded);
    clock.advance(Duration::from_secs(60));
    let admitted = (0..600).filter(|_| take().is_admitted()).count();
    assert_eq!(admitted, 25);
}

/// What fits the quota is not refused forever just because a process has only a share of it; and no
/// process takes what all have together.
#[test]
fn what_fits_the_whole_and_no_share_comes_again_when_the_store_is_back() {
    let three = NonZeroU32::new(3).unwrap();
    let (processes, clock, fate) = with_fate(1, 0, Degraded::local(three));
    fate.store(true, Ordering::Relaxed);
    let process = &processes[0];
    let take = |name: &[u8], quotas: &Quotas, cost| {
        let key = RateKey::new(&"test".into(), name);
        now(process.take(&key, quotas, cost)).unwrap().outcome
    };
    let later = RateOutcome::Refused(Duration::from_secs(1));
    for (name, quota) in [
        (b"a", Quota::per_minute(10_000)),
        (b"b", Quota::per_minute(10_000).strict()),
    ] {
        let quotas = Quotas::from(quota);
        assert_eq!(take(name, &quotas, 10_001), RateOutcome::TooCostly);
        assert_eq!(take(name, &quotas, 4_000), later);
        clock.advance(Duration::from_secs(1));
        assert_eq!(take(name, &quotas, 4_000), later);
        let of_share = take(name, &quotas, 3_334);
        assert_eq!(of_share, RateOutcome::Admitted, "nothing was taken of it");
        assert!(matches!(take(name, &quotas, 1), RateOutcome::Refused(_)));
    }
}
