//! What counts in a window that rolls.

use std::collections::HashMap;

use tollgate::{
    budget::{BudgetWindow, RollingWindow},
    store::{AccountId, BudgetId},
};

use super::Oracle;

/// All that was ever charged in a window that rolls, with the second by which it counts.
pub(super) struct Rolling {
    pub(super) window: RollingWindow,
    pub(super) charges: Vec<(i64, i128)>,
    /// The latest second at which it was looked at.
    pub(super) seen: i64,
    /// When which soft limit was told last.
    pub(super) told: HashMap<i64, i64>,
}

impl Oracle {
    /// A window that is new, or has another length, counts at least what was spent in the month, or
    /// else the day, that lies in it.
    pub(super) fn count_in(&mut self, place: (AccountId, BudgetId), window: RollingWindow) {
        let (second, length) = (self.second, window.length().as_secs() as i64);
        let seen = self.windows[&place];
        let of = |window, from| (place.0.clone(), place.1.clone(), window, from);
        let sure = [
            (BudgetWindow::Month, seen.month),
            (BudgetWindow::Day, seen.day),
        ];
        let sure = sure.into_iter().find(|(_, from)| second - from <= length);
        let sure = sure.map_or(0, |(window, from)| self.settled_in(&of(window, from)));
        match self.rolling.get_mut(&place) {
            Some(rolling) if rolling.window == window => {}
            Some(rolling) => rolling.recut(window, second, sure),
            None => {
                let mut rolling = Rolling {
                    window,
                    charges: Vec::new(),
                    seen: second,
                    told: HashMap::new(),
                };
                rolling.recut(window, second, sure);
                self.rolling.insert(place, rolling);
            }
        }
    }
}

impl Rolling {
    /// What counts does so as if it had been charged at the end of its slice.
    fn recut(&mut self, window: RollingWindow, second: i64, sure: i128) {
        let (now, width) = (self.by(second), self.width());
        let charges = std::mem::take(&mut self.charges).into_iter();
        self.charges = charges
            .filter(|(at, _)| self.counts(*at, now))
            .map(|(at, amount)| ((at - at.rem_euclid(width) + width - 1).min(now), amount))
            .collect();
        (self.window, self.seen) = (window, now);
        self.told.clear();
        let missing = sure - self.settled(now);
        if missing > 0 {
            self.charges.push((now, missing));
        }
    }

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
