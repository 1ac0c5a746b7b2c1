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
    /// Audit events that wait, and how many were given up.
    #[cfg(feature = "sqlite")]
    pub(super) events: AtomicUsize,
    pub(super) events_lost: AtomicU64,
}

impl Gauge {
    /// Takes a place below `limit`; `false` when there is none.
    pub(super) fn enter(counter: &AtomicUsize, limit: usize) -> bool {
        let entered = counter.fetch_add(1, Ordering::AcqRel) < limit;
        if !entered {
            Self::leave(counter, 1);
        }
        entered
    }

    pub(super) fn leave(counter: &AtomicUsize, places: usize) {
        counter.fetch_sub(places, Ordering::AcqRel);
    }
}
