//! The laws of a store that counts requests under way.
//!
//! Each takes a store in which nothing is under way. [`slots`](super::slots()) runs them all. They
//! ask one store alone; what several processes are to each other, and what comes free of one that
//! was killed, is a matter of each kind of store.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
};

use tokio::task::{JoinSet, yield_now};

use crate::store::{ConcurrencyStore, RateKey, Slot};

fn key(scope: &str, name: &str) -> RateKey {
    RateKey::new(&Arc::from(scope), name.as_bytes())
}

async fn take<S: ConcurrencyStore>(store: &S, name: &str, most: u32) -> Option<Slot> {
    store.acquire(&key("callers", name), most).await.unwrap()
}

/// As many as there are, up to 20.
async fn all<S: ConcurrencyStore>(store: &S, name: &str, most: u32) -> Vec<Slot> {
    let mut slots = Vec::new();
    while slots.len() < 20
        && let Some(slot) = take(store, name, most).await
    {
        slots.push(slot);
    }
    slots
}

/// A key has as many slots as the call says, whatever earlier ones said.
pub async fn a_key_has_so_many_slots_and_no_more<S: ConcurrencyStore>(store: Arc<S>) {
    let three = all(&*store, "ann", 3).await;
    assert_eq!(three.len(), 3);
    let more = all(&*store, "ann", 5).await;
    assert_eq!(more.len(), 2, "beside the three");
    assert!(
        take(&*store, "ann", 4).await.is_none(),
        "five are under way"
    );
    drop((three, more));
    assert_eq!(all(&*store, "ann", 2).await.len(), 2);
}

/// A slot is free again once it is dropped, and no other is.
pub async fn a_slot_is_free_once_it_is_dropped<S: ConcurrencyStore>(store: Arc<S>) {
    let mut slots = all(&*store, "ann", 3).await;
    for _ in 0..5 {
        drop(slots.pop());
        slots.extend(take(&*store, "ann", 3).await);
        assert_eq!(slots.len(), 3, "one was free");
        assert!(take(&*store, "ann", 3).await.is_none(), "and no other");
    }
    drop(slots);
    assert_eq!(all(&*store, "ann", 3).await.len(), 3);
}

/// A refusal takes nothing, however many there are.
pub async fn a_refused_request_takes_no_slot<S: ConcurrencyStore>(store: Arc<S>) {
    let slots = all(&*store, "ann", 2).await;
    for _ in 0..5 {
        assert!(take(&*store, "ann", 2).await.is_none());
    }
    drop(slots);
    assert_eq!(all(&*store, "ann", 2).await.len(), 2);
}

/// Neither another caller nor another limit on the same caller takes any.
pub async fn callers_and_limits_have_slots_of_their_own<S: ConcurrencyStore>(store: Arc<S>) {
    let anns = all(&*store, "ann", 2).await;
    let bobs = all(&*store, "bob", 2).await;
    assert_eq!((anns.len(), bobs.len()), (2, 2));
    let other = store.acquire(&key("searches", "ann"), 1).await.unwrap();
    assert!(other.is_some());
    drop(anns);
    assert!(take(&*store, "bob", 2).await.is_none());
    drop(other);
    assert!(take(&*store, "bob", 2).await.is_none());
}

/// Who gives up before the answer has nothing, and neither has anybody who asked with it.
pub async fn who_gives_up_takes_no_slot<S: ConcurrencyStore>(store: Arc<S>) {
    for _ in 0..5 {
        drop(store.acquire(&key("callers", "ann"), 2));
        let mut asked = Box::pin(store.acquire(&key("callers", "ann"), 2));
        poll_fn(|cx| {
            let _ = asked.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
    }
    assert_eq!(all(&*store, "ann", 2).await.len(), 2);
}

/// Of a hundred at once as many are admitted as there are slots, and whoever comes later finds
/// those that are free.
pub async fn of_a_hundred_at_once_as_many_are_under_way_as_may_be<S: ConcurrencyStore>(
    store: Arc<S>,
) {
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let store = Arc::clone(&store);
        calls.spawn(async move { take(&*store, "ann", 7).await });
    }
    let slots: Vec<_> = calls.join_all().await.into_iter().flatten().collect();
    assert_eq!(slots.len(), 7);
    drop(slots);

    let (under_way, mut calls) = (Arc::new(AtomicU32::new(0)), JoinSet::new());
    for _ in 0..50 {
        let (store, under_way) = (Arc::clone(&store), Arc::clone(&under_way));
        calls.spawn(async move {
            for _ in 0..4 {
                if let Some(slot) = take(&*store, "ann", 7).await {
                    assert!(under_way.fetch_add(1, Ordering::SeqCst) < 7);
                    yield_now().await;
                    under_way.fetch_sub(1, Ordering::SeqCst);
                    drop(slot);
                }
            }
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!(all(&*store, "ann", 7).await.len(), 7);
}

/// A slot may be dropped after its store, and on another task.
pub async fn a_slot_outlives_whoever_took_it<S: ConcurrencyStore>(store: Arc<S>) {
    let slots = all(&*store, "ann", 2).await;
    assert!(take(&*store, "ann", 2).await.is_none());
    tokio::spawn(async move { drop(slots) }).await.unwrap();
    let slots = all(&*store, "ann", 2).await;
    assert_eq!(slots.len(), 2);
    drop(store);
    drop(slots);
}
