//! A process's share of a limit that is counted elsewhere.

use super::*;

fn readings<const N: usize>(left: [(u32, u64); N]) -> Readings {
    let reading = |(remaining, seconds)| WindowReading {
        remaining,
        reset: Duration::from_secs(seconds),
    };
    left.into_iter().map(reading).collect()
}

fn left(limiter: &MemoryRateLimiter, quotas: &Quotas) -> Vec<u32> {
    let readings = limiter.peek("a", quotas);
    let left = readings.as_slice().iter();
    left.map(|reading| reading.remaining).collect()
}

/// Windows under three rules, and half of each.
fn halves() -> (Quotas, Quotas) {
    let whole = Quotas::from([
        Quota::per_minute(60),
        Quota::per(Duration::from_secs(1_600), 200).strict(),
        Quota::calendar(CalendarPeriod::Day, 300),
    ]);
    let share = whole.share(NonZeroU32::new(2).unwrap());
    (whole, share)
}

#[test]
fn a_share_has_its_part_of_what_is_read_whatever_it_had() {
    let (limiter, clock) = limiter(10_000);
    let (whole, share) = halves();
    let adopt = |left| limiter.adopt("a", &whole, &share, &readings(left));
    adopt([(59, 1), (199, 1_600), (299, 90)]);
    assert_eq!(left(&limiter, &share), [29, 99, 149], "whole units");
    adopt([(0, 60), (0, 1_600), (0, 90)]);
    assert_eq!(left(&limiter, &share), [0, 0, 0]);
    adopt([(21, 39), (100, 1_600), (250, 90)]);
    assert_eq!(left(&limiter, &share), [10, 50, 125], "more again");
    while admits(&limiter, "a", &share) {}
    adopt([(40, 20), (160, 1_600), (260, 90)]);
    assert_eq!(
        left(&limiter, &share),
        [20, 80, 130],
        "or less of it was used"
    );
    clock.advance(Duration::from_secs(2));
    assert_eq!(left(&limiter, &share), [21, 80, 130], "one in two seconds");
    adopt([(60, 0), (200, 0), (300, 0)]);
    assert_eq!(left(&limiter, &share), [30, 100, 150]);
}

/// The whole's debt is not the share's, nor is a reset that got long because a clock stepped back.
#[test]
fn a_share_owes_nothing() {
    let (limiter, clock) = limiter(10_000);
    let (whole, share) = halves();
    let an_hour = [(0, 3_600), (0, 3_600), (0, 90)];
    limiter.adopt("a", &whole, &share, &readings(an_hour));
    clock.advance(Duration::from_secs(2));
    assert_eq!(left(&limiter, &share), [1, 0, 0]);
    clock.advance(Duration::from_secs(1_700));
    assert_eq!(left(&limiter, &share), [30, 100, 0]);

    assert!(limiter.take("a", &share, 20).outcome != RateOutcome::Admitted);
    let rolling = Quotas::from(whole.as_slice()[0].clone());
    let half = Quotas::from(share.as_slice()[0].clone());
    let overdrawn = limiter.take("b", &half, 30);
    limiter.correct("b", &half, &correction(30, &overdrawn));
    assert!(overdrawn.is_admitted() && !admits(&limiter, "b", &half));
    clock.advance(Duration::from_millis(1));
    limiter.adopt("b", &rolling, &half, &readings([(2, 58)]));
    assert!(
        admits(&limiter, "b", &half),
        "what it owed itself is made good"
    );
    limiter.adopt("b", &rolling, &half, &readings([(0, 60)]));
    limiter.correct("b", &half, &correction(-60, &overdrawn));
    assert!(
        !admits(&limiter, "b", &half),
        "and is not given back as well"
    );
}

/// A limit shared by several processes has a unit for each, rounded up; a unit still draining comes
/// when it does.
#[test]
fn a_share_of_one_unit_is_full_when_the_whole_is() {
    let (limiter, clock) = limiter(10_000);
    let whole = Quotas::from(Quota::per(Duration::from_secs(10), 2));
    let share = whole.share(NonZeroU32::new(3).unwrap());
    for (left, waits) in [((1, 4), 4), ((0, 6), 6), ((0, 10), 10)] {
        limiter.adopt("a", &whole, &share, &readings([left]));
        let refused = limiter.take("a", &share, 1).outcome;
        assert_eq!(refused, RateOutcome::Refused(Duration::from_secs(waits)));
        clock.advance(Duration::from_secs(waits));
        assert_eq!(limiter.peek("a", &share).remaining(), 1);
    }
}

/// What was used long ago under a strict quota comes back when the whole's does, not a period after
/// it was read.
#[test]
fn what_is_heard_of_late_is_there_again_when_it_is_there_for_all() {
    let (limiter, clock) = limiter(10_000);
    let whole = Quotas::from(Quota::per(Duration::from_secs(1_600), 8).strict());
    let share = whole.share(NonZeroU32::new(2).unwrap());
    limiter.adopt("a", &whole, &share, &readings([(0, 250)]));
    clock.advance(Duration::from_secs(249));
    assert_eq!(left(&limiter, &share), [0]);
    clock.advance(Duration::from_secs(101));
    assert_eq!(left(&limiter, &share), [4]);
}

/// The limits, and even the rule, may differ from those of the last call.
#[test]
fn what_is_read_of_a_window_is_what_it_has_now() {
    let (limiter, _) = limiter(10_000);
    let two = NonZeroU32::new(2).unwrap();
    let rules = [
        Quota::per_minute(60),
        Quota::per_minute(600),
        Quota::per_minute(60).strict(),
        Quota::calendar(CalendarPeriod::Day, 60),
    ];
    for rule in rules {
        let whole = Quotas::from([rule.named("window"), Quota::per_hour(600)]);
        let share = whole.share(two);
        let burst = whole.as_slice()[0].burst_size();
        let read = readings([(burst / 2, 30), (300, 1_800)]);
        limiter.adopt("a", &whole, &share, &read);
        assert_eq!(left(&limiter, &share), [burst / 4, 150]);
    }
    let other = Quotas::from(Quota::per_second(8));
    limiter.adopt("a", &other, &other.share(two), &readings([(4, 1)]));
    let hour = Quotas::from(Quota::per_hour(600)).share(two);
    assert_eq!(left(&limiter, &hour), [150], "kept aside");
}

#[test]
fn what_the_whole_will_not_hear_of_leaves_nothing_and_owes_nothing() {
    let (limiter, clock) = limiter(10_000);
    let (_, share) = halves();
    limiter.use_up("a", &share, 10);
    assert_eq!(left(&limiter, &share), [20, 90, 140]);
    limiter.use_up("a", &share, 1_000_000);
    assert_eq!(left(&limiter, &share), [0, 0, 0]);
    clock.advance(Duration::from_secs(60));
    assert_eq!(left(&limiter, &share), [30, 0, 0]);
}

/// A key without room for its own count shares one with others, which don't pay for what was
/// admitted elsewhere.
#[test]
fn nothing_is_heard_of_for_a_crowd() {
    let (limiter, _) = limiter(SHARDS);
    let (whole, share) = (
        Quotas::from(Quota::per_hour(20)),
        Quota::per_hour(10).into(),
    );
    let hear = |keys: std::ops::Range<u32>, left, seconds| {
        for key in keys {
            limiter.adopt(&key, &whole, &share, &readings([(left, seconds)]));
        }
    };
    hear(0..10_000, 20, 0);
    assert!(
        limiter.is_empty(),
        "what is as if nobody had come isn't kept"
    );
    hear(0..10_000, 0, 3_600);
    assert!(limiter.len() <= SHARDS);
    let admitted = (10_000..20_000)
        .filter(|key| limiter.take(key, &share, 1).is_admitted())
        .count();
    assert_eq!(admitted, 10 * SHARDS);
    hear(10_000..20_000, 20, 0);
    let more = (20_000..30_000).filter(|key| limiter.take(key, &share, 1).is_admitted());
    assert_eq!(more.count(), 0, "nor has the crowd anything more");
}

/// A reading from a store that wrote nothing may be lower than what is left, but not higher.
#[test]
fn what_is_heard_may_be_less_alone() {
    let (limiter, clock) = limiter(10_000);
    let (whole, share) = halves();
    let hear = |left| limiter.adopt_less("a", &whole, &share, &readings(left));
    hear([(50, 10), (180, 1_600), (280, 90)]);
    assert_eq!(left(&limiter, &share), [25, 90, 140]);
    let estimate = limiter.take("a", &share, 5);
    assert!(estimate.is_admitted());
    hear([(50, 10), (180, 1_600), (280, 90)]);
    assert_eq!(left(&limiter, &share), [20, 85, 135]);
    hear([(60, 0), (200, 0), (300, 0)]);
    assert_eq!(left(&limiter, &share), [20, 85, 135]);
    limiter.correct("a", &share, &correction(-1, &estimate));
    assert_eq!(
        left(&limiter, &share),
        [21, 86, 136],
        "its own it gives back"
    );
    clock.advance(Duration::from_millis(1));
    hear([(60, 0), (10, 1_600), (300, 0)]);
    assert_eq!(left(&limiter, &share), [21, 5, 136]);
    limiter.correct("a", &share, &correction(-1, &estimate));
    assert_eq!(left(&limiter, &share), [21, 5, 136], "not what others have");

    limiter.correct("a", &share, &correction(1_000, &estimate));
    hear([(0, 3_600), (0, 3_600), (0, 90)]);
    clock.advance(Duration::from_secs(70));
    assert_eq!(left(&limiter, &share), [0, 0, 0], "it owes what it owed");
}

#[test]
fn what_is_heard_of_is_given_back_when_it_is_whole_again() {
    let (limiter, clock) = limiter(10_000);
    let (whole, share) = (
        Quotas::from(Quota::per_second(20)),
        Quota::per_second(10).into(),
    );
    for key in 0..1_000 {
        limiter.adopt(&key, &whole, &share, &readings([(10, 1)]));
    }
    assert_eq!(limiter.len(), 1_000);
    limiter.adopt(&0, &whole, &share, &readings([(20, 0)]));
    limiter.adopt_less(&1, &whole, &share, &readings([(20, 0)]));
    assert_eq!(limiter.len(), 999, "at once where nothing else is known");
    for _ in 0..2 * SHARDS {
        clock.advance(Duration::from_millis(500));
        limiter.adopt(&2, &whole, &share, &readings([(10, 1)]));
    }
    assert_eq!(limiter.len(), 1, "and the others in a while");
    for _ in 0..2 * SHARDS {
        clock.advance(Duration::from_millis(500));
        limiter.use_up(&3, &share, 1);
    }
    assert_eq!(limiter.len(), 1);
}

proptest! {
    /// Whatever a window held before, reading it returns what was written, never more, and it is as
    /// full as the whole, in whole units.
    #[test]
    fn a_window_is_what_was_written(
        rule in 0_usize..3,
        limit in 1_u32..200,
        burst in 1_u32..200,
        parts in 1_u32..9,
        calls in prop::collection::vec((0_u64..90_000, 0_u32..=200, 0_u32..1_000), 1..20),
    ) {
        let (limiter, clock) = limiter(10_000);
        let quota = match rule {
            0 => Quota::per_minute(limit).burst(burst),
            1 => Quota::per_minute(limit).strict(),
            _ => Quota::calendar(CalendarPeriod::Day, limit),
        };
        let whole = Quotas::from(quota.clone());
        let share = whole.share(NonZeroU32::new(parts).unwrap());
        let (all, most) = (quota.burst_size(), share.as_slice()[0].burst_size());
        for (wait, remaining, thousandths) in calls {
            clock.advance(Duration::from_millis(wait));
            let remaining = remaining.min(all);
            // A bucket's reset includes the fraction of a unit that it waits for.
            let interval = u128::from(quota.interval_nanos().get());
            let owed = u128::from(all - remaining) * interval;
            let part = if remaining < all { interval * u128::from(thousandths) / 1_000 } else { 0 };
            let nanos = if rule == 0 { owed - part } else { owed };
            let reset = Duration::from_nanos(u64::try_from(nanos).unwrap());
            let read = [WindowReading { remaining, reset }].into_iter().collect();
            limiter.adopt("a", &whole, &share, &read);
            let is = limiter.peek("a", &share).as_slice()[0];
            prop_assert_eq!(is.remaining, remaining * most / all);
            if is.remaining < most {
                let wait = match limiter.take("a", &share, is.remaining + 1).outcome {
                    RateOutcome::Refused(wait) => wait,
                    other => panic!("{other:?}"),
                };
                let interval = share.as_slice()[0].interval_nanos().get();
                prop_assert!(rule > 0 || wait <= Duration::from_nanos(interval));
            }
            let _ = limiter.take("a", &share, 1 + thousandths % 7);
        }
    }
}
