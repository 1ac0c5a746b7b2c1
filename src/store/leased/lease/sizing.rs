//! How large a lease should be.

use super::{LeaseState, Scarcity};
use crate::domain::{books::PART_OF_LEFT, money::Money};

/// How many calls, or how many times the amount drawn in the last interval, a lease should cover.
const CALLS_AHEAD: u32 = 8;

/// Below this many calls' worth of money there is no lease: every call asks the store.
const CALLS_MIN: u32 = 2;

pub(super) fn times(amount: Money, factor: u32) -> Money {
    Money::from_nanos(amount.nanos().saturating_mul(i64::from(factor)))
}

pub(super) fn part(amount: Money, divisor: i64) -> Money {
    Money::from_nanos(amount.nanos().checked_div(divisor).unwrap_or_default())
}

impl LeaseState {
    /// Whether so little is left that every call asks the store.
    pub(super) fn is_scarce(&self) -> bool {
        self.is_little(self.left.least())
    }

    pub(super) fn scarcity(&self) -> Scarcity {
        if self.is_little(self.left.account) {
            Scarcity::Account
        } else {
            Scarcity::Budgets
        }
    }

    fn is_little(&self, left: Money) -> bool {
        let one = Money::from_nanos(1);
        self.part_of(left) < times(self.largest, CALLS_MIN).max(one)
    }

    fn part_of(&self, left: Money) -> Money {
        // The store grants no more than this part either.
        part(left.saturating_add(self.free()), PART_OF_LEFT)
    }

    /// How much should be free: as much as recent calls make likely, but only a small part of what
    /// is left.
    pub(super) fn wanted(&self) -> Money {
        if self.is_scarce() {
            return Money::ZERO;
        }
        self.desired.min(self.part_of(self.left.least()))
    }

    /// At each interval: estimates from what was drawn since the last one how much should be free.
    pub(in super::super) fn end_interval(&mut self, lease_max: Money) {
        let likely = times(self.largest, CALLS_AHEAD).max(times(self.drawn, CALLS_AHEAD));
        self.desired = likely.max(part(self.desired, 2)).min(lease_max);
        self.largest = part(self.largest, 2);
        self.drawn = Money::ZERO;
        self.missed = 0;
    }

    pub(super) fn raise_desired(&mut self, lease_max: Money) {
        let more = if self.is_short { 2 } else { 1 };
        let desired = times(self.desired, more).max(times(self.largest, CALLS_AHEAD));
        self.desired = desired.min(lease_max);
        self.is_short = false;
    }
}
