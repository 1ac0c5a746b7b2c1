//! A store that answers, but not as it should.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use super::*;

const LEASE: u32 = 64;

fn taken(
    process: &Resilient<Remote>,
    name: &[u8],
    quotas: &Quotas,
    cost: u32,
) -> Result<RateDecision, StoreError> {
    now(process.take(&RateKey::new(&"test".into(), name), quotas, cost))
}

fn correct(process: &Resilient<Remote>, quotas: &Quotas, taken: &RateDecision, units: i64) {
    let correction = Correction {
        units,
        taken_at: taken.taken_at,
        readings: taken.readings.clone(),
    };
    let key = RateKey::new(&"test".into(), b"a");
    now(process.correct(&key, quotas, correction)).unwrap();
}

/// A server whose memory or disk is full answers only what needs no writing; that lifts no limit.
#[test]
fn a_store_that_only_reads_lifts_no_limit() {
    let (processes, clock, _) = with_fate(1, 0, Degraded::default());
    let process = &processes[0];
    let quotas = Quotas::from(Quota::per_hour(20));
    let take = |name: &[u8], cost| taken(process, name, &quotas, cost).unwrap().is_admitted();
    let full = &process.remote().2.is_full;
    assert!((0..20).all(|_| take(b"full", 1)) && take(b"a", 4));
    full.store(true, Ordering::Relaxed);
    let key = RateKey::new(&"test".into(), b"a");
    let mut admitted = 0;
    for _ in 0..40 {
        clock.advance(Duration::from_secs(1));
        admitted += u32::from(take(b"a", 1));
        assert!(take(b"a", 0), "nothing is always there");
        assert!(!take(b"full", 1) && !take(b"a", 21));
        assert!(now(process.peek(&key, &quotas)).is_ok());
    }
    assert_eq!(admitted, 8, "half of what was left");
    assert!(
        process.statistics().losses > 0,
        "and answers to looks don't hide it"
    );
}

/// Usage beyond an estimate that the store never received is reported to it once it is back, and
/// nothing is given back.
#[test]
fn what_was_used_is_told_a_store_that_is_back() {
    let (processes, _, _) = with_fate(1, 0, Degraded::default());
    let process = &processes[0];
    let quotas = Quotas::from([
        Quota::per_hour(100),
        Quota::per_hour(200).strict(),
        Quota::calendar(CalendarPeriod::Day, 300),
    ]);
    let full = &process.remote().2.is_full;
    full.store(true, Ordering::Relaxed);
    let estimate = taken(process, b"a", &quotas, 10).unwrap();
    assert!(estimate.is_admitted() && estimate.taken_at.is_local);
    full.store(false, Ordering::Relaxed);
    let left = || {
        let key = RateKey::new(&"test".into(), b"a");
        let left = MemoryRateLimiter::peek(&process.remote().0, &key, &quotas);
        left.as_slice()
            .iter()
            .map(|left| left.remaining)
            .collect::<Vec<_>>()
    };
    assert_eq!(left(), [100, 200, 300]);
    correct(process, &quotas, &estimate, 30);
    assert_eq!(left(), [70, 170, 270]);
    correct(process, &quotas, &estimate, -5);
    assert_eq!(left(), [70, 170, 270], "it has none of that");
}

/// One caller takes units ahead and gets no answer. That others wait for it says nothing about the
/// store: soon they ask for their own, and if there was too little before they don't wait.
#[test]
fn nobody_waits_long_for_another_to_take_units_ahead() {
    for is_scarce in [false, true] {
        let (processes, clock, _) = with_fate(1, LEASE, Degraded::closed());
        let process = &processes[0];
        let quotas = Quotas::from(Quota::per_minute(600));
        let fate = &process.remote().2;
        if is_scarce {
            assert!(taken(process, b"a", &quotas, 500).unwrap().is_admitted());
            clock.advance(Duration::from_secs(60));
        }
        fate.hangs_leases.store(true, Ordering::Relaxed);
        fate.leases.store(0, Ordering::Relaxed);
        now(async {
            let key = RateKey::new(&"test".into(), b"a");
            let mut leader = pin!(process.take(&key, &quotas, 1));
            let mut context = Context::from_waker(Waker::noop());
            assert!(leader.as_mut().poll(&mut context).is_pending());
            let others: Vec<_> = (0..5).map(|_| process.take(&key, &quotas, 1)).collect();
            for mut other in others.into_iter().map(Box::pin) {
                if is_scarce {
                    let answer = other.as_mut().poll(&mut context);
                    assert!(matches!(answer, Poll::Ready(Ok(taken)) if taken.is_admitted()));
                } else {
                    assert!(other.await.unwrap().is_admitted());
                }
            }
        });
        assert_eq!(fate.leases.load(Ordering::Relaxed), 1);
        let statistics = process.statistics();
        assert_eq!((statistics.failures, statistics.losses), (0, 0));
    }
}

/// What is used after midnight can't have been counted before it.
#[test]
fn no_units_of_days_are_taken_ahead() {
    let (processes, clock, _) = with_fate(1, LEASE, Degraded::closed());
    let process = &processes[0];
    let quotas = Quotas::from(Quota::calendar(CalendarPeriod::Day, 1_000));
    for _ in 0..10 {
        clock.advance(Duration::from_millis(1));
        assert!(taken(process, b"a", &quotas, 1).unwrap().is_admitted());
    }
    assert_eq!(process.statistics().round_trips, 10);
    let left = now(process.peek(&RateKey::new(&"test".into(), b"a"), &quotas));
    assert_eq!(left.unwrap().remaining(), 990);
}

/// A healthy store takes up no memory here: nothing is kept of a key that is full again.
#[test]
fn what_is_whole_again_takes_no_room() {
    let (processes, clock, _) = with_fate(1, 0, Degraded::default());
    let process = &processes[0];
    let quotas = Quotas::from(Quota::per_second(10));
    assert!(taken(process, b"a", &quotas, 5).unwrap().is_admitted());
    assert_eq!(process.statistics().local_keys, 1);
    clock.advance(Duration::from_secs(1));
    assert!(taken(process, b"a", &quotas, 0).unwrap().is_admitted());
    assert_eq!(process.statistics().local_keys, 0);
}

/// Units that were debited are usable, whatever became of the request that asked for them.
#[tokio::test(start_paused = true)]
async fn who_hangs_up_or_waits_too_long_costs_no_units_taken_ahead() {
    for hangs_up in [true, false] {
        let (processes, _, _) = with_fate(1, LEASE, Degraded::closed());
        let (process, quotas) = (&processes[0], Quotas::from(Quota::per_minute(600)));
        let key = RateKey::new(&"test".into(), b"a");
        let fate = &process.remote().2;
        fate.is_slow.store(true, Ordering::Relaxed);
        let mut first = Box::pin(process.take(&key, &quotas, 1));
        if hangs_up {
            let mut context = Context::from_waker(Waker::noop());
            assert!(first.as_mut().poll(&mut context).is_pending());
            drop(first);
        } else {
            assert!(first.await.is_err(), "after the deadline");
        }
        fate.tell.notify_one();
        // Another caller asks for its own until the turn is over.
        tokio::time::sleep(Duration::from_millis(100)).await;
        for unit in 0..LEASE {
            let taken = process.take(&key, &quotas, 1).into_ready();
            assert!(
                matches!(taken, Ok(Ok(taken)) if taken.is_admitted()),
                "{unit}"
            );
        }
        assert_eq!(process.statistics().admitted_from_lease, u64::from(LEASE));
        assert_eq!(fate.leases.load(Ordering::Relaxed), 1);
    }
}

/// A correction in progress while somebody is refused, and a refusal in progress while something is
/// corrected.
#[tokio::test]
async fn a_refusal_of_before_is_not_remembered_after_a_correction() {
    for refused_first in [true, false] {
        let (processes, _, _) = with_fate(1, 0, Degraded::closed());
        let (process, quotas) = (&processes[0], Quotas::from(Quota::per_minute(10)));
        let key = RateKey::new(&"test".into(), b"a");
        let first = process.take(&key, &quotas, 10).await.unwrap();
        let correction = Correction {
            units: -10,
            taken_at: first.taken_at,
            readings: first.readings,
        };
        let fate = &process.remote().2;
        let late = process.correct(&key, &quotas, correction);
        if refused_first {
            assert!(!process.take(&key, &quotas, 1).await.unwrap().is_admitted());
            late.await.unwrap();
        } else {
            fate.is_slow.store(true, Ordering::Relaxed);
            let mut refused = Box::pin(process.take(&key, &quotas, 1));
            let mut context = Context::from_waker(Waker::noop());
            assert!(refused.as_mut().poll(&mut context).is_pending());
            fate.is_slow.store(false, Ordering::Relaxed);
            late.await.unwrap();
            fate.tell.notify_one();
            assert!(!refused.await.unwrap().is_admitted());
        }
        assert!(process.take(&key, &quotas, 1).await.unwrap().is_admitted());
        assert_eq!(process.statistics().refused_from_memory, 0);
    }
}

/// A caller that peeks before each attempt, as a limit on failed attempts does, asks once while
/// nothing is left.
#[test]
fn a_window_that_is_used_up_is_not_looked_at_again_and_again() {
    let minute = Quota::per_minute(10);
    for (quota, holds) in [
        // The next one comes after six seconds; elsewhere it may have been given back earlier.
        (minute.clone(), Duration::from_secs(1)),
        (Quota::per_second(10), Duration::from_millis(100)),
        // A slice may end before that.
        (
            Quota::per_second(10).strict(),
            Quota::per_second(10).slice(),
        ),
    ] {
        let (processes, clock, _) = with_fate(1, 0, Degraded::closed());
        let (process, quotas) = (&processes[0], Quotas::from(quota));
        let key = RateKey::new(&"test".into(), b"a");
        let fate = &process.remote().2;
        let look = || now(process.peek(&key, &quotas)).unwrap().remaining();
        let asked = || fate.peeks.swap(0, Ordering::Relaxed);
        assert_eq!((look(), look(), asked()), (10, 10, 2));
        now(process.correct(&key, &quotas, Correction::used(10))).unwrap();
        let _ = asked();
        assert!((0..50).all(|_| look() == 0));
        assert_eq!(asked(), 1, "{quotas:?}");
        clock.advance(holds - Duration::from_nanos(1));
        assert_eq!((look(), asked()), (0, 0), "{quotas:?}");
        clock.advance(Duration::from_nanos(1));
        let _ = look();
        assert_eq!(asked(), 1, "{quotas:?}");
        // Other limits, and a correction.
        let others = minute.clone().named("others").into();
        assert_eq!(now(process.peek(&key, &others)).unwrap().remaining(), 10);
        now(process.correct(&key, &quotas, Correction::used(9))).unwrap();
        let _ = asked();
        assert_eq!((look(), asked()), (0, 1), "{quotas:?}");
    }
}

/// An operator who looks at a key takes nothing from it.
#[test]
fn what_is_leased_is_admitted_whoever_looks() {
    let (processes, _, _) = with_fate(2, 9, Degraded::closed());
    let (process, other) = (&processes[0], &processes[1]);
    let quotas = Quotas::from(Quota::per_minute(20));
    let key = RateKey::new(&"test".into(), b"a");
    let take = |process: &Resilient<Remote>, cost| {
        let decision = now(process.take(&key, &quotas, cost)).unwrap();
        decision.outcome == RateOutcome::Admitted
    };
    assert!(take(process, 1), "nine are leased");
    while take(other, 1) {}
    assert_eq!(now(process.peek(&key, &quotas)).unwrap().remaining(), 0);
    assert!(take(process, 1), "of the eight that are left");
}
