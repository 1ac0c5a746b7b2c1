//! What counts in a window that rolls.

use std::collections::HashMap;

use tollgate::budget::RollingWindow;

/// All that was ever charged in a window that rolls, with the second by which it counts.
pub(super) struct Rolling {
    pub(super) window: RollingWindow,
    pub(super) charges: Vec<(i64, i128)>,
    /// The latest second at which it was looked at.
    pub(super) seen: i64,
    /// When which soft limit was told last.
    pub(super) told: HashMap<i64, i64>,
}

impl Rolling {
    fn width(&self) -> i64 {
        self.window.slice().as_secs() as i64
    }

    /// Time never goes back.
    pub(super) fn by(&self, second: i64) -> i64 {
        second.max(self.seen)
    }

    fn counts(&self, at: i64, second: i64) -> bool {
        let (now, width) = (self.by(second), self.width());
        let length = self.window.length().as_secs() as i64;
        at - at.rem_euclid(width) + width + length > now
    }

    pub(super) fn settled(&self, second: i64) -> i128 {
        let charges = self.charges.iter();
        let charges = charges.filter(|(at, _)| self.counts(*at, second));
        charges.map(|(_, amount)| amount).sum()
    }

    /// Takes back what counts, oldest first: of what was charged in the slice of a call, or of all.
    pub(super) fn refund(&mut self, second: i64, amount: i128, call: Option<i64>) {
        let width = self.width();
        let is_among =
            |at: i64| call.is_none_or(|call| call.div_euclid(width) == at.div_euclid(width));
        let mut rest = amount;
        let mut charges = std::mem::take(&mut self.charges);
        for (at, charged) in &mut charges {
            if is_among(*at) && self.counts(*at, second) {
                let part = rest.min(*charged);
                *charged -= part;
                rest -= part;
            }
        }
        self.charges = charges;
    }
}
