//! Counts occupied places, so that everything that waits is bounded.

use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The number of things that wait for an engine's writer.
///
/// The channel itself is unbounded, because a settlement must never be refused, but its length is
/// bounded: holds, changes and touches are refused beyond the queue's capacity; a settlement or an
/// extension belongs to a hold, and only so many may be open (with one extension per hold in
/// progress); rows without a hold and audit events have limits of their own.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    pub(super) queued: AtomicUsize,
    pub(super) open_holds: AtomicUsize,
    pub(super) records: AtomicUsize,
    /// Reads and changes outside the books that wait or are in progress.
    #[cfg(feature = "postgres")]
    pub(super) requests: AtomicUsize,
    /// Audit events that wait, and how many were lost.
    #[cfg(feature = "sqlite")]
    pub(super) events: AtomicUsize,
    pub(super) events_lost: AtomicU64,
}

/// The workload of a database store in this process. The figures are read one after the other, not
/// at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatistics {
    /// Holds and changes that wait to be written. Beyond the store's `queue_max` further ones fail
    /// with `Busy`.
    pub waiting: usize,
    /// Open holds, one per call in progress. Beyond `open_holds_max` further ones fail with `Busy`.
    pub open_holds: usize,
    /// Audit events that were accepted but could not be written, since the store was opened.
    pub audit_events_lost: u64,
}

impl Gauge {
    /// The current workload.
    pub(super) fn statistics(&self) -> StoreStatistics {
        StoreStatistics {
            waiting: self.queued.load(Ordering::Relaxed),
            open_holds: self.open_holds.load(Ordering::Relaxed),
            audit_events_lost: self.events_lost.load(Ordering::Relaxed),
        }
    }

    /// Takes a place if fewer than `limit` are taken; `false` otherwise.
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

/// A place that is given back when this is dropped: exactly once, whatever happens to its holder.
#[cfg(feature = "postgres")]
#[derive(Debug)]
pub(super) struct Permit {
    gauge: std::sync::Arc<Gauge>,
    of: fn(&Gauge) -> &AtomicUsize,
}

#[cfg(feature = "postgres")]
impl Permit {
    /// Takes a place if fewer than `limit` are taken.
    pub(super) fn take(
        gauge: &std::sync::Arc<Gauge>,
        of: fn(&Gauge) -> &AtomicUsize,
        limit: usize,
    ) -> Option<Self> {
        let gauge = std::sync::Arc::clone(gauge);
        // Only constructed once the place is taken, because dropping it gives the place back.
        Gauge::enter(of(&gauge), limit).then(|| Self { gauge, of })
    }
}

#[cfg(feature = "postgres")]
impl Drop for Permit {
    fn drop(&mut self) {
        Gauge::leave((self.of)(&self.gauge), 1);
    }
}
