//! What a limiter does that is a process's share of one elsewhere.

use std::{hash::Hash, time::Duration};

use super::{
    MemoryRateLimiter, lock,
    window::{self, Moment},
};
use crate::{
    domain::quota::{Quota, Quotas, Rule},
    store::{Readings, WindowReading},
};

impl MemoryRateLimiter {
    /// Makes what is left of a share what its part is of what is left of the whole, and forgets what the share itself has
    /// admitted. Of a key that finds no room for a count of its own nothing is kept, or the crowd would pay for it.
    pub(crate) fn adopt(
        &self,
        key: &(impl Hash + ?Sized),
        whole: &Quotas,
        share: &Quotas,
        readings: &Readings,
    ) {
        let write = |quota: &Quota, words: &mut [u64], left, now: &Moment| {
            window::write(quota, words, left, now);
            true
        };
        self.hear(key, [whole, share], readings, write);
    }

    /// The same, but for windows of which less is left than that: these stay as they are.
    pub(crate) fn adopt_less(
        &self,
        key: &(impl Hash + ?Sized),
        whole: &Quotas,
        share: &Quotas,
        readings: &Readings,
    ) {
        self.hear(key, [whole, share], readings, window::lower);
    }

    fn hear(
        &self,
        key: &(impl Hash + ?Sized),
        [whole, share]: [&Quotas; 2],
        readings: &Readings,
        change: impl Fn(&Quota, &mut [u64], WindowReading, &Moment) -> bool,
    ) {
        let now = Moment::of(self.clock.as_ref(), share);
        self.tend(now.nanos);
        let (shard, hash) = self.place(key);
        let mut shard = lock(shard);
        let mut of_whole = whole.as_slice().iter().zip(readings.as_slice());
        let is_full = of_whole
            .clone()
            .all(|(whole, left)| left.remaining >= whole.burst_size() && left.reset.is_zero());
        if is_full && !shard.has(hash) {
            return;
        }
        shard.with_own_entry(hash, share, &now, &self.room(), |entry| {
            // Where there is no room for further windows, requests are refused without a look at these.
            if entry.follow(share, self.clock.as_ref()).is_err() {
                return;
            }
            let mut has_changed = false;
            entry.change_own(|share, words| {
                if let Some((whole, left)) = of_whole.next() {
                    has_changed |= change(share, words, part(whole, share, *left), &now);
                }
            });
            if has_changed {
                entry.begin_anew(&now);
            }
        });
        if is_full {
            shard.forget_idle(hash, self.clock.as_ref());
        }
    }

    /// Counts what the whole will hear no more of, up to where nothing is left: a share owes nothing for the whole.
    pub(crate) fn use_up(&self, key: &(impl Hash + ?Sized), share: &Quotas, units: u64) {
        let now = Moment::of(self.clock.as_ref(), share);
        self.tend(now.nanos);
        let (shard, hash) = self.place(key);
        let mut shard = lock(shard);
        let clock = self.clock.as_ref();
        shard.with_own_entry(hash, share, &now, &self.room(), |entry| {
            entry.change_each(share, &now, clock, |quota, words, now| {
                let used = window::used(quota, words, now);
                let left = u64::from(quota.burst_size()).saturating_sub(used);
                window::add(quota, words, units.min(left), now);
            });
        });
    }
}

/// What is left of a share: all of it where all is left of the whole, nothing where nothing is, and between them its
/// part, in whole units. A bucket of a share fills in the time in which the whole does.
fn part(whole: &Quota, share: &Quota, left: WindowReading) -> WindowReading {
    let bursts = [share, whole].map(|quota| u64::from(quota.burst_size()));
    let remaining = of(left.remaining.into(), bursts);
    let fill = |quota: &Quota| {
        let burst = u64::from(quota.burst_size());
        quota.interval_nanos().get().saturating_mul(burst)
    };
    let reset = match share.rule() {
        Rule::Rolling => {
            Duration::from_nanos(of(window::nanos(left.reset), [fill(share), fill(whole)]))
        }
        Rule::Strict | Rule::Calendar(..) => left.reset,
    };
    WindowReading {
        remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
        reset,
    }
}

/// So much times one number by the other.
fn of(amount: u64, [times, by]: [u64; 2]) -> u64 {
    let product = u128::from(amount).saturating_mul(u128::from(times));
    let quotient = product.checked_div(u128::from(by)).unwrap_or(0);
    u64::try_from(quotient).unwrap_or(u64::MAX)
}
