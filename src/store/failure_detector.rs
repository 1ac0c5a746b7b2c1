//! Which of the instances on the same store have fallen silent.

use std::{hash::Hash, time::Duration};

use hashbrown::HashMap;

/// No more than this fraction of the recovery time may pass between two checks.
const LOOKS: u32 = 3;

/// What an instance knows of the others: one whose heartbeat counter stays the same for the
/// recovery time is dead.
///
/// Silence counts only while this process was watching. After a gap, because the store was
/// unavailable or this process was paused, the others may have been alive but unable to send
/// heartbeats, so each gets the whole recovery time again.
#[derive(Debug)]
pub(super) struct FailureDetector<I> {
    /// The last counter of each, and when it was first seen for certain.
    seen: HashMap<I, (i64, Duration)>,
    looked_at: Duration,
}

impl<I> Default for FailureDetector<I> {
    fn default() -> Self {
        Self {
            seen: HashMap::new(),
            looked_at: Duration::ZERO,
        }
    }
}

impl<I: Copy + Eq + Hash> FailureDetector<I> {
    /// Records the counters of all others, read between two readings of a monotonic clock, and
    /// returns the dead with their last counters. The duration of a check never counts against
    /// anybody.
    pub(super) fn look(
        &mut self,
        others: &HashMap<I, i64>,
        (asked, answered): (Duration, Duration),
        recover_after: Duration,
    ) -> Vec<(I, i64)> {
        let unheard = answered.saturating_sub(self.looked_at);
        if unheard.saturating_mul(LOOKS) > recover_after {
            self.seen.clear();
        }
        self.looked_at = asked;
        self.seen.retain(|id, _| others.contains_key(id));
        let mut dead = Vec::new();
        for (id, reading) in others {
            let since = self.seen.entry(*id).or_insert((*reading, answered));
            if since.0 != *reading {
                *since = (*reading, answered);
            } else if asked.saturating_sub(since.1) >= recover_after {
                dead.push((*id, *reading));
            }
        }
        dead
    }

    /// Whether there was no other instance.
    #[cfg(feature = "sqlite")]
    pub(super) fn is_alone(&self) -> bool {
        self.seen.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECOVER_AFTER: Duration = Duration::from_secs(6);

    fn at(millis: u64) -> (Duration, Duration) {
        let moment = Duration::from_millis(millis);
        (moment, moment)
    }

    fn dead(
        failure_detector: &mut FailureDetector<u8>,
        reading: i64,
        looked: (Duration, Duration),
    ) -> bool {
        let others = HashMap::from_iter([(7, reading)]);
        !failure_detector
            .look(&others, looked, RECOVER_AFTER)
            .is_empty()
    }

    #[test]
    fn who_says_nothing_for_the_recovery_time_is_dead_and_nobody_sooner() {
        let mut failure_detector = FailureDetector::default();
        for second in 0..6 {
            assert!(
                !dead(&mut failure_detector, 1, at(second * 1_000)),
                "{second}"
            );
        }
        assert!(!dead(&mut failure_detector, 1, at(5_999)));
        assert!(dead(&mut failure_detector, 1, at(6_000)));
        assert!(
            dead(&mut failure_detector, 1, at(7_000)),
            "until it is removed"
        );
        assert!(!dead(&mut failure_detector, 2, at(8_000)), "a sign of life");
        assert!(!dead(&mut failure_detector, 2, at(10_000)));
    }

    #[test]
    fn nobody_is_silent_while_nobody_looks() {
        let mut failure_detector = FailureDetector::default();
        for second in 0..6 {
            assert!(!dead(&mut failure_detector, 1, at(second * 1_000)));
        }
        assert!(
            !dead(&mut failure_detector, 1, at(7_001)),
            "2,001 ms after the last look"
        );
        for second in 8..13 {
            assert!(!dead(&mut failure_detector, 1, at(second * 1_000)));
        }
        assert!(!dead(&mut failure_detector, 1, at(13_000)));
        assert!(dead(&mut failure_detector, 1, at(13_001)));
    }

    #[test]
    fn what_a_look_takes_is_no_silence() {
        let mut failure_detector = FailureDetector::default();
        let slow = |secs: u64| {
            (
                Duration::from_secs(secs),
                Duration::from_millis(secs * 1_000 + 900),
            )
        };
        for second in 0..7 {
            assert!(!dead(&mut failure_detector, 1, slow(second)), "{second}");
        }
        assert!(dead(&mut failure_detector, 1, slow(7)));
        // One that took longer than may pass between two.
        assert!(!dead(
            &mut failure_detector,
            1,
            (Duration::from_secs(8), Duration::from_secs(10))
        ));
        assert!(!dead(&mut failure_detector, 1, at(10_000)));
    }
}
