//! What is sent to a server that is down or silent, and what isn't sent at all.

use std::num::NonZeroU32;

use super::*;

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

/// Each process has its share when the server is unavailable: the same part of what was left as of
/// the whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_server_this_process_counts_by_itself() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let four = NonZeroU32::new(4).unwrap();
    let build = |degraded| {
        RedisRateLimiter::builder(server.url())
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
        22,
        "a fourth of 90, in whole units"
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
    let limiter = RedisRateLimiter::builder(server.url()).build().unwrap();
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
