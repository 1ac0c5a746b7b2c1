//! One key: what it was counted against last, and what it has used.

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

/// Windows in use that a key keeps beside those that it was asked about last.
pub(super) const ASIDE_MAX: usize = 16;

/// Words that have their place in the entry.
const FEW: usize = 3;

/// The states of windows, one after the other. An entry with a few of them fits one line of the processor's cache, which a
/// `SmallVec` would not leave room for.
#[derive(Clone, Debug)]
enum Words {
    /// As many of these as are needed.
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
    /// On the clock that periods are measured by. What was taken before was forgotten with another entry.
    began_nanos: u64,
    /// Windows of other names, that were asked about before and are in use still; and what was given back. Most keys
    /// have none, so that is the size of a pointer.
    beside: Option<Box<Beside>>,
}

/// What few keys have.
#[derive(Clone, Debug, Default)]
struct Beside {
    aside: AllAside,
    /// Units that were given back, of whichever window most were.
    given_back: u64,
}

type AllAside = SmallVec<[Aside; 1]>;

/// A window that waits until it is asked about again.
#[derive(Clone, Debug)]
struct Aside {
    quota: Quota,
    words: Words,
}

/// So many windows of other names are in use that no more can be kept.
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
            beside: None,
        }
    }

    /// Whoever comes looked at the clock before the entry was theirs: it may be younger by as much.
    pub(super) fn begins_by(&mut self, nanos: u64) {
        self.began_nanos = self.began_nanos.min(nanos);
    }

    /// What was taken before now counts no more.
    #[cfg(any(test, feature = "redis"))]
    pub(super) fn begin_anew(&mut self, now: &Moment) {
        self.began_nanos = now.nanos;
    }

    /// Goes over to other quotas, whatever comes of it: what was used in a window stays used in the one of the same name,
    /// and the windows that aren't asked about are kept aside. Where there is no room for these, nothing changes.
    #[cfg(any(test, feature = "redis"))]
    pub(super) fn follow(&mut self, quotas: &Quotas, clock: &dyn Clock) -> Result<(), NoRoom> {
        if !self.is_of(quotas) {
            *self = self.gone_over(quotas, &Moment::whole(clock))?;
        }
        Ok(())
    }

    /// Whether these are the quotas that it was counted against last.
    #[inline]
    fn is_of(&mut self, quotas: &Quotas) -> bool {
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

    /// What it would be under other quotas.
    fn gone_over(&mut self, quotas: &Quotas, now: &Moment) -> Result<Self, NoRoom> {
        let mut next = Self::fresh(quotas, self.began_nanos);
        for (quota, words) in parts(next.quotas.as_slice(), &mut next.words) {
            let old = self.windows().find(|(old, _)| old.name() == quota.name());
            if let Some((old, old_words)) = old {
                window::carry((old, old_words), (quota, words), now);
            }
        }
        let is_asked = |name| quotas.as_slice().iter().any(|quota| quota.name() == name);
        let others = self.windows().filter(|(quota, words)| {
            !is_asked(quota.name()) && !window::is_idle(quota, words, now)
        });
        let aside: AllAside = others
            .map(|(quota, words)| Aside {
                quota: quota.clone(),
                words: Words::of(words),
            })
            .collect();
        if aside.len() > ASIDE_MAX {
            return Err(NoRoom {
                wait: until_room(&aside, now),
                readings: self.outlook(&mut next, 0, now).1,
            });
        }
        let given_back = self.given_back();
        if given_back > 0 || !aside.is_empty() {
            next.beside = Some(Box::new(Beside { aside, given_back }));
        }
        Ok(next)
    }

    /// Takes from every window of these quotas, or from none; and what is left then.
    #[inline]
    pub(super) fn take(
        &mut self,
        quotas: &Quotas,
        cost: NonZeroU32,
        now: &Moment,
        clock: &dyn Clock,
    ) -> (RateOutcome, Readings) {
        if self.is_of(quotas) {
            self.take_own(cost, now)
        } else {
            self.take_of_others(quotas, cost, clock)
        }
    }

    /// Goes over to other quotas if these admit, and otherwise not: what is refused changes nothing, so that callers who
    /// are asked about by turns don't keep each other's counts from draining.
    #[cold]
    fn take_of_others(
        &mut self,
        quotas: &Quotas,
        cost: NonZeroU32,
        clock: &dyn Clock,
    ) -> (RateOutcome, Readings) {
        // By both clocks: the old ones may count days where the new ones don't.
        let now = &Moment::whole(clock);
        let mut next = match self.gone_over(quotas, now) {
            Ok(next) => next,
            Err(full) => return (RateOutcome::Refused(full.wait), full.readings),
        };
        let (outcome, readings) = next.take_own(cost, now);
        if outcome == RateOutcome::Admitted {
            *self = next;
            return (outcome, readings);
        }
        let (wait, readings) = self.outlook(&mut next, cost.get(), now);
        let outcome = match outcome {
            RateOutcome::Refused(_) => RateOutcome::Refused(wait.max(Duration::from_nanos(1))),
            other => other,
        };
        (outcome, readings)
    }

    /// Until so many units fit all windows of `next`, and what is left in them. What is used goes by the rule that it was
    /// taken by, until something is taken by another.
    fn outlook(&mut self, next: &mut Self, cost: u32, now: &Moment) -> (Duration, Readings) {
        let mut longest = Duration::ZERO;
        let windows = parts(next.quotas.as_slice(), &mut next.words);
        let readings = windows.map(|(quota, words)| {
            let old = self.windows().find(|(old, _)| old.name() == quota.name());
            let old = old.filter(|(old, _)| !window::goes_by_itself(old, quota));
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
        if self.is_of(quotas) {
            return self.read(now);
        }
        let now = &Moment::whole(clock);
        match self.gone_over(quotas, now) {
            Ok(mut next) => self.outlook(&mut next, 0, now).1,
            Err(full) => full.readings,
        }
    }

    /// Takes from every window that it was counted against last, or from none; and what is left then.
    fn take_own(&mut self, cost: NonZeroU32, now: &Moment) -> (RateOutcome, Readings) {
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

    /// Corrects the windows that have these names, by the numbers that they have now, and no others.
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
        // One that was crowded out is corrected where others' were given back.
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
            let beside = self.beside.get_or_insert_default();
            beside.given_back = beside.given_back.saturating_add(given_back);
        }
    }

    /// Units of this key that were given back so far.
    pub(super) fn given_back(&self) -> u64 {
        self.beside.as_ref().map_or(0, |beside| beside.given_back)
    }

    /// Changes what is used of the windows that have these names.
    pub(super) fn change_each(
        &mut self,
        quotas: &Quotas,
        now: &Moment,
        clock: &dyn Clock,
        mut change: impl FnMut(&Quota, &mut [u64], &Moment),
    ) {
        if self.quotas.is(quotas) {
            self.change_own(|quota, words| change(quota, words, now));
            return;
        }
        let now = &Moment::whole(clock);
        for quota in quotas.as_slice() {
            let window = self.windows().find(|(own, _)| own.name() == quota.name());
            if let Some((own, words)) = window {
                change(own, words, now);
            } else {
                let mut words = Words::zeroed(window::words_of(quota));
                change(quota, words.as_mut_slice(), now);
                self.begin_aside(quota, words, now);
            }
        }
    }

    /// Changes what is used of the windows that are asked about.
    pub(super) fn change_own(&mut self, mut change: impl FnMut(&Quota, &mut [u64])) {
        for (quota, words) in parts(self.quotas.as_slice(), &mut self.words) {
            change(quota, words);
        }
    }

    /// Keeps a window that nothing was used of. What would be owed by it is lost where there is no room:
    /// nothing can be refused any more.
    fn begin_aside(&mut self, quota: &Quota, words: Words, now: &Moment) {
        if window::is_idle(quota, words.as_slice(), now) {
            return;
        }
        let aside = &mut self.beside.get_or_insert_default().aside;
        aside.retain(|aside| !window::is_idle(&aside.quota, aside.words.as_slice(), now));
        if aside.len() < ASIDE_MAX {
            let quota = quota.clone();
            aside.push(Aside { quota, words });
        }
    }

    /// What is left in the windows that are asked about.
    pub(super) fn read(&mut self, now: &Moment) -> Readings {
        parts(self.quotas.as_slice(), &mut self.words)
            .map(|(quota, words)| window::read(quota, words, now))
            .collect()
    }

    /// Whether all windows are as if nobody had ever come.
    pub(super) fn is_idle(&mut self, now: &Moment) -> bool {
        self.windows()
            .all(|(quota, words)| window::is_idle(quota, words, now))
    }

    /// Those that are asked about, and those that are kept aside.
    fn windows(&mut self) -> impl Iterator<Item = (&Quota, &mut [u64])> {
        let beside = self.beside.iter_mut();
        let aside = beside.flat_map(|beside| beside.aside.iter_mut());
        let aside =
            aside.flat_map(|aside| parts(std::slice::from_ref(&aside.quota), &mut aside.words));
        parts(self.quotas.as_slice(), &mut self.words).chain(aside)
    }
}

/// Until so many of these are full again that the others are no more than is kept.
fn until_room(aside: &[Aside], now: &Moment) -> Duration {
    let resets = aside.iter();
    let resets = resets.map(|aside| window::read(&aside.quota, aside.words.as_slice(), now).reset);
    let mut resets: SmallVec<[Duration; 2 * ASIDE_MAX]> = resets.collect();
    resets.sort_unstable_by(|one, other| other.cmp(one));
    let last = resets.get(ASIDE_MAX).copied();
    last.unwrap_or_default().max(Duration::from_nanos(1))
}

/// Each quota with the words that are its own.
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
