//! Counts places that are taken, so that what waits has a bound.

use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What waits for an engine's writer, in numbers.
///
/// The channel itself has no bound, because a settlement must never be refused; its length has: holds,
/// changes and touches are refused beyond the queue's capacity, a settlement or an extension has a hold, of which
/// only so many may be open (and of extensions one a hold under way), and rows without a hold and audit events have bounds of their own.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    pub(super) queued: AtomicUsize,
    pub(super) open_holds: AtomicUsize,
    pub(super) records: AtomicUsize,
    /// Reads and changes outside the books that wait or are under way.
    #[cfg(feature = "postgres")]
    pub(super) asked: AtomicUsize,
    /// Audit events that wait, and how many were given up.
    #[cfg(feature = "sqlite")]
    pub(super) events: AtomicUsize,
    pub(super) events_lost: AtomicU64,
}

/// How much a store in a database has to do in this process. The figures are read one after the other, not at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatistics {
    /// Holds and changes that wait to be written. Beyond the store's `queue_max` further ones fail with `Busy`.
    pub waiting: usize,
    /// Holds that are open, each of a call under way. Beyond `open_holds_max` further ones fail with `Busy`.
    pub open_holds: usize,
    /// Audit events that were taken and could not be written, since the store was opened.
    pub audit_events_lost: u64,
}

impl Gauge {
    /// What there is to do.
    pub(super) fn statistics(&self) -> StoreStatistics {
        StoreStatistics {
            waiting: self.queued.load(Ordering::Relaxed),
            open_holds: self.open_holds.load(Ordering::Relaxed),
            audit_events_lost: self.events_lost.load(Ordering::Relaxed),
        }
    }

    /// Takes a place below `limit`; `false` when there is none.
    pub(super) fn enter(counter: &AtomicUsize, limit: usize) -> bool {
        let entered = counter.fetch_add(1, Ordering::AcqRel) < limit;
        if !entered {
            Self::leave(counter, 1);
        }
        entered
    }

    pub(super) fn leave(counter: &AtomicUsize, places: usize) {
        let fewer = |taken: usize| Some(taken.saturating_sub(places));
        let earlier = counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer);
        debug_assert!(earlier >= Ok(places), "a place is left once");
    }
}

/// A place, which is left when this is dropped: so it is left once, whatever becomes of who has it.
#[cfg(feature = "postgres")]
#[derive(Debug)]
pub(super) struct Place {
    gauge: std::sync::Arc<Gauge>,
    of: fn(&Gauge) -> &AtomicUsize,
}

#[cfg(feature = "postgres")]
impl Place {
    /// A place below `limit`, where there is one.
    pub(super) fn take(
        gauge: &std::sync::Arc<Gauge>,
        of: fn(&Gauge) -> &AtomicUsize,
        limit: usize,
    ) -> Option<Self> {
        let gauge = std::sync::Arc::clone(gauge);
        // Not made before it is taken: what is made is left.
        Gauge::enter(of(&gauge), limit).then(|| Self { gauge, of })
    }
}

#[cfg(feature = "postgres")]
impl Drop for Place {
    fn drop(&mut self) {
        Gauge::leave((self.of)(&self.gauge), 1);
    }
}
