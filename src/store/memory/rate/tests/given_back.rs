//! What is given back when an estimate was too high.

use super::*;

#[test]
fn what_has_drained_is_not_given_back() {
    let (limiter, clock) = limiter(10_000);
    let quotas = Quota::per_minute(100).into();
    let streams: Vec<_> = (0..10)
        .map(|_| {
            clock.advance(Duration::from_secs(60));
            limiter.take("a", &quotas, 100)
        })
        .collect();
    assert!(streams.iter().all(RateDecision::is_admitted));
    let mut admitted = 0;
    for stream in streams {
        limiter.correct("a", &quotas, &correction(-100, &stream));
        if limiter.take("a", &quotas, 100).is_admitted() {
            admitted += 100;
        }
    }
    assert_eq!(admitted, 100, "one burst, however many are over at once");
}

#[test]
fn what_was_given_back_before_it_brings_a_place_in_the_line_nearer() {
    let (limiter, clock) = limiter(1_000);
    let quotas = Quota::per_minute(60).into();
    let first = limiter.take("a", &quotas, 30);
    let second = limiter.take("a", &quotas, 30);
    limiter.correct("a", &quotas, &correction(-30, &first));
    assert_eq!(limiter.peek("a", &quotas).remaining(), 30);
    clock.advance(Duration::from_secs(30));
    assert!(limiter.take("a", &quotas, 60).is_admitted());
    limiter.correct("a", &quotas, &correction(-30, &second));
    assert_eq!(limiter.peek("a", &quotas).remaining(), 0, "it had drained");
    let other = Quotas::from([Quota::per_minute(60), Quota::per_hour(900)]);
    let third = limiter.take("b", &other, 60);
    let next = Quotas::from([Quota::per_minute(120), Quota::per_hour(900)]);
    assert_eq!(limiter.peek("b", &next).remaining(), 60);
    assert!(limiter.take("b", &next, 10).is_admitted());
    limiter.correct("b", &next, &correction(-60, &third));
    assert!(
        limiter.peek("b", &next).remaining() >= 80,
        "other numbers give back too"
    );
}

/// After a sweep or a reset, what others take is theirs.
#[test]
fn what_was_forgotten_is_not_given_back_out_of_what_others_took() {
    for quota in [
        Quota::per_hour(3_600),
        Quota::per_hour(3_600).strict(),
        Quota::calendar(CalendarPeriod::Day, 3_600),
    ] {
        let (limiter, clock) = limiter(10_000);
        let quotas = Quotas::from(quota);
        let first = limiter.take("a", &quotas, 1_800);
        let second = limiter.take("a", &quotas, 1_800);
        assert!(first.is_admitted() && second.is_admitted());
        if *quotas.as_slice()[0].rule() == Rule::Rolling {
            limiter.correct("a", &quotas, &correction(-1_800, &first));
            clock.advance(Duration::from_secs(1_800));
            for _ in 0..SHARDS {
                clock.advance(Duration::from_millis(500));
                let _ = limiter.take("other", &quotas, 1);
            }
            assert_eq!(limiter.len(), 1, "it was idle");
        } else {
            limiter.reset("a");
        }
        clock.advance(Duration::from_secs(1));
        let third = limiter.take("a", &quotas, 3_600);
        assert!(third.is_admitted());
        limiter.correct("a", &quotas, &correction(-1_750, &second));
        assert_eq!(limiter.peek("a", &quotas).remaining(), 0);
        limiter.correct("a", &quotas, &correction(-100, &third));
        assert_eq!(limiter.peek("a", &quotas).remaining(), 100);
    }
}

/// A key in constant use gets back what it doesn't use, even if each stream lasts longer than its
/// estimate takes to drain.
#[test]
fn a_busy_key_is_limited_by_what_it_uses_and_not_by_its_estimates() {
    let (limiter, clock) = limiter(10_000);
    let quotas = Quota::per_minute(6_000).into();
    let mut under_way = VecDeque::new();
    for second in 0..600 {
        clock.advance(Duration::from_secs(1));
        if under_way.len() == 10 {
            let over = under_way.pop_front().unwrap();
            limiter.correct("a", &quotas, &correction(-360, &over));
        }
        let taken = limiter.take("a", &quotas, 400);
        assert!(taken.is_admitted(), "{second}");
        under_way.push_back(taken);
    }
}

proptest! {
    /// Whenever requests begin and end, those that begin in any span of time use no more than a
    /// burst plus what drains in that span.
    #[test]
    fn what_is_used_in_the_end_is_what_the_rule_admits(
        limit in 1_u32..20,
        steps in prop::collection::vec((0_u64..120, 1_u32..20, 0_usize..8, 0_u32..20), 1..120),
    ) {
        let quotas = Quota::per(Duration::from_millis(u64::from(limit) * 10), limit).into();
        let (limiter, clock) = limiter(10_000);
        let (mut now_ms, mut used, mut under_way) = (0, Vec::new(), Vec::new());
        for (wait, estimate, which, use_of) in steps {
            clock.advance(Duration::from_millis(wait));
            now_ms += wait;
            let taken = limiter.take("a", &quotas, estimate);
            if taken.is_admitted() {
                under_way.push((used.len(), estimate, taken));
                used.push((now_ms, estimate));
            }
            if which < under_way.len() {
                let (at, estimate, taken) = under_way.swap_remove(which);
                used[at].1 = use_of.min(estimate);
                let units = i64::from(used[at].1) - i64::from(estimate);
                limiter.correct("a", &quotas, &correction(units, &taken));
            }
        }
        for (first, (began, _)) in used.iter().enumerate() {
            let mut sum = 0;
            for (at, units) in &used[first..] {
                sum += u64::from(*units) * 10;
                prop_assert!(sum <= u64::from(limit) * 10 + (at - began));
            }
        }
    }
}
