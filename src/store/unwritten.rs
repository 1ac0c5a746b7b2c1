//! How many charges are still to be written, for whoever watches the process.

use std::sync::Mutex;

use crate::sync::lock;

static OF_THIS_PROCESS: Total = Total::new();

/// The charges that several writers couldn't write so far. What is shown is this sum, not its
/// changes: a recorder that is installed late would be told of the end of what it never saw begin.
#[derive(Debug)]
struct Total(Mutex<usize>);

/// How many charges of answered calls one writer couldn't write so far, in the gauge
/// `tollgate_unwritten_settlements`. The writers of a process add up, and one that ends takes its
/// own away.
#[derive(Debug)]
pub(super) struct Unwritten {
    reported: usize,
    total: &'static Total,
}

impl Total {
    const fn new() -> Self {
        Self(Mutex::new(0))
    }

    /// Under the lock, so that what is shown last is what was counted last.
    fn change(&self, before: usize, after: usize) {
        let mut total = lock(&self.0);
        *total = total.saturating_sub(before).saturating_add(after);
        show(*total);
    }
}

impl Unwritten {
    /// Shows the sum so far, so that the gauge can be watched before anything goes wrong.
    pub(super) fn begin() -> Self {
        Self::begin_in(&OF_THIS_PROCESS)
    }

    fn begin_in(total: &'static Total) -> Self {
        total.change(0, 0);
        Self { reported: 0, total }
    }

    /// Whether the last report was of none.
    #[cfg(feature = "postgres")]
    pub(super) fn is_none(&self) -> bool {
        self.reported == 0
    }

    pub(super) fn report(&mut self, charges: usize) {
        let before = std::mem::replace(&mut self.reported, charges);
        self.total.change(before, charges);
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        self.report(0);
    }
}

#[cfg(feature = "metrics")]
fn show(total: usize) {
    let total = f64::from(u32::try_from(total).unwrap_or(u32::MAX));
    metrics::gauge!(crate::metric::UNWRITTEN_SETTLEMENTS).set(total);
}

#[cfg(not(feature = "metrics"))]
fn show(_: usize) {}

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
        static TOTAL: Total = Total::new();
        let shown = Shown::default();
        metrics::with_local_recorder(&shown, || {
            let (mut one, mut other) = (Unwritten::begin_in(&TOTAL), Unwritten::begin_in(&TOTAL));
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

    #[test]
    fn a_recorder_that_is_installed_late_shows_what_is_and_never_less_than_none() {
        static TOTAL: Total = Total::new();
        let mut writer = Unwritten::begin_in(&TOTAL);
        writer.report(3);
        let shown = Shown::default();
        metrics::with_local_recorder(&shown, || {
            writer.report(2);
            assert!((shown.value() - 2.0).abs() < 1e-9, "{}", shown.value());
            writer.report(0);
            assert!(shown.value().abs() < 1e-9, "{}", shown.value());
        });
    }
}
