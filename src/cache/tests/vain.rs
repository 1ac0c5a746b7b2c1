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

/// How many of a flood of new keys a store is asked for, at this moment.
async fn flood<Fut>(cache: &Numbers, fetch: impl Fn() -> Fut) -> u64
where
    Fut: Future<Output = Result<Option<Number>, StoreError>>,
{
    let before = cache.statistics().loads;
    for key in 0..1_000 {
        assert!(cache.load(&key, SECOND, |_| fetch()).await.is_err());
    }
    cache.statistics().loads.saturating_sub(before)
}

#[tokio::test]
async fn a_store_that_fails_at_once_is_asked_at_a_bounded_rate_too() {
    let clock = Arc::new(ManualClock::default());
    let cache = Numbers::new(BOUNDS, clock.clone()).absences_per_second(100);
    let at_once = || ready(Err(StoreError::internal("gone")));
    let later = || async {
        tokio::task::yield_now().await;
        Err(StoreError::internal("gone"))
    };
    assert_eq!(flood(&cache, at_once).await, 100);
    clock.advance(SECOND);
    assert_eq!(flood(&cache, later).await, 100);
    clock.advance(SECOND / 2);
    assert_eq!(flood(&cache, later).await, 50);
    clock.advance(SECOND);
    assert_eq!(fill(&cache, 0, Some(7)).await, Some(7), "a moment later");
}

/// Time goes on while a store hangs, and so would a rate alone.
#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_asked_for_so_many_at_a_time() {
    let clock = Arc::new(ManualClock::default());
    let cache = Arc::new(Numbers::new(BOUNDS, clock.clone()).absences_per_second(100));
    let mut asked = Vec::new();
    for tick in 0..20_u64 {
        let before = cache.statistics().loads;
        for number in 0..1_000 {
            let cache = Arc::clone(&cache);
            let key = tick * 1_000 + number;
            let deadline = Duration::from_millis(4_900);
            tokio::spawn(async move { cache.load(&key, deadline, |_| pending()).await });
        }
        // Half a second passes by either clock.
        tokio::time::sleep(SECOND / 2).await;
        clock.advance(SECOND / 2);
        asked.push(cache.statistics().loads - before);
    }
    let expected = |tick| if tick % 10 == 0 { 100 } else { 0 };
    let expected: Vec<_> = (0..20).map(expected).collect();
    assert_eq!(asked, expected);
}

/// Those that hang are of a store that fails: then old values are served, whoever else stands in
/// line.
#[tokio::test]
async fn a_crowd_before_a_failing_store_keeps_nobody_from_an_old_value() {
    let clock = Arc::new(ManualClock::default());
    clock.advance(SECOND);
    let cache = Numbers::new(BOUNDS, clock.clone())
        .stale_if_error(60 * SECOND)
        .absences_per_second(10);
    assert_eq!(fill(&cache, 1, Some(7)).await, Some(7));
    clock.advance(30 * SECOND);
    assert!(cache.load(&2, SECOND, failing).await.is_err());
    clock.advance(2 * SECOND);
    let keys: Vec<u64> = (100..200).collect();
    let hang = |key| Box::pin(cache.load(key, SECOND, |_| pending()));
    let mut hanging: Vec<_> = keys.iter().map(hang).collect();
    for load in &mut hanging {
        let _ = load.now_or_never();
    }
    let refused = cache.load(&3, SECOND, |_| far_away()).await;
    assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Unavailable);
    let answer = cache.load(&1, SECOND, |_| far_away()).await.unwrap();
    assert_eq!(answer.map(|found| found.value()), Some(7));
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
