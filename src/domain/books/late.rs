//! Settlements that come late: of holds that were resolved without their owner.

use std::time::Duration;

use super::{KnownCall, Money};

/// What a ledger remembers, for [a day](Self::REMEMBERED), of a hold that it resolved without its
/// owner.
///
/// An owner that was cut off for long may be alive, and may have answered its call. What such a
/// call cost is charged once it is settled after all: beyond what was set aside, since that money
/// may have been given to another call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abandoned {
    /// What was charged when it was resolved.
    pub charged: Money,
    /// The fingerprint of its request, if its idempotency key was freed then.
    pub fingerprint: Option<[u8; 32]>,
}

impl Abandoned {
    /// How long it is remembered, at least.
    pub const REMEMBERED: Duration = Duration::from_secs(24 * 3_600);

    /// A hold that was resolved with `charged`. `known` is what its idempotency key, if it has one,
    /// named until then.
    #[must_use]
    pub fn new(charged: Money, known: Option<KnownCall>) -> Self {
        let freed = known.filter(|_| charged.is_zero());
        Self {
            charged,
            fingerprint: freed.map(|known| known.fingerprint),
        }
    }

    /// What is still to be charged for a call that cost `cost`. `known` is what its idempotency key
    /// names now.
    ///
    /// Nothing if the client has repeated the call since: with one key it pays once, and that is
    /// for the repetition.
    #[must_use]
    pub fn due(&self, cost: Money, known: Option<&KnownCall>) -> Money {
        let repetition = known.filter(|known| self.fingerprint == Some(known.fingerprint));
        match repetition {
            Some(_) => Money::ZERO,
            None => cost.saturating_sub(self.charged).max(Money::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(nanos: i64) -> Money {
        Money::from_nanos(nanos)
    }

    fn known(fingerprint: u8, settled: bool) -> KnownCall {
        KnownCall {
            fingerprint: [fingerprint; 32],
            settled,
        }
    }

    #[test]
    fn what_was_charged_before_is_not_charged_again() {
        for (before, cost, due) in [(0, 7, 7), (5, 7, 2), (7, 5, 0), (0, -3, 0), (0, 0, 0)] {
            let late = Abandoned::new(nanos(before), None);
            assert_eq!(late.due(nanos(cost), None), nanos(due));
        }
    }

    #[test]
    fn a_call_that_was_repeated_is_not_charged_beside_its_repetition() {
        let freed = Abandoned::new(Money::ZERO, Some(known(1, false)));
        for settled in [false, true] {
            assert_eq!(freed.due(nanos(7), Some(&known(1, settled))), Money::ZERO);
            // The key names another request.
            assert_eq!(freed.due(nanos(7), Some(&known(2, settled))), nanos(7));
        }
        assert_eq!(freed.due(nanos(7), None), nanos(7));
        // Its key is its own still.
        let kept = Abandoned::new(nanos(5), Some(known(1, false)));
        assert_eq!(kept.due(nanos(7), Some(&known(1, true))), nanos(2));
    }
}
