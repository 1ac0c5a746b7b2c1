//! A bounded cache whose entries can be taken back at once.
//!
//! **Revocation.** Every key belongs to one of 1,024 stripes, and every stripe has a generation. A value carries
//! its stripe's generation as it stood *before* the load began; a value of another generation is no hit.
//! [`RevocableCache::invalidate`] counts the generation on, so a load that raced a change may finish when it likes:
//! what it read before the change is never served once `invalidate` has returned.
//!
//! **Age.** It is counted from before the load, by our own [`Clock`], and no use prolongs it. moka's own
//! expiry only gives the memory back.
//!
//! **Memory.** Values stand in a [`table`] of our own. moka decides which of them have to [go](eviction), and knows only their hashes: so a
//! remembered key is one allocation of ours with its texts and the smallest entry that moka has, and a hit touches
//! none of moka's lists.

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
    table::{Place, Snapshot, Table},
};
pub(crate) use self::{
    figures::CacheBounds,
    table::{Remembered, Stamp},
};
use crate::{
    domain::clock::Clock,
    store::{StoreError, StoreErrorKind},
};

/// How long after a failure a store is not asked for what can be answered with an old value.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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

/// A bounded cache in front of a store, see the [module](self).
pub(crate) struct RevocableCache<V: Remembered> {
    table: Arc<Table<V>>,
    eviction: Eviction,
    absent: Cache<V::Key, Stamp, DefaultHashBuilder>,
    single_flight: SingleFlight<V::Key, V>,
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

/// How the cache stood before values were read that nobody had asked for yet.
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
            absent: eviction::bounded(bounds.negative_capacity, bounds.negative_ttl, evictions),
            table,
            single_flight: SingleFlight::new(),
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

    /// Asks the store in vain at most so often a second, and as often at once; then it isn't asked at all for a while. A look-up
    /// that fails is one in vain; what is answered at once, from memory, doesn't count.
    pub(crate) fn absences_per_second(mut self, limit: u32) -> Self {
        self.absences = Some(Rate::per_second(limit));
        self
    }

    /// What is known of `key`. No I/O, no allocation, no waiting.
    pub(crate) fn peek(&self, key: &V::Key) -> Lookup<V> {
        self.peek_at(key, self.clock.elapsed())
    }

    /// The same, for who has just looked at the clock.
    pub(crate) fn peek_at(&self, key: &V::Key, now: Duration) -> Lookup<V> {
        let place = self.table.place(key);
        let found = self.recall(place, key, now);
        let counter = match found {
            Lookup::Hit(_) => {
                let hits = self.table.count_hit(place);
                self.eviction.note_sometimes(place, hits);
                return found;
            }
            Lookup::KnownAbsent => &self.counters.negative_hits,
            Lookup::Unknown => &self.counters.misses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Loads `key`, once however many ask at the same time, and remembers the answer.
    ///
    /// `fetch` is not called when somebody else's load will do; it has `deadline` to answer. What it answers with carries
    /// the stamp that it was given.
    ///
    /// # Errors
    /// What `fetch` failed with, or `Unavailable` when it was too slow. A failure is not remembered.
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
        let place = self.table.place(key);
        let waiter = self.join(place, key);
        let answer = waiter
            .load
            .outcome
            .get_or_init(|| self.run(place, key, &waiter.load, deadline, fetch));
        // Twice: each leader that hangs up leaves the next one a deadline of its own, but not without end.
        let answer = match timeout(deadline.saturating_mul(2), answer).await {
            Ok(answer) => answer.clone(),
            Err(_) => Err(too_slow()),
        };
        match answer {
            Err(error) if is_failure(&error) => self.recall_old(place, key).map(Some).ok_or(error),
            answer => answer,
        }
    }

    /// Nobody joins a load that may have read what is older than a value may be.
    fn join<'a>(&'a self, place: Place, key: &'a V::Key) -> Waiter<'a, V::Key, V> {
        let now = self.clock.elapsed();
        let not_before = now.saturating_sub(self.bounds.ttl);
        let generation = self.table.generation(place);
        self.single_flight.join(key, generation, now, not_before)
    }

    /// How the cache stands before values are read that nobody has asked for yet.
    pub(crate) fn before_fill(&self) -> BeforeFill {
        BeforeFill {
            generations: self.table.snapshot(),
            loaded_at: self.clock.elapsed(),
        }
    }

    /// The stamp of what was read of `key` after `before`.
    pub(crate) fn stamp_after(&self, before: &BeforeFill, key: &V::Key) -> Option<Stamp> {
        let place = self.table.place(key);
        let generation = Table::<V>::generation_then(place, &before.generations)?;
        Some(Stamp::new(generation, before.loaded_at))
    }

    /// Remembers a value that nobody has asked for yet.
    pub(crate) fn fill(&self, value: V) {
        let place = self.table.place(value.key());
        self.remember(place, value);
    }

    /// Takes `key` back: nothing that was read of it before this call is served after it.
    pub(crate) fn invalidate(&self, key: &V::Key) {
        let place = self.table.place(key);
        self.table.bump(place);
        self.forget(place);
        self.absent.invalidate(key);
    }

    /// Takes every key back. A million of them are given up a few at a time, when moka next tidies up.
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

    fn recall(&self, place: Place, key: &V::Key, now: Duration) -> Lookup<V> {
        let generation = self.table.generation(place);
        let young = |stamp: Stamp, ttl| now.saturating_sub(stamp.loaded_at()) < ttl;
        if let Some(value) = self.table.find(place, key)
            && value.stamp().generation == generation
        {
            if young(value.stamp(), self.bounds.ttl) {
                return Lookup::Hit(value);
            }
            if self.failed_lately(now) && young(value.stamp(), self.lifetime()) {
                self.counters.stale_hits.fetch_add(1, Ordering::Relaxed);
                return Lookup::Hit(value);
            }
        }
        match self.absent.get(key) {
            Some(stamp)
                if stamp.generation == generation && young(stamp, self.bounds.negative_ttl) =>
            {
                Lookup::KnownAbsent
            }
            _ => Lookup::Unknown,
        }
    }

    /// Tells moka before it puts the value down: if an older entry of this place has ended, its eviction takes away
    /// whatever stands there. If the new entry ends before the value stands there, the second look takes the value away.
    fn remember(&self, place: Place, value: V) {
        self.eviction.tell(place);
        self.table.put(place, value);
        if !self.eviction.knows(place) {
            self.table.clear(place);
        }
    }

    fn forget(&self, place: Place) {
        self.table.clear(place);
        self.eviction.forget(place);
    }

    fn lifetime(&self) -> Duration {
        self.bounds.ttl.saturating_add(self.stale)
    }

    fn failed_lately(&self, now: Duration) -> bool {
        let failed_at = Duration::from_nanos(self.failed_at.load(Ordering::Relaxed));
        !failed_at.is_zero() && now.saturating_sub(failed_at) < RETRY_AFTER
    }

    /// A value that is too old, for want of a younger one; never one that was taken back.
    fn recall_old(&self, place: Place, key: &V::Key) -> Option<V> {
        if self.stale.is_zero() {
            return None;
        }
        let value = self.table.find(place, key)?;
        let age = self
            .clock
            .elapsed()
            .saturating_sub(value.stamp().loaded_at());
        let is_current = value.stamp().generation == self.table.generation(place);
        (is_current && age < self.lifetime()).then(|| {
            self.counters.stale_hits.fetch_add(1, Ordering::Relaxed);
            value
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
        // A look-up is counted as a vain one now, and the count is taken back when something is found: so those that are
        // cancelled count, those that fail, and those that are under way at the same time.
        let begun = match &self.absences {
            None => None,
            Some(rate) => Some(
                rate.begin(self.clock.elapsed())
                    .ok_or_else(|| self.full())?,
            ),
        };
        self.counters.loads.fetch_add(1, Ordering::Relaxed);
        let mut looks = 0_u32;
        let mut asked = pin!(timeout(deadline, fetch()));
        let answer = poll_fn(|context| {
            looks = looks.saturating_add(1);
            asked.as_mut().poll(context)
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
        // A store in memory is troubled by no question.
        let was_there = looks == 1;
        let good = answer
            .as_ref()
            .is_ok_and(|found| found.is_some() || was_there);
        if let Some(begun) = begun.filter(|_| good) {
            begun.was_good(now);
        }
        answer
    }

    /// Why the store isn't asked. While all that it was asked for fails it is the store that fails, whoever else stands in line.
    fn full(&self) -> StoreError {
        let kind = match self.failed_at.load(Ordering::Relaxed) {
            0 => StoreErrorKind::Busy,
            _ => StoreErrorKind::Unavailable,
        };
        StoreError::new(kind, "the store was asked for too much that isn't there")
    }

    async fn run<F, Fut>(
        &self,
        place: Place,
        key: &V::Key,
        load: &Load<V>,
        deadline: Duration,
        fetch: F,
    ) -> Result<Option<V>, StoreError>
    where
        F: FnOnce(Stamp) -> Fut,
        Fut: Future<Output = Result<Option<V>, StoreError>>,
    {
        // Another load may have ended between the caller's look and this one's start.
        match self.recall(place, key, self.clock.elapsed()) {
            Lookup::Hit(value) => return Ok(Some(value)),
            Lookup::KnownAbsent => return Ok(None),
            Lookup::Unknown => {}
        }
        let stamp = Stamp::new(load.generation, self.clock.elapsed());
        let found = self.ask(deadline, || fetch(stamp)).await?;
        match &found {
            Some(value) => {
                // One that was asked for more often than others were comes in before them.
                self.eviction.note(place);
                self.remember(place, value.clone());
            }
            None => {
                // A value of before, stale by now, must not stay in memory beside the news that it is gone.
                self.forget(place);
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

#[cfg(test)]
mod tests;
