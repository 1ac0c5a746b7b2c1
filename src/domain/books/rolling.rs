//! What was charged in a rolling window, counted in slices.
//!
//! A list of charges would be exact, but would grow with the number of calls. Slices take the same
//! space however many calls there are, and err on the safe side: a charge counts until its whole
//! slice has left the window.

use std::{collections::VecDeque, time::Duration};

use super::{Money, spent::Passed};
use crate::domain::budget::{RollingWindow, Thresholds};

/// What was charged in a rolling window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rolling {
    window: RollingWindow,
    /// The latest second seen; setting the clock back frees nothing.
    latest: i64,
    /// Which soft limits were reported, smallest first; at most as many as a window has.
    told: Vec<Told>,
    /// The sum of all slices.
    settled: Money,
    /// Oldest first, none empty; at most as many as fit into the window, plus one.
    slices: VecDeque<Slice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slice {
    number: i64,
    settled: Money,
}

/// When crossing a soft limit was last reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    limit: Money,
    at: i64,
}

impl Rolling {
    pub(super) fn new(window: RollingWindow, second: i64) -> Self {
        Self {
            window,
            latest: second,
            told: Vec::new(),
            settled: Money::ZERO,
            slices: VecDeque::new(),
        }
    }

    /// Rebuilds a stored one; `None` if the stored values are not valid.
    #[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
    pub(crate) fn stored(
        window: RollingWindow,
        latest: i64,
        slices: impl IntoIterator<Item = (i64, Money)>,
    ) -> Option<Self> {
        let mut rolling = Self {
            latest,
            ..Self::new(window, 0)
        };
        let last = window.slice_of(latest);
        let oldest = window.slice_of(latest.saturating_sub(window.seconds()));
        let mut before = oldest.saturating_sub(1);
        for (number, settled) in slices {
            let is_next = before < number && number <= last && settled > Money::ZERO;
            rolling.settled = rolling.settled.checked_add(settled).filter(|_| is_next)?;
            rolling.slices.push_back(Slice { number, settled });
            before = number;
        }
        Some(rolling)
    }

    /// Its window.
    #[must_use]
    pub fn window(&self) -> RollingWindow {
        self.window
    }

    /// The charges that still count, without what was given back.
    #[must_use]
    pub fn settled(&self) -> Money {
        self.settled
    }

    /// The first second, since 1970-01-01T00:00:00Z, of the slice in which charges count now.
    #[must_use]
    pub fn slice_start(&self) -> i64 {
        self.window.start_of(self.window.slice_of(self.latest))
    }

    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn latest(&self) -> i64 {
        self.latest
    }

    /// When crossing that soft limit was last reported.
    pub(crate) fn told_at(&self, limit: Money) -> Option<i64> {
        let place = self.place_of(limit).ok()?;
        self.told.get(place).map(|told| told.at)
    }

    /// It was reported.
    pub(crate) fn tell(&mut self, limit: Money, at: i64) {
        match self.place_of(limit) {
            Ok(place) => {
                if let Some(told) = self.told.get_mut(place) {
                    told.at = at;
                }
            }
            Err(place) => self.told.insert(place, Told { limit, at }),
        }
    }

    fn place_of(&self, limit: Money) -> Result<usize, usize> {
        self.told.binary_search_by_key(&limit, |told| told.limit)
    }

    /// The number of each slice, and what was charged in it, oldest first.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn slices(&self) -> impl Iterator<Item = (i64, Money)> {
        self.slices
            .iter()
            .map(|slice| (slice.number, slice.settled))
    }

    /// `second`, or the latest one seen if that is later: time never runs backwards.
    fn not_before(&self, second: i64) -> i64 {
        second.max(self.latest)
    }

    /// Drops the slices that have left the window.
    pub(super) fn roll(&mut self, second: i64) {
        let now = self.not_before(second);
        self.latest = now;
        while let Some(oldest) = self.slices.front().copied()
            && self.window.end_of(oldest.number) <= now
        {
            self.settled = self.settled.saturating_sub(oldest.settled);
            self.slices.pop_front();
        }
    }

    /// The charges that count at `second`.
    pub(super) fn settled_at(&self, second: i64) -> Money {
        let now = self.not_before(second);
        let left = |slice: &&Slice| self.window.end_of(slice.number) <= now;
        let gone = self.slices.iter().take_while(left);
        gone.fold(self.settled, |sum, slice| sum.saturating_sub(slice.settled))
    }

    /// Counts a charge. Tells of each soft limit that it crossed, if crossing that one was not
    /// reported within the last window length.
    pub(super) fn settle(
        &mut self,
        charged: Money,
        second: i64,
        soft: &Thresholds,
        mut tell: impl FnMut(Passed),
    ) {
        self.roll(second);
        let before = self.settled;
        self.add(self.window.slice_of(self.latest), charged);
        for limit in soft.crossed(before, self.settled) {
            if self.is_news(limit) {
                // What was written straight into the limits leaves nothing behind that would pile
                // up.
                self.told.retain(|told| soft.contains(told.limit));
                self.tell(limit, self.latest);
                tell(Passed {
                    limit,
                    spent: self.settled,
                });
            }
        }
    }

    fn is_news(&self, limit: Money) -> bool {
        let told_at = self.told_at(limit);
        let silent_until = told_at.map(|at| at.saturating_add(self.window.seconds()));
        silent_until.is_none_or(|until| until <= self.latest)
    }

    /// `number` is never earlier than the last slice.
    fn add(&mut self, number: i64, charged: Money) {
        if charged.is_zero() {
            return;
        }
        self.settled = self.settled.saturating_add(charged);
        match self.slices.back_mut() {
            Some(last) if last.number >= number => {
                last.settled = last.settled.saturating_add(charged);
            }
            _ => self.slices.push_back(Slice {
                number,
                settled: charged,
            }),
        }
    }

    /// Takes charges back: of the slice in which a call was `charged`, or of all, oldest first,
    /// where it isn't known which of them it was. So none counts for a shorter time than it must. A
    /// charge that has left the window, or never counted in it, takes nothing from those that do.
    pub(super) fn refund(&mut self, amount: Money, charged: Option<i64>) {
        let own = charged.map(|second| self.window.slice_of(second));
        let is_among = |slice: &&mut Slice| own.is_none_or(|own| slice.number == own);
        let mut rest = amount;
        for slice in self.slices.iter_mut().filter(is_among) {
            let part = rest.min(slice.settled);
            slice.settled = slice.settled.saturating_sub(part);
            self.settled = self.settled.saturating_sub(part);
            rest = rest.saturating_sub(part);
        }
        self.slices.retain(|slice| !slice.settled.is_zero());
    }

    /// How long until at most `room` counts, if nothing more is charged. `None` if that is so
    /// already, or never will be.
    pub(super) fn wait(&self, room: Money, second: i64) -> Option<Duration> {
        let mut settled = self.settled;
        if settled <= room {
            return None;
        }
        let mut slices = self.slices.iter();
        let last = slices.find(|slice| {
            settled = settled.saturating_sub(slice.settled);
            settled <= room
        })?;
        let wait = self.window.end_of(last.number).saturating_sub(second);
        Some(Duration::from_secs(u64::try_from(wait).ok()?))
    }

    /// The same charges in a window of another length. Each counts as if it came at the end of its
    /// slice; what had already left the old window is no longer known.
    pub(super) fn recut(&self, window: RollingWindow, second: i64) -> Self {
        let now = self.not_before(second);
        let mut recut = Self::new(window, now);
        for slice in &self.slices {
            let end = self.window.start_of(slice.number.saturating_add(1));
            let last = end.saturating_sub(1).min(now);
            recut.add(window.slice_of(last), slice.settled);
        }
        recut.roll(second);
        recut
    }

    /// Raises the total to at least `settled`, which is known to have been charged in the window;
    /// the missing part counts as charged now.
    pub(super) fn at_least(&mut self, settled: Money) {
        let missing = settled.saturating_sub(self.settled);
        if missing > Money::ZERO {
            self.add(self.window.slice_of(self.latest), missing);
        }
    }

    /// The soft limits were changed: of those that stay it is still known when they were reported.
    pub(super) fn keep_told(&mut self, before: &Thresholds, after: &Thresholds) {
        let stays = |limit| before.contains(limit) && after.contains(limit);
        self.told.retain(|told| stays(told.limit));
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "amounts in tests are small")]
mod tests;
