//! How large a lease shall be.

use super::{Scarcity, Share};
use crate::domain::money::Money;

/// For how many calls, or for how many times what was drawn since the last look, a lease is to do.
const AHEAD: u32 = 8;

/// A lease that would not do for so many calls is none: then every call asks the store.
const CALLS_MIN: u32 = 2;

/// A lease keeps no more than this part of what it and the store have left, as the store grants no more.
const PART_OF_LEFT: i64 = 8;

pub(super) fn times(amount: Money, factor: u32) -> Money {
    Money::from_nanos(amount.nanos().saturating_mul(i64::from(factor)))
}

pub(super) fn part(amount: Money, divisor: i64) -> Money {
    Money::from_nanos(amount.nanos().checked_div(divisor).unwrap_or_default())
}

impl Share {
    /// Whether there is so little left that every call asks the store.
    pub(super) fn is_scarce(&self) -> bool {
        self.is_little(self.left.least())
    }

    pub(super) fn scarcity(&self) -> Scarcity {
        Scarcity {
            is_of_account: self.is_little(self.left.account),
        }
    }

    fn is_little(&self, left: Money) -> bool {
        let one = Money::from_nanos(1);
        self.part_of(left) < times(self.largest, CALLS_MIN).max(one)
    }

    fn part_of(&self, left: Money) -> Money {
        part(left.saturating_add(self.free()), PART_OF_LEFT)
    }

    /// How much shall be free: as much as was drawn lately makes likely, and little of what is left.
    pub(super) fn wanted(&self) -> Money {
        if self.is_scarce() {
            return Money::ZERO;
        }
        self.desired.min(self.part_of(self.left.least()))
    }

    /// At intervals: what was drawn since the last one tells how much is wanted.
    pub(in super::super) fn look_back(&mut self, lease_max: Money) {
        let likely = times(self.largest, AHEAD).max(times(self.drawn, AHEAD));
        self.desired = likely.max(part(self.desired, 2)).min(lease_max);
        self.largest = part(self.largest, 2);
        self.drawn = Money::ZERO;
        self.missed = 0;
    }

    pub(super) fn look_ahead(&mut self, lease_max: Money) {
        let more = if self.is_short { 2 } else { 1 };
        let desired = times(self.desired, more).max(times(self.largest, AHEAD));
        self.desired = desired.min(lease_max);
        self.is_short = false;
    }
}
