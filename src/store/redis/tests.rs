//! Against a real server, which has its own clock: the models are asked about the moments that the
//! server names.

#[allow(dead_code, reason = "tests of other kinds use the rest")]
#[path = "../../../tests/support/redis.rs"]
mod server;

use std::{collections::VecDeque, num::NonZeroU32};

use server::RedisServer;

use super::*;
use crate::{
    domain::quota::{CalendarPeriod, Quota, Zone},
    store::{RateOutcome, TakenAt},
};

const MINUTE: u64 = 60_000_000;

fn key(name: &str) -> RateKey {
    RateKey::new(&"test".into(), name.as_bytes())
}

/// A patient limiter: these tests are about counting, on a machine that may be busy.
async fn limiter(server: &RedisServer) -> RedisRateLimiter {
    let limiter = RedisRateLimiter::builder(&server.url())
        .deadline(Duration::from_secs(20))
        .degraded(Degraded::closed())
        .build()
        .unwrap();
    limiter.connect().await.unwrap();
    limiter
}

async fn admits(limiter: &RedisRateLimiter, name: &str, quotas: &Quotas) -> bool {
    let decision = limiter.0.remote().take(&key(name), quotas, 1).await;
    decision.unwrap().is_admitted()
}

fn micros(at: TakenAt) -> u64 {
    at.period_nanos / 1_000
}

fn left(readings: &Readings) -> Vec<u32> {
    readings
        .as_slice()
        .iter()
        .map(|reading| reading.remaining)
        .collect()
}

#[tokio::test]
async fn all_windows_admit_or_none_takes() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiter = limiter(&server).await;
    let remote = limiter.0.remote();
    let quotas = Quotas::from([
        Quota::per_hour(3),
        Quota::per_hour(50).strict(),
        Quota::calendar(CalendarPeriod::Month, 9),
    ]);
    let a = key("a");
    for remaining in (0..3).rev() {
        let decision = remote.take(&a, &quotas, 1).await.unwrap();
        assert!(decision.is_admitted());
        assert_eq!(decision.readings.remaining(), remaining);
    }
    for _ in 0..20 {
        let refused = remote.take(&a, &quotas, 1).await.unwrap();
        let RateOutcome::Refused(wait) = refused.outcome else {
            panic!("{refused:?}");
        };
        assert!(wait <= Duration::from_secs(1_200) && wait > Duration::from_secs(1_100));
        assert_eq!(left(&refused.readings), [0, 47, 6]);
    }
    for cost in [4, u32::MAX] {
        let never = remote.take(&a, &quotas, cost).await.unwrap();
        assert_eq!(never.outcome, RateOutcome::TooCostly);
    }
    assert!(remote.take(&a, &quotas, 0).await.unwrap().is_admitted());
    assert!(admits(&limiter, "b", &quotas).await, "keys don't share");
    remote.reset(&a).await.unwrap();
    assert_eq!(left(&remote.peek(&a, &quotas).await.unwrap()), [3, 50, 9]);
}

#[tokio::test]
async fn a_key_is_one_hash_that_ends_and_a_refusal_writes_nothing() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiter = limiter(&server).await;
    let quotas = Quota::per_second(2).into();
    for _ in 0..2 {
        assert!(admits(&limiter, "a", &quotas).await);
    }
    let client = Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let names: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(names.len(), 1);
    let name = &names[0];
    assert!(
        name.starts_with("tollgate:{test:") && name.ends_with('}'),
        "{name}"
    );
    let lives: i64 = redis::cmd("PTTL")
        .arg(name)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!((1..=2_000).contains(&lives), "{lives}");
    let dump = redis::cmd("HGETALL").arg(name).clone();
    let before: Vec<String> = dump.query_async(&mut connection).await.unwrap();
    let strict = Quotas::from([Quota::per_second(2), Quota::per_minute(1).burst(1)]);
    let refused = limiter
        .0
        .remote()
        .take(&key("a"), &strict, 2)
        .await
        .unwrap();
    assert_eq!(refused.outcome, RateOutcome::TooCostly);
    let after: Vec<String> = dump.query_async(&mut connection).await.unwrap();
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_server_that_forgot_the_script_is_handed_it_again() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiter = limiter(&server).await;
    let quotas = Quota::per_hour(3).into();
    assert!(admits(&limiter, "a", &quotas).await);
    let client = Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("SCRIPT")
        .arg("FLUSH")
        .exec_async(&mut connection)
        .await
        .unwrap();
    assert!(admits(&limiter, "a", &quotas).await && admits(&limiter, "a", &quotas).await);
    assert!(!admits(&limiter, "a", &quotas).await);
}

#[tokio::test]
async fn an_estimate_is_corrected_both_ways() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiter = limiter(&server).await;
    let remote = limiter.0.remote();
    let quotas = Quotas::from([
        Quota::per(Duration::from_secs(86_400), 100),
        Quota::per(Duration::from_secs(86_400), 100)
            .strict()
            .named("strict"),
        Quota::calendar(CalendarPeriod::Month, 100),
    ]);
    let estimate = remote.take(&key("a"), &quotas, 50).await.unwrap();
    let correct = async |units, taken_at| {
        let correction = Correction { units, taken_at };
        remote
            .correct(&key("a"), &quotas, correction)
            .await
            .unwrap();
        left(&remote.peek(&key("a"), &quotas).await.unwrap())
    };
    assert_eq!(correct(-30, estimate.taken_at).await, [80, 80, 80]);
    assert_eq!(
        correct(30, TakenAt::default()).await,
        [50, 80, 80],
        "too late for windows that have ended"
    );
    assert_eq!(correct(i64::MAX, estimate.taken_at).await, [0, 0, 0]);
    assert_eq!(correct(i64::MIN, estimate.taken_at).await, [100, 100, 100]);
}

#[tokio::test]
async fn other_numbers_forget_nothing_that_was_used() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiter = limiter(&server).await;
    let remote = limiter.0.remote();
    let of = |limit, days: u64| {
        let day = Duration::from_secs(86_400);
        let zone = Zone::named("Pacific/Auckland").unwrap();
        Quotas::from([
            Quota::per(day.saturating_mul(u32::try_from(days).unwrap()), limit),
            Quota::per(day.saturating_mul(u32::try_from(days).unwrap()), limit)
                .strict()
                .named("strict"),
            Quota::calendar(CalendarPeriod::Day, limit).in_zone(zone),
        ])
    };
    assert!(
        remote
            .take(&key("a"), &of(10, 1), 8)
            .await
            .unwrap()
            .is_admitted()
    );
    assert_eq!(
        left(&remote.peek(&key("a"), &of(100, 1)).await.unwrap()),
        [92, 92, 92]
    );
    assert_eq!(
        left(&remote.peek(&key("a"), &of(100, 3)).await.unwrap()),
        [92, 92, 92]
    );
    assert!(
        remote
            .take(&key("a"), &of(100, 3), 90)
            .await
            .unwrap()
            .is_admitted()
    );
    assert_eq!(
        left(&remote.peek(&key("a"), &of(10, 1)).await.unwrap()),
        [0, 0, 0]
    );
}

/// Against a list of admitted times, in the server's own: N at once, then one more each interval.
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

/// Against a list of admitted times: no rolling period holds more than the number.
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
        // Four processes, as it were: each has its own connections and leases.
        let mut workers = Vec::new();
        let mut limiters = Vec::new();
        for _ in 0..4 {
            let limiter = RedisRateLimiter::builder(&server.url())
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

#[tokio::test]
async fn a_refusal_that_holds_is_not_asked_about_again() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiter = limiter(&server).await;
    let (a, quotas) = (key("a"), Quotas::from(Quota::per_hour(2)));
    for _ in 0..50 {
        let _ = limiter.take(&a, &quotas, 1).await.unwrap();
    }
    let statistics = limiter.statistics();
    assert!(statistics.round_trips < 20, "{statistics:?}");
    assert!(statistics.refused_from_memory > 30, "{statistics:?}");
    limiter.reset(&a).await.unwrap();
    assert!(limiter.take(&a, &quotas, 1).await.unwrap().is_admitted());
}

/// A share for each, when there is nobody to ask; what was admitted before counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_server_this_process_counts_by_itself() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let four = NonZeroU32::new(4).unwrap();
    let build = |degraded| {
        RedisRateLimiter::builder(&server.url())
            .deadline(Duration::from_secs(5))
            .degraded(degraded)
            .build()
            .unwrap()
    };
    let local = build(Degraded::local(four));
    let closed = build(Degraded::closed());
    let open = build(Degraded::dangerous_open());
    let quotas = Quotas::from(Quota::per_hour(100));
    for limiter in [&local, &closed, &open] {
        limiter.connect().await.unwrap();
    }
    for _ in 0..10 {
        assert!(
            local
                .take(&key("a"), &quotas, 1)
                .await
                .unwrap()
                .is_admitted()
        );
    }
    server.kill();
    let count = async |limiter: &RedisRateLimiter, name: &str| {
        let mut admitted = 0;
        for _ in 0..60 {
            let decision = limiter.take(&key(name), &quotas, 1).await;
            admitted += u32::from(decision.is_ok_and(|decision| decision.is_admitted()));
        }
        admitted
    };
    assert_eq!(
        count(&local, "a").await,
        15,
        "a fourth, less what was admitted before"
    );
    assert_eq!(count(&local, "b").await, 25);
    assert_eq!(count(&open, "a").await, 60);
    assert_eq!(count(&closed, "a").await, 0);
    let error = closed.take(&key("a"), &quotas, 1).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(local.is_degraded() && local.statistics().degraded >= 120);

    server.restart();
    for _ in 0..500 {
        if !local.is_degraded() && !closed.is_degraded() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        !local.is_degraded() && !closed.is_degraded(),
        "it is found again"
    );
    assert_eq!(count(&closed, "c").await, 60);
}

#[tokio::test]
async fn a_server_that_is_silent_costs_a_deadline_and_then_nothing() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiter = RedisRateLimiter::builder(&server.url()).build().unwrap();
    limiter.connect().await.unwrap();
    let quotas = Quotas::from(Quota::per_minute(600));
    server.pause();
    let clock = SystemClock::shared();
    let began = clock.elapsed();
    for _ in 0..50 {
        limiter.take(&key("a"), &quotas, 1).await.unwrap();
    }
    let took = clock.elapsed() - began;
    server.resume();
    assert!(
        took < Duration::from_millis(1_000),
        "three deadlines, not fifty: {took:?}"
    );
    assert_eq!(limiter.statistics().failures, 3);
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_and_a_password_is_not_told() {
    let error = RedisRateLimiter::builder("http://user:secret@host/")
        .build()
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    let limiter = RedisRateLimiter::builder("redis://user:secret@127.0.0.1:1/")
        .build()
        .unwrap();
    let error = limiter.connect().await.unwrap_err();
    assert!(!format!("{error} {error:?} {limiter:?}").contains("secret"));
}
