//! Which values stay: moka's part.
//!
//! moka knows the hashes of what stands in the [table](super::table), and says which has to go: the least used when there
//! are too many (TinyLFU), and what nobody has loaded or used for a lifetime. Its own look-up tells its policy of each use, which
//! costs a dozen lines of memory; a sample of the hits says the same.

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

use super::table::{Place, Remembered, Table};

/// moka refuses a lifetime of a thousand years; what is older than a year is reloaded.
const LIFETIME_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Of so many hits of a stripe one is told. A prime, since requests that go round may be a hundred or a thousand.
const SAMPLE: u64 = 61;

/// Decides what stays in a table.
///
/// Every value in the table has an entry in moka, and the end of that entry takes the value from the table. The reverse need not
/// hold: an entry without a value is a miss, and its value is loaded again.
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
        // Counted from the last use, which takes no second list as counting from the load does: what is too old to be served is
        // loaded anew, and so told anew.
        let known = Cache::builder()
            .max_capacity(capacity)
            .time_to_idle(lifetime.min(LIFETIME_MAX))
            .eviction_listener(move |hash: Arc<u64>, (), cause| {
                if cause == RemovalCause::Size {
                    evictions.fetch_add(1, Ordering::Relaxed);
                }
                if cause != RemovalCause::Replaced {
                    table.clear(Place::of_hash(*hash));
                }
            })
            .build_with_hasher(DefaultHashBuilder::default());
        Self { known }
    }

    /// Whether it stays, as far as is decided by now.
    pub(super) fn knows(&self, place: Place) -> bool {
        self.known.contains_key(&place.hash())
    }

    /// Notes that somebody asks for it.
    pub(super) fn note(&self, place: Place) {
        let _known = self.known.get(&place.hash());
    }

    /// Notes one hit of many.
    pub(super) fn note_sometimes(&self, place: Place, hits: u64) {
        if hits.checked_rem(SAMPLE) == Some(0) {
            self.note(place);
        }
    }

    /// Tells of what is to be put there.
    pub(super) fn tell(&self, place: Place) {
        self.known.insert(place.hash(), ());
    }

    pub(super) fn forget(&self, place: Place) {
        self.known.invalidate(&place.hash());
    }

    pub(super) fn forget_all(&self) {
        self.known.invalidate_all();
    }

    #[cfg(test)]
    pub(super) fn settle(&self) {
        self.known.run_pending_tasks();
    }
}

/// A cache of moka's alone, which counts what it has to let go: for known absences, which cost little.
pub(super) fn bounded<K, V>(
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
