//! How often a store is asked for what isn't there, and for how long a load is joined.

use futures_util::FutureExt;

use super::*;

#[tokio::test]
async fn a_store_in_memory_is_asked_in_vain_as_often_as_anybody_likes() {
    let clock = Arc::new(ManualClock::default());
    let cache = Numbers::new(BOUNDS, clock.clone()).absences_per_second(10);
    for key in 1..10_000 {
        assert_eq!(fill(&cache, key, None).await, None);
    }
    assert_eq!(fill(&cache, 0, Some(7)).await, Some(7), "a good one, cold");
}

#[tokio::test]
async fn the_store_is_asked_in_vain_at_a_bounded_rate() {
    let clock = Arc::new(ManualClock::default());
    let cache = Numbers::new(BOUNDS, clock.clone()).absences_per_second(100);
    assert_eq!(fill(&cache, 0, Some(7)).await, Some(7));
    let mut asked = 0;
    for second in 0..3_u64 {
        for number in 0..1_000 {
            let key = 1 + second * 1_000 + number;
            let answer = cache.load(&key, SECOND, |_| far_away());
            match answer.await {
                Ok(None) => asked += 1,
                Ok(Some(_)) => panic!("there is none"),
                Err(error) => assert_eq!(error.kind(), StoreErrorKind::Busy),
            }
        }
        assert_eq!(peek(&cache, 0), Lookup::Hit(7), "what is warm goes on");
        clock.advance(SECOND);
    }
    assert_eq!(asked, 300);
    assert_eq!(cache.statistics().loads, 301);
}

#[tokio::test]
async fn who_hangs_up_has_asked_in_vain_all_the_same() {
    let clock = Arc::new(ManualClock::default());
    let cache = Numbers::new(BOUNDS, clock.clone()).absences_per_second(10);
    let mut asked = 0;
    for key in 0..100_u64 {
        let load = cache.load(&key, SECOND, |_| std::future::pending());
        match load.now_or_never() {
            None => asked += 1,
            Some(answer) => assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Busy),
        }
    }
    assert_eq!(asked, 10);
    clock.advance(SECOND);
    assert_eq!(
        fill(&cache, 1_000, Some(7)).await,
        Some(7),
        "a moment later"
    );
    for key in 2_000..3_000 {
        assert_eq!(
            fill(&cache, key, Some(7)).await,
            Some(7),
            "what is there is free"
        );
    }
}

#[tokio::test]
async fn nobody_joins_a_load_that_is_older_than_a_value_may_be() {
    let (cache, clock) = cache();
    let slow = cache.load(&1, SECOND, |_| std::future::pending());
    let mut slow = Box::pin(slow);
    assert!((&mut slow).now_or_never().is_none());
    clock.advance(BOUNDS.ttl);
    clock.advance(Duration::from_millis(1));
    assert_eq!(fill(&cache, 1, Some(8)).await, Some(8));
}
