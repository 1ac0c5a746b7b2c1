//! What was charged in a window that rolls, by slices.
//!
//! A list of charges would be exact, and as long as there are calls. Slices take the same room however many there are, and
//! err on the safe side: a charge counts until its slice has left the window wholly.

use std::{collections::VecDeque, time::Duration};

use super::{Money, spent::Passed};
use crate::domain::budget::RollingWindow;

/// What was charged in a window that rolls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rolling {
    window: RollingWindow,
    /// The latest second at which it was looked at: a clock that is set back frees nothing.
    latest: i64,
    /// When the soft limit was told.
    told_at: Option<i64>,
    /// The sum of all slices.
    settled: Money,
    /// Oldest first, none of them empty. No more than fit into the window, and one.
    slices: VecDeque<Slice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slice {
    number: i64,
    settled: Money,
}

impl Rolling {
    pub(super) fn new(window: RollingWindow, second: i64) -> Self {
        Self {
            window,
            latest: second,
            told_at: None,
            settled: Money::ZERO,
            slices: VecDeque::new(),
        }
    }

    /// One that was stored. `None`: it never was one.
    #[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
    pub(crate) fn stored(
        window: RollingWindow,
        latest: i64,
        told_at: Option<i64>,
        slices: impl IntoIterator<Item = (i64, Money)>,
    ) -> Option<Self> {
        let mut rolling = Self {
            latest,
            told_at,
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

    /// What is counted of what was charged.
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

    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn told_at(&self) -> Option<i64> {
        self.told_at
    }

    /// The number of each slice, and what was charged in it, oldest first.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn slices(&self) -> impl Iterator<Item = (i64, Money)> {
        self.slices
            .iter()
            .map(|slice| (slice.number, slice.settled))
    }

    /// The second by which it is counted: time never goes back.
    fn not_before(&self, second: i64) -> i64 {
        second.max(self.latest)
    }

    /// Lets go what has left the window.
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

    /// What counts in `second` of what was charged.
    pub(super) fn settled_at(&self, second: i64) -> Money {
        let now = self.not_before(second);
        let left = |slice: &&Slice| self.window.end_of(slice.number) <= now;
        let gone = self.slices.iter().take_while(left);
        gone.fold(self.settled, |sum, slice| sum.saturating_sub(slice.settled))
    }

    /// Counts a charge. Returns what is spent now if that just passed `soft`, and that wasn't told for the length of the
    /// window.
    pub(super) fn settle(
        &mut self,
        charged: Money,
        second: i64,
        soft: Option<Money>,
    ) -> Option<Passed> {
        self.roll(second);
        let before = self.settled;
        let now = self.latest;
        self.add(self.window.slice_of(now), charged);
        let limit = soft.filter(|soft| before < *soft && *soft <= self.settled)?;
        let told_until = |told_at: i64| told_at.saturating_add(self.window.seconds());
        if self
            .told_at
            .is_some_and(|told_at| now < told_until(told_at))
        {
            return None;
        }
        self.told_at = Some(now);
        Some(Passed {
            limit,
            spent: self.settled,
        })
    }

    /// To a slice that is no earlier than any.
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

    /// After what time no more than `room` counts, if nothing more is charged. `None`: it is so now, or never.
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

    /// The same charges in a window of another length. Each counts as though it had come at the end of its slice; what
    /// had left the old window isn't known any more.
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

    /// So much at least was surely charged in the window: what is missing counts as charged now.
    pub(super) fn at_least(&mut self, settled: Money) {
        let missing = settled.saturating_sub(self.settled);
        if missing > Money::ZERO {
            self.add(self.window.slice_of(self.latest), missing);
        }
    }

    /// The soft limit is another one: it was never told.
    pub(super) fn tell_anew(&mut self) {
        self.told_at = None;
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "amounts in tests are small")]
mod tests;
