//! Whether a store over the network is worth calling.

use std::time::Duration;

use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Consecutive failures that open the breaker. Those of calls that overlap are one: they show the
/// same moment.
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
    /// When the last of them was counted.
    failed_at_nanos: AtomicU64,
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

    /// Counts the failure, at `now`, of a call that began at `began`. The caller that gets `true`
    /// has opened the breaker and must start the checks.
    pub(crate) fn failed(&self, failure: Failure, began: Duration, now: Duration) -> bool {
        let enough = match failure {
            Failure::Final => true,
            Failure::Passing if !self.is_another(began, now) => false,
            Failure::Passing => {
                let before = self.failures.fetch_add(1, Ordering::Relaxed);
                before.saturating_add(1) >= FAILURES_MAX
            }
        };
        enough && !self.open.swap(true, Ordering::AcqRel)
    }

    /// Whether a failure is of a call that began after the last failure was counted, and nobody
    /// counts one at the same time.
    fn is_another(&self, began: Duration, now: Duration) -> bool {
        let last = self.failed_at_nanos.load(Ordering::Relaxed);
        let relaxed = Ordering::Relaxed;
        nanos(began) >= last
            && self
                .failed_at_nanos
                .compare_exchange(last, nanos(now), relaxed, relaxed)
                .is_ok()
    }

    pub(crate) fn close(&self, now: Duration) {
        self.closed_at_nanos.store(nanos(now), Ordering::Relaxed);
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

fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
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

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn three_failures_in_a_row_open_it_once() {
        let breaker = Breaker::default();
        let failed = |second| breaker.failed(Failure::Passing, secs(second), secs(second + 1));
        for second in 0..10 {
            assert!(!failed(2 * second) && !failed(2 * second + 1));
            breaker.succeeded();
        }
        assert!(!failed(20) && !failed(21));
        assert!(failed(22), "the third opens it");
        assert!(!failed(23), "one looks after it");
        assert!(breaker.is_open());
        breaker.close(secs(9));
        assert!(!breaker.is_open() && breaker.failed(Failure::Final, secs(9), secs(9)));
    }

    #[test]
    fn failures_of_one_moment_count_once() {
        let breaker = Breaker::default();
        for moment in [1, 3, 5] {
            assert!(!breaker.is_open());
            let opened = (0..100)
                .filter(|_| breaker.failed(Failure::Passing, secs(moment), secs(moment + 1)))
                .count();
            assert_eq!(opened, usize::from(moment == 5));
        }
        assert!(breaker.is_open());
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
