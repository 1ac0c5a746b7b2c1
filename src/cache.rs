//! A bounded cache whose entries can be revoked immediately.
//!
//! **Revocation.** Every key belongs to one of 1,024 stripes, and every stripe has a generation. A
//! value carries its stripe's generation from *before* its load began; a value of an older
//! generation is not a hit. [`RevocableCache::invalidate`] increments the generation, so it doesn't
//! matter when a load that raced a change finishes: what it read before the change is never served
//! once `invalidate` has returned.
//!
//! **Age** is counted from before the load, by our own [`Clock`], and use does not extend it.
//! moka's own expiry only frees the memory.
//!
//! **Memory.** Values are in our own [`table`]. moka decides which of them to [evict](eviction),
//! and knows only their hashes. So a cached key takes a single allocation of ours, including its
//! strings, plus the smallest possible moka entry, and a hit touches none of moka's lists.

mod eviction;
mod figures;
mod rate;
mod single_flight;
mod table;

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::DefaultHashBuilder;
use moka::sync::Cache;
use tokio::time::timeout;

pub use self::figures::CacheStatistics;
use self::{
    eviction::Eviction,
    figures::Counters,
    rate::Rate,
    single_flight::{Load, SingleFlight, Waiter},
    table::{Slot, Snapshot, Table},
};
pub(crate) use self::{
    figures::CacheBounds,
    table::{Remembered, Stamp},
};
use crate::{
    domain::clock::Clock,
    store::{StoreError, StoreErrorKind},
};

/// How long after a failure the store is not asked if a stale value can be served.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the cache knows about a key without asking the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup<V> {
    /// The cached value.
    Hit(V),
    /// The store recently had no value.
    KnownAbsent,
    /// The value has to be loaded.
    Unknown,
}

/// A bounded cache in front of a store, see the [module](self).
pub(crate) struct RevocableCache<V: Remembered> {
    table: Arc<Table<V>>,
    eviction: Eviction,
    absent: Cache<V::Key, Stamp, DefaultHashBuilder>,
    single_flight: SingleFlight<V::Key, V>,
    bounds: CacheBounds,
    /// How long beyond its `ttl` a value is served while the store fails.
    stale: Duration,
    /// When the store last failed, in nanoseconds; 0 if it has answered since.
    failed_at: AtomicU64,
    /// How often the store may be asked for keys that it doesn't have.
    miss_limit: Option<Rate>,
    clock: Arc<dyn Clock>,
    counters: Counters,
}

/// The state of the cache before values were read in advance.
pub(crate) struct BeforeFill {
    generations: Snapshot,
    loaded_at: Duration,
}

impl<V: Remembered> RevocableCache<V> {
    pub(crate) fn new(bounds: CacheBounds, clock: Arc<dyn Clock>) -> Self {
        let (table, counters) = (Arc::new(Table::new()), Counters::default());
        let evictions = &counters.evictions;
        Self {
            eviction: Eviction::new(bounds.capacity, bounds.ttl, &table, evictions),
            absent: eviction::bounded_cache(
                bounds.negative_capacity,
                bounds.negative_ttl,
                evictions,
            ),
            table,
            single_flight: SingleFlight::new(),
            bounds,
            stale: Duration::ZERO,
            failed_at: AtomicU64::new(0),
            miss_limit: None,
            clock,
            counters,
        }
    }

    /// Serves values for up to `stale` beyond their `ttl` while the store fails. Starts with an
    /// empty cache.
    pub(crate) fn stale_if_error(mut self, stale: Duration) -> Self {
        self.stale = stale;
        let evictions = &self.counters.evictions;
        self.eviction = Eviction::new(
            self.bounds.capacity,
            self.lifetime(),
            &self.table,
            evictions,
        );
        self
    }

    /// Limits unsuccessful queries to the store per second, and the same number at once; beyond
    /// that, the store isn't asked for a while. A failed query counts as unsuccessful; an answer
    /// that comes at once, from memory, doesn't count.
    pub(crate) fn absences_per_second(mut self, limit: u32) -> Self {
        self.miss_limit = Some(Rate::per_second(limit));
        self
    }

    /// What is known about `key`. No I/O, no allocation, no waiting.
    pub(crate) fn peek(&self, key: &V::Key) -> Lookup<V> {
        self.peek_at(key, self.clock.elapsed())
    }

    /// The same, for callers that have already read the clock.
    pub(crate) fn peek_at(&self, key: &V::Key, now: Duration) -> Lookup<V> {
        let slot = self.table.slot(key);
        let found = self.lookup(slot, key, now);
        let counter = match found {
            Lookup::Hit(_) => {
                let hits = self.table.count_hit(slot);
                self.eviction.record_sample(slot, hits);
                return found;
            }
            Lookup::KnownAbsent => &self.counters.negative_hits,
            Lookup::Unknown => &self.counters.misses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Loads `key`, once for all concurrent callers, and caches the answer.
    ///
    /// `fetch` is not called if a concurrent load suffices; it has until `deadline` to answer. Its
    /// value must carry the stamp it was given.
    ///
    /// # Errors
    /// The error of `fetch`, or `Unavailable` if it was too slow. Failures are not cached.
    pub(crate) async fn load<F, Fut>(
        &self,
        key: &V::Key,
        deadline: Duration,
        fetch: F,
    ) -> Result<Option<V>, StoreError>
    where
        F: FnOnce(Stamp) -> Fut,
        Fut: Future<Output = Result<Option<V>, StoreError>>,
    {
        let slot = self.table.slot(key);
        let waiter = self.join(slot, key);
        let answer = waiter
            .load
            .outcome
            .get_or_init(|| self.run(slot, key, &waiter.load, deadline, fetch));
        // Twice the deadline: if the leader disconnects, the next one gets its own deadline, but
        // not without end.
        let answer = match timeout(deadline.saturating_mul(2), answer).await {
            Ok(answer) => answer.clone(),
            Err(_) => Err(too_slow()),
        };
        match answer {
            Err(error) if is_failure(&error) => self.lookup_stale(slot, key).map(Some).ok_or(error),
            answer => answer,
        }
    }

    /// Callers don't join a load that may have read data older than the `ttl`.
    fn join<'a>(&'a self, slot: Slot, key: &'a V::Key) -> Waiter<'a, V::Key, V> {
        let now = self.clock.elapsed();
        let not_before = now.saturating_sub(self.bounds.ttl);
        let generation = self.table.generation(slot);
        self.single_flight.join(key, generation, now, not_before)
    }

    /// Captures the state of the cache before values are read in advance.
    pub(crate) fn before_fill(&self) -> BeforeFill {
        BeforeFill {
            generations: self.table.snapshot(),
            loaded_at: self.clock.elapsed(),
        }
    }

    /// The stamp for a value of `key` that was read after `before`.
    pub(crate) fn stamp_after(&self, before: &BeforeFill, key: &V::Key) -> Option<Stamp> {
        let slot = self.table.slot(key);
        let generation = Table::<V>::generation_at(slot, &before.generations)?;
        Some(Stamp::new(generation, before.loaded_at))
    }

    /// Caches a value in advance.
    pub(crate) fn fill(&self, value: V) {
        let slot = self.table.slot(value.key());
        self.remember(slot, value);
    }

    /// Revokes `key`: nothing that was read before this call is served after it.
    pub(crate) fn invalidate(&self, key: &V::Key) {
        let slot = self.table.slot(key);
        self.table.bump(slot);
        self.forget(slot);
        self.absent.invalidate(key);
    }

    /// Revokes every key. Large numbers of them are freed gradually, whenever moka runs its
    /// maintenance.
    pub(crate) fn invalidate_all(&self) {
        self.table.bump_all();
        self.eviction.forget_all();
        self.absent.invalidate_all();
    }

    pub(crate) fn statistics(&self) -> CacheStatistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStatistics {
            hits: self.table.hits(),
            negative_hits: read(&self.counters.negative_hits),
            misses: read(&self.counters.misses),
            loads: read(&self.counters.loads),
            stale_hits: read(&self.counters.stale_hits),
            evictions: read(&self.counters.evictions),
            entries: self.table.len(),
            negative_entries: self.absent.entry_count(),
        }
    }

    fn lookup(&self, slot: Slot, key: &V::Key, now: Duration) -> Lookup<V> {
        let generation = self.table.generation(slot);
        let is_fresh = |stamp: Stamp, ttl| now.saturating_sub(stamp.loaded_at()) < ttl;
        if let Some(value) = self.table.find(slot, key)
            && value.stamp().generation == generation
        {
            if is_fresh(value.stamp(), self.bounds.ttl) {
                return Lookup::Hit(value);
            }
            if self.failed_recently(now) && is_fresh(value.stamp(), self.lifetime()) {
                self.counters.stale_hits.fetch_add(1, Ordering::Relaxed);
                return Lookup::Hit(value);
            }
        }
        match self.absent.get(key) {
            Some(stamp)
                if stamp.generation == generation && is_fresh(stamp, self.bounds.negative_ttl) =>
            {
                Lookup::KnownAbsent
            }
            _ => Lookup::Unknown,
        }
    }

    /// Registers with moka before inserting the value: if an older entry of this slot has ended,
    /// its eviction removes whatever is there. If the new entry ends before the value is inserted,
    /// the check afterwards removes the value.
    fn remember(&self, slot: Slot, value: V) {
        self.eviction.register(slot);
        self.table.put(slot, value);
        if !self.eviction.is_registered(slot) {
            self.table.clear(slot);
        }
    }

    fn forget(&self, slot: Slot) {
        self.table.clear(slot);
        self.eviction.forget(slot);
    }

    fn lifetime(&self) -> Duration {
        self.bounds.ttl.saturating_add(self.stale)
    }

    fn failed_recently(&self, now: Duration) -> bool {
        let failed_at = Duration::from_nanos(self.failed_at.load(Ordering::Relaxed));
        !failed_at.is_zero() && now.saturating_sub(failed_at) < RETRY_AFTER
    }

    /// A stale value, for lack of a fresh one; never a revoked one.
    fn lookup_stale(&self, slot: Slot, key: &V::Key) -> Option<V> {
        if self.stale.is_zero() {
            return None;
        }
        let value = self.table.find(slot, key)?;
        let age = self
            .clock
            .elapsed()
            .saturating_sub(value.stamp().loaded_at());
        let is_current = value.stamp().generation == self.table.generation(slot);
        (is_current && age < self.lifetime()).then(|| {
            self.counters.stale_hits.fetch_add(1, Ordering::Relaxed);
            value
        })
    }

    /// Asks the store, unless too many recent queries were unsuccessful.
    async fn query_store<Fut>(
        &self,
        deadline: Duration,
        fetch: impl FnOnce() -> Fut,
    ) -> Result<Option<V>, StoreError>
    where
        Fut: Future<Output = Result<Option<V>, StoreError>>,
    {
        // A query is counted as unsuccessful up front, and uncounted if something is found. So
        // cancelled, failed and concurrent queries count too.
        let attempt = match &self.miss_limit {
            None => None,
            Some(rate) => Some(
                rate.begin(self.clock.elapsed())
                    .ok_or_else(|| self.overload_error())?,
            ),
        };
        self.counters.loads.fetch_add(1, Ordering::Relaxed);
        let mut polls = 0_u32;
        let mut query = pin!(timeout(deadline, fetch()));
        let answer = poll_fn(|context| {
            polls = polls.saturating_add(1);
            query.as_mut().poll(context)
        });
        let answer = answer.await.unwrap_or_else(|_| Err(too_slow()));
        let now = self.clock.elapsed();
        let failed_at = match &answer {
            Ok(_) => Some(0),
            Err(error) if is_failure(error) => {
                let now = u64::try_from(now.as_nanos());
                Some(now.map_or(u64::MAX, |at| at.max(1)))
            }
            Err(_) => None,
        };
        if let Some(failed_at) = failed_at {
            self.failed_at.store(failed_at, Ordering::Relaxed);
        }
        // A query that was answered on the first poll, from memory, doesn't burden the store.
        let was_immediate = polls == 1;
        let is_good = answer
            .as_ref()
            .is_ok_and(|found| found.is_some() || was_immediate);
        if let Some(attempt) = attempt.filter(|_| is_good) {
            attempt.uncount(now);
        }
        answer
    }

    /// Why the store isn't asked. While its queries are failing, the error is the store's failure
    /// rather than the overload.
    fn overload_error(&self) -> StoreError {
        let kind = match self.failed_at.load(Ordering::Relaxed) {
            0 => StoreErrorKind::Busy,
            _ => StoreErrorKind::Unavailable,
        };
        StoreError::new(kind, "the store was asked for too much that isn't there")
    }

    async fn run<F, Fut>(
        &self,
        slot: Slot,
        key: &V::Key,
        load: &Load<V>,
        deadline: Duration,
        fetch: F,
    ) -> Result<Option<V>, StoreError>
    where
        F: FnOnce(Stamp) -> Fut,
        Fut: Future<Output = Result<Option<V>, StoreError>>,
    {
        // Another load may have finished between the caller's lookup and this start.
        match self.lookup(slot, key, self.clock.elapsed()) {
            Lookup::Hit(value) => return Ok(Some(value)),
            Lookup::KnownAbsent => return Ok(None),
            Lookup::Unknown => {}
        }
        let stamp = Stamp::new(load.generation, self.clock.elapsed());
        let found = self.query_store(deadline, || fetch(stamp)).await?;
        match &found {
            Some(value) => {
                // Records this use, so that a frequently requested key is admitted over others.
                self.eviction.record_use(slot);
                self.remember(slot, value.clone());
            }
            None => {
                // An earlier, now stale value must not stay in memory beside the knowledge that it
                // is gone.
                self.forget(slot);
                self.absent.insert(key.clone(), stamp);
            }
        }
        Ok(found)
    }
}

impl<V: Remembered> fmt::Debug for RevocableCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocableCache")
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

/// Whether the store has failed. Being overloaded, by the store's limits or by ours, is not a
/// failure: a crowd of clients could cause that, and must not be able to prolong stale permissions.
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

#[cfg(test)]
mod tests;
