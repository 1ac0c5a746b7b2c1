//! A process's share of a limit that is counted elsewhere.

use super::*;

#[test]
fn what_is_counted_along_leaves_nothing_and_owes_nothing() {
    let (limiter, clock) = limiter(10);
    let quotas = Quotas::from([
        Quota::per_minute(60),
        Quota::per_hour(200).strict(),
        Quota::calendar(CalendarPeriod::Day, 300),
    ]);
    for _ in 0..1_000 {
        limiter.count_along("a", &quotas, 7);
        clock.advance(Duration::from_secs(1));
    }
    let left = |limiter: &MemoryRateLimiter| {
        let readings = limiter.peek("a", &quotas);
        let left = readings.as_slice().iter();
        left.map(|reading| reading.remaining).collect::<Vec<_>>()
    };
    assert_eq!(left(&limiter), [1, 0, 0]);
    clock.advance(Duration::from_secs(60));
    assert_eq!(left(&limiter), [60, 0, 0], "a minute makes a minute good");
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(left(&limiter), [60, 200, 0], "and an hour an hour");
    limiter.count_along("a", &quotas, 50);
    limiter.count_along("a", &quotas, -20);
    assert_eq!(left(&limiter), [30, 170, 20]);
}

/// Who finds no room for a count of its own shares one with others, which don't pay for what was admitted elsewhere.
#[test]
fn nothing_is_counted_along_for_a_crowd() {
    let (limiter, _) = limiter(SHARDS);
    let quotas = Quota::per_hour(10).into();
    for key in 0..10_000 {
        limiter.count_along(&key, &quotas, 10);
    }
    assert!(limiter.len() <= SHARDS);
    let admitted = (10_000..20_000)
        .filter(|key| limiter.take(key, &quotas, 1).is_admitted())
        .count();
    assert_eq!(admitted, 10 * SHARDS);
    for key in 0..10_000 {
        limiter.count_along(&key, &quotas, -10);
    }
    let more = (20_000..30_000).filter(|key| limiter.take(key, &quotas, 1).is_admitted());
    assert_eq!(more.count(), 0, "nor is the crowd given anything back");
}

#[test]
fn a_bucket_of_which_all_is_there_admits_more_than_it_holds_and_owes_it() {
    let (limiter, clock) = limiter(10);
    let quotas = Quotas::from([Quota::per_minute(60), Quota::per_hour(600).strict()]);
    let take = |cost| limiter.take_overdrawing("a", &quotas, cost).outcome;
    assert_eq!(take(90), RateOutcome::Admitted);
    assert_eq!(take(1), RateOutcome::Refused(Duration::from_secs(31)));
    clock.advance(Duration::from_secs(31));
    assert_eq!(take(1), RateOutcome::Admitted);
    assert_eq!(
        take(90),
        RateOutcome::Refused(Duration::from_secs(60)),
        "not while some of it is missing"
    );
    clock.advance(Duration::from_secs(60));
    assert_eq!(take(90), RateOutcome::Admitted);
    assert_eq!(take(601), RateOutcome::TooCostly, "a strict one never does");
    assert_eq!(limiter.peek("a", &quotas).as_slice()[1].remaining, 419);
}
