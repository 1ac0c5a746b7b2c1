//! One key: the quotas it was last counted against, and what it has used.

use std::{num::NonZeroU32, time::Duration};

use smallvec::SmallVec;

use super::window::{self, Judgement, Moment, Taken};
use crate::{
    domain::{
        clock::Clock,
        quota::{Quota, Quotas},
    },
    store::{Correction, RateOutcome, Readings, WindowReading},
};

/// Windows in use that a key keeps besides those of its last call.
pub(super) const DORMANT_MAX: usize = 16;

/// Words stored inside the entry itself.
const FEW: usize = 3;

/// The states of windows, one after the other. An entry with few of them fits one cache line, for
/// which a `SmallVec` would be too large.
#[derive(Clone, Debug)]
enum Words {
    /// Only as many as needed are used.
    Few([u64; FEW]),
    Many(Box<[u64]>),
}

impl Words {
    fn zeroed(count: usize) -> Self {
        if count <= FEW {
            Self::Few([0; FEW])
        } else {
            Self::Many(vec![0; count].into())
        }
    }

    fn of(words: &[u64]) -> Self {
        let mut own = Self::zeroed(words.len());
        for (own, word) in own.as_mut_slice().iter_mut().zip(words) {
            *own = *word;
        }
        own
    }

    fn as_slice(&self) -> &[u64] {
        match self {
            Self::Few(words) => words,
            Self::Many(words) => words,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [u64] {
        match self {
            Self::Few(words) => words,
            Self::Many(words) => words,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    quotas: Quotas,
    words: Words,
    /// When this entry began, on the clock that measures periods. Anything taken earlier was
    /// forgotten with a previous entry.
    began_nanos: u64,
    /// Windows that earlier calls used and the last one doesn't name, and the count of returned
    /// units. Most keys have neither, hence the box: it is the size of a pointer.
    extras: Option<Box<Extras>>,
}

/// Data that few keys have.
#[derive(Clone, Debug, Default)]
struct Extras {
    dormant: DormantWindows,
    /// Units given back so far, in the window where that was most.
    given_back: u64,
}

type DormantWindows = SmallVec<[DormantWindow; 1]>;

/// A window in use that the last call didn't name.
#[derive(Clone, Debug)]
struct DormantWindow {
    quota: Quota,
    words: Words,
}

/// Too many unnamed windows are in use to keep any more.
#[derive(Debug)]
pub(super) struct NoRoom {
    /// Until enough of them are full again.
    pub(super) wait: Duration,
    /// Of the windows that were asked about.
    pub(super) readings: Readings,
}

impl Entry {
    pub(super) fn fresh(quotas: &Quotas, began_nanos: u64) -> Self {
        let count = quotas.as_slice().iter().map(window::words_of).sum();
        Self {
            quotas: quotas.clone(),
            words: Words::zeroed(count),
            began_nanos,
            extras: None,
        }
    }

    /// The caller read the clock before it had the entry, so the entry may be younger than the
    /// caller's `now`; makes it at least as old.
    pub(super) fn ensure_begun_by(&mut self, nanos: u64) {
        self.began_nanos = self.began_nanos.min(nanos);
    }

    /// Makes the entry begin now: corrections of anything taken earlier are ignored.
    #[cfg(any(test, feature = "redis"))]
    pub(super) fn restart(&mut self, now: &Moment) {
        self.began_nanos = now.nanos;
    }

    /// Switches to other quotas, whatever comes of it: usage of a window carries over to the one of
    /// the same name, and windows that aren't named become dormant. If there is no room for these,
    /// nothing changes.
    #[cfg(any(test, feature = "redis"))]
    pub(super) fn migrate_to(&mut self, quotas: &Quotas, clock: &dyn Clock) -> Result<(), NoRoom> {
        if !self.is_for(quotas) {
            *self = self.migrated_to(quotas, &Moment::on_both_clocks(clock))?;
        }
        Ok(())
    }

    /// Whether these are the quotas it was last counted against.
    #[inline]
    fn is_for(&mut self, quotas: &Quotas) -> bool {
        self.quotas.is(quotas) || self.is_equal_to(quotas)
    }

    #[cold]
    fn is_equal_to(&mut self, quotas: &Quotas) -> bool {
        let is_equal = self.quotas == *quotas;
        if is_equal {
            self.quotas = quotas.clone();
        }
        is_equal
    }

    /// The entry as it would be under other quotas.
    fn migrated_to(&mut self, quotas: &Quotas, now: &Moment) -> Result<Self, NoRoom> {
        let mut next = Self::fresh(quotas, self.began_nanos);
        for (quota, words) in parts(next.quotas.as_slice(), &mut next.words) {
            let old = self.windows().find(|(old, _)| old.name() == quota.name());
            if let Some((old, old_words)) = old {
                window::carry((old, old_words), (quota, words), now);
            }
        }
        let is_named = |name| quotas.as_slice().iter().any(|quota| quota.name() == name);
        let others = self.windows().filter(|(quota, words)| {
            !is_named(quota.name()) && !window::is_idle(quota, words, now)
        });
        let dormant: DormantWindows = others
            .map(|(quota, words)| DormantWindow {
                quota: quota.clone(),
                words: Words::of(words),
            })
            .collect();
        if dormant.len() > DORMANT_MAX {
            return Err(NoRoom {
                wait: until_room(&dormant, now),
                readings: self.preview(&mut next, 0, now).1,
            });
        }
        let given_back = self.given_back();
        if given_back > 0 || !dormant.is_empty() {
            next.extras = Some(Box::new(Extras {
                dormant,
                given_back,
            }));
        }
        Ok(next)
    }

    /// Takes from every window of these quotas, or from none; also returns what is left then.
    #[inline]
    pub(super) fn take(
        &mut self,
        quotas: &Quotas,
        cost: NonZeroU32,
        now: &Moment,
        clock: &dyn Clock,
    ) -> (RateOutcome, Readings) {
        if self.is_for(quotas) {
            self.take_current(cost, now)
        } else {
            self.take_under(quotas, cost, clock)
        }
    }

    /// Switches to other quotas only if they admit. A refusal changes nothing, so callers that
    /// alternate between quotas don't stop each other's usage from draining.
    #[cold]
    fn take_under(
        &mut self,
        quotas: &Quotas,
        cost: NonZeroU32,
        clock: &dyn Clock,
    ) -> (RateOutcome, Readings) {
        // Both clocks: the old quotas may have calendar windows where the new ones don't.
        let now = &Moment::on_both_clocks(clock);
        let mut next = match self.migrated_to(quotas, now) {
            Ok(next) => next,
            Err(full) => return (RateOutcome::Refused(full.wait), full.readings),
        };
        let (outcome, readings) = next.take_current(cost, now);
        if outcome == RateOutcome::Admitted {
            *self = next;
            return (outcome, readings);
        }
        let (wait, readings) = self.preview(&mut next, cost.get(), now);
        let outcome = match outcome {
            RateOutcome::Refused(_) => RateOutcome::Refused(wait.max(Duration::from_nanos(1))),
            other => other,
        };
        (outcome, readings)
    }

    /// How long until `cost` units fit all windows of `next`, and what is left in them. Usage
    /// follows the rule that it was taken under until something is taken under another.
    fn preview(&mut self, next: &mut Self, cost: u32, now: &Moment) -> (Duration, Readings) {
        let mut longest = Duration::ZERO;
        let windows = parts(next.quotas.as_slice(), &mut next.words);
        let readings = windows.map(|(quota, words)| {
            let old = self.windows().find(|(old, _)| old.name() == quota.name());
            let old = old.filter(|(old, _)| !window::carries_exactly(old, quota));
            let until = |used: u32| match &old {
                Some((old, old_words)) => window::until(old, old_words, used, now),
                None => window::until(quota, words, used, now),
            };
            longest = longest.max(until(quota.burst_size().saturating_sub(cost)));
            WindowReading {
                reset: until(0),
                ..window::read(quota, words, now)
            }
        });
        let readings = readings.collect();
        (longest, readings)
    }

    /// What is left in the windows of these quotas.
    pub(super) fn peek(&mut self, quotas: &Quotas, now: &Moment, clock: &dyn Clock) -> Readings {
        if self.is_for(quotas) {
            return self.read(now);
        }
        let now = &Moment::on_both_clocks(clock);
        match self.migrated_to(quotas, now) {
            Ok(mut next) => self.preview(&mut next, 0, now).1,
            Err(full) => full.readings,
        }
    }

    /// Takes from every window of the current quotas, or from none; also returns what is left then.
    fn take_current(&mut self, cost: NonZeroU32, now: &Moment) -> (RateOutcome, Readings) {
        let mut readings = Readings::blank(self.quotas.as_slice().len());
        let mut outcome = RateOutcome::Admitted;
        let windows = parts(self.quotas.as_slice(), &mut self.words);
        for ((quota, words), reading) in windows.zip(readings.as_mut_slice()) {
            match (window::judge(quota, words, cost, now), outcome) {
                (Judgement::Admit(left), _) => *reading = left,
                (Judgement::Never, _) => {
                    outcome = RateOutcome::TooCostly;
                    break;
                }
                (Judgement::Wait(wait), RateOutcome::Refused(longest)) => {
                    outcome = RateOutcome::Refused(longest.max(wait));
                }
                (Judgement::Wait(wait), _) => outcome = RateOutcome::Refused(wait),
            }
        }
        if outcome != RateOutcome::Admitted {
            return (outcome, self.read(now));
        }
        let windows = parts(self.quotas.as_slice(), &mut self.words);
        for ((quota, words), left) in windows.zip(readings.as_slice()) {
            window::commit(quota, words, *left, cost, now);
        }
        (outcome, readings)
    }

    /// Corrects the windows with these names, by their current limits, and no others.
    pub(super) fn correct(
        &mut self,
        quotas: &Quotas,
        correction: &Correction,
        now: &Moment,
        clock: &dyn Clock,
    ) {
        let (units, at) = (correction.units, correction.taken_at);
        if units < 0 && at.period_nanos < self.began_nanos {
            return;
        }
        // A call that was crowded out is corrected in the shared entry, where units of others may
        // have been given back.
        let ahead = self.given_back().checked_sub(at.given_back);
        let ahead = ahead.unwrap_or(u64::MAX);
        let mut readings = correction.readings.as_slice().iter();
        let mut given_back = 0;
        self.change_each(quotas, now, clock, |quota, words, now| {
            let owed = readings.next().map_or(Duration::ZERO, |left| left.reset);
            let taken = Taken { at, owed, ahead };
            given_back = window::correct(quota, words, units, taken, now).max(given_back);
        });
        if given_back > 0 {
            let extras = self.extras.get_or_insert_default();
            extras.given_back = extras.given_back.saturating_add(given_back);
        }
    }

    /// Units of this key given back so far.
    pub(super) fn given_back(&self) -> u64 {
        self.extras.as_ref().map_or(0, |extras| extras.given_back)
    }

    /// Changes the usage of the windows with these names.
    pub(super) fn change_each(
        &mut self,
        quotas: &Quotas,
        now: &Moment,
        clock: &dyn Clock,
        mut change: impl FnMut(&Quota, &mut [u64], &Moment),
    ) {
        if self.quotas.is(quotas) {
            self.change_current(|quota, words| change(quota, words, now));
            return;
        }
        let now = &Moment::on_both_clocks(clock);
        for quota in quotas.as_slice() {
            let window = self.windows().find(|(own, _)| own.name() == quota.name());
            if let Some((own, words)) = window {
                change(own, words, now);
            } else {
                let mut words = Words::zeroed(window::words_of(quota));
                change(quota, words.as_mut_slice(), now);
                self.add_dormant(quota, words, now);
            }
        }
    }

    /// Changes the usage of the current windows.
    pub(super) fn change_current(&mut self, mut change: impl FnMut(&Quota, &mut [u64])) {
        for (quota, words) in parts(self.quotas.as_slice(), &mut self.words) {
            change(quota, words);
        }
    }

    /// Starts a dormant window with usage for a name that has none yet. Without room, its usage is
    /// lost: there is no request left to refuse.
    fn add_dormant(&mut self, quota: &Quota, words: Words, now: &Moment) {
        if window::is_idle(quota, words.as_slice(), now) {
            return;
        }
        let dormant = &mut self.extras.get_or_insert_default().dormant;
        dormant.retain(|dormant| !window::is_idle(&dormant.quota, dormant.words.as_slice(), now));
        if dormant.len() < DORMANT_MAX {
            let quota = quota.clone();
            dormant.push(DormantWindow { quota, words });
        }
    }

    /// What is left in the current windows.
    pub(super) fn read(&mut self, now: &Moment) -> Readings {
        parts(self.quotas.as_slice(), &mut self.words)
            .map(|(quota, words)| window::read(quota, words, now))
            .collect()
    }

    /// Whether all windows are as if never used.
    pub(super) fn is_idle(&mut self, now: &Moment) -> bool {
        self.windows()
            .all(|(quota, words)| window::is_idle(quota, words, now))
    }

    /// The current windows and the dormant ones.
    fn windows(&mut self) -> impl Iterator<Item = (&Quota, &mut [u64])> {
        let extras = self.extras.iter_mut();
        let dormant = extras.flat_map(|extras| extras.dormant.iter_mut());
        let dormant = dormant
            .flat_map(|dormant| parts(std::slice::from_ref(&dormant.quota), &mut dormant.words));
        parts(self.quotas.as_slice(), &mut self.words).chain(dormant)
    }
}

/// How long until so many of these are full again that the rest may be kept.
fn until_room(dormant: &[DormantWindow], now: &Moment) -> Duration {
    let resets = dormant.iter();
    let resets =
        resets.map(|dormant| window::read(&dormant.quota, dormant.words.as_slice(), now).reset);
    let mut resets: SmallVec<[Duration; 2 * DORMANT_MAX]> = resets.collect();
    resets.sort_unstable_by(|one, other| other.cmp(one));
    let last = resets.get(DORMANT_MAX).copied();
    last.unwrap_or_default().max(Duration::from_nanos(1))
}

/// Each quota with its own words.
fn parts<'a>(
    quotas: &'a [Quota],
    words: &'a mut Words,
) -> impl Iterator<Item = (&'a Quota, &'a mut [u64])> {
    let mut words = words.as_mut_slice();
    quotas.iter().map(move |quota| {
        let all = std::mem::take(&mut words);
        let (own, rest) = all.split_at_mut(window::words_of(quota).min(all.len()));
        words = rest;
        (quota, own)
    })
}
