//! A store of rate limits that is a list of everything that was taken: a model too simple to be
//! wrong, with a defect if that is asked for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tollgate::{
    clock::Clock,
    quota::{Quota, Quotas},
    store::{
        Correction, RateDecision, RateKey, RateOutcome, RateStore, Readings, StoreFuture, TakenAt,
        WindowReading,
    },
};

use crate::engines::Time;

/// In seconds.
const WEEK: i64 = 7 * 86_400;

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    AdmitsOneMore,
    TellsNothing,
    IgnoresScope,
    SharesKeys,
    TakesOnRefusal,
    TakesFromThoseThatAdmit,
    JudgesTheFirstWindow,
    CountsEachAsOne,
    TakesWhatIsLeft,
    TellsTheTooCostlyToWait,
    RefusesTheFree,
    TakesOneOfTheFree,
    TakesOnLook,
    ForgetsNothing,
    ForgetsTheFirstWindow,
    ForgetsEverybody,
    ForgetsUnderAnotherNumber,
    ForgetsOtherWindows,
    JudgesAllWindows,
    LooksBeforeItLocks,
    CorrectsNoFurtherThanFull,
    CorrectsTwice,
    GivesNothingBack,
    FillsBeyondFull,
    GivesBackWhatIsGone,
    CorrectsAllWindows,
    CorrectsEverybody,
    DrainsFaster,
    DrainsSlower,
    FreesAtOnce,
    CountsFixedPeriods,
    CountsDaysInUtc,
    MonthsOfThirtyDays,
    WeeksFromThursday,
    WaitsTooBriefly,
    IsFullBeforeItSaid,
}

#[derive(Clone, Debug)]
struct Taken {
    window: String,
    at: TakenAt,
    units: i64,
    limit: u32,
}

/// Everything that was taken, by key.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    taken: Arc<Mutex<HashMap<RateKey, Vec<Taken>>>>,
    clock: Time,
    defect: Option<Defect>,
}

/// A window of a key at one moment.
struct View<'a> {
    listed: &'a Listed,
    quota: &'a Quota,
    taken: Vec<&'a Taken>,
}

impl Listed {
    pub(crate) fn new(clock: Time, defect: Option<Defect>) -> Self {
        let taken = Arc::default();
        Self {
            taken,
            clock,
            defect,
        }
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    fn now(&self) -> TakenAt {
        TakenAt::new(self.clock.elapsed(), self.clock.now().as_second())
    }

    fn key(&self, key: &RateKey) -> RateKey {
        if self.has(Defect::IgnoresScope) {
            RateKey::new(&Arc::from(""), key.digest())
        } else if self.has(Defect::SharesKeys) {
            RateKey::new(&Arc::from(key.scope()), b"")
        } else {
            key.clone()
        }
    }

    fn view<'a>(&'a self, quota: &'a Quota, all: &'a [Taken]) -> View<'a> {
        let other = |taken: &&Taken| {
            self.has(Defect::ForgetsUnderAnotherNumber) && taken.limit != quota.limit()
        };
        let own = all.iter().filter(|taken| taken.window == quota.name());
        View {
            listed: self,
            quota,
            taken: own.filter(|taken| !other(taken)).collect(),
        }
    }

    fn readings(&self, quotas: &Quotas, all: &[Taken]) -> Readings {
        let quotas = quotas.as_slice().iter();
        quotas.map(|quota| self.view(quota, all).read()).collect()
    }

    fn decide(&self, quotas: &Quotas, all: &[Taken], cost: u32) -> RateOutcome {
        let mut asked = quotas.as_slice().to_vec();
        if self.has(Defect::JudgesTheFirstWindow) {
            asked.truncate(1);
        }
        let never = asked.iter().any(|quota| cost > quota.burst_size());
        if never && !self.has(Defect::TellsTheTooCostlyToWait) {
            return RateOutcome::TooCostly;
        }
        let all_used_up = self.has(Defect::JudgesAllWindows)
            && all.iter().any(|taken| {
                let sum = all.iter().filter(|other| other.window == taken.window);
                sum.map(|taken| taken.units).sum::<i64>() >= i64::from(taken.limit)
            });
        let waits = asked.iter();
        let wait = waits.filter_map(|quota| self.view(quota, all).wait(cost));
        match wait.max() {
            Some(wait) => RateOutcome::Refused(wait),
            None if all_used_up => RateOutcome::Refused(Duration::from_secs(1)),
            None => RateOutcome::Admitted,
        }
    }

    fn add(&self, quota: &Quota, all: &mut Vec<Taken>, units: i64) {
        all.push(Taken {
            window: quota.name().to_owned(),
            at: self.now(),
            units,
            limit: quota.limit(),
        });
    }

    fn take_now(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> RateDecision {
        let mut lists = self.taken.lock().unwrap();
        let all = lists.entry(self.key(key)).or_default();
        if self.has(Defect::ForgetsOtherWindows) {
            let named = |taken: &Taken| {
                let mut names = quotas.as_slice().iter().map(Quota::name);
                names.any(|name| name == taken.window)
            };
            all.retain(named);
        }
        let mut outcome = match cost {
            0 if !self.has(Defect::RefusesTheFree) => RateOutcome::Admitted,
            0 => self.decide(quotas, all, 1),
            cost => self.decide(quotas, all, cost),
        };
        let left = self.readings(quotas, all).remaining();
        let mut units = i64::from(cost);
        if self.has(Defect::CountsEachAsOne) {
            units = units.min(1);
        } else if self.has(Defect::TakesOneOfTheFree) {
            units = units.max(1);
        } else if self.has(Defect::TakesWhatIsLeft) && (1..cost).contains(&left) {
            (outcome, units) = (RateOutcome::Admitted, left.into());
        }
        for quota in quotas.as_slice() {
            let admits = self.view(quota, all).wait(cost).is_none();
            let takes = outcome == RateOutcome::Admitted
                || self.has(Defect::TakesOnRefusal)
                || self.has(Defect::TakesFromThoseThatAdmit) && admits;
            if takes {
                self.add(quota, all, units);
            }
        }
        RateDecision {
            outcome,
            readings: self.readings(quotas, all),
            taken_at: self.now(),
        }
    }

    fn correct_now(&self, key: &RateKey, quotas: &Quotas, correction: &Correction) {
        let mut lists = self.taken.lock().unwrap();
        let key = self.key(key);
        lists.entry(key.clone()).or_default();
        for (of, all) in lists.iter_mut() {
            if *of != key && !self.has(Defect::CorrectsEverybody) {
                continue;
            }
            let mut quotas = quotas.as_slice().to_vec();
            if self.has(Defect::CorrectsAllWindows) {
                let others = all.iter().filter(|taken| taken.window != quotas[0].name());
                let named = others.map(|taken| Quota::per_hour(taken.limit).named(&taken.window));
                let mut named: Vec<_> = named.collect();
                named.dedup();
                quotas.extend(named);
            }
            for quota in &quotas {
                self.correct_window(quota, all, correction);
            }
        }
    }

    fn correct_window(&self, quota: &Quota, all: &mut Vec<Taken>, correction: &Correction) {
        let mut units = correction.units;
        if units > 0 {
            if self.has(Defect::CorrectsNoFurtherThanFull) {
                units = units.min(self.view(quota, all).read().remaining.into());
            }
            if self.has(Defect::CorrectsTwice) {
                units *= 2;
            }
            return self.add(quota, all, units);
        }
        if self.has(Defect::GivesNothingBack) {
            return;
        }
        if self.has(Defect::FillsBeyondFull) || self.has(Defect::GivesBackWhatIsGone) {
            let most = if self.has(Defect::FillsBeyondFull) {
                i64::MAX
            } else {
                self.view(quota, all).used().into()
            };
            return self.add(quota, all, units.max(-1_000).max(-most));
        }
        if self.has(Defect::CorrectsTwice) {
            units *= 2;
        }
        // As if the request had cost that at once.
        for taken in all.iter_mut() {
            if taken.window == quota.name() && taken.at.elapsed() == correction.taken_at.elapsed() {
                let by = units.max(-taken.units);
                taken.units += by;
                units -= by;
            }
        }
    }
}

impl View<'_> {
    fn elapsed(&self) -> i128 {
        self.listed.clock.elapsed().as_nanos().try_into().unwrap()
    }

    /// The first second of its day or month, and the first after it.
    fn calendar(&self) -> Option<(i64, i64)> {
        let now = self.listed.clock.now();
        let (mut start, mut end) = self.quota.calendar_window(now)?;
        if self.listed.has(Defect::CountsDaysInUtc) && end - start == 86_400 {
            start = now.as_second() / 86_400 * 86_400;
            end = start + 86_400;
        } else if self.listed.has(Defect::MonthsOfThirtyDays) && end - start > WEEK {
            end = start + 30 * 86_400;
        } else if self.listed.has(Defect::WeeksFromThursday) && end - start == WEEK {
            // The first of January 1970 was one.
            start = now.as_second() / WEEK * WEEK;
            end = start + WEEK;
        }
        Some((start, end))
    }

    /// In nanoseconds; of a bucket, what one unit takes to drain.
    fn period(&self) -> i128 {
        i128::try_from(self.quota.period().as_nanos()).unwrap()
    }

    /// What a bucket owes: a unit is worth a period, and in a nanosecond `limit` drain.
    fn owed(&self) -> i128 {
        let mut rate = i128::from(self.quota.limit());
        let mut period = self.period();
        if self.listed.has(Defect::DrainsFaster) {
            rate += 1;
        } else if self.listed.has(Defect::DrainsSlower) {
            period += period / 8;
        }
        let (mut owed, mut latest) = (0, 0);
        for taken in &self.taken {
            let at = i128::try_from(taken.at.elapsed().as_nanos()).unwrap();
            owed = (owed - (at - latest) * rate).max(0) + i128::from(taken.units) * period;
            if !self.listed.has(Defect::FillsBeyondFull) {
                owed = owed.max(0);
            }
            latest = at;
        }
        let drained = (self.elapsed() - latest) * rate;
        if owed < 0 {
            owed
        } else {
            (owed - drained).max(0)
        }
    }

    /// Units of a strict or a calendar window that count.
    fn counted(&self) -> Vec<&Taken> {
        let calendar = self.calendar();
        let counts = |taken: &&Taken| match calendar {
            Some((start, _)) => taken.at.unix_secs() >= start,
            None => self.leaves(taken) > self.elapsed(),
        };
        let counted = self.taken.iter().copied();
        counted.filter(counts).collect()
    }

    /// When a unit leaves a strict window.
    fn leaves(&self, taken: &Taken) -> i128 {
        let at = i128::try_from(taken.at.elapsed().as_nanos()).unwrap();
        let period = self.period();
        if self.listed.has(Defect::CountsFixedPeriods) {
            (at / period + 1) * period
        } else if self.listed.has(Defect::FreesAtOnce) {
            at + 1
        } else if self.listed.has(Defect::DrainsSlower) {
            at + period * 5 / 4
        } else {
            at + period
        }
    }

    fn is_bucket(&self) -> bool {
        !self.quota.is_strict() && self.calendar().is_none()
    }

    fn used(&self) -> u32 {
        let used = if self.is_bucket() {
            (self.owed() + self.period() - 1).div_euclid(self.period())
        } else {
            let sum: i64 = self.counted().iter().map(|taken| taken.units).sum();
            let least = if self.listed.has(Defect::FillsBeyondFull) {
                i64::MIN
            } else {
                0
            };
            sum.max(least).into()
        };
        u32::try_from(used).unwrap_or(if used < 0 { 0 } else { u32::MAX })
    }

    /// How long until `cost` units fit, if they don't.
    fn wait(&self, cost: u32) -> Option<Duration> {
        let most = i128::from(self.quota.burst_size())
            + i128::from(self.listed.has(Defect::AdmitsOneMore));
        let room = most - i128::from(cost);
        let wait = if self.is_bucket() {
            let excess = self.owed() - room * self.period();
            let rate = i128::from(self.quota.limit());
            (excess > 0).then(|| (excess + rate - 1) / rate)
        } else {
            let (counted, end) = (self.counted(), self.calendar());
            let mut left: i128 = counted.iter().map(|taken| i128::from(taken.units)).sum();
            let mut wait = None;
            for taken in &counted {
                if left <= room {
                    break;
                }
                left -= i128::from(taken.units);
                wait = Some(self.leaves(taken) - self.elapsed());
            }
            let until_end = |end: i64| i128::from(end - self.listed.clock.now().as_second());
            wait.map(|wait| end.map_or(wait, |(_, end)| until_end(end) * 1_000_000_000))
        }?;
        let brief = self.listed.has(Defect::WaitsTooBriefly);
        let wait = if brief { wait / 2 } else { wait };
        let wait = u64::try_from(wait.max(1)).unwrap_or(u64::MAX);
        Some(Duration::from_nanos(wait))
    }

    fn read(&self) -> WindowReading {
        if self.listed.has(Defect::TellsNothing) {
            return WindowReading {
                remaining: self.quota.burst_size(),
                reset: Duration::ZERO,
            };
        }
        let reset = if self.is_bucket() {
            let rate = i128::from(self.quota.limit());
            (self.owed().max(0) + rate - 1) / rate
        } else {
            let last = self.counted().last().map(|taken| self.leaves(taken));
            let left = last.map_or(0, |last| last - self.elapsed());
            let until = |end: i64| end - self.listed.clock.now().as_second();
            match self.calendar() {
                Some((_, end)) if left > 0 => i128::from(until(end)) * 1_000_000_000,
                _ => left,
            }
        };
        let later = self.listed.has(Defect::IsFullBeforeItSaid) && reset > 0;
        let reset = reset + i128::from(later) * 1_000_000_000;
        WindowReading {
            remaining: self.quota.burst_size().saturating_sub(self.used()),
            reset: Duration::from_nanos(u64::try_from(reset).unwrap_or(u64::MAX)),
        }
    }
}

impl RateStore for Listed {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        if !self.has(Defect::LooksBeforeItLocks) {
            return StoreFuture::ready(Ok(self.take_now(key, quotas, cost)));
        }
        let (listed, key, quotas) = (self.clone(), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            let lists = listed.taken.lock().unwrap().clone();
            let all = lists.get(&key).cloned().unwrap_or_default();
            tokio::task::yield_now().await;
            let outcome = listed.decide(&quotas, &all, cost);
            let mut lists = listed.taken.lock().unwrap();
            let all = lists.entry(key).or_default();
            if outcome == RateOutcome::Admitted {
                for quota in quotas.as_slice() {
                    listed.add(quota, all, cost.into());
                }
            }
            Ok(RateDecision {
                outcome,
                readings: listed.readings(&quotas, all),
                taken_at: listed.now(),
            })
        })
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()> {
        self.correct_now(key, quotas, &correction);
        StoreFuture::ready(Ok(()))
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        if self.has(Defect::TakesOnLook) {
            let _ = self.take_now(key, quotas, 1);
        }
        let lists = self.taken.lock().unwrap();
        let all = lists.get(&self.key(key)).cloned().unwrap_or_default();
        StoreFuture::ready(Ok(self.readings(quotas, &all)))
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        let mut lists = self.taken.lock().unwrap();
        let all = lists.entry(self.key(key)).or_default();
        match self.defect {
            Some(Defect::ForgetsNothing) => {}
            Some(Defect::ForgetsTheFirstWindow) => {
                let first = all.first().map(|taken| taken.window.clone());
                all.retain(|taken| Some(&taken.window) != first.as_ref());
            }
            Some(Defect::ForgetsEverybody) => lists.clear(),
            _ => all.clear(),
        }
        StoreFuture::ready(Ok(()))
    }
}
