//! Operations for a limiter that holds this process's share of a limit counted elsewhere.

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
    /// Sets what is left of the share in proportion to what is left of the whole, and forgets what
    /// the share itself has admitted. For a key without room for its own count nothing is kept;
    /// otherwise the keys in the shared entry would pay for it.
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
        self.apply(key, [whole, share], readings, write);
    }

    /// Like [`adopt`](Self::adopt), but leaves windows alone that have less left already.
    pub(crate) fn adopt_less(
        &self,
        key: &(impl Hash + ?Sized),
        whole: &Quotas,
        share: &Quotas,
        readings: &Readings,
    ) {
        self.apply(key, [whole, share], readings, window::lower);
    }

    fn apply(
        &self,
        key: &(impl Hash + ?Sized),
        [whole, share]: [&Quotas; 2],
        readings: &Readings,
        change: impl Fn(&Quota, &mut [u64], WindowReading, &Moment) -> bool,
    ) {
        let now = Moment::of(self.clock.as_ref(), share);
        self.sweep_if_due(now.nanos);
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
            // Without room for further windows, requests are refused without reading these.
            if entry.migrate_to(share, self.clock.as_ref()).is_err() {
                return;
            }
            let mut has_changed = false;
            entry.change_current(|share, words| {
                if let Some((whole, left)) = of_whole.next() {
                    has_changed |= change(share, words, part(whole, share, *left), &now);
                }
            });
            if has_changed {
                entry.restart(&now);
            }
        });
        if is_full {
            shard.forget_idle(hash, self.clock.as_ref());
        }
    }

    /// Counts units that the whole will never learn of, up to the point where nothing is left: a
    /// share goes into no debt for the whole.
    pub(crate) fn use_up(&self, key: &(impl Hash + ?Sized), share: &Quotas, units: u64) {
        let now = Moment::of(self.clock.as_ref(), share);
        self.sweep_if_due(now.nanos);
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

/// What is left of a share: all of it where the whole is full, nothing where nothing is left, and
/// otherwise its proportion in whole units. A share's bucket fills in the same time as the whole.
fn part(whole: &Quota, share: &Quota, left: WindowReading) -> WindowReading {
    let bursts = [share, whole].map(|quota| u64::from(quota.burst_size()));
    let remaining = scaled(left.remaining.into(), bursts);
    let fill = |quota: &Quota| {
        let burst = u64::from(quota.burst_size());
        quota.interval_nanos().get().saturating_mul(burst)
    };
    let reset = match share.rule() {
        Rule::Rolling => Duration::from_nanos(scaled(
            window::nanos(left.reset),
            [fill(share), fill(whole)],
        )),
        Rule::Strict | Rule::Calendar(..) => left.reset,
    };
    WindowReading {
        remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
        reset,
    }
}

/// `amount * times / by`, without overflow.
fn scaled(amount: u64, [times, by]: [u64; 2]) -> u64 {
    let product = u128::from(amount).saturating_mul(u128::from(times));
    let quotient = product.checked_div(u128::from(by)).unwrap_or(0);
    u64::try_from(quotient).unwrap_or(u64::MAX)
}
