//! A part of the keys, under one lock.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashMap;

use super::{
    RateLimiterStatistics,
    entry::Entry,
    window::{self, Moment},
};
use crate::{
    domain::{clock::Clock, quota::Quotas},
    store::{Correction, RateDecision, RateOutcome, Readings, TakenAt},
};

/// Keys of a shard below which idle ones are not looked for.
const SWEEP_FLOOR: usize = 256;
/// How long a shard rests between two sweeps.
const SWEEP_INTERVAL_NANOS: u64 = 1_000_000_000;

/// How much room there is, and by which clock it is made.
pub(super) struct Room<'a> {
    pub(super) capacity: usize,
    pub(super) clock: &'a dyn Clock,
}

#[derive(Debug)]
pub(super) struct Shard {
    entries: HashMap<u64, Entry, BuildHasherDefault<HashedAlready>>,
    sweep_at: usize,
    swept_at_nanos: u64,
    pub(super) statistics: RateLimiterStatistics,
}

impl Shard {
    pub(super) fn new() -> Self {
        Self {
            entries: HashMap::default(),
            sweep_at: SWEEP_FLOOR,
            swept_at_nanos: 0,
            statistics: RateLimiterStatistics::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub(super) fn room_for(&self) -> usize {
        self.entries.capacity()
    }

    pub(super) fn take(
        &mut self,
        key: u64,
        quotas: &Quotas,
        now: &Moment,
        room: &Room<'_>,
        take: impl FnOnce(&mut Entry) -> (RateOutcome, Readings),
    ) -> RateDecision {
        let entry = self.entry(key, quotas, now, room);
        let (outcome, readings) = match entry.follow(quotas, room.clock) {
            Ok(()) => take(entry),
            Err(full) => (RateOutcome::Refused(full.wait), full.readings),
        };
        let given_back = entry.given_back();
        let count = match outcome {
            RateOutcome::Admitted => &mut self.statistics.admitted,
            RateOutcome::Refused(_) | RateOutcome::TooCostly => &mut self.statistics.refused,
        };
        *count = count.saturating_add(1);
        RateDecision {
            outcome,
            readings,
            taken_at: TakenAt {
                given_back,
                ..now.taken_at()
            },
        }
    }

    pub(super) fn correct(
        &mut self,
        key: u64,
        quotas: &Quotas,
        correction: &Correction,
        now: &Moment,
        room: &Room<'_>,
    ) {
        let entry = self.entry(key, quotas, now, room);
        entry.correct(quotas, correction, now, room.clock);
    }

    pub(super) fn peek(
        &self,
        key: u64,
        quotas: &Quotas,
        now: &Moment,
        clock: &dyn Clock,
    ) -> Readings {
        let mut entry = match self.entries.get(&key) {
            Some(entry) => entry.clone(),
            None => Entry::fresh(quotas, now.nanos),
        };
        match entry.follow(quotas, clock) {
            Ok(()) => entry.read(now),
            Err(full) => full.readings,
        }
    }

    pub(super) fn reset(&mut self, key: u64) {
        self.entries.remove(&key);
    }

    /// The entry of a key, or a new one. When there is no room, all new keys share one: the key that
    /// stands for it is a hash like any other, so one client in 2^64 would share it anyway.
    fn entry(&mut self, key: u64, quotas: &Quotas, now: &Moment, room: &Room<'_>) -> &mut Entry {
        let key = if self.has_room(key, room) {
            key
        } else {
            self.statistics.crowded_out = self.statistics.crowded_out.saturating_add(1);
            0
        };
        let entry = self.entries.entry(key);
        let entry = entry.or_insert_with(|| Entry::fresh(quotas, now.nanos));
        entry.begins_by(now.nanos);
        entry
    }

    /// The entry of a key alone, or a new one where there is room.
    #[cfg(any(test, feature = "redis"))]
    pub(super) fn own_entry(
        &mut self,
        key: u64,
        quotas: &Quotas,
        now: &Moment,
        room: &Room<'_>,
    ) -> Option<&mut Entry> {
        self.has_room(key, room).then(|| {
            let entry = self.entries.entry(key);
            entry.or_insert_with(|| Entry::fresh(quotas, now.nanos))
        })
    }

    #[cfg(any(test, feature = "redis"))]
    pub(super) fn has(&self, key: u64) -> bool {
        self.entries.contains_key(&key)
    }

    fn has_room(&mut self, key: u64, room: &Room<'_>) -> bool {
        if self.entries.contains_key(&key) {
            return true;
        }
        self.make_room(room);
        self.entries.len() < room.capacity
    }

    /// Forgets the idle keys when the shard has doubled since it last did or is full, and not more often
    /// than once a second.
    fn make_room(&mut self, room: &Room<'_>) {
        if self.entries.len() >= self.sweep_at.min(room.capacity) {
            let now = window::nanos(room.clock.elapsed());
            let rested = now.saturating_sub(self.swept_at_nanos) >= SWEEP_INTERVAL_NANOS;
            if rested || self.swept_at_nanos == 0 {
                self.sweep(room.clock);
            }
        }
    }

    /// Forgets the keys whose windows are all full again, and gives their memory back.
    pub(super) fn sweep(&mut self, clock: &dyn Clock) {
        let now = Moment::whole(clock);
        self.entries.retain(|_, entry| !entry.is_idle(&now));
        let kept = self.entries.len();
        self.sweep_at = kept.saturating_mul(2).max(SWEEP_FLOOR);
        if self.sweep_at.saturating_mul(2) < self.entries.capacity() {
            self.entries.shrink_to(self.sweep_at);
        }
        self.swept_at_nanos = now.nanos.max(1);
    }
}

/// The keys of the maps are hashes already.
#[derive(Debug, Default)]
struct HashedAlready(u64);

impl Hasher for HashedAlready {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
