//! One load however many ask at the same time.
//!
//! Not moka's `try_get_with`: it hands a newcomer the answer of a load that began before a revocation, and panics a waiter that
//! has seen 200 aborted leaders, which 200 hang-ups on a slow store are enough for.

use std::{
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hashbrown::HashMap;
use tokio::sync::OnceCell;

use crate::store::StoreError;

/// The loads that are under way. Bounded by the number of callers: the last one out removes the flight.
pub(super) struct Flights<K, V>(Mutex<HashMap<K, Listed<V>>>);

pub(super) struct Flight<V> {
    pub(super) generation: u64,
    began_at: Duration,
    pub(super) outcome: OnceCell<Result<Option<V>, StoreError>>,
}

struct Listed<V> {
    flight: Arc<Flight<V>>,
    seats: usize,
}

/// A seat on a flight; whoever leaves last, or leaves a landed one, removes the flight from the list.
pub(super) struct Boarding<'a, K: Hash + Eq, V> {
    flights: &'a Flights<K, V>,
    key: &'a K,
    pub(super) flight: Arc<Flight<V>>,
}

impl<K: Hash + Eq + Clone, V> Flights<K, V> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// Joins the load that is under way if it began in this generation and after `not_before`, or else begins one.
    pub(super) fn board<'a>(
        &'a self,
        key: &'a K,
        generation: u64,
        now: Duration,
        not_before: Duration,
    ) -> Boarding<'a, K, V> {
        let is_new =
            |flight: &Flight<V>| flight.generation >= generation && flight.began_at >= not_before;
        let mut listed = self.locked();
        let flight = match listed.get_mut(key) {
            Some(listed) if is_new(&listed.flight) => {
                listed.seats = listed.seats.saturating_add(1);
                Arc::clone(&listed.flight)
            }
            _ => {
                let flight = Arc::new(Flight {
                    generation,
                    began_at: now,
                    outcome: OnceCell::new(),
                });
                let first = Listed {
                    flight: Arc::clone(&flight),
                    seats: 1,
                };
                listed.insert(key.clone(), first);
                flight
            }
        };
        drop(listed);
        Boarding {
            flights: self,
            key,
            flight,
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.locked().is_empty()
    }
}

impl<K, V> Flights<K, V> {
    fn locked(&self) -> MutexGuard<'_, HashMap<K, Listed<V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V> Drop for Boarding<'_, K, V> {
    fn drop(&mut self) {
        let mut flights = self.flights.locked();
        let Some(listed) = flights.get_mut(self.key) else {
            return;
        };
        if !Arc::ptr_eq(&listed.flight, &self.flight) {
            return;
        }
        listed.seats = listed.seats.saturating_sub(1);
        if listed.seats == 0 || self.flight.outcome.initialized() {
            flights.remove(self.key);
        }
    }
}
