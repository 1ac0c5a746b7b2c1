//! A part of the keys, under one lock.

use std::num::NonZeroU32;

use hashbrown::HashTable;

use super::{
    RateLimiterStatistics,
    entry::Entry,
    window::{self, Moment},
};
use crate::{
    domain::{clock::Clock, quota::Quotas},
    store::{Correction, RateDecision, RateOutcome, Readings, TakenAt},
};

/// With fewer keys than this, a shard is not swept for idle ones.
const SWEEP_FLOOR: usize = 256;
/// Minimum time between two sweeps of a shard.
const SWEEP_INTERVAL_NANOS: u64 = 1_000_000_000;

/// How many keys a shard may hold, and the clock for evicting idle ones.
pub(super) struct Room<'a> {
    pub(super) capacity: usize,
    pub(super) clock: &'a dyn Clock,
}

#[derive(Debug)]
pub(super) struct Shard {
    slots: HashTable<Slot>,
    sweep_at: usize,
    swept_at_nanos: u64,
    pub(super) statistics: RateLimiterStatistics,
}

/// A key and its counts. With a million keys hardly any is in the CPU cache, so a decision should
/// touch only one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Slot {
    key: u64,
    entry: Entry,
}

const _: () = assert!(size_of::<Slot>() == 64);

impl Slot {
    fn key(&self) -> u64 {
        self.key
    }
}

impl Shard {
    pub(super) fn new() -> Self {
        Self {
            slots: HashTable::new(),
            sweep_at: SWEEP_FLOOR,
            swept_at_nanos: 0,
            statistics: RateLimiterStatistics::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    #[cfg(test)]
    pub(super) fn room_for(&self) -> usize {
        self.slots.capacity()
    }

    pub(super) fn take(
        &mut self,
        key: u64,
        quotas: &Quotas,
        now: &Moment,
        cost: NonZeroU32,
        room: &Room<'_>,
    ) -> RateDecision {
        let take = |entry: &mut Entry| {
            let (outcome, readings) = entry.take(quotas, cost, now, room.clock);
            (outcome, readings, entry.given_back())
        };
        let (outcome, readings, given_back) = self.with_entry(key, quotas, now, room, take);
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
        self.with_entry(key, quotas, now, room, |entry| {
            entry.correct(quotas, correction, now, room.clock);
        });
    }

    /// Admits a request that costs nothing.
    pub(super) fn admit_free(
        &mut self,
        key: u64,
        quotas: &Quotas,
        now: &Moment,
        clock: &dyn Clock,
    ) -> RateDecision {
        self.statistics.admitted = self.statistics.admitted.saturating_add(1);
        RateDecision {
            outcome: RateOutcome::Admitted,
            readings: self.peek(key, quotas, now, clock),
            taken_at: now.taken_at(),
        }
    }

    pub(super) fn peek(
        &self,
        key: u64,
        quotas: &Quotas,
        now: &Moment,
        clock: &dyn Clock,
    ) -> Readings {
        let mut entry = match self.slots.find(key, |slot| slot.key == key) {
            Some(slot) => slot.entry.clone(),
            None => Entry::fresh(quotas, now.nanos),
        };
        entry.peek(quotas, now, clock)
    }

    pub(super) fn reset(&mut self, key: u64) {
        if let Ok(slot) = self.slots.find_entry(key, |slot| slot.key == key) {
            slot.remove();
        }
    }

    /// Runs `act` on the entry of a key, creating it if needed. When there is no room, all new keys
    /// share one entry. Its key 0 is a hash like any other, so one client in 2^64 would share it
    /// anyway.
    fn with_entry<T>(
        &mut self,
        key: u64,
        quotas: &Quotas,
        now: &Moment,
        room: &Room<'_>,
        act: impl FnOnce(&mut Entry) -> T,
    ) -> T {
        if let Some(slot) = self.slots.find_mut(key, |slot| slot.key == key) {
            slot.entry.ensure_begun_by(now.nanos);
            return act(&mut slot.entry);
        }
        let key = if self.has_room(room) {
            key
        } else {
            self.statistics.crowded_out = self.statistics.crowded_out.saturating_add(1);
            0
        };
        let entry = self.entry(key, quotas, now);
        entry.ensure_begun_by(now.nanos);
        act(entry)
    }

    /// Runs `act` on the key's own entry, creating it if there is room; never on the shared one.
    #[cfg(any(test, feature = "redis"))]
    pub(super) fn with_own_entry(
        &mut self,
        key: u64,
        quotas: &Quotas,
        now: &Moment,
        room: &Room<'_>,
        act: impl FnOnce(&mut Entry),
    ) {
        if self.has(key) || self.has_room(room) {
            act(self.entry(key, quotas, now));
        }
    }

    #[cfg(any(test, feature = "redis"))]
    pub(super) fn has(&self, key: u64) -> bool {
        self.slots.find(key, |slot| slot.key == key).is_some()
    }

    /// Forgets a key whose windows are all full.
    #[cfg(any(test, feature = "redis"))]
    pub(super) fn forget_idle(&mut self, key: u64, clock: &dyn Clock) {
        if let Ok(mut slot) = self.slots.find_entry(key, |slot| slot.key == key)
            && slot.get_mut().entry.is_idle(&Moment::on_both_clocks(clock))
        {
            slot.remove();
        }
    }

    fn entry(&mut self, key: u64, quotas: &Quotas, now: &Moment) -> &mut Entry {
        let slot = self.slots.entry(key, |slot| slot.key == key, Slot::key);
        let fresh = || Slot {
            key,
            entry: Entry::fresh(quotas, now.nanos),
        };
        &mut slot.or_insert_with(fresh).into_mut().entry
    }

    /// Whether there is room for another key.
    fn has_room(&mut self, room: &Room<'_>) -> bool {
        self.make_room(room);
        self.slots.len() < room.capacity
    }

    /// Sweeps idle keys when the shard has doubled since the last sweep or is full, at most once a
    /// second.
    fn make_room(&mut self, room: &Room<'_>) {
        if self.slots.len() >= self.sweep_at.min(room.capacity) {
            let now = window::nanos(room.clock.elapsed());
            let rested = now.saturating_sub(self.swept_at_nanos) >= SWEEP_INTERVAL_NANOS;
            if rested || self.swept_at_nanos == 0 {
                self.sweep(room.clock);
            }
        }
    }

    /// Forgets the keys whose windows are all full again, and releases their memory.
    pub(super) fn sweep(&mut self, clock: &dyn Clock) {
        let now = Moment::on_both_clocks(clock);
        self.slots.retain(|slot| !slot.entry.is_idle(&now));
        let kept = self.slots.len();
        self.sweep_at = kept.saturating_mul(2).max(SWEEP_FLOOR);
        if self.sweep_at.saturating_mul(2) < self.slots.capacity() {
            self.slots.shrink_to(self.sweep_at, Slot::key);
        }
        self.swept_at_nanos = now.nanos.max(1);
    }
}
