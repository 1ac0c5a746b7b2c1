//! What a limiter does that is a process's share of one elsewhere.

use std::{hash::Hash, num::NonZeroU32};

use super::{
    MemoryRateLimiter,
    entry::Entry,
    lock,
    window::{self, Moment},
};
use crate::{
    domain::quota::{Quota, Quotas, Rule},
    store::{RateDecision, RateOutcome, Readings},
};

impl MemoryRateLimiter {
    /// Counts what was counted elsewhere, up to where nothing is left: a share may be used up by what the whole
    /// admitted, and owes nothing for it. Of a key that finds no room for a count of its own nothing is counted, or
    /// the crowd would pay for it.
    pub(crate) fn count_along(&self, key: &(impl Hash + ?Sized), quotas: &Quotas, units: i64) {
        let now = Moment::of(self.clock.as_ref(), quotas);
        let (shard, hash) = self.place(key);
        let mut shard = lock(shard);
        let Some(entry) = shard.own_entry(hash, quotas, &now, &self.room()) else {
            return;
        };
        entry.change_each(
            quotas,
            &now,
            self.clock.as_ref(),
            |quota, words, now| match u64::try_from(units) {
                Ok(units) => {
                    let used = window::used(quota, words, now);
                    let left = u64::from(quota.burst_size()).saturating_sub(used);
                    window::add(quota, words, units.min(left), now);
                }
                Err(_) => window::give_back(quota, words, units.unsigned_abs(), now),
            },
        );
    }

    /// Takes `cost` units from every window, or from none. A rolling window of which all is there admits more than
    /// it holds, and owes that.
    #[must_use]
    pub(crate) fn take_overdrawing(
        &self,
        key: &(impl Hash + ?Sized),
        quotas: &Quotas,
        cost: u32,
    ) -> RateDecision {
        self.take_by(key, quotas, cost, Entry::take_overdrawing)
    }
}

impl Entry {
    fn take_overdrawing(&mut self, cost: NonZeroU32, now: &Moment) -> (RateOutcome, Readings) {
        let at_once = |quota: &Quota| match quota.rule() {
            Rule::Rolling => cost.min(quota.burst_nonzero()),
            Rule::Strict | Rule::Calendar(..) => cost,
        };
        let (outcome, readings) = self.take_each(now, at_once);
        if outcome != RateOutcome::Admitted {
            return (outcome, readings);
        }
        self.change_own(|quota, words| {
            let owed = cost.get().saturating_sub(at_once(quota).get());
            window::add(quota, words, owed.into(), now);
        });
        (outcome, self.read(now))
    }
}
