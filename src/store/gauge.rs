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

/// How many charges of answered calls one writer couldn't write so far, in the gauge
/// `tollgate_unwritten_settlements`. The writers of a process add up, and one that ends takes its own
/// away.
#[derive(Debug)]
pub(super) struct Unwritten {
    reported: usize,
}

impl Unwritten {
    /// Shows that there are none yet, so that the gauge can be watched before anything goes wrong.
    pub(super) fn begin() -> Self {
        shift(0, 0);
        Self { reported: 0 }
    }

    /// Whether the last report was of none.
    #[cfg(feature = "postgres")]
    pub(super) fn is_none(&self) -> bool {
        self.reported == 0
    }

    pub(super) fn report(&mut self, charges: usize) {
        let before = std::mem::replace(&mut self.reported, charges);
        shift(before, charges);
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        self.report(0);
    }
}

#[cfg(feature = "metrics")]
fn shift(before: usize, after: usize) {
    let amount = f64::from(u32::try_from(after.abs_diff(before)).unwrap_or(u32::MAX));
    let gauge = metrics::gauge!(crate::metric::UNWRITTEN_SETTLEMENTS);
    match after.cmp(&before) {
        std::cmp::Ordering::Greater => gauge.increment(amount),
        std::cmp::Ordering::Less => gauge.decrement(amount),
        std::cmp::Ordering::Equal => gauge.increment(0.0),
    }
}

#[cfg(not(feature = "metrics"))]
fn shift(_: usize, _: usize) {}

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

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use std::sync::{Arc, atomic::AtomicU64 as Bits};

    use metrics::{
        Counter, Gauge as Handle, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::*;

    /// What the only gauge shows, as the bits of a float.
    #[derive(Default)]
    struct Shown(Arc<Bits>);

    impl Shown {
        fn value(&self) -> f64 {
            f64::from_bits(self.0.load(std::sync::atomic::Ordering::Relaxed))
        }
    }

    impl Recorder for Shown {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Handle {
            assert_eq!(key.name(), "tollgate_unwritten_settlements");
            Handle::from_arc(Arc::clone(&self.0))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn writers_add_up_and_one_that_ends_takes_its_own_away() {
        let shown = Shown::default();
        metrics::with_local_recorder(&shown, || {
            let (mut one, mut other) = (Unwritten::begin(), Unwritten::begin());
            for (mine, theirs, sum) in [(0, 0, 0.0), (3, 0, 3.0), (3, 2, 5.0), (1, 2, 3.0)] {
                one.report(mine);
                other.report(theirs);
                assert!((shown.value() - sum).abs() < 1e-9, "{}", shown.value());
            }
            drop(one);
            assert!((shown.value() - 2.0).abs() < 1e-9, "{}", shown.value());
            drop(other);
            assert!(shown.value().abs() < 1e-9, "{}", shown.value());
        });
    }
}
