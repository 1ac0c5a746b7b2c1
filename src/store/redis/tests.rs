//! Against a real server.

#[cfg(feature = "redis-cluster")]
pub(super) mod cluster;
#[cfg(feature = "redis-cluster")]
mod cluster_logins;
#[cfg(feature = "redis-cluster")]
mod cluster_slots;
mod corrections;
mod counts;
mod credentials;
mod failover;
mod models;
mod outage;
#[cfg(feature = "redis-tls")]
mod secured;
mod sentinels;

use redis::Client;

use super::{test_server::RedisServer, *};
use crate::{
    domain::quota::{CalendarPeriod, Quota, Zone},
    store::{RateOutcome, StoreErrorKind, TakenAt},
};

fn key(name: &str) -> RateKey {
    RateKey::new(&"test".into(), name.as_bytes())
}

/// A patient limiter: these tests are about counting, on a machine that may be busy.
async fn limiter(server: &RedisServer) -> RedisRateLimiter {
    let limiter = RedisRateLimiter::builder(server.url())
        .deadline(Duration::from_secs(20))
        .degraded(Degraded::closed())
        .build()
        .unwrap();
    limiter.connect().await.unwrap();
    limiter
}

/// Sends a command to a server, over a connection of its own.
pub(super) async fn order(server: &RedisServer, words: &[&str]) {
    let client = Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let (verb, arguments) = words.split_first().unwrap();
    let mut command = redis::cmd(verb);
    command.arg(arguments);
    command.exec_async(&mut connection).await.unwrap();
}

/// Closes all connections except the one that sends it.
pub(super) const HANG_UP: &[&str] = &["CLIENT", "KILL", "TYPE", "normal"];

async fn admits(limiter: &RedisRateLimiter, name: &str, quotas: &Quotas) -> bool {
    let decision = limiter.0.remote().take(&key(name), quotas, 1).await;
    decision.unwrap().is_admitted()
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
    let correct = async |units, taken: &RateDecision| {
        let correction = models::correction(units, taken);
        remote
            .correct(&key("a"), &quotas, correction)
            .await
            .unwrap();
        left(&remote.peek(&key("a"), &quotas).await.unwrap())
    };
    assert_eq!(correct(-30, &estimate).await, [80, 80, 80]);
    let long_ago = RateDecision {
        taken_at: TakenAt::default(),
        ..estimate.clone()
    };
    assert_eq!(
        correct(30, &long_ago).await,
        [50, 50, 80],
        "too late for a month that has ended"
    );
    assert_eq!(correct(-30, &long_ago).await, [50, 50, 80]);
    assert_eq!(correct(i64::MAX, &estimate).await, [0, 0, 0]);
    let now = remote.take(&key("a"), &quotas, 0).await.unwrap();
    assert_eq!(correct(i64::MIN, &now).await, [100, 100, 100]);
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

#[tokio::test]
async fn calls_that_name_other_windows_neither_reset_a_count_nor_cut_its_life() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiter = limiter(&server).await;
    let remote = limiter.0.remote();
    let often = Quotas::from(Quota::per_second(1_000));
    let seldom = Quotas::from([
        Quota::per(Duration::from_secs(86_400), 3).named("bucket"),
        Quota::calendar(CalendarPeriod::Month, 50),
    ]);
    let client = Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut admitted = 0;
    let mut longest = 0;
    for _ in 0..10 {
        admitted += usize::from(admits(&limiter, "a", &seldom).await);
        let taken = remote.take(&key("a"), &often, 1).await.unwrap();
        assert!(taken.is_admitted());
        let correction = Correction {
            units: -1,
            taken_at: taken.taken_at,
            readings: taken.readings,
        };
        remote.correct(&key("a"), &often, correction).await.unwrap();
        let names: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query_async(&mut connection)
            .await
            .unwrap();
        let lives: i64 = redis::cmd("PTTL")
            .arg(&names[0])
            .query_async(&mut connection)
            .await
            .unwrap();
        longest = longest.max(lives);
        // A test that takes a minute would have failed anyway.
        assert!(lives > longest - 60_000, "{lives} of {longest}");
    }
    assert_eq!(admitted, 3);
    assert!(
        longest > 28_000_000,
        "a bucket of a third of a day: {longest}"
    );
    assert_eq!(
        left(&remote.peek(&key("a"), &seldom).await.unwrap()),
        [0, 47]
    );
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
