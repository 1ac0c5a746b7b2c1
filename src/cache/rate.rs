//! How often something may happen, counted by one atomic number.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// So many in a second, and as many at once. GCRA: the number is the moment up to which all is used up.
pub(super) struct Rate {
    interval_nanos: u64,
    used_up_to: AtomicU64,
}

const SECOND_NANOS: u64 = 1_000_000_000;

impl Rate {
    /// At least one a second.
    pub(super) fn per_second(limit: u32) -> Self {
        let limit = u64::from(limit.max(1));
        Self {
            interval_nanos: SECOND_NANOS
                .checked_div(limit)
                .unwrap_or(SECOND_NANOS)
                .max(1),
            used_up_to: AtomicU64::new(0),
        }
    }

    /// Whether one more may happen now: then it counts from now on, unless it is given back.
    pub(super) fn reserve(&self, now: Duration) -> bool {
        let now = nanos(now);
        let full = now.saturating_add(SECOND_NANOS);
        let later =
            |used: u64| (used < full).then(|| used.max(now).saturating_add(self.interval_nanos));
        let order = (Ordering::Relaxed, Ordering::Relaxed);
        self.used_up_to
            .fetch_update(order.0, order.1, later)
            .is_ok()
    }

    /// One that was reserved did not happen.
    pub(super) fn give_back(&self) {
        let earlier = |used: u64| Some(used.saturating_sub(self.interval_nanos));
        let order = (Ordering::Relaxed, Ordering::Relaxed);
        // It never fails: the closure always answers.
        let _ = self.used_up_to.fetch_update(order.0, order.1, earlier);
    }
}

fn nanos(moment: Duration) -> u64 {
    u64::try_from(moment.as_nanos()).unwrap_or(u64::MAX)
}
