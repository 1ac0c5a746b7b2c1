//! Time is moved by hand, and admissions are compared with models that are too simple to be wrong.

#![expect(clippy::arithmetic_side_effects, reason = "numbers in tests are small")]

mod dormant;
mod given_back;
mod share;
mod turns;

use std::{collections::VecDeque, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    domain::{
        clock::ManualClock,
        quota::{CalendarPeriod, Quota, Rule, Zone},
    },
    store::{RateOutcome, WindowReading},
};

fn limiter(capacity: usize) -> (MemoryRateLimiter, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1));
    let shared: Arc<dyn Clock> = clock.clone();
    (MemoryRateLimiter::new(capacity, shared), clock)
}

fn admits(limiter: &MemoryRateLimiter, key: &str, quotas: &Quotas) -> bool {
    limiter.take(key, quotas, 1).is_admitted()
}

/// A correction of that take.
fn correction(units: i64, taken: &RateDecision) -> Correction {
    Correction {
        units,
        taken_at: taken.taken_at,
        readings: taken.readings.clone(),
    }
}

#[test]
fn a_burst_and_then_one_at_a_time() {
    let (limiter, clock) = limiter(10_000);
    let quotas = Quota::per_minute(60).into();
    assert_eq!(
        (0..100).filter(|_| admits(&limiter, "a", &quotas)).count(),
        60
    );
    let refused = limiter.take("a", &quotas, 1);
    assert_eq!(
        refused.outcome,
        RateOutcome::Refused(Duration::from_secs(1))
    );
    let empty = WindowReading {
        remaining: 0,
        reset: Duration::from_secs(60),
    };
    assert_eq!(refused.readings.as_slice(), [empty]);
    clock.advance(Duration::from_secs(1));
    assert!(admits(&limiter, "a", &quotas) && !admits(&limiter, "a", &quotas));
    assert!(admits(&limiter, "b", &quotas), "keys don't share");
}

#[test]
fn a_refused_request_consumes_nothing_from_any_window() {
    let (limiter, clock) = limiter(10_000);
    let quotas = Quotas::from([
        Quota::per_second(1),
        Quota::per_minute(3),
        Quota::per_hour(5).strict(),
        Quota::calendar(CalendarPeriod::Day, 9),
    ]);
    assert!(admits(&limiter, "a", &quotas));
    for _ in 0..50 {
        let refused = limiter.take("a", &quotas, 1);
        assert!(!refused.is_admitted());
        let left: Vec<_> = refused
            .readings
            .as_slice()
            .iter()
            .map(|r| r.remaining)
            .collect();
        assert_eq!(left, [0, 2, 4, 8]);
    }
    clock.advance(Duration::from_secs(1));
    assert!(admits(&limiter, "a", &quotas));
}

#[test]
fn a_cost_is_taken_whole_or_not_at_all() {
    let (limiter, clock) = limiter(10_000);
    let quotas = Quotas::from([Quota::per_minute(60), Quota::per_hour(600).strict()]);
    assert!(limiter.take("a", &quotas, 40).is_admitted());
    let refused = limiter.take("a", &quotas, 40);
    assert_eq!(
        refused.outcome,
        RateOutcome::Refused(Duration::from_secs(20))
    );
    assert_eq!(refused.readings.remaining(), 20);
    assert!(limiter.take("a", &quotas, 20).is_admitted());
    for cost in [61, 601, u32::MAX] {
        let outcome = limiter.take("a", &quotas, cost).outcome;
        assert_eq!(outcome, RateOutcome::TooCostly, "{cost}");
    }
    let free = limiter.take("a", &quotas, 0);
    assert!(free.is_admitted(), "what costs nothing needs nothing");
    clock.advance(Duration::from_secs(60));
    assert_eq!(limiter.peek("a", &quotas).remaining(), 60);
}

#[test]
fn the_largest_numbers_overflow_nothing() {
    let (limiter, clock) = limiter(10_000);
    let most = Quota::per(Duration::MAX, 1).burst(u32::MAX);
    let quotas = Quotas::from([
        most,
        Quota::per_second(u32::MAX),
        Quota::per_second(u32::MAX).strict(),
    ]);
    for cost in [1, 20, u32::MAX] {
        let _ = limiter.take("a", &quotas, cost);
        clock.advance(Duration::from_secs(40_000_000_000));
    }
    let correct = |units| {
        let now = limiter.take("a", &quotas, 0);
        limiter.correct("a", &quotas, &correction(units, &now));
    };
    correct(i64::MAX);
    assert!(!admits(&limiter, "a", &quotas));
    correct(i64::MIN);
    assert!(admits(&limiter, "a", &quotas));
}

#[test]
fn an_estimate_is_corrected_both_ways() {
    let (limiter, clock) = limiter(10_000);
    let quotas = Quotas::from([
        Quota::per_minute(100),
        Quota::per_minute(100).strict(),
        Quota::calendar(CalendarPeriod::Day, 100),
    ]);
    let estimate = limiter.take("a", &quotas, 50);
    let correct = |units| {
        limiter.correct("a", &quotas, &correction(units, &estimate));
        limiter
            .peek("a", &quotas)
            .as_slice()
            .iter()
            .map(|r| r.remaining)
            .collect::<Vec<_>>()
    };
    assert_eq!(correct(-30), [80, 80, 80]);
    assert!(limiter.take("a", &quotas, 0).is_admitted());
    assert_eq!(limiter.statistics().admitted, 2, "what costs nothing too");
    assert_eq!(correct(100), [0, 0, 0], "a window may be overdrawn");
    clock.advance(Duration::from_secs(13));
    assert!(!admits(&limiter, "a", &quotas), "and has to be made good");
    clock.advance(Duration::from_secs(86_400));
    assert_eq!(
        correct(50)[2],
        100,
        "yesterday's call counts in no other day"
    );
}

#[test]
fn what_a_long_answer_used_on_top_is_used_when_it_is_over() {
    let (limiter, clock) = limiter(10_000);
    let quotas = Quota::per_minute(100).strict().into();
    let estimate = limiter.take("a", &quotas, 1);
    clock.advance(Duration::from_secs(600));
    limiter.correct("a", &quotas, &correction(99, &estimate));
    assert_eq!(limiter.peek("a", &quotas).remaining(), 1);
    clock.advance(Duration::from_secs(60));
    limiter.correct("a", &quotas, &correction(-99, &estimate));
    assert_eq!(
        limiter.peek("a", &quotas).remaining(),
        1,
        "it has left the period"
    );
}

#[test]
fn a_strict_window_never_holds_more_than_its_number() {
    let (limiter, clock) = limiter(10_000);
    let quotas = Quota::per_minute(60).strict().into();
    assert_eq!(
        (0..100).filter(|_| admits(&limiter, "a", &quotas)).count(),
        60
    );
    clock.advance(Duration::from_secs(59));
    assert!(!admits(&limiter, "a", &quotas));
    let RateOutcome::Refused(wait) = limiter.take("a", &quotas, 1).outcome else {
        panic!("admitted");
    };
    assert!(
        wait <= Duration::from_millis(1_000 + 60_000 / 16),
        "{wait:?}"
    );
    clock.advance(wait);
    assert_eq!(
        (0..100).filter(|_| admits(&limiter, "a", &quotas)).count(),
        60
    );
}

#[test]
fn a_calendar_day_ends_at_the_zone_s_midnight_and_never_begins_twice() {
    let (limiter, clock) = limiter(10_000);
    let zone = Zone::named("Europe/Amsterdam").unwrap();
    let quotas = Quota::calendar(CalendarPeriod::Day, 3).in_zone(zone).into();
    clock.set("2026-03-28T22:59:00Z".parse().unwrap());
    assert_eq!((0..9).filter(|_| admits(&limiter, "a", &quotas)).count(), 3);
    let refused = limiter.take("a", &quotas, 1);
    assert_eq!(
        refused.outcome,
        RateOutcome::Refused(Duration::from_secs(60))
    );
    clock.set("2026-03-28T23:00:00Z".parse().unwrap());
    assert_eq!((0..9).filter(|_| admits(&limiter, "a", &quotas)).count(), 3);
    clock.set("2026-03-28T22:59:30Z".parse().unwrap());
    assert!(!admits(&limiter, "a", &quotas), "the day before is over");
    // This day has 23 hours.
    clock.set("2026-03-29T21:59:59Z".parse().unwrap());
    assert!(!admits(&limiter, "a", &quotas));
    clock.set("2026-03-29T22:00:00Z".parse().unwrap());
    assert!(admits(&limiter, "a", &quotas));
}

#[test]
fn other_quotas_forget_nothing_that_was_used() {
    let (limiter, _) = limiter(10_000);
    let small = Quotas::from([
        Quota::per_minute(10),
        Quota::calendar(CalendarPeriod::Day, 50),
    ]);
    assert!(limiter.take("a", &small, 8).is_admitted());
    let large = Quotas::from([
        Quota::calendar(CalendarPeriod::Day, 500),
        Quota::per_minute(100),
    ]);
    let left = |quotas| {
        limiter
            .peek("a", quotas)
            .as_slice()
            .iter()
            .map(|r| r.remaining)
            .collect::<Vec<_>>()
    };
    assert_eq!(left(&large), [492, 92]);
    assert!(limiter.take("a", &large, 90).is_admitted());
    assert_eq!(left(&small), [0, 0]);
    assert!(!admits(&limiter, "a", &small));
    limiter.reset("a");
    assert_eq!(left(&small), [10, 50]);
}

#[test]
fn threads_never_pass_more_than_the_limit() {
    let (limiter, _) = limiter(10_000);
    let quotas = Quotas::from([
        Quota::per_minute(100),
        Quota::per_hour(5_000).strict(),
        Quota::calendar(CalendarPeriod::Month, 5_000),
    ]);
    let admitted: usize = std::thread::scope(|scope| {
        let worker = || (0..200).filter(|_| admits(&limiter, "a", &quotas)).count();
        let workers: Vec<_> = (0..16).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum()
    });
    assert_eq!(admitted, 100);
    assert_eq!(limiter.statistics().admitted, 100);
    assert_eq!(limiter.statistics().refused, 3_100);
}

#[test]
fn a_flood_of_new_keys_stays_bounded_and_resets_nobody() {
    let (limiter, clock) = limiter(640);
    let quotas = Quota::per_hour(2).into();
    assert!(admits(&limiter, "victim", &quotas) && admits(&limiter, "victim", &quotas));
    let admitted = (0..100_000)
        .filter(|i| admits(&limiter, &format!("key-{i}"), &quotas))
        .count();
    assert!(limiter.len() <= 640 + SHARDS);
    assert!(admitted <= 2 * (640 + SHARDS));
    assert!(limiter.statistics().crowded_out > 90_000);
    assert!(!admits(&limiter, "victim", &quotas));
    clock.advance(Duration::from_secs(7_200));
    assert!(admits(&limiter, "victim", &quotas));
}

/// One client is enough to reclaim the memory of all others.
#[test]
fn idle_keys_are_forgotten_and_memory_is_given_back() {
    let (limiter, clock) = limiter(1_000_000);
    let quotas = Quotas::from([
        Quota::per_minute(60),
        Quota::calendar(CalendarPeriod::Day, 1_000),
    ]);
    for key in 0..20_000 {
        assert!(limiter.take(&key, &quotas, 1).is_admitted());
    }
    assert_eq!(limiter.len(), 20_000);
    clock.advance(Duration::from_secs(120));
    for _ in 0..SHARDS {
        clock.advance(Duration::from_millis(500));
        let _ = limiter.take("last", &quotas, 1);
    }
    assert_eq!(limiter.len(), 20_001, "the day isn't over");
    clock.advance(Duration::from_secs(86_400));
    for _ in 0..SHARDS {
        clock.advance(Duration::from_millis(500));
        let _ = limiter.take("last", &quotas, 1);
    }
    assert_eq!(limiter.len(), 1);
    let room: usize = limiter
        .shards
        .iter()
        .map(|shard| lock(shard).room_for())
        .sum();
    assert!(room <= SHARDS * 1_000, "{room}");
}

proptest! {
    /// Compared with a list of admitted times: N at once, then one more per interval, never more,
    /// never fewer.
    #[test]
    fn it_admits_exactly_what_the_rule_says(
        limit in 1_u32..6,
        waits in prop::collection::vec((0_u64..40, 1_u32..4), 1..80),
    ) {
        let quotas = Quota::per(Duration::from_millis(u64::from(limit) * 10), limit).into();
        let (limiter, clock) = limiter(10_000);
        let (mut now_ms, mut bucket) = (0_u64, VecDeque::<u64>::new());
        for (wait, cost) in waits {
            clock.advance(Duration::from_millis(wait));
            now_ms += wait;
            // Each admitted unit occupies the bucket until its own interval of 10 ms has drained.
            while bucket.front().is_some_and(|drained| *drained <= now_ms) {
                bucket.pop_front();
            }
            let (room, cost_units) = (usize::try_from(limit).unwrap(), usize::try_from(cost).unwrap());
            let expected = bucket.len() + cost_units <= room;
            prop_assert_eq!(limiter.take("a", &quotas, cost).is_admitted(), expected);
            for _ in 0..if expected { cost } else { 0 } {
                let begin = bucket.back().copied().unwrap_or(now_ms).max(now_ms);
                bucket.push_back(begin + 10);
            }
        }
    }

    /// Compared with a list of admitted times: no rolling period holds more than the limit, a
    /// refused request would not fit a period a sixteenth longer, and waiting as told leads to
    /// admission.
    #[test]
    fn a_strict_quota_is_kept_in_every_rolling_period(
        limit in 1_u32..8,
        waits in prop::collection::vec((0_u64..400, 1_u32..4), 1..120),
    ) {
        let quotas = Quota::per(Duration::from_millis(1_600), limit).strict().into();
        let (limiter, clock) = limiter(10_000);
        let mut admitted = Vec::<Duration>::new();
        for (wait, cost) in waits {
            clock.advance(Duration::from_millis(wait));
            let now = clock.elapsed();
            let within = |millis: u64| {
                let period = Duration::from_millis(millis);
                admitted.iter().filter(|at| **at + period > now).count()
            };
            let room = usize::try_from(limit.saturating_sub(cost)).unwrap();
            match limiter.take("a", &quotas, cost).outcome {
                RateOutcome::Admitted => {
                    prop_assert!(within(1_600) <= room && cost <= limit);
                    admitted.extend((0..cost).map(|_| now));
                }
                RateOutcome::Refused(wait) => {
                    prop_assert!(within(1_700) > room);
                    clock.advance(wait - Duration::from_nanos(1));
                    prop_assert!(!limiter.take("a", &quotas, cost).is_admitted());
                    clock.advance(Duration::from_nanos(1));
                    prop_assert!(limiter.take("a", &quotas, cost).is_admitted());
                    admitted.extend((0..cost).map(|_| clock.elapsed()));
                }
                RateOutcome::TooCostly => prop_assert!(cost > limit),
            }
        }
    }

    /// However the wall clock is moved, no day admits more than its limit, counted by when it
    /// began.
    #[test]
    fn a_clock_that_steps_back_frees_nothing(
        steps in prop::collection::vec(-100_000_i64..100_000, 1..60),
    ) {
        let quotas = Quota::calendar(CalendarPeriod::Day, 3).into();
        let (limiter, clock) = limiter(10_000);
        let (mut latest, mut used) = (i64::MIN, 0);
        for step in steps {
            let now = clock.now().saturating_add(jiff::SignedDuration::from_secs(step)).unwrap();
            clock.set(now);
            let day = now.as_second().div_euclid(86_400);
            if day > latest {
                (latest, used) = (day, 0);
            }
            for _ in 0..2 {
                let admitted = limiter.take("a", &quotas, 1).is_admitted();
                prop_assert_eq!(admitted, used < 3);
                used += i32::from(admitted);
            }
        }
    }
}
