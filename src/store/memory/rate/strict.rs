//! A window counted in slices, so that no rolling period ever holds more than the limit.
//!
//! Units taken in a slice count until a whole period after the slice's end. The state is the number
//! of the newest slice, followed by the counts of all slices that may still count, newest first,
//! two per word.

use std::{num::NonZeroU32, time::Duration};

use super::window::{Judgement, nanos};
use crate::{
    domain::quota::{Quota, SLICES_MAX},
    store::WindowReading,
};

/// Words of state.
pub(super) const WORDS: usize = 18;
/// The slices of a period plus the current one.
const KEPT_MAX: usize = 33;

#[derive(Clone, Copy, Debug)]
struct Slices {
    newest: u64,
    /// Newest first; zero beyond those kept.
    used: [u32; KEPT_MAX],
    /// How many slices count.
    kept: usize,
    slice_nanos: u64,
    period_nanos: u64,
    now: u64,
}

impl Slices {
    fn read(quota: &Quota, words: &[u64], now: u64) -> Self {
        let mut slices = Self::stored(quota, words, now);
        slices.move_to(now.checked_div(slices.slice_nanos).unwrap_or(0));
        slices
    }

    /// The slices as stored, without advancing them.
    fn stored(quota: &Quota, words: &[u64], now: u64) -> Self {
        let slice_nanos = nanos(quota.slice()).max(1);
        let newest = words.first().copied().unwrap_or(0);
        let mut used = [0; KEPT_MAX];
        for (pair, word) in used.chunks_mut(2).zip(words.iter().skip(1)) {
            let halves = [word >> 32, word & u64::from(u32::MAX)];
            for (count, half) in pair.iter_mut().zip(halves) {
                *count = u32::try_from(half).unwrap_or(u32::MAX);
            }
        }
        Self {
            newest,
            used,
            kept: quota.slices(),
            slice_nanos,
            period_nanos: nanos(quota.period()),
            now,
        }
    }

    /// Advances to the slice `index` and drops slices that have left the period.
    fn move_to(&mut self, index: u64) {
        let by = usize::try_from(index.saturating_sub(self.newest)).unwrap_or(KEPT_MAX);
        let by = by.min(KEPT_MAX);
        self.newest = self.newest.max(index);
        self.used.rotate_right(by);
        self.used.iter_mut().take(by).for_each(|count| *count = 0);
        let counting = (0..self.kept).take_while(|age| self.counts_until(*age) > self.now);
        let counting = counting.count();
        self.used
            .iter_mut()
            .skip(counting)
            .for_each(|count| *count = 0);
    }

    /// The count of that slice, unless it has left the period. Where the newest slice lies ahead
    /// (one that was carried over ends where a longer one did), the oldest that still counts has no
    /// place of its own, and is counted with the one after it.
    fn count(&mut self, index: u64) -> Option<&mut u32> {
        let age = usize::try_from(self.newest.saturating_sub(index)).unwrap_or(KEPT_MAX);
        if self.counts_until(age) <= self.now {
            return None;
        }
        self.used.get_mut(age.min(self.kept.saturating_sub(1)))
    }

    fn write(&self, words: &mut [u64]) {
        if let Some(first) = words.first_mut() {
            *first = self.newest;
        }
        for (pair, word) in self.used.chunks(2).zip(words.iter_mut().skip(1)) {
            let [high, low] = [0, 1].map(|at| u64::from(pair.get(at).copied().unwrap_or(0)));
            *word = (high << 32) | low;
        }
    }

    fn sum(&self) -> u64 {
        self.used.iter().map(|count| u64::from(*count)).sum()
    }

    /// How long until at most `used` units are in use.
    fn until(&self, used: u64) -> Duration {
        let mut sum = self.sum();
        if sum <= used {
            return Duration::ZERO;
        }
        for (age, count) in self.used.iter().enumerate().rev() {
            sum = sum.saturating_sub(u64::from(*count));
            if sum <= used {
                return self.until_gone(age);
            }
        }
        self.until_gone(0)
    }

    /// How long until the slice of that age no longer counts.
    fn until_gone(&self, age: usize) -> Duration {
        let left = self.counts_until(age).saturating_sub(self.now);
        Duration::from_nanos(left.max(1))
    }

    /// When the slice of that age leaves the period.
    fn counts_until(&self, age: usize) -> u64 {
        let age = u64::try_from(age).unwrap_or(u64::MAX);
        let newest_ends = self
            .newest
            .saturating_add(1)
            .saturating_mul(self.slice_nanos);
        newest_ends
            .saturating_add(self.period_nanos)
            .saturating_sub(age.saturating_mul(self.slice_nanos))
    }
}

pub(super) fn judge(quota: &Quota, words: &[u64], cost: NonZeroU32, now: u64) -> Judgement {
    let slices = Slices::read(quota, words, now);
    let (limit, cost) = (u64::from(quota.limit()), u64::from(cost.get()));
    let sum = slices.sum();
    if sum.saturating_add(cost) <= limit {
        let left = limit.saturating_sub(sum.saturating_add(cost));
        let left = WindowReading {
            remaining: u32::try_from(left).unwrap_or(0),
            reset: slices.until_gone(0),
        };
        return Judgement::Admit(left);
    }
    limit
        .checked_sub(cost)
        .map_or(Judgement::Never, |room| Judgement::Wait(slices.until(room)))
}

/// How long until at most `used` units are in use.
pub(super) fn until(quota: &Quota, words: &[u64], used: u32, now: u64) -> Duration {
    Slices::read(quota, words, now).until(used.into())
}

/// Starts with the slices of another strict quota, each placed where it ends.
pub(super) fn carry(old_words: &[u64], old: &Quota, words: &mut [u64], quota: &Quota, now: u64) {
    let old = Slices::stored(old, old_words, now);
    let mut slices = Slices::read(quota, words, now);
    let length = slices.slice_nanos;
    let place = |index: u64| {
        let end = index.saturating_add(1).saturating_mul(old.slice_nanos);
        end.saturating_sub(1).checked_div(length).unwrap_or(0)
    };
    slices.move_to(place(old.newest));
    for (age, count) in (0_u64..).zip(old.used) {
        let Some(index) = old.newest.checked_sub(age) else {
            break;
        };
        if let Some(own) = slices.count(place(index)) {
            *own = own.saturating_add(count);
        }
    }
    slices.write(words);
}

/// Adds `units` to the slice of the moment `at`, or subtracts them. A slice that has left the
/// period is left alone.
pub(super) fn add(quota: &Quota, words: &mut [u64], units: i64, at: u64, now: u64) {
    let mut slices = Slices::read(quota, words, now);
    let index = at.checked_div(slices.slice_nanos).unwrap_or(0);
    if let Some(count) = slices.count(index) {
        let sum = i64::from(*count).saturating_add(units).max(0);
        *count = u32::try_from(sum).unwrap_or(u32::MAX);
    }
    slices.write(words);
}

/// Sets the usage. Missing units are added to the slice that leaves the period after `reset`, with
/// the last of them; surplus units are taken from the oldest slices, which would leave first.
#[cfg(any(test, feature = "redis"))]
pub(super) fn write(quota: &Quota, words: &mut [u64], used: u32, reset: Duration, now: u64) {
    let mut slices = Slices::read(quota, words, now);
    let (sum, used) = (slices.sum(), u64::from(used));
    let mut surplus = u32::try_from(sum.saturating_sub(used)).unwrap_or(u32::MAX);
    for count in slices.used.iter_mut().rev() {
        let by = surplus.min(*count);
        *count = count.saturating_sub(by);
        surplus = surplus.saturating_sub(by);
    }
    let last = (0..slices.kept)
        .rev()
        .find(|age| slices.until_gone(*age) >= reset);
    if let Some(count) = slices.used.get_mut(last.unwrap_or(0)) {
        let missing = u32::try_from(used.saturating_sub(sum)).unwrap_or(u32::MAX);
        *count = count.saturating_add(missing);
    }
    slices.write(words);
}

pub(super) fn used(quota: &Quota, words: &[u64], now: u64) -> u64 {
    Slices::read(quota, words, now).sum()
}

pub(super) fn read(quota: &Quota, words: &[u64], now: u64) -> WindowReading {
    let slices = Slices::read(quota, words, now);
    let remaining = u64::from(quota.limit()).saturating_sub(slices.sum());
    WindowReading {
        remaining: u32::try_from(remaining).unwrap_or(0),
        reset: slices.until(0),
    }
}

const _: () = assert!(KEPT_MAX == SLICES_MAX + 1 && WORDS == 1 + KEPT_MAX.div_ceil(2));
