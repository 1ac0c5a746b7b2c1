//! What counts in a window that rolls.

use tollgate::budget::RollingWindow;

/// All that was ever charged in a window that rolls, with the second by which it counts.
pub(super) struct Rolling {
    pub(super) window: RollingWindow,
    pub(super) charges: Vec<(i64, i128)>,
    /// The latest second at which it was looked at.
    pub(super) seen: i64,
    pub(super) told: Option<i64>,
}

impl Rolling {
    fn width(&self) -> i64 {
        self.window.slice().as_secs() as i64
    }

    /// Time never goes back.
    pub(super) fn by(&self, second: i64) -> i64 {
        second.max(self.seen)
    }

    pub(super) fn settled(&self, second: i64) -> i128 {
        let (now, width) = (self.by(second), self.width());
        let length = self.window.length().as_secs() as i64;
        let counts = |at: i64| at - at.rem_euclid(width) + width + length > now;
        let charges = self.charges.iter().filter(|(at, _)| counts(*at));
        charges.map(|(_, amount)| amount).sum()
    }
}
