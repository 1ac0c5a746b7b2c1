mod stale;
mod vain;

use std::{
    future::{pending, ready},
    sync::atomic::AtomicBool,
};

use tokio::sync::{Notify, oneshot};

use super::*;
use crate::domain::clock::{ManualClock, SystemClock};

const SECOND: Duration = Duration::from_secs(1);
const BOUNDS: CacheBounds = CacheBounds {
    capacity: 1_000,
    ttl: Duration::from_secs(30),
    negative_capacity: 100,
    negative_ttl: Duration::from_secs(5),
};

type Numbers = RevocableCache<Number>;

/// A number under a number.
#[derive(Clone, Debug)]
struct Number(Arc<(u64, Stamp, u64)>);

impl Number {
    fn value(&self) -> u64 {
        self.0.2
    }
}

impl Remembered for Number {
    type Key = u64;

    fn key(&self) -> &u64 {
        &self.0.0
    }

    fn stamp(&self) -> Stamp {
        self.0.1
    }
}

fn number(key: u64, stamp: Stamp, value: u64) -> Number {
    Number(Arc::new((key, stamp, value)))
}

fn peek(cache: &Numbers, key: u64) -> Lookup<u64> {
    match cache.peek(&key) {
        Lookup::Hit(found) => Lookup::Hit(found.value()),
        Lookup::KnownAbsent => Lookup::KnownAbsent,
        Lookup::Unknown => Lookup::Unknown,
    }
}

fn cache() -> (Arc<Numbers>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    (Arc::new(RevocableCache::new(BOUNDS, clock.clone())), clock)
}

async fn fill(cache: &Numbers, key: u64, value: Option<u64>) -> Option<u64> {
    let answer = cache
        .load(&key, SECOND, |stamp| {
            ready(Ok(value.map(|value| number(key, stamp, value))))
        })
        .await;
    answer.unwrap().map(|found| found.value())
}

fn failing(_: Stamp) -> std::future::Ready<Result<Option<Number>, StoreError>> {
    ready(Err(StoreError::new(StoreErrorKind::Unavailable, "gone")))
}

/// That there is none, as a store says that isn't in this process.
async fn far_away() -> Result<Option<Number>, StoreError> {
    tokio::task::yield_now().await;
    Ok(None)
}

#[tokio::test]
async fn an_entry_is_served_for_its_ttl_and_use_does_not_prolong_it() {
    let (cache, clock) = cache();
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
    assert_eq!(fill(&cache, 1, Some(7)).await, Some(7));
    for _ in 0..29 {
        clock.advance(SECOND);
        assert_eq!(peek(&cache, 1), Lookup::Hit(7));
    }
    clock.advance(SECOND);
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
    assert_eq!(fill(&cache, 1, Some(8)).await, Some(8));
    assert_eq!(peek(&cache, 1), Lookup::Hit(8));
}

#[tokio::test]
async fn age_counts_from_before_the_load() {
    let (cache, clock) = cache();
    let slow = |stamp| {
        clock.advance(Duration::from_secs(29));
        ready(Ok(Some(number(1, stamp, 1))))
    };
    cache.load(&1, SECOND, slow).await.unwrap();
    assert_eq!(peek(&cache, 1), Lookup::Hit(1));
    clock.advance(SECOND);
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
}

#[tokio::test]
async fn absence_has_a_ttl_of_its_own_and_gives_way_to_a_value() {
    let (cache, clock) = cache();
    assert_eq!(fill(&cache, 1, None).await, None);
    assert_eq!(peek(&cache, 1), Lookup::KnownAbsent);
    assert_eq!(fill(&cache, 1, Some(1)).await, None, "known, not asked");
    clock.advance(Duration::from_secs(5));
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
    assert_eq!(fill(&cache, 1, None).await, None);
    cache.invalidate(&1);
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
    assert_eq!(fill(&cache, 1, Some(2)).await, Some(2));
    let expected = CacheStatistics {
        hits: 0,
        negative_hits: 1,
        misses: 2,
        loads: 3,
        ..CacheStatistics::default()
    };
    let counted = CacheStatistics {
        entries: 0,
        negative_entries: 0,
        ..cache.statistics()
    };
    assert_eq!(counted, expected);
}

#[tokio::test]
async fn failures_are_not_remembered() {
    let (cache, _) = cache();
    let failed = cache
        .load(&1, SECOND, |_| ready(Err(StoreError::internal("gone"))))
        .await;
    assert_eq!(failed.unwrap_err().kind(), StoreErrorKind::Internal);
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
    assert_eq!(fill(&cache, 1, Some(1)).await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_a_deadline_and_one_load() {
    let (cache, _) = cache();
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move { cache.load(&1, SECOND, |_| pending()).await })
        })
        .collect();
    for caller in callers {
        let error = caller.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    }
    assert_eq!(cache.statistics().loads, 1);
    assert!(cache.single_flight.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_concurrent_misses_are_one_load() {
    let clock = SystemClock::shared();
    let cache: Arc<Numbers> = Arc::new(RevocableCache::new(BOUNDS, clock));
    let callers: Vec<_> = (0..1_000)
        .map(|_| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                let fetch = |stamp| async move {
                    tokio::task::yield_now().await;
                    Ok(Some(number(1, stamp, 7)))
                };
                cache.load(&1, Duration::from_secs(20), fetch).await
            })
        })
        .collect();
    for caller in callers {
        let found = caller.await.unwrap().unwrap();
        assert_eq!(found.map(|found| found.value()), Some(7));
    }
    assert_eq!(cache.statistics().loads, 1);
    assert!(cache.single_flight.is_empty());
}

#[tokio::test]
async fn leaders_that_hang_up_leave_the_rest_unharmed() {
    let (cache, _) = cache();
    let spawn_hanging = || {
        let cache = Arc::clone(&cache);
        tokio::spawn(async move { cache.load(&1, SECOND, |_| pending()).await })
    };
    let leaders: Vec<_> = (0..300).map(|_| spawn_hanging()).collect();
    tokio::task::yield_now().await;
    let last = {
        let cache = Arc::clone(&cache);
        tokio::spawn(async move { fill(&cache, 1, Some(9)).await })
    };
    tokio::task::yield_now().await;
    for leader in leaders {
        leader.abort();
        let _ = leader.await;
    }
    assert_eq!(last.await.unwrap(), Some(9));
    assert!(cache.single_flight.is_empty());
}

#[tokio::test]
async fn a_load_that_raced_a_revocation_is_never_served_after_it() {
    let (cache, _) = cache();
    let (answer, answered) = oneshot::channel();
    let started = Arc::new(Notify::new());
    let old = {
        let (cache, started) = (Arc::clone(&cache), Arc::clone(&started));
        tokio::spawn(async move {
            let fetch = |stamp| async move {
                started.notify_one();
                Ok(Some(number(1, stamp, answered.await.unwrap())))
            };
            cache.load(&1, SECOND, fetch).await
        })
    };
    started.notified().await;
    cache.invalidate(&1);
    assert_eq!(
        fill(&cache, 1, Some(2)).await,
        Some(2),
        "does not join the older load"
    );
    answer.send(1).unwrap();
    let late = old.await.unwrap().unwrap();
    assert_eq!(late.map(|found| found.value()), Some(1));
    assert_ne!(peek(&cache, 1), Lookup::Hit(1));
    assert_eq!(fill(&cache, 1, Some(3)).await, Some(3));
    cache.invalidate_all();
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
}

#[test]
fn revocation_is_seen_by_every_thread_once_it_returned() {
    let (cache, _) = cache();
    let truth = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                while !over.load(Ordering::Acquire) {
                    let floor = truth.load(Ordering::Acquire);
                    let seen = match peek(&cache, 1) {
                        Lookup::Hit(value) => value,
                        _ => {
                            let fetch = |stamp| {
                                let value = truth.load(Ordering::Acquire);
                                ready(Ok(Some(number(1, stamp, value))))
                            };
                            let loaded = runtime.block_on(cache.load(&1, SECOND, fetch));
                            loaded.unwrap().unwrap().value()
                        }
                    };
                    // The truth moves on first and is revoked after, so one step of lag is within
                    // the contract.
                    assert!(seen + 1 >= floor, "{seen} served, {floor} was the truth");
                }
            });
        }
        for _ in 0..5_000 {
            truth.fetch_add(1, Ordering::AcqRel);
            cache.invalidate(&1);
        }
        over.store(true, Ordering::Release);
    });
}

#[tokio::test]
async fn what_is_loaded_again_takes_the_place_of_what_was_there() {
    let (cache, clock) = cache();
    for round in 0..5 {
        assert_eq!(fill(&cache, 1, Some(round)).await, Some(round));
        assert_eq!(peek(&cache, 1), Lookup::Hit(round));
        assert_eq!(cache.statistics().entries, 1);
        clock.advance(BOUNDS.ttl);
    }
    cache.invalidate(&1);
    assert_eq!(cache.statistics().entries, 0);
    for round in 0..5 {
        fill(&cache, 1, Some(round)).await;
        assert_eq!(peek(&cache, 1), Lookup::Hit(round), "it stays");
        cache.invalidate_all();
        assert_eq!(peek(&cache, 1), Lookup::Unknown);
    }
    cache.eviction.settle();
    assert_eq!(cache.statistics().entries, 0);
}

#[tokio::test]
async fn without_room_nothing_is_kept() {
    let bounds = CacheBounds {
        capacity: 0,
        ..BOUNDS
    };
    let cache = Numbers::new(bounds, Arc::new(ManualClock::default()));
    assert_eq!(fill(&cache, 1, Some(7)).await, Some(7));
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
    assert_eq!(cache.statistics().entries, 0);
}

/// Keys that are used stay when more come than there is room for.
#[tokio::test]
async fn what_is_used_more_stays() {
    let (cache, _) = cache();
    let popular = || 0..100;
    for key in 0..BOUNDS.capacity {
        fill(&cache, key, Some(key)).await;
    }
    for _ in 0..200 {
        for key in popular() {
            assert_eq!(peek(&cache, key), Lookup::Hit(key));
        }
    }
    for key in 1_000..4_000 {
        fill(&cache, key, Some(key)).await;
    }
    cache.eviction.settle();
    let stayed = popular().filter(|key| peek(&cache, *key) == Lookup::Hit(*key));
    let stayed = stayed.count();
    assert!(stayed >= 80, "{stayed}");
    assert!(cache.statistics().entries <= BOUNDS.capacity);
}

/// What is kept and what is found are told by two structures: whatever comes at once, neither
/// outgrows the other.
#[test]
fn threads_that_load_and_revoke_leave_no_more_than_there_is_room_for() {
    let clock = SystemClock::shared();
    let bounds = CacheBounds {
        capacity: 50,
        ..BOUNDS
    };
    let cache = Numbers::new(bounds, clock);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                for round in 0..20_000_u64 {
                    let key = (round * (2 * thread + 1)) % 97;
                    match round % 7 {
                        0 => cache.invalidate(&key),
                        1 if round % 1_001 == 1 => cache.invalidate_all(),
                        _ => assert_eq!(runtime.block_on(fill(cache, key, Some(key))), Some(key)),
                    }
                }
            });
        }
    });
    cache.eviction.settle();
    let entries = cache.statistics().entries;
    assert!(entries <= 50, "{entries}");
    assert!(cache.single_flight.is_empty());
}

#[tokio::test]
async fn floods_stay_within_the_bounds() {
    let (cache, _) = cache();
    for key in 0..5_000 {
        fill(&cache, key, Some(key)).await;
        fill(&cache, key + 10_000, None).await;
    }
    cache.eviction.settle();
    cache.absent.run_pending_tasks();
    let entries = cache.statistics().entries;
    assert!(entries <= BOUNDS.capacity && entries > BOUNDS.capacity / 2);
    assert!(cache.absent.entry_count() <= BOUNDS.negative_capacity);
    assert!(cache.single_flight.is_empty());
}

#[tokio::test]
async fn what_is_filled_in_is_served_unless_it_was_taken_back_meanwhile() {
    let (cache, clock) = cache();
    let before = cache.before_fill();
    cache.invalidate(&2);
    for (key, value) in [(1, 7), (2, 8)] {
        let stamp = cache.stamp_after(&before, &key).unwrap();
        cache.fill(number(key, stamp, value));
    }
    assert_eq!(peek(&cache, 1), Lookup::Hit(7));
    assert_eq!(peek(&cache, 2), Lookup::Unknown);
    clock.advance(BOUNDS.ttl);
    assert_eq!(peek(&cache, 1), Lookup::Unknown);
}
