//! Rate limits in this process: all windows of a key under one short lock.
//!
//! The next state of each window is staged and written only if every window admits, so a refused
//! request consumes nothing.

mod calendar;
mod entry;
mod gcra;
mod shard;
#[cfg(any(test, feature = "redis"))]
mod share;
mod strict;
mod window;

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hash},
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use shard::{Room, Shard};
use window::Moment;

use crate::{
    domain::{clock::Clock, quota::Quotas},
    store::{Correction, RateDecision, RateKey, RateStore, Readings, StoreFuture},
    sync::lock,
};

/// Number of locks that keys are spread over.
const SHARDS: usize = 64;
/// How often a request sweeps the idle keys of one shard; this covers all shards in half a minute.
const SWEEP_INTERVAL_NANOS: u64 = 500_000_000;

/// Counts requests by key against several quotas at once, in this process's memory.
///
/// Memory is bounded: at most `capacity` keys are kept (about 150 bytes each, 300 with a strict
/// quota). A key whose windows are full again is forgotten within half a minute of traffic, which
/// changes nothing. When all slots are in use, new keys share one bucket: no count is reset, and a
/// flood of new keys gets no more than one key would.
///
/// Usage follows the rule that it was taken under until something is taken under another; a refusal
/// changes nothing. When a key is used with differing quotas, windows that a call doesn't name are
/// kept as long as anything is used in them, up to sixteen. If more are in use, a call that names
/// other windows is refused until one of them is full again: usage is never forgotten.
pub struct MemoryRateLimiter {
    shards: Box<[Mutex<Shard>]>,
    capacity_of_shard: usize,
    hasher: RandomState,
    clock: Arc<dyn Clock>,
    swept_at_nanos: AtomicU64,
    next_swept: AtomicUsize,
}

/// Counters of a limiter since its creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimiterStatistics {
    /// Requests admitted.
    pub admitted: u64,
    /// Requests refused.
    pub refused: u64,
    /// Requests of new keys for which there was no room for a separate count.
    pub crowded_out: u64,
}

impl MemoryRateLimiter {
    /// A limiter that keeps at most `capacity` keys.
    #[must_use]
    pub fn new(capacity: usize, clock: Arc<dyn Clock>) -> Self {
        let shard = || Mutex::new(Shard::new());
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            capacity_of_shard: capacity.div_ceil(SHARDS).max(1),
            hasher: RandomState::new(),
            clock,
            swept_at_nanos: AtomicU64::new(0),
            next_swept: AtomicUsize::new(0),
        }
    }

    /// How many keys are kept now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether no key is kept now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counters since its creation.
    #[must_use]
    pub fn statistics(&self) -> RateLimiterStatistics {
        let shards = self.shards.iter().map(|shard| lock(shard).statistics);
        shards.fold(RateLimiterStatistics::default(), |sum, of| {
            RateLimiterStatistics {
                admitted: sum.admitted.saturating_add(of.admitted),
                refused: sum.refused.saturating_add(of.refused),
                crowded_out: sum.crowded_out.saturating_add(of.crowded_out),
            }
        })
    }

    /// Takes `cost` units from every window of `key`, or from none. A cost of 0 takes nothing and
    /// is admitted.
    #[must_use]
    pub fn take(&self, key: &(impl Hash + ?Sized), quotas: &Quotas, cost: u32) -> RateDecision {
        let now = Moment::of(self.clock.as_ref(), quotas);
        let (shard, hash) = self.place(key);
        let Some(cost) = NonZeroU32::new(cost) else {
            return lock(shard).admit_free(hash, quotas, &now, self.clock.as_ref());
        };
        self.sweep_if_due(now.nanos);
        lock(shard).take(hash, quotas, &now, cost, &self.room())
    }

    /// Corrects an earlier take.
    pub fn correct(&self, key: &(impl Hash + ?Sized), quotas: &Quotas, correction: &Correction) {
        let now = Moment::of(self.clock.as_ref(), quotas);
        let (shard, hash) = self.place(key);
        lock(shard).correct(hash, quotas, correction, &now, &self.room());
    }

    /// Reads what is left for `key`.
    #[must_use]
    pub fn peek(&self, key: &(impl Hash + ?Sized), quotas: &Quotas) -> Readings {
        let now = Moment::of(self.clock.as_ref(), quotas);
        let (shard, hash) = self.place(key);
        lock(shard).peek(hash, quotas, &now, self.clock.as_ref())
    }

    /// Forgets what `key` has used.
    pub fn reset(&self, key: &(impl Hash + ?Sized)) {
        let (shard, hash) = self.place(key);
        lock(shard).reset(hash);
    }

    fn room(&self) -> Room<'_> {
        Room {
            capacity: self.capacity_of_shard,
            clock: self.clock.as_ref(),
        }
    }

    /// Keys are represented by a keyed 64-bit hash, so that one costs no allocation and has a fixed
    /// size. Among a million keys a collision happens once in thirty million processes, and nobody
    /// can provoke one without knowing the process's random key.
    fn place(&self, key: &(impl Hash + ?Sized)) -> (&Mutex<Shard>, u64) {
        let hash = self.hasher.hash_one(key);
        let index = usize::try_from(hash >> 32).unwrap_or(0);
        let shard = match index.checked_rem(SHARDS).and_then(|at| self.shards.get(at)) {
            Some(shard) => shard,
            None => self.first(),
        };
        (shard, hash)
    }

    #[expect(clippy::indexing_slicing, reason = "there are 64")]
    fn first(&self) -> &Mutex<Shard> {
        &self.shards[0]
    }

    /// Sweeps the idle keys of the next shard in turn, unless it is locked: memory is given back
    /// even if no new key ever arrives.
    fn sweep_if_due(&self, now: u64) {
        let last = self.swept_at_nanos.load(Ordering::Relaxed);
        if now.saturating_sub(last) < SWEEP_INTERVAL_NANOS {
            return;
        }
        let relaxed = Ordering::Relaxed;
        let mine = self
            .swept_at_nanos
            .compare_exchange(last, now, relaxed, relaxed);
        if mine.is_err() {
            return;
        }
        let turn = self.next_swept.fetch_add(1, relaxed).checked_rem(SHARDS);
        if let Some(shard) = turn.and_then(|turn| self.shards.get(turn))
            && let Ok(mut shard) = shard.try_lock()
        {
            shard.sweep(self.clock.as_ref());
        }
    }
}

impl RateStore for MemoryRateLimiter {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        StoreFuture::ready(Ok(Self::take(self, key, quotas, cost)))
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()> {
        Self::correct(self, key, quotas, &correction);
        StoreFuture::ready(Ok(()))
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        StoreFuture::ready(Ok(Self::peek(self, key, quotas)))
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        Self::reset(self, key);
        StoreFuture::ready(Ok(()))
    }
}

impl fmt::Debug for MemoryRateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRateLimiter")
            .field("keys", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
