//! A bounded cache whose entries can be taken back at once.
//!
//! **Revocation.** Every key belongs to one of 1,024 stripes, and every stripe has a generation. An entry carries
//! its stripe's generation as it stood *before* the load began; an entry of another generation is no hit.
//! [`RevocableCache::invalidate`] counts the generation on, so a load that raced a change may finish when it likes:
//! what it read before the change is never served once `invalidate` has returned.
//!
//! **Age.** It is counted from before the load, by our own [`Clock`], and no use prolongs it. moka's own
//! time-to-live only gives the memory back.
//!
//! **Single flight.** Not moka's `try_get_with`: it hands a newcomer the answer of a load that began before a
//! revocation, and panics a waiter that has seen 200 aborted leaders, which 200 hang-ups on a slow store are enough for.

mod generations;
mod rate;

use std::{
    fmt,
    future::Future,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::{DefaultHashBuilder, HashMap};
use moka::{notification::RemovalCause, sync::Cache};
use tokio::{sync::OnceCell, time::timeout};

pub(crate) use self::generations::Snapshot;
use self::{generations::Generations, rate::Rate};
use crate::{
    domain::clock::Clock,
    store::{StoreError, StoreErrorKind},
};

/// How long after a failure a store is not asked for what can be answered with an old value.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// moka refuses a time-to-live of a thousand years; what is older than a year is reloaded.
const TTL_MAX: Duration = Duration::from_secs(365 * 86_400);

/// What the cache knows of a key, without asking anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup<V> {
    /// There is one, and this is it.
    Hit(V),
    /// There was none a moment ago.
    KnownAbsent,
    /// Has to be loaded.
    Unknown,
}

/// The bounds of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheBounds {
    /// How many values at most.
    pub(crate) capacity: u64,
    /// How long a value is served, counted from before it was loaded.
    pub(crate) ttl: Duration,
    /// How many absent keys are remembered at most; they never push out a value.
    pub(crate) negative_capacity: u64,
    /// How long an absent key is remembered.
    pub(crate) negative_ttl: Duration,
}

/// How often a cache was asked, and what came of it, since it was made.
///
/// The figures are read one after the other, not at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatistics {
    /// Answered with a value from memory.
    pub hits: u64,
    /// Answered from memory that there is none.
    pub negative_hits: u64,
    /// Not answered from memory.
    pub misses: u64,
    /// Times the store was asked.
    pub loads: u64,
    /// Answered with a value that was too old, because the store failed.
    pub stale_hits: u64,
    /// Values and known absences that made room for others.
    pub evictions: u64,
    /// Values in memory, about.
    pub entries: u64,
    /// Known absences in memory, about.
    pub negative_entries: u64,
}

/// A bounded cache in front of a store, see the [module](self).
pub(crate) struct RevocableCache<K, V> {
    values: Cache<K, Entry<V>, DefaultHashBuilder>,
    absent: Cache<K, Entry<()>, DefaultHashBuilder>,
    /// Bounded by the number of callers in [`RevocableCache::load`]: the last one out removes the flight.
    flights: Mutex<HashMap<K, Listed<V>>>,
    generations: Generations,
    bounds: CacheBounds,
    /// For how long after its `ttl` a value is served while the store fails.
    stale: Duration,
    /// When the store failed last, in nanoseconds; 0: it has answered since.
    failed_at: AtomicU64,
    /// How often the store may be asked in vain.
    absences: Option<Rate>,
    clock: Arc<dyn Clock>,
    counters: Counters,
}

#[derive(Clone)]
struct Entry<V> {
    value: V,
    generation: u64,
    loaded_at: Duration,
}

struct Flight<V> {
    generation: u64,
    outcome: OnceCell<Result<Option<V>, StoreError>>,
}

struct Listed<V> {
    flight: Arc<Flight<V>>,
    seats: usize,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    negative_hits: AtomicU64,
    misses: AtomicU64,
    loads: AtomicU64,
    stale_hits: AtomicU64,
    evictions: Arc<AtomicU64>,
}

impl<K, V> RevocableCache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(crate) fn new(bounds: CacheBounds, clock: Arc<dyn Clock>) -> Self {
        let hasher = DefaultHashBuilder::default();
        let counters = Counters::default();
        Self {
            values: bounded(bounds.capacity, bounds.ttl, &hasher, &counters.evictions),
            absent: bounded(
                bounds.negative_capacity,
                bounds.negative_ttl,
                &hasher,
                &counters.evictions,
            ),
            flights: Mutex::new(HashMap::new()),
            generations: Generations::new(hasher),
            bounds,
            stale: Duration::ZERO,
            failed_at: AtomicU64::new(0),
            absences: None,
            clock,
            counters,
        }
    }

    /// Serves values for so long beyond their `ttl` while the store fails. Begins with an empty cache.
    pub(crate) fn stale_if_error(mut self, stale: Duration) -> Self {
        let (hasher, lifetime) = (
            DefaultHashBuilder::default(),
            self.bounds.ttl.saturating_add(stale),
        );
        self.stale = stale;
        let evictions = &self.counters.evictions;
        self.values = bounded(self.bounds.capacity, lifetime, &hasher, evictions);
        self
    }

    /// Asks the store in vain at most so often a second, and as often at once; then it isn't asked at all for a while.
    pub(crate) fn absences_per_second(mut self, limit: u32) -> Self {
        self.absences = Some(Rate::per_second(limit));
        self
    }

    /// What is known of `key`. No I/O, no allocation, no waiting.
    pub(crate) fn peek(&self, key: &K) -> Lookup<V> {
        self.peek_at(key, self.clock.elapsed())
    }

    /// The same, for who has just looked at the clock.
    pub(crate) fn peek_at(&self, key: &K, now: Duration) -> Lookup<V> {
        let found = self.recall(key, now);
        let counter = match found {
            Lookup::Hit(_) => &self.counters.hits,
            Lookup::KnownAbsent => &self.counters.negative_hits,
            Lookup::Unknown => &self.counters.misses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Loads `key`, once however many ask at the same time, and remembers the answer.
    ///
    /// `fetch` is not called when somebody else's load will do; it has `deadline` to answer.
    ///
    /// # Errors
    /// What `fetch` failed with, or `Unavailable` when it was too slow. A failure is not remembered.
    pub(crate) async fn load<F, Fut>(
        &self,
        key: &K,
        deadline: Duration,
        fetch: F,
    ) -> Result<Option<V>, StoreError>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<Option<V>, StoreError>>,
    {
        let boarding = self.board(key);
        let answer = boarding
            .flight
            .outcome
            .get_or_init(|| self.fly(key, &boarding.flight, deadline, fetch));
        // Twice: each leader that hangs up leaves the next one a deadline of its own, but not without end.
        let answer = match timeout(deadline.saturating_mul(2), answer).await {
            Ok(answer) => answer.clone(),
            Err(_) => Err(too_slow()),
        };
        match answer {
            Err(error) if is_failure(&error) => self.recall_old(key).map(Some).ok_or(error),
            answer => answer,
        }
    }

    /// How the cache stands before values are read that nobody has asked for yet.
    pub(crate) fn before_fill(&self) -> (Snapshot, Duration) {
        (self.generations.snapshot(), self.clock.elapsed())
    }

    /// Remembers a value that was read after `before`.
    pub(crate) fn fill(&self, key: K, value: V, before: &(Snapshot, Duration)) {
        if let Some(generation) = self.generations.of_then(&key, &before.0) {
            let loaded_at = before.1;
            self.values.insert(
                key,
                Entry {
                    value,
                    generation,
                    loaded_at,
                },
            );
        }
    }

    /// Takes `key` back: nothing that was read of it before this call is served after it.
    pub(crate) fn invalidate(&self, key: &K) {
        self.generations.bump(key);
        self.values.invalidate(key);
        self.absent.invalidate(key);
    }

    /// Takes every key back.
    pub(crate) fn invalidate_all(&self) {
        self.generations.bump_all();
        self.values.invalidate_all();
        self.absent.invalidate_all();
    }

    pub(crate) fn statistics(&self) -> CacheStatistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStatistics {
            hits: read(&self.counters.hits),
            negative_hits: read(&self.counters.negative_hits),
            misses: read(&self.counters.misses),
            loads: read(&self.counters.loads),
            stale_hits: read(&self.counters.stale_hits),
            evictions: read(&self.counters.evictions),
            entries: self.values.entry_count(),
            negative_entries: self.absent.entry_count(),
        }
    }

    fn recall(&self, key: &K, now: Duration) -> Lookup<V> {
        let generation = self.generations.of(key);
        let young = |loaded_at, ttl| now.saturating_sub(loaded_at) < ttl;
        if let Some(entry) = self.values.get(key)
            && entry.generation == generation
        {
            if young(entry.loaded_at, self.bounds.ttl) {
                return Lookup::Hit(entry.value);
            }
            if self.failed_lately(now) && young(entry.loaded_at, self.lifetime()) {
                self.counters.stale_hits.fetch_add(1, Ordering::Relaxed);
                return Lookup::Hit(entry.value);
            }
        }
        match self.absent.get(key) {
            Some(entry)
                if entry.generation == generation
                    && young(entry.loaded_at, self.bounds.negative_ttl) =>
            {
                Lookup::KnownAbsent
            }
            _ => Lookup::Unknown,
        }
    }

    fn lifetime(&self) -> Duration {
        self.bounds.ttl.saturating_add(self.stale)
    }

    fn failed_lately(&self, now: Duration) -> bool {
        let failed_at = Duration::from_nanos(self.failed_at.load(Ordering::Relaxed));
        !failed_at.is_zero() && now.saturating_sub(failed_at) < RETRY_AFTER
    }

    /// A value that is too old, for want of a younger one; never one that was taken back.
    fn recall_old(&self, key: &K) -> Option<V> {
        if self.stale.is_zero() {
            return None;
        }
        let entry = self.values.get(key)?;
        let age = self.clock.elapsed().saturating_sub(entry.loaded_at);
        let fits = entry.generation == self.generations.of(key) && age < self.lifetime();
        fits.then(|| {
            self.counters.stale_hits.fetch_add(1, Ordering::Relaxed);
            entry.value
        })
    }

    /// Asks the store, unless it was asked in vain too often.
    async fn ask<Fut>(
        &self,
        deadline: Duration,
        fetch: impl FnOnce() -> Fut,
    ) -> Result<Option<V>, StoreError>
    where
        Fut: Future<Output = Result<Option<V>, StoreError>>,
    {
        let began_at = self.clock.elapsed();
        if self
            .absences
            .as_ref()
            .is_some_and(|rate| !rate.allows(began_at))
        {
            let text = "the store was asked for too much that isn't there";
            return Err(StoreError::new(StoreErrorKind::Busy, text));
        }
        self.counters.loads.fetch_add(1, Ordering::Relaxed);
        let answer = timeout(deadline, fetch())
            .await
            .unwrap_or_else(|_| Err(too_slow()));
        let failed_at = match &answer {
            Ok(_) => Some(0),
            Err(error) if is_failure(error) => {
                let now = u64::try_from(self.clock.elapsed().as_nanos());
                Some(now.map_or(u64::MAX, |at| at.max(1)))
            }
            Err(_) => None,
        };
        if let Some(failed_at) = failed_at {
            self.failed_at.store(failed_at, Ordering::Relaxed);
        }
        if let (Ok(None), Some(rate)) = (&answer, &self.absences) {
            rate.note(began_at);
        }
        answer
    }

    /// Joins the load that is under way if it began late enough, or else begins one.
    fn board<'a>(&'a self, key: &'a K) -> Boarding<'a, K, V> {
        let generation = self.generations.of(key);
        let mut flights = self.flights();
        let flight = match flights.get_mut(key) {
            Some(listed) if listed.flight.generation >= generation => {
                listed.seats = listed.seats.saturating_add(1);
                Arc::clone(&listed.flight)
            }
            _ => {
                let flight = Arc::new(Flight {
                    generation,
                    outcome: OnceCell::new(),
                });
                let listed = Listed {
                    flight: Arc::clone(&flight),
                    seats: 1,
                };
                flights.insert(key.clone(), listed);
                flight
            }
        };
        Boarding {
            cache: self,
            key,
            flight,
        }
    }

    async fn fly<F, Fut>(
        &self,
        key: &K,
        flight: &Flight<V>,
        deadline: Duration,
        fetch: F,
    ) -> Result<Option<V>, StoreError>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<Option<V>, StoreError>>,
    {
        // Another flight may have landed between the caller's look and this one's start.
        match self.recall(key, self.clock.elapsed()) {
            Lookup::Hit(value) => return Ok(Some(value)),
            Lookup::KnownAbsent => return Ok(None),
            Lookup::Unknown => {}
        }
        let generation = flight.generation;
        let loaded_at = self.clock.elapsed();
        let found = self.ask(deadline, fetch).await?;
        match &found {
            Some(value) => self.values.insert(
                key.clone(),
                Entry {
                    value: value.clone(),
                    generation,
                    loaded_at,
                },
            ),
            None => {
                // A value of before, stale by now, must not stay in memory beside the news that it is gone.
                self.values.invalidate(key);
                self.absent.insert(
                    key.clone(),
                    Entry {
                        value: (),
                        generation,
                        loaded_at,
                    },
                );
            }
        }
        Ok(found)
    }
}

impl<K, V> RevocableCache<K, V> {
    fn flights(&self) -> MutexGuard<'_, HashMap<K, Listed<V>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> fmt::Debug for RevocableCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocableCache")
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

/// A cache that counts what it has to let go.
fn bounded<K, V>(
    capacity: u64,
    lifetime: Duration,
    hasher: &DefaultHashBuilder,
    evictions: &Arc<AtomicU64>,
) -> Cache<K, V, DefaultHashBuilder>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let evictions = Arc::clone(evictions);
    Cache::builder()
        .max_capacity(capacity)
        .time_to_live(lifetime.min(TTL_MAX))
        .eviction_listener(move |_, _, cause| {
            if cause == RemovalCause::Size {
                evictions.fetch_add(1, Ordering::Relaxed);
            }
        })
        .build_with_hasher(hasher.clone())
}

/// Whether the store has failed. That there is no room at the moment, with it or before it, is no failure: a crowd can bring
/// it about, and must not so prolong the life of what it was once let do.
fn is_failure(error: &StoreError) -> bool {
    matches!(
        error.kind(),
        StoreErrorKind::Unavailable | StoreErrorKind::Internal
    )
}

fn too_slow() -> StoreError {
    StoreError::new(
        StoreErrorKind::Unavailable,
        "the store did not answer in time",
    )
}

/// A seat on a flight; whoever leaves last, or leaves a landed one, removes the flight from the map.
struct Boarding<'a, K: Hash + Eq, V> {
    cache: &'a RevocableCache<K, V>,
    key: &'a K,
    flight: Arc<Flight<V>>,
}

impl<K: Hash + Eq, V> Drop for Boarding<'_, K, V> {
    fn drop(&mut self) {
        let mut flights = self.cache.flights();
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

#[cfg(test)]
mod tests;
