//! One load for all concurrent callers.
//!
//! Why not moka's `try_get_with`: it gives a newcomer the answer of a load that began before a
//! revocation, and a waiter panics after 200 aborted leaders, for which 200 disconnects on a slow
//! store suffice.

use std::{
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use hashbrown::HashMap;
use tokio::sync::OnceCell;

use crate::{store::StoreError, sync::lock};

/// The loads under way. Bounded by the number of callers: the last one removes its load.
pub(super) struct SingleFlight<K, V>(Mutex<HashMap<K, Shared<V>>>);

pub(super) struct Load<V> {
    pub(super) generation: u64,
    began_at: Duration,
    pub(super) outcome: OnceCell<Result<Option<V>, StoreError>>,
}

struct Shared<V> {
    load: Arc<Load<V>>,
    waiters: usize,
}

/// A caller that waits for a load. The load is removed from the list by the last caller to leave,
/// or by the first to leave once there is an answer.
pub(super) struct Waiter<'a, K: Hash + Eq, V> {
    single_flight: &'a SingleFlight<K, V>,
    key: &'a K,
    pub(super) load: Arc<Load<V>>,
}

impl<K: Hash + Eq + Clone, V> SingleFlight<K, V> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// Joins the load under way if it is of this generation and began no earlier than `not_before`;
    /// otherwise starts one.
    pub(super) fn join<'a>(
        &'a self,
        key: &'a K,
        generation: u64,
        now: Duration,
        not_before: Duration,
    ) -> Waiter<'a, K, V> {
        let is_new = |load: &Load<V>| load.generation >= generation && load.began_at >= not_before;
        let mut listed = self.locked();
        let load = match listed.get_mut(key) {
            Some(listed) if is_new(&listed.load) => {
                listed.waiters = listed.waiters.saturating_add(1);
                Arc::clone(&listed.load)
            }
            _ => {
                let load = Arc::new(Load {
                    generation,
                    began_at: now,
                    outcome: OnceCell::new(),
                });
                let first = Shared {
                    load: Arc::clone(&load),
                    waiters: 1,
                };
                listed.insert(key.clone(), first);
                load
            }
        };
        drop(listed);
        Waiter {
            single_flight: self,
            key,
            load,
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.locked().is_empty()
    }
}

impl<K, V> SingleFlight<K, V> {
    fn locked(&self) -> MutexGuard<'_, HashMap<K, Shared<V>>> {
        lock(&self.0)
    }
}

impl<K: Hash + Eq, V> Drop for Waiter<'_, K, V> {
    fn drop(&mut self) {
        let mut single_flight = self.single_flight.locked();
        let Some(listed) = single_flight.get_mut(self.key) else {
            return;
        };
        if !Arc::ptr_eq(&listed.load, &self.load) {
            return;
        }
        listed.waiters = listed.waiters.saturating_sub(1);
        if listed.waiters == 0 || self.load.outcome.initialized() {
            single_flight.remove(self.key);
        }
    }
}
