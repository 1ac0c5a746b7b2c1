//! One key under quotas with different windows: using some gives nothing back in the others.

use super::*;

/// Windows under four rules, each with its own name.
fn four() -> [Quota; 4] {
    [
        Quota::per_second(9).burst(9),
        Quota::per(Duration::from_secs(86_400), 9).named("bucket"),
        Quota::per_hour(9).strict(),
        Quota::calendar(CalendarPeriod::Month, 9),
    ]
}

/// One window under five rules.
fn one_name() -> [Quota; 5] {
    [
        Quota::per_hour(9),
        Quota::per(Duration::from_secs(86_400), 9),
        Quota::per_hour(9).strict(),
        Quota::calendar(CalendarPeriod::Month, 9),
        Quota::calendar(CalendarPeriod::Day, 9),
    ]
    .map(|quota| quota.named("window"))
}

#[test]
fn a_window_that_a_call_does_not_name_keeps_its_count() {
    let [second, day, hour, month] = four();
    let (limiter, clock) = limiter(10_000);
    let often = Quotas::from(second);
    let seldom = Quotas::from([day, hour, month]);
    let mut admitted = 0;
    for _ in 0..40 {
        admitted += usize::from(admits(&limiter, "a", &seldom));
        assert!(admits(&limiter, "a", &often), "it has its own");
        assert_eq!(limiter.peek("a", &often).as_slice().len(), 1);
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(admitted, 9);
    assert!(limiter.peek("a", &seldom).remaining() == 0);
    limiter.reset("a");
    assert!(admits(&limiter, "a", &seldom), "and a reset forgets it all");
}

#[test]
fn a_correction_touches_the_windows_that_it_names() {
    let [second, day, hour, month] = four();
    let (limiter, _) = limiter(10_000);
    let (often, seldom) = (Quotas::from(second), Quotas::from([day, hour, month]));
    let first = limiter.take("a", &often, 5);
    assert!(limiter.take("a", &seldom, 4).is_admitted());
    let correct = |quotas: &Quotas, units| {
        limiter.correct("a", quotas, &correction(units, &first));
    };
    let left = |quotas| limiter.peek("a", quotas).remaining();
    correct(&often, -3);
    assert_eq!((left(&often), left(&seldom)), (7, 5));
    correct(&often, 4);
    assert_eq!((left(&often), left(&seldom)), (3, 5));
    let unknown = Quotas::from([Quota::per_second(9), Quota::per_minute(9)]);
    correct(&unknown, 1);
    let readings = limiter.peek("a", &unknown);
    let remaining = readings.as_slice().iter().map(|reading| reading.remaining);
    assert_eq!(remaining.collect::<Vec<_>>(), [2, 8]);
    assert_eq!(left(&seldom), 5);
}

#[test]
fn where_no_more_windows_fit_a_call_waits_and_no_count_is_lost() {
    let (limiter, clock) = limiter(10_000);
    let window = |i: u64| -> Quotas {
        let period = Duration::from_secs(100 * (i + 1));
        Quota::per(period, 1).named(&format!("window-{i}")).into()
    };
    let room = u64::try_from(entry::DORMANT_MAX).unwrap() + 1;
    for i in 0..room {
        assert!(admits(&limiter, "a", &window(i)), "{i}");
    }
    let refused = limiter.take("a", &window(room), 1);
    let shortest = Duration::from_secs(100);
    assert_eq!(refused.outcome, RateOutcome::Refused(shortest));
    assert_eq!(refused.readings.as_slice().len(), 1);
    assert_eq!(limiter.statistics().refused, 1);
    for i in 0..room {
        assert!(!admits(&limiter, "a", &window(i)), "{i} was forgotten");
    }
    clock.advance(shortest);
    assert!(admits(&limiter, "a", &window(room)));
    assert!(!admits(&limiter, "a", &window(room - 1)));
}

#[test]
fn the_bucket_of_a_crowd_is_not_reset_by_callers_whose_windows_differ() {
    let (limiter, _) = limiter(SHARDS);
    let full = Quota::per_hour(1).into();
    for key in 0..10_000 {
        let _ = limiter.take(&("full", key), &full, 1);
    }
    let [second, day, ..] = four();
    let (often, seldom) = (Quotas::from(second), Quotas::from(day));
    let mut admitted = 0;
    for key in 0..10_000 {
        admitted += usize::from(limiter.take(&("new", key), &seldom, 1).is_admitted());
        let _ = limiter.take(&("newer", key), &often, 1);
    }
    assert!(admitted <= 9 * SHARDS, "{admitted}");
    assert!(admitted > 0);
}

/// A dormant window in use keeps its key; an idle one doesn't.
#[test]
fn a_key_is_kept_for_a_window_that_is_aside() {
    let [second, day, ..] = four();
    let (often, seldom) = (Quotas::from(second), Quotas::from(day));
    let (limiter, clock) = limiter(10_000);
    assert!(limiter.take("a", &seldom, 1).is_admitted());
    assert!(limiter.take("a", &often, 1).is_admitted());
    let sweep_if_due = || {
        for _ in 0..SHARDS {
            clock.advance(Duration::from_millis(500));
            let _ = limiter.take("b", &often, 1);
        }
    };
    sweep_if_due();
    assert_eq!(limiter.len(), 2);
    assert_eq!(limiter.peek("a", &seldom).remaining(), 8);
    clock.advance(Duration::from_secs(86_400));
    sweep_if_due();
    assert_eq!(limiter.len(), 1);
}

proptest! {
    /// A window starts with its usage under the previous rule, whichever rule that was.
    #[test]
    fn a_window_keeps_its_count_whatever_its_rule(
        calls in prop::collection::vec((0_usize..5, 1_u32..4), 1..60),
    ) {
        let rules = one_name();
        let (limiter, _) = limiter(10_000);
        let mut used = 0;
        for (rule, cost) in calls {
            let quotas = Quotas::from(rules[rule].clone());
            let fits = used + cost <= 9;
            prop_assert_eq!(limiter.take("a", &quotas, cost).is_admitted(), fits);
            used += if fits { cost } else { 0 };
            prop_assert_eq!(limiter.peek("a", &quotas).remaining(), 9 - used);
        }
    }

    /// Different limits under one name measure the same usage. Calling with them in turn admits no
    /// more, in any span of time, than the most generous of them alone.
    #[test]
    fn numbers_that_differ_admit_no_more_than_the_most_generous(
        calls in prop::collection::vec((0_u64..200, 0_usize..3, 1_u32..4), 1..120),
    ) {
        let numbers = [(1_000, 10), (1_000, 40), (4_000, 20)].map(|(millis, limit)| {
            Quotas::from(Quota::per(Duration::from_millis(millis), limit))
        });
        let (limiter, clock) = limiter(10_000);
        let (mut now_ms, mut admitted) = (0, Vec::new());
        for (wait, which, cost) in calls {
            clock.advance(Duration::from_millis(wait));
            now_ms += wait;
            if limiter.take("a", &numbers[which], cost).is_admitted() {
                admitted.push((now_ms, u64::from(cost)));
            }
        }
        for (first, (began, _)) in admitted.iter().enumerate() {
            let mut units = 0;
            for (at, cost) in &admitted[first..] {
                units += cost;
                prop_assert!(units * 25 <= 40 * 25 + (at - began));
            }
        }
    }

    /// Whichever windows the calls name, each holds what was taken from it: time stands still, so
    /// nothing drains.
    #[test]
    fn windows_keep_their_own_counts_whichever_are_named(
        calls in prop::collection::vec((1_usize..16, 1_u32..4, -3_i64..4), 1..60),
    ) {
        let (limiter, _) = limiter(10_000);
        let mut used = [0_i64; 4];
        for (mask, cost, units) in calls {
            let named: Vec<_> = (0..4).filter(|i| mask & (1 << i) != 0).collect();
            let quotas = Quotas::new(named.iter().map(|i| four()[*i].clone())).unwrap();
            let fits = named.iter().all(|i| used[*i] + i64::from(cost) <= 9);
            let decision = limiter.take("a", &quotas, cost);
            prop_assert_eq!(decision.is_admitted(), fits);
            limiter.correct("a", &quotas, &correction(units, &decision));
            for i in &named {
                used[*i] = (used[*i] + if fits { i64::from(cost) } else { 0 } + units).max(0);
            }
            let all = limiter.peek("a", &four().into());
            let left = all.as_slice().iter().map(|reading| i64::from(reading.remaining));
            let expected = used.map(|used| (9 - used).max(0));
            prop_assert_eq!(left.collect::<Vec<_>>(), expected);
        }
    }
}
