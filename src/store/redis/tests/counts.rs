//! On the server's own clock: the models are queried at the times that the server reports.

use std::collections::VecDeque;

use super::*;

const MINUTE: u64 = 60_000_000;

fn micros(at: TakenAt) -> u64 {
    at.period_nanos / 1_000
}

/// Compared with a list of admitted times, in the server's own: N at once, then one more per
/// interval.
#[tokio::test]
async fn it_admits_exactly_what_the_rule_says() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiter = limiter(&server).await;
    let remote = limiter.0.remote();
    for (limit, period_ms) in [(1_u32, 7_u64), (3, 10), (7, 13), (50, 20), (1_000, 100)] {
        let quotas = Quota::per(Duration::from_millis(period_ms), limit).into();
        let name = key(&format!("{limit}"));
        // The bucket, in ticks of a microsecond's `limit`th part.
        let (period, limit_wide) = (u128::from(period_ms) * 1_000, u128::from(limit));
        let (mut debt, mut last, mut refusals) = (0_u128, 0_u128, 0);
        for round in 0..600_u64 {
            let cost = u32::try_from(round * 7_919 % u64::from(limit)).unwrap() / 3 + 1;
            let decision = remote.take(&name, &quotas, cost).await.unwrap();
            let now = u128::from(micros(decision.taken_at));
            debt = debt.saturating_sub((now - last) * limit_wide);
            last = now;
            let taken = u128::from(cost) * period;
            let expected = debt + taken <= limit_wide * period;
            assert_eq!(decision.is_admitted(), expected, "{limit} {round}");
            if expected {
                debt += taken;
            } else {
                refusals += 1;
                let over = debt + taken - limit_wide * period;
                let wait = u64::try_from(over.div_ceil(limit_wide)).unwrap();
                assert_eq!(
                    decision.outcome,
                    RateOutcome::Refused(Duration::from_micros(wait))
                );
            }
            let rest = (limit_wide * period).saturating_sub(debt) / period;
            assert_eq!(u128::from(decision.readings.remaining()), rest);
        }
        assert!(refusals > 0 || limit >= 50, "{limit}: nothing was tried");
    }
}

/// Compared with a list of admitted times: no rolling period holds more than the limit.
#[tokio::test]
async fn a_strict_quota_is_kept_in_every_rolling_period() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiter = limiter(&server).await;
    let remote = limiter.0.remote();
    let quotas = Quota::per(Duration::from_millis(32), 5).strict().into();
    let mut admitted = VecDeque::new();
    let mut refusals = 0;
    for _ in 0..2_000 {
        let decision = remote.take(&key("a"), &quotas, 1).await.unwrap();
        let now = micros(decision.taken_at);
        let within = |micros: u64| admitted.iter().filter(|at| **at + micros > now).count();
        if decision.is_admitted() {
            assert!(within(32_000) < 5);
            admitted.push_back(now);
        } else {
            refusals += 1;
            assert!(within(34_000) >= 5, "refused too long");
        }
        admitted.retain(|at| at + MINUTE > now);
    }
    assert!(refusals > 100 && admitted.len() > 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_are_never_more_than_the_limit_with_or_without_leases() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    for lease in [0, 16] {
        let quotas = Quotas::from([
            Quota::per(Duration::from_secs(86_400), 500),
            Quota::per_hour(100_000),
        ]);
        let name = key(&format!("lease-{lease}"));
        // Simulates four processes: each has its own connections and leases.
        let mut workers = Vec::new();
        let mut limiters = Vec::new();
        for _ in 0..4 {
            let limiter = RedisRateLimiter::builder(server.url())
                .deadline(Duration::from_secs(20))
                .degraded(Degraded::closed())
                .lease(lease)
                .build()
                .unwrap();
            limiter.connect().await.unwrap();
            limiters.push(limiter.clone());
            for _ in 0..8 {
                let (limiter, name, quotas) = (limiter.clone(), name.clone(), quotas.clone());
                workers.push(tokio::spawn(async move {
                    let mut admitted = 0;
                    for _ in 0..60 {
                        let decision = limiter.take(&name, &quotas, 1).await.unwrap();
                        admitted += u32::from(decision.is_admitted());
                    }
                    admitted
                }));
            }
        }
        let mut admitted = 0;
        for worker in workers {
            admitted += worker.await.unwrap();
        }
        assert!(admitted <= 500, "{admitted}");
        let least = if lease == 0 { 500 } else { 500 - 4 * lease };
        assert!(admitted >= least, "{admitted}");
        let trips: u64 = limiters
            .iter()
            .map(|limiter| limiter.statistics().round_trips)
            .sum();
        assert!(
            lease == 0 || trips < 250,
            "{trips} round trips for {admitted}"
        );
    }
}
