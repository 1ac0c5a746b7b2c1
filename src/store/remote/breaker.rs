//! Whether a store over the network is worth calling.

use std::time::Duration;

use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Consecutive failures that open the breaker.
const FAILURES_MAX: u32 = 3;
/// The pause before the first check whether the store is back, and the longest pause between two.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A breaker that opens again this soon starts with the longest pause.
const STABLE: Duration = Duration::from_secs(5);

/// By this time after a store came back, every process has noticed: after the longest pause, times
/// one and a half, and the check itself.
const FOUND_BACK: Duration = Duration::from_secs(2);

/// Opens after consecutive failures. While it is open the store is only called by one task that
/// checks whether it is back, at growing intervals that differ from process to process.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: AtomicU32,
    open: AtomicBool,
    closed_at_nanos: AtomicU64,
}

/// The severity of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Possibly temporary: too slow, or an error reported by the store.
    Passing,
    /// The store is unreachable.
    Final,
}

impl Breaker {
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(crate) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failure. The caller that gets `true` has opened the breaker and must start the
    /// checks.
    pub(crate) fn failed(&self, failure: Failure) -> bool {
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        let enough = failure == Failure::Final || before.saturating_add(1) >= FAILURES_MAX;
        enough && !self.open.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn close(&self, now: Duration) {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.closed_at_nanos.store(nanos, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        self.open.store(false, Ordering::Release);
    }

    /// Whether the store was found to be back so recently that others may not know yet.
    pub(crate) fn is_back_lately(&self, now: Duration) -> bool {
        let closed_at = Duration::from_nanos(self.closed_at_nanos.load(Ordering::Relaxed));
        !closed_at.is_zero() && now.saturating_sub(closed_at) < FOUND_BACK
    }

    /// The pauses between checks, from now on.
    pub(crate) fn pauses(&self, now: Duration) -> Pauses {
        let closed_at = Duration::from_nanos(self.closed_at_nanos.load(Ordering::Relaxed));
        let flapping = !closed_at.is_zero() && now.saturating_sub(closed_at) < STABLE;
        Pauses(if flapping { PAUSE_MAX } else { PAUSE_MIN })
    }
}

/// Pauses that double, each randomized between half and one and a half times its length.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Pauses {
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = pause.saturating_mul(2).min(PAUSE_MAX);
        let random = u32::from(getrandom::u32().map_or(128, |random| {
            let [byte, ..] = random.to_le_bytes();
            byte
        }));
        let share = pause.saturating_mul(random).checked_div(255);
        let half = pause.checked_div(2).unwrap_or(pause);
        half.saturating_add(share.unwrap_or(half))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_in_a_row_open_it_once() {
        let breaker = Breaker::default();
        for _ in 0..10 {
            assert!(!breaker.failed(Failure::Passing) && !breaker.failed(Failure::Passing));
            breaker.succeeded();
        }
        assert!(!breaker.failed(Failure::Passing) && !breaker.failed(Failure::Passing));
        assert!(breaker.failed(Failure::Passing), "the third opens it");
        assert!(!breaker.failed(Failure::Passing), "one looks after it");
        assert!(breaker.is_open());
        breaker.close(Duration::from_secs(9));
        assert!(!breaker.is_open() && breaker.failed(Failure::Final));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_begin_long_when_it_flaps() {
        let breaker = Breaker::default();
        let mut pauses = breaker.pauses(Duration::from_secs(1));
        for most in [75, 150, 300, 600, 1_200, 1_500, 1_500] {
            let pause = pauses.next();
            assert!(
                pause <= Duration::from_millis(most)
                    && pause >= Duration::from_millis(most / 3 - 1)
            );
        }
        assert!(!breaker.is_back_lately(Duration::from_secs(1)));
        breaker.close(Duration::from_secs(1));
        assert!(breaker.is_back_lately(Duration::from_millis(2_999)));
        assert!(!breaker.is_back_lately(Duration::from_secs(3)));
        assert!(breaker.pauses(Duration::from_secs(2)).next() >= PAUSE_MAX / 2);
        assert!(breaker.pauses(Duration::from_secs(9)).next() < PAUSE_MAX / 2);
    }
}
