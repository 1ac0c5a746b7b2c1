//! What this process has under way, by key.

use std::collections::{HashMap, HashSet};

use crate::store::RateKey;

/// Everything that this process has under way, and what it has to free.
#[derive(Default)]
pub(super) struct Held {
    keys: HashMap<RateKey, Own>,
    /// Over all keys.
    count: usize,
    /// What is to be freed. It stays here until Redis has confirmed it: freeing twice is freeing
    /// once.
    over: HashMap<RateKey, Over>,
    over_count: usize,
    /// The number of the last round of renewals.
    round: u64,
}

#[derive(Default)]
struct Own {
    /// Decisions under way included.
    under_way: u32,
    /// Those that were admitted, by whomever, and whether Redis may know them.
    slots: HashMap<u64, bool>,
    /// The last round in which all of them were renewed.
    renewed_in: u64,
}

#[derive(Default)]
struct Over {
    slots: HashSet<u64>,
    has_failed: bool,
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
        let round = self.round;
        let own = self.keys.entry(key.clone()).or_insert_with(|| Own {
            renewed_in: round,
            ..Own::default()
        });
        own.under_way = own.under_way.saturating_add(1);
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    pub(super) fn under_way(&self, key: &RateKey) -> u32 {
        self.keys.get(key).map_or(0, |own| own.under_way)
    }

    /// Records that `slot` was admitted, so that it is renewed; `is_known`: and Redis may know it.
    pub(super) fn hold(&mut self, key: &RateKey, slot: u64, is_known: bool) {
        if let Some(own) = self.keys.get_mut(key) {
            own.slots.insert(slot, is_known);
        }
    }

    /// One less is under way. Redis hears of it if it may know the slot: `is_known` tells of one
    /// that isn't held. Whether there is something to free.
    pub(super) fn end(&mut self, key: &RateKey, slot: u64, is_known: bool, most: usize) -> bool {
        let mut is_known = is_known;
        if let Some(own) = self.keys.get_mut(key) {
            own.under_way = own.under_way.saturating_sub(1);
            is_known = own.slots.remove(&slot).unwrap_or(is_known);
            if own.under_way == 0 {
                self.keys.remove(key);
            }
        }
        self.count = self.count.saturating_sub(1);
        if is_known {
            self.free_later(key, slot, most);
        }
        is_known
    }

    /// Beyond `most` of those a slot is left to come free by itself.
    fn free_later(&mut self, key: &RateKey, slot: u64, most: usize) {
        if self.over_count < most {
            let over = self.over.entry(key.clone()).or_default();
            if over.slots.insert(slot) {
                self.over_count = self.over_count.saturating_add(1);
            }
        }
    }

    /// The keys of which something is to be freed; without `all`, those that didn't just fail.
    pub(super) fn keys_to_free(&self, all: bool) -> Vec<RateKey> {
        let keys = self.over.iter().filter(|(_, over)| all || !over.has_failed);
        keys.map(|(key, _)| key.clone()).collect()
    }

    /// At most `most` of what is to be freed of `key`.
    pub(super) fn to_free(&self, key: &RateKey, most: usize) -> impl Iterator<Item = u64> {
        let slots = self.over.get(key).map(|over| &over.slots);
        slots.into_iter().flatten().copied().take(most)
    }

    /// Redis has freed those.
    pub(super) fn freed(&mut self, key: &RateKey, slots: &[u64]) {
        let Some(over) = self.over.get_mut(key) else {
            return;
        };
        over.has_failed = false;
        let before = over.slots.len();
        for slot in slots {
            over.slots.remove(slot);
        }
        let freed = before.saturating_sub(over.slots.len());
        self.over_count = self.over_count.saturating_sub(freed);
        if over.slots.is_empty() {
            self.over.remove(key);
        }
    }

    /// Freeing something of `key` failed.
    pub(super) fn failed_to_free(&mut self, key: &RateKey) {
        if let Some(over) = self.over.get_mut(key) {
            over.has_failed = true;
        }
    }

    /// The keys of which something is to be renewed, those first that waited longest.
    pub(super) fn begin_round(&mut self) -> Vec<RateKey> {
        self.round = self.round.saturating_add(1);
        let held = self.keys.iter().filter(|(_, own)| !own.slots.is_empty());
        let mut keys: Vec<_> = held
            .map(|(key, own)| (own.renewed_in, key.clone()))
            .collect();
        keys.sort_unstable_by_key(|(round, _)| *round);
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// What is to be renewed of `key`: from here on Redis may know it.
    pub(super) fn begin_renewal(&mut self, key: &RateKey) -> Vec<u64> {
        let Some(own) = self.keys.get_mut(key) else {
            return Vec::new();
        };
        let slots = own.slots.iter_mut();
        let told = slots.map(|(slot, is_known)| {
            *is_known = true;
            *slot
        });
        told.collect()
    }

    /// Their renewal is over. Those that ended meanwhile are freed again, since their renewal may
    /// have followed their release. Whether there are any.
    pub(super) fn renewed(
        &mut self,
        key: &RateKey,
        slots: &[u64],
        is_done: bool,
        most: usize,
    ) -> bool {
        let mut ended = slots.to_vec();
        if let Some(own) = self.keys.get_mut(key) {
            ended.retain(|slot| !own.slots.contains_key(slot));
            if is_done {
                own.renewed_in = self.round;
            }
        }
        for slot in &ended {
            self.free_later(key, *slot, most);
        }
        !ended.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether there is something to free.
    pub(super) fn is_anything_over(&self) -> bool {
        !self.over.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 3;

    fn key(name: &str) -> RateKey {
        RateKey::new(&"test".into(), name.as_bytes())
    }

    /// Holds that slot.
    fn hold(held: &mut Held, key: &RateKey, slot: u64, is_known: bool) {
        held.begin(key, u32::MAX, usize::MAX).unwrap();
        held.hold(key, slot, is_known);
    }

    fn to_free(held: &Held, key: &RateKey) -> Vec<u64> {
        let mut slots: Vec<_> = held.to_free(key, usize::MAX).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn only_what_redis_may_know_is_freed() {
        let (mut held, ann) = (Held::default(), key("ann"));
        hold(&mut held, &ann, 1, false);
        hold(&mut held, &ann, 2, false);
        assert!(!held.end(&ann, 1, false, MOST), "nobody was told");
        assert_eq!(held.begin_renewal(&ann), [2]);
        assert!(held.end(&ann, 2, false, MOST), "a renewal tells");
        hold(&mut held, &ann, 3, true);
        assert!(held.end(&ann, 3, true, MOST));
        held.begin(&ann, 1, 1).unwrap();
        assert!(!held.end(&ann, 4, false, MOST), "never asked");
        held.begin(&ann, 1, 1).unwrap();
        assert!(held.end(&ann, 5, true, MOST), "asked, and given up");
        assert_eq!(to_free(&held, &ann), [2, 3, 5]);
        assert_eq!(held.len(), 0);
        hold(&mut held, &ann, 6, true);
        held.end(&ann, 6, true, MOST);
        assert_eq!(to_free(&held, &ann), [2, 3, 5], "beyond the bound");
    }

    #[test]
    fn what_is_to_be_freed_stays_until_it_is_confirmed() {
        let (mut held, ann, bob) = (Held::default(), key("ann"), key("bob"));
        for (key, slot) in [(&ann, 1), (&ann, 2), (&bob, 3)] {
            hold(&mut held, key, slot, true);
            held.end(key, slot, true, MOST);
        }
        held.failed_to_free(&ann);
        assert!(held.keys_to_free(false) == [bob.clone()]);
        assert_eq!(held.keys_to_free(true).len(), 2);
        assert_eq!(to_free(&held, &ann), [1, 2]);
        held.freed(&ann, &[2]);
        assert_eq!(held.keys_to_free(false).len(), 2, "it works again");
        held.freed(&ann, &[1, 2]);
        held.freed(&bob, &[3]);
        held.freed(&bob, &[3]);
        assert!(!held.is_anything_over());
        for slot in 4..=6 {
            hold(&mut held, &ann, slot, true);
            held.end(&ann, slot, true, MOST);
        }
        assert_eq!(to_free(&held, &ann), [4, 5, 6], "there is room again");
    }

    #[test]
    fn who_waited_longest_is_renewed_first() {
        let (mut held, ann, bob) = (Held::default(), key("ann"), key("bob"));
        for (slot, key) in [&ann, &bob].into_iter().enumerate() {
            hold(&mut held, key, u64::try_from(slot).unwrap(), true);
        }
        for stale in [&ann, &bob, &ann] {
            assert_eq!(held.begin_round().len(), 2);
            for key in [&ann, &bob] {
                let slots = held.begin_renewal(key);
                assert!(!held.renewed(key, &slots, key != stale, MOST));
            }
            let keys = held.begin_round();
            assert!(keys.first() == Some(stale));
            for key in keys {
                held.renewed(&key, &[], true, MOST);
            }
        }
    }

    #[test]
    fn what_ends_while_it_is_renewed_is_freed_after_it() {
        let (mut held, ann) = (Held::default(), key("ann"));
        hold(&mut held, &ann, 1, true);
        hold(&mut held, &ann, 2, true);
        let slots = held.begin_renewal(&ann);
        held.end(&ann, 1, true, MOST);
        held.freed(&ann, &[1]);
        assert!(held.renewed(&ann, &slots, false, MOST));
        assert_eq!(to_free(&held, &ann), [1]);
    }
}
