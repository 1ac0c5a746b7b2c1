//! One window whose limits differ from call to call: refusals under some don't stop admissions
//! under others, and usage drains as it would have.

use super::*;
use crate::store::rate::model::{Model, PLANS, Room};

/// A service whose routes have their own limits, called in turn: in how many of `rounds` the first
/// and the second are admitted.
fn by_turns(quotas: [Quota; 2], every: Duration, rounds: u32) -> [u32; 2] {
    let quotas = quotas.map(Quotas::from);
    let (limiter, clock) = limiter(10_000);
    let mut admitted = [0; 2];
    for _ in 0..rounds {
        for (count, quotas) in admitted.iter_mut().zip(&quotas) {
            *count += u32::from(admits(&limiter, "a", quotas));
        }
        clock.advance(every);
    }
    admitted
}

#[test]
fn strict_numbers_in_turn_lock_nobody_out() {
    let strict = [10, 20].map(|limit| Quota::per_minute(limit).strict());
    // Six per minute fit either limit.
    let admitted = by_turns(strict, Duration::from_secs(20), 100);
    assert_eq!(admitted, [100, 100]);
}

/// Moving usage from one quota's slices to another's and back must settle; otherwise it would stay
/// in use for as long as anybody is admitted.
#[test]
fn strict_periods_that_are_no_multiples_in_turn_lock_nobody_out() {
    let strict = [(60, 32), (70, 36)].map(|(secs, limit)| {
        let quota = Quota::per(Duration::from_secs(secs), limit);
        quota.named("window").strict()
    });
    // Twenty-four per minute, and twenty-eight in seventy seconds.
    let admitted = by_turns(strict, Duration::from_secs(5), 400);
    assert_eq!(admitted, [400, 400]);
}

#[test]
fn buckets_in_turn_lock_nobody_out() {
    let buckets = [10, 20].map(Quota::per_minute);
    let (limiter, clock) = limiter(10_000);
    let quotas = buckets.map(Quotas::from);
    assert!(limiter.take("a", &quotas[1], 20).is_admitted());
    let mut admitted = 0;
    for _ in 0..600 {
        clock.advance(Duration::from_secs(1));
        let [first, second] = [0, 1].map(|which| admits(&limiter, "a", &quotas[which]));
        assert!(!first, "the other never leaves it room");
        admitted += u32::from(second);
    }
    assert_eq!(admitted, 200, "one each three seconds, all the time");
}

#[test]
fn rules_in_turn_lock_nobody_out() {
    let rules = [
        Quota::per_minute(10).strict(),
        Quota::per_minute(10),
        Quota::calendar(CalendarPeriod::Day, 10).named("minute"),
    ];
    for (first, second) in [(0, 1), (1, 0)] {
        let pair = [first, second].map(|which: usize| rules[which].clone());
        let [one, other] = by_turns(pair, Duration::from_secs(1), 600);
        // Ten minutes; the strict one holds what it takes over for as long again.
        assert!(one + other >= 60, "{one} and {other}");
    }
    for which in 0..2 {
        let pair = [rules[which].clone(), rules[2].clone()];
        let [one, other] = by_turns(pair, Duration::from_secs(60), 48 * 60);
        assert!(one + other >= 20, "two days: {one} and {other}");
    }
}

/// A reported wait is always right, whatever the window counted by before and whoever else calls
/// meanwhile.
#[test]
fn whoever_waits_as_told_is_admitted_whatever_rule_was_before() {
    let rules = [
        Quota::per_hour(9),
        Quota::per(Duration::from_secs(86_400), 9),
        Quota::per_hour(9).strict(),
        Quota::per(Duration::from_secs(7_200), 9).strict(),
        Quota::calendar(CalendarPeriod::Month, 9),
        Quota::calendar(CalendarPeriod::Day, 9),
    ]
    .map(|quota| Quotas::from(quota.named("window")));
    for before in &rules {
        for after in &rules {
            let (limiter, clock) = limiter(10_000);
            assert!(limiter.take("a", before, 9).is_admitted());
            let RateOutcome::Refused(wait) = limiter.take("a", after, 2).outcome else {
                panic!("{before:?} then {after:?}");
            };
            assert!(limiter.peek("a", after).as_slice()[0].reset >= wait);
            assert!(!limiter.take("a", before, 2).is_admitted());
            clock.advance(wait - Duration::from_nanos(1));
            let refused = limiter.take("a", after, 2).outcome;
            let little = RateOutcome::Refused(Duration::from_nanos(1));
            assert_eq!(refused, little, "{before:?} then {after:?}");
            clock.advance(Duration::from_nanos(1));
            let then = limiter.take("a", after, 2);
            assert!(
                then.is_admitted(),
                "{before:?} then {after:?}: {wait:?} {then:?}"
            );
        }
    }
}

/// Slices of one rule end where those of the other don't, wherever a period begins.
#[test]
fn a_strict_number_holds_after_another_was_used() {
    let short = Quota::per(Duration::from_millis(1_600), 5).strict();
    let long = Quota::per(Duration::from_millis(3_200), 7).strict();
    let [short, long] = [short, long].map(|quota| Quotas::from(quota.named("window")));
    for start in 0..300 {
        let (limiter, clock) = limiter(10_000);
        clock.advance(Duration::from_millis(10_000 + start));
        assert!(limiter.take("a", &short, 3).is_admitted());
        clock.advance(Duration::from_millis(1_599));
        assert!(limiter.take("a", &long, 1).is_admitted());
        assert!(!limiter.take("a", &short, 2).is_admitted(), "{start}");
    }
}

proptest! {
    /// Three windows at once, with costs and plans that change from call to call, while the wall
    /// clock is set.
    #[test]
    fn windows_of_changing_plans_admit_together_what_the_model_says(
        calls in prop::collection::vec(
            (0_i64..500, 0_usize..3, 1_u32..8, prop_oneof![9 => Just(0), 1 => -100_000_i64..100_000]),
            1..150,
        ),
    ) {
        let (limiter, clock) = limiter(10_000);
        let (mut now_ms, mut model) = (0, Model::new());
        for (wait, plan, cost, seconds) in calls {
            clock.advance(Duration::from_millis(wait.unsigned_abs()));
            now_ms += wait;
            let set = jiff::SignedDuration::from_secs(seconds);
            clock.set(clock.now().saturating_add(set).unwrap());
            let plan = &PLANS[plan];
            let moment = (now_ms, clock.now().as_second().div_euclid(86_400));
            let outcome = limiter.take("a", &plan.quotas(), cost).outcome;
            match (outcome, model.room(plan, cost, moment)) {
                (RateOutcome::Admitted, Room::Enough | Room::Either) => {
                    model.admit(plan, cost, moment);
                }
                (RateOutcome::Refused(wait), Room::TooLittle | Room::Either) => {
                    prop_assert!(!wait.is_zero());
                }
                (RateOutcome::TooCostly, Room::Never) => {}
                (outcome, room) => prop_assert!(false, "{:?} and {:?}", outcome, room),
            }
        }
    }

    /// Compared with a fraction: usage drains by the limits of the last take, and each call is
    /// judged by its own.
    #[test]
    fn buckets_in_turn_admit_exactly_what_the_fraction_says(
        calls in prop::collection::vec((0_u64..100, 0_usize..3, 1_u32..4), 1..200),
    ) {
        const WHOLE: u64 = 40;
        let numbers = [(40, 4, 4_u64, 10_u64), (40, 2, 6, 20), (80, 2, 3, 40)];
        let (limiter, clock) = limiter(10_000);
        // In fortieths of a unit, and how many drain in a millisecond.
        let (mut owed, mut rate) = (0_u64, 1);
        for (wait, which, cost) in calls {
            clock.advance(Duration::from_millis(wait));
            owed = owed.saturating_sub(wait * rate);
            let (period, limit, burst, interval) = numbers[which];
            let quota = Quota::per(Duration::from_millis(period), limit);
            let quotas = quota.burst(u32::try_from(burst).unwrap()).into();
            let excess = (owed + u64::from(cost) * WHOLE).saturating_sub(burst * WHOLE);
            match limiter.take("a", &quotas, cost).outcome {
                RateOutcome::Admitted => {
                    prop_assert_eq!(excess, 0);
                    owed += u64::from(cost) * WHOLE;
                    rate = WHOLE / interval;
                }
                RateOutcome::Refused(wait) => {
                    prop_assert!(excess > 0);
                    let exact = Duration::from_millis(excess).checked_div(u32::try_from(rate).unwrap());
                    prop_assert_eq!(Some(wait), exact);
                }
                RateOutcome::TooCostly => prop_assert!(u64::from(cost) > burst),
            }
        }
    }

    /// Compared with a list of admitted times: strict limits used in turn each hold, and refuse
    /// nothing that would fit a period one slice longer.
    #[test]
    fn strict_numbers_in_turn_admit_what_the_list_says(
        calls in prop::collection::vec((0_u64..400, 0_usize..3, 1_u32..4), 1..200),
    ) {
        let numbers = [(1_600_u64, 5_u32), (1_600, 9), (3_200, 7)];
        let (limiter, clock) = limiter(10_000);
        let (mut now_ms, mut admitted) = (1_000_u64, Vec::<u64>::new());
        for (wait, which, cost) in calls {
            clock.advance(Duration::from_millis(wait));
            now_ms += wait;
            let (period, limit) = numbers[which];
            let quotas = Quota::per(Duration::from_millis(period), limit).strict().into();
            let within = |millis: u64| admitted.iter().filter(|at| **at + millis > now_ms).count();
            let room = usize::try_from(limit.saturating_sub(cost)).unwrap();
            if limiter.take("a", &quotas, cost).is_admitted() {
                prop_assert!(within(1_600) <= room);
                admitted.extend((0..cost).map(|_| now_ms));
            } else {
                // Each of the longer slices ends where a shorter one does.
                prop_assert!(within(period + 200) > room);
            }
        }
    }
}
