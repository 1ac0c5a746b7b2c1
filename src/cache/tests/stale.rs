//! Old values while the store fails.

use super::*;

#[tokio::test]
async fn an_old_value_is_served_while_the_store_fails_and_no_longer() {
    let clock = Arc::new(ManualClock::default());
    clock.advance(SECOND);
    let cache = Numbers::new(BOUNDS, clock.clone()).stale_if_error(60 * SECOND);
    assert_eq!(fill(&cache, 1, Some(7)).await, Some(7));
    clock.advance(30 * SECOND);
    assert_eq!(peek(&cache, 1), Lookup::Unknown, "first the store is asked");
    let answer = cache.load(&1, SECOND, failing).await.unwrap();
    assert_eq!(answer.map(|found| found.value()), Some(7));
    assert_eq!(
        peek(&cache, 1),
        Lookup::Hit(7),
        "for a second it isn't asked again"
    );
    assert!(
        cache.load(&2, SECOND, failing).await.is_err(),
        "nothing is known of it"
    );
    clock.advance(SECOND);
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
    cache.invalidate(&1);
    assert!(
        cache.load(&1, SECOND, failing).await.is_err(),
        "it was taken back"
    );
    assert_eq!(fill(&cache, 1, Some(8)).await, Some(8));
    clock.advance(90 * SECOND);
    assert!(cache.load(&1, SECOND, failing).await.is_err(), "too old");
    assert_eq!(cache.statistics().stale_hits, 2);
}

#[tokio::test]
async fn a_full_line_is_no_failure_that_old_values_are_served_for() {
    let clock = Arc::new(ManualClock::default());
    clock.advance(SECOND);
    let cache = Numbers::new(BOUNDS, clock.clone())
        .stale_if_error(60 * SECOND)
        .absences_per_second(10);
    assert_eq!(fill(&cache, 1, Some(7)).await, Some(7));
    clock.advance(30 * SECOND);
    for absent in 100..200 {
        let _ = cache.load(&absent, SECOND, |_| far_away()).await;
    }
    let refused = cache.load(&1, SECOND, |_| far_away()).await;
    assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Busy);
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
    clock.advance(2 * SECOND);
    let full = |_| ready(Err(StoreError::new(StoreErrorKind::Busy, "full")));
    let refused = cache.load(&1, SECOND, full).await;
    assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Busy);
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
    assert_eq!(cache.statistics().stale_hits, 0);
    let answer = cache.load(&1, SECOND, failing).await.unwrap();
    assert_eq!(
        answer.map(|found| found.value()),
        Some(7),
        "of a failing store it is"
    );
}

#[tokio::test]
async fn without_that_choice_no_old_value_is_served() {
    let (cache, clock) = cache();
    assert_eq!(fill(&cache, 1, Some(7)).await, Some(7));
    clock.advance(BOUNDS.ttl);
    assert!(cache.load(&1, SECOND, failing).await.is_err());
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
}
