//! What this process has under way, by key.

use std::collections::{HashMap, HashSet};

use crate::store::RateKey;

/// Everything that this process has under way, and what it has to free.
#[derive(Default)]
pub(super) struct Held {
    keys: HashMap<RateKey, Own>,
    /// Over all keys.
    count: usize,
    /// Slots to be freed.
    over: HashMap<RateKey, Vec<u64>>,
    over_count: usize,
}

#[derive(Default)]
struct Own {
    /// Decisions under way included.
    under_way: u32,
    /// Those that were admitted, by whomever.
    slots: HashSet<u64>,
}

/// Why nothing more may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Of the key.
    OfKey,
    /// Of all keys.
    OfAll,
}

impl Held {
    /// Counts one more of `key`.
    pub(super) fn begin(&mut self, key: &RateKey, most: u32, all: usize) -> Result<(), Excess> {
        if self.count >= all {
            return Err(Excess::OfAll);
        }
        if self.under_way(key) >= most {
            return Err(Excess::OfKey);
        }
        let own = self.keys.entry(key.clone()).or_default();
        own.under_way = own.under_way.saturating_add(1);
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    pub(super) fn under_way(&self, key: &RateKey) -> u32 {
        self.keys.get(key).map_or(0, |own| own.under_way)
    }

    /// Records that `slot` was admitted, so that it is renewed.
    pub(super) fn hold(&mut self, key: &RateKey, slot: u64) {
        if let Some(own) = self.keys.get_mut(key) {
            own.slots.insert(slot);
        }
    }

    /// One less is under way; `frees`: and Redis may know it. Beyond `most` of those it is left to
    /// come free by itself.
    pub(super) fn end(&mut self, key: &RateKey, slot: u64, frees: bool, most: usize) {
        if let Some(own) = self.keys.get_mut(key) {
            own.under_way = own.under_way.saturating_sub(1);
            own.slots.remove(&slot);
            if own.under_way == 0 {
                self.keys.remove(key);
            }
        }
        self.count = self.count.saturating_sub(1);
        if frees {
            self.free_later(key.clone(), vec![slot], most);
        }
    }

    pub(super) fn free_later(&mut self, key: RateKey, slots: Vec<u64>, most: usize) {
        if self.over_count < most {
            self.over_count = self.over_count.saturating_add(slots.len());
            self.over.entry(key).or_default().extend(slots);
        }
    }

    /// What is to be freed, which is the caller's business then.
    pub(super) fn take_over(&mut self) -> HashMap<RateKey, Vec<u64>> {
        self.over_count = 0;
        std::mem::take(&mut self.over)
    }

    /// All slots that are to be renewed.
    pub(super) fn slots(&self) -> Vec<(RateKey, Vec<u64>)> {
        let held = self.keys.iter().filter(|(_, own)| !own.slots.is_empty());
        held.map(|(key, own)| (key.clone(), own.slots.iter().copied().collect()))
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Nothing is under way, and nothing is to be freed.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && self.over.is_empty()
    }
}
