//! What a window starts with under another rule, and what is given back of estimates; on a clock
//! that is moved by hand.

use proptest::{collection::vec, prelude::*};

use super::{
    models::{ByHand, cases, correction},
    script::Operation,
    *,
};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// One window under five rules.
fn one_name() -> [Quotas; 5] {
    [
        Quota::per_hour(9),
        Quota::per(Duration::from_secs(86_400), 9),
        Quota::per_hour(9).strict(),
        Quota::calendar(CalendarPeriod::Month, 9),
        Quota::calendar(CalendarPeriod::Day, 9),
    ]
    .map(|quota| Quotas::from(quota.named("window")))
}

/// A window starts with its usage under the previous rule, whichever rule that was.
#[test]
fn a_window_keeps_its_count_whatever_its_rule() {
    let calls = vec((0_usize..5, 1_u32..4), 1..60);
    cases(&calls, |runtime, script, calls| {
        let rules = one_name();
        let mut used = 0;
        for (rule, cost) in calls {
            let taken = runtime.block_on(script.ask(&rules[rule], Operation::Take(cost)));
            let fits = used + cost <= 9;
            prop_assert_eq!(taken.decision.is_admitted(), fits);
            used += if fits { cost } else { 0 };
            prop_assert_eq!(taken.decision.readings.remaining(), 9 - used);
        }
        Ok(())
    });
}

/// Usage that has expired under the previous rule doesn't carry over.
#[tokio::test]
async fn what_is_over_under_one_rule_is_over_under_another() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let mut script = ByHand::on(&server).await;
    let [hour, day_long, strict, month, day] = one_name();
    let mut begun = script.now + 40 * DAY;
    for (before, after, waits, left) in [
        // Half of it has drained, and a fraction of a unit.
        (&hour, &strict, 1_801 * SECOND, 4),
        (&hour, &month, 1_799 * SECOND, 4),
        (&hour, &day, 3_600 * SECOND, 9),
        (&day_long, &hour, DAY / 9, 1),
        (&strict, &hour, 3_500 * SECOND, 0),
        (&strict, &day, 3_900 * SECOND, 9),
        (&day, &hour, DAY - SECOND, 0),
        (&day, &hour, DAY, 9),
        (&day, &month, DAY, 9),
        (&month, &day, DAY, 0),
        (&month, &strict, 40 * DAY, 9),
    ] {
        script.begin();
        script.now = begun;
        let taken = script.ask(before, Operation::Take(9)).await;
        assert!(taken.decision.is_admitted());
        script.now += waits;
        let answer = script.ask(after, Operation::Peek).await;
        assert_eq!(left_of(&answer), left, "{before:?} then {after:?}");
        begun += 100 * DAY;
        begun -= begun.rem_euclid(DAY);
    }
}

/// Also where the window of both rules began at one moment: a Monday, or the first of a month.
#[tokio::test]
async fn what_is_over_with_its_own_window_is_over_in_a_longer_one_that_began_with_it() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let mut script = ByHand::on(&server).await;
    let [day, week, month] = [
        CalendarPeriod::Day,
        CalendarPeriod::Week,
        CalendarPeriod::Month,
    ]
    .map(|period| Quotas::from(Quota::calendar(period, 9).named("window")));
    // The 5th of January, the 1st of January and the 1st of June.
    for (before, after, begins, days) in [
        (&day, &week, 4, 1),
        (&day, &month, 0, 1),
        (&week, &month, 151, 7),
    ] {
        script.begin();
        script.now += begins * DAY;
        assert_eq!(script.ask(before, Operation::Take(9)).await.taken, 9);
        let refused = script.ask(after, Operation::Take(1)).await.decision;
        let wait = Duration::from_micros((days * DAY).unsigned_abs());
        assert_eq!(refused.outcome, RateOutcome::Refused(wait), "{after:?}");
        script.now += days * DAY - 1;
        assert_eq!(left_of(&script.ask(after, Operation::Peek).await), 0);
        script.now += 1;
        assert_eq!(left_of(&script.ask(after, Operation::Peek).await), 9);
        // What is taken under the longer one lasts as long as that.
        script.begin();
        script.now += begins * DAY;
        for (quotas, units) in [(before, 4), (after, 3)] {
            assert_eq!(
                script.ask(quotas, Operation::Take(units)).await.taken,
                units
            );
        }
        script.now += days * DAY;
        assert_eq!(left_of(&script.ask(after, Operation::Peek).await), 2);
    }
}

/// A reported wait is always right, and refusals leave usage under the rule that it was taken by.
#[tokio::test]
async fn whoever_waits_as_told_is_admitted_whatever_rule_was_before() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let mut script = ByHand::on(&server).await;
    for before in one_name() {
        for after in one_name() {
            script.begin();
            assert_eq!(script.ask(&before, Operation::Take(9)).await.taken, 9);
            let stored = script.field("window").await;
            let refused = script.ask(&after, Operation::Take(2)).await.decision;
            let RateOutcome::Refused(wait) = refused.outcome else {
                panic!("{before:?} then {after:?}: {refused:?}");
            };
            assert!(refused.readings.as_slice()[0].reset >= wait);
            assert_eq!(script.ask(&before, Operation::Take(2)).await.taken, 0);
            assert_eq!(
                script.field("window").await,
                stored,
                "a refusal writes nothing"
            );
            script.now += i64::try_from(wait.as_micros()).unwrap() - 1;
            let refused = script.ask(&after, Operation::Take(2)).await.decision;
            let little = RateOutcome::Refused(Duration::from_micros(1));
            assert_eq!(refused.outcome, little, "{before:?} then {after:?}");
            script.now += 1;
            let admitted = script.ask(&after, Operation::Take(2)).await;
            assert_eq!(admitted.taken, 2, "{before:?} then {after:?}");
        }
    }
}

#[tokio::test]
async fn what_a_long_answer_used_on_top_is_used_when_it_is_over() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let mut script = ByHand::on(&server).await;
    script.begin();
    let quotas = Quotas::from(Quota::per_minute(100).strict());
    let estimate = script.ask(&quotas, Operation::Take(1)).await.decision;
    for (units, left) in [(99, 1), (-99, 1)] {
        script.now += 100 * SECOND * i64::from(units > 0) + SECOND;
        let over = Operation::Correct(correction(units, &estimate));
        script.ask(&quotas, over).await;
        let answer = script.ask(&quotas, Operation::Peek).await;
        assert_eq!(left_of(&answer), left, "{units}");
    }
}

/// Usage that was never taken: under each rule it counts from now on, even past the capacity.
#[tokio::test]
async fn what_is_used_without_having_been_taken_is_counted() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let mut script = ByHand::on(&server).await;
    for quotas in one_name() {
        script.begin();
        for left in [8, 7, 0, 0] {
            let units = if left == 0 { 9 } else { 1 };
            let used = Operation::Correct(Correction::used(units));
            script.ask(&quotas, used).await;
            let answer = script.ask(&quotas, Operation::Peek).await;
            assert_eq!(left_of(&answer), left, "{quotas:?}");
        }
    }
}

/// Fields of calendar windows used to have no end.
#[tokio::test]
async fn a_day_that_was_counted_before_an_upgrade_is_counted() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let mut script = ByHand::on(&server).await;
    let [.., day] = one_name();
    for (start, left) in [(0, 2), (-DAY, 9)] {
        script.begin();
        let start = (script.now + start) / SECOND;
        let field = format!("{start} 7");
        script.order("HSET", &["window", &field]).await;
        let answer = script.ask(&day, Operation::Peek).await;
        assert_eq!(left_of(&answer), left, "{field}");
        let taken = script.ask(&day, Operation::Take(left)).await;
        assert_eq!((taken.taken, left_of(&taken)), (left, 0), "{field}");
        script.now += DAY;
        assert_eq!(left_of(&script.ask(&day, Operation::Peek).await), 9);
    }
}

fn left_of(answer: &script::Answer) -> u32 {
    answer.decision.readings.remaining()
}

#[tokio::test]
async fn what_has_drained_is_not_given_back() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let mut script = ByHand::on(&server).await;
    script.begin();
    let quotas = Quotas::from(Quota::per_minute(100));
    let mut streams = Vec::new();
    for _ in 0..10 {
        script.now += 60 * SECOND;
        streams.push(script.ask(&quotas, Operation::Take(100)).await.decision);
    }
    let mut admitted = 0;
    for stream in streams {
        assert!(stream.is_admitted());
        let over = Operation::Correct(correction(-100, &stream));
        script.ask(&quotas, over).await;
        let next = script.ask(&quotas, Operation::Take(100)).await;
        admitted += next.taken;
    }
    assert_eq!(admitted, 100, "one burst, however many are over at once");
}

#[tokio::test]
async fn what_was_forgotten_is_not_given_back_out_of_what_others_took() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let mut script = ByHand::on(&server).await;
    for quotas in one_name() {
        script.begin();
        let before = script.ask(&quotas, Operation::Take(5)).await.decision;
        script.now += SECOND;
        script.order("DEL", &[]).await;
        let after = script.ask(&quotas, Operation::Take(9)).await.decision;
        assert!(before.is_admitted() && after.is_admitted());
        for (taken, left) in [(before, 0), (after, 4)] {
            let over = Operation::Correct(correction(-4, &taken));
            script.ask(&quotas, over).await;
            let answer = script.ask(&quotas, Operation::Peek).await;
            assert_eq!(left_of(&answer), left, "{quotas:?}");
        }
    }
}

/// Whenever requests begin and end, those that begin in any span of time use no more than a burst
/// plus what drains in that span.
#[test]
fn what_is_used_in_the_end_is_what_the_rule_admits() {
    const INTERVAL: i64 = 10_000;
    let steps = vec((0_i64..120_000, 1_u32..20, 0_usize..8, 0_u32..20), 1..80);
    cases(&(1_u32..20, steps), |runtime, script, (limit, steps)| {
        let period = u64::from(limit) * INTERVAL.unsigned_abs();
        let quotas = Quotas::from(Quota::per(Duration::from_micros(period), limit));
        let (mut used, mut under_way) = (Vec::new(), Vec::new());
        for (wait, estimate, which, use_of) in steps {
            script.now += wait;
            let taken = runtime.block_on(script.ask(&quotas, Operation::Take(estimate)));
            if taken.decision.is_admitted() {
                under_way.push((used.len(), estimate, taken.decision));
                used.push((script.now, estimate));
            }
            if which < under_way.len() {
                let (at, estimate, taken) = under_way.swap_remove(which);
                used[at].1 = use_of.min(estimate);
                let units = i64::from(used[at].1) - i64::from(estimate);
                let over = Operation::Correct(correction(units, &taken));
                runtime.block_on(script.ask(&quotas, over));
            }
        }
        for (first, (began, _)) in used.iter().enumerate() {
            let mut sum = 0;
            for (at, units) in &used[first..] {
                sum += i64::from(*units) * INTERVAL;
                // Readings are in whole microseconds.
                let room = i64::from(limit) * INTERVAL + (at - began);
                prop_assert!(sum <= room + 100);
            }
        }
        Ok(())
    });
}
