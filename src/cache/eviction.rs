//! Eviction, by moka.
//!
//! moka knows the hashes of the values in the [table](super::table), and decides what to evict: the
//! least used if there are too many (TinyLFU), and what has not been loaded or used for a lifetime.
//! A lookup in moka would record each use in its policy, which touches a dozen cache lines; a
//! sample of the hits is as informative.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::DefaultHashBuilder;
use moka::{notification::RemovalCause, sync::Cache};

use super::table::{Remembered, Slot, Table};

/// moka rejects a lifetime above a thousand years; values older than a year are reloaded.
const LIFETIME_MAX: Duration = Duration::from_secs(365 * 86_400);

/// One in this many hits of a stripe is recorded. A prime, because cyclic request patterns may have
/// periods of a hundred or a thousand.
const SAMPLE: u64 = 61;

/// Decides what stays in a table.
///
/// Every value in the table has an entry in moka, and the end of that entry removes the value from
/// the table. The reverse need not hold: an entry without a value is a miss, and its value is
/// loaded again.
pub(super) struct Eviction {
    known: Cache<u64, (), DefaultHashBuilder>,
}

impl Eviction {
    pub(super) fn new<V: Remembered>(
        capacity: u64,
        lifetime: Duration,
        table: &Arc<Table<V>>,
        evictions: &Arc<AtomicU64>,
    ) -> Self {
        let (table, evictions) = (Arc::clone(table), Arc::clone(evictions));
        // Time to idle rather than time to live, because that needs no second list. A value too old
        // to be served is loaded again, and thereby registered again.
        let known = Cache::builder()
            .max_capacity(capacity)
            .time_to_idle(lifetime.min(LIFETIME_MAX))
            .eviction_listener(move |hash: Arc<u64>, (), cause| {
                if cause == RemovalCause::Size {
                    evictions.fetch_add(1, Ordering::Relaxed);
                }
                if cause != RemovalCause::Replaced {
                    table.clear(Slot::of_hash(*hash));
                }
            })
            .build_with_hasher(DefaultHashBuilder::default());
        Self { known }
    }

    /// Whether it is still registered.
    pub(super) fn is_registered(&self, slot: Slot) -> bool {
        self.known.contains_key(&slot.hash())
    }

    /// Records a use.
    pub(super) fn record_use(&self, slot: Slot) {
        let _known = self.known.get(&slot.hash());
    }

    /// Records a sample of the hits.
    pub(super) fn record_sample(&self, slot: Slot, hits: u64) {
        if hits.checked_rem(SAMPLE) == Some(0) {
            self.record_use(slot);
        }
    }

    /// Registers a value that is about to be inserted.
    pub(super) fn register(&self, slot: Slot) {
        self.known.insert(slot.hash(), ());
    }

    pub(super) fn forget(&self, slot: Slot) {
        self.known.invalidate(&slot.hash());
    }

    pub(super) fn forget_all(&self) {
        self.known.invalidate_all();
    }

    #[cfg(test)]
    pub(super) fn settle(&self) {
        self.known.run_pending_tasks();
    }
}

/// A plain moka cache that counts its evictions: for known absences, which take little memory.
pub(super) fn bounded_cache<K, V>(
    capacity: u64,
    lifetime: Duration,
    evictions: &Arc<AtomicU64>,
) -> Cache<K, V, DefaultHashBuilder>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let evictions = Arc::clone(evictions);
    Cache::builder()
        .max_capacity(capacity)
        .time_to_live(lifetime.min(LIFETIME_MAX))
        .eviction_listener(move |_, _, cause| {
            if cause == RemovalCause::Size {
                evictions.fetch_add(1, Ordering::Relaxed);
            }
        })
        .build_with_hasher(DefaultHashBuilder::default())
}
