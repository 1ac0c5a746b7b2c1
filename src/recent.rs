//! A bounded map that keeps what was used of late, and always has room for the newest entry.
//!
//! Each shard has two halves. A new entry goes into the young half; when that is full, or has grown
//! old, it becomes the old half, and the previous old half is dropped. An entry of the old half
//! that is used moves back into the young one. So what is in use stays, within a bound, at less
//! than half of what an insertion into moka costs (1.9 µs).
//!
//! This is not a cache with an admission policy such as moka's TinyLFU: one that is full of popular
//! entries refuses a newcomer. That is right for what can be loaded again, and wrong for what is
//! worth something in itself.

use std::{
    hash::Hash,
    mem,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use hashbrown::HashMap;

use crate::sync::lock;

/// A power of two, so that a digest's bits choose among them.
const SHARDS: usize = 64;

/// A key that begins with a digest, whose first byte chooses its shard.
pub(crate) trait Digested: Hash + Eq + Clone {
    /// The first byte of the digest.
    fn first_byte(&self) -> u8;
}

impl<const LENGTH: usize> Digested for [u8; LENGTH] {
    fn first_byte(&self) -> u8 {
        self.first().copied().unwrap_or_default()
    }
}

pub(crate) struct Recent<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    /// How many entries one half of a shard holds.
    half: usize,
    /// How old a half may grow.
    age_max: Duration,
}

struct Shard<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// When the young half was empty.
    began: Duration,
}

impl<K, V> Default for Shard<K, V> {
    fn default() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            began: Duration::ZERO,
        }
    }
}

impl<K: Digested, V: Clone> Recent<K, V> {
    /// Holds at most `capacity` entries, but at least two.
    pub(crate) fn new(capacity: usize) -> Self {
        // Few entries in one shard, so that the bound is as stated whichever shards they would fall
        // into.
        let shards = if capacity < SHARDS.saturating_mul(16) {
            1
        } else {
            SHARDS
        };
        let half = capacity.checked_div(shards).unwrap_or(0) / 2;
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            half: half.max(1),
            age_max: Duration::MAX,
        }
    }

    /// Drops what was not used for twice this time, when its shard is next asked. What is used
    /// stays.
    #[cfg(feature = "redis")]
    pub(crate) fn age_max(mut self, age_max: Duration) -> Self {
        self.age_max = age_max;
        self
    }

    pub(crate) fn get(&self, key: &K, now: Duration) -> Option<V> {
        let mut shard = self.shard(key)?;
        if !shard.is_old(self.age_max, now)
            && let Some(found) = shard.young.get(key)
        {
            return Some(found.clone());
        }
        let dropped = shard.grow_old(self.age_max, now);
        let (found, full) = shard.get(key, self.half, now);
        // In this order, here and below: hundreds of entries are not dropped while others wait.
        drop(shard);
        drop((dropped, full));
        found
    }

    /// The entry of a key, which is made if there is none.
    #[cfg(feature = "redis")]
    pub(crate) fn get_or_insert_with(&self, key: &K, now: Duration, make: impl FnOnce() -> V) -> V {
        let Some(mut shard) = self.shard(key) else {
            return make();
        };
        let dropped = shard.grow_old(self.age_max, now);
        let (found, full) = shard.get(key, self.half, now);
        if let Some(found) = found {
            drop(shard);
            drop((dropped, full));
            return found;
        }
        let value = make();
        let full = shard.insert(key.clone(), value.clone(), self.half, now);
        drop(shard);
        drop((dropped, full));
        value
    }

    pub(crate) fn insert(&self, key: K, value: V, now: Duration) {
        let Some(mut shard) = self.shard(&key) else {
            return;
        };
        shard.old.remove(&key);
        let full = shard.insert(key, value, self.half, now);
        drop(shard);
        drop(full);
    }

    pub(crate) fn remove(&self, key: &K) {
        if let Some(mut shard) = self.shard(key) {
            shard.young.remove(key);
            shard.old.remove(key);
        }
    }

    fn shard(&self, key: &K) -> Option<MutexGuard<'_, Shard<K, V>>> {
        let index = usize::from(key.first_byte()) & self.shards.len().saturating_sub(1);
        let shard = self.shards.get(index)?;
        Some(lock(shard))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let count = |shard: &Mutex<Shard<K, V>>| {
            let shard = shard.lock().unwrap();
            [shard.young.len(), shard.old.len()]
        };
        self.shards.iter().flat_map(count).sum()
    }
}

/// A half that was dropped, if one was.
type Dropped<K, V> = Option<HashMap<K, V>>;

impl<K: Digested, V: Clone> Shard<K, V> {
    fn get(&mut self, key: &K, half: usize, now: Duration) -> (Option<V>, Dropped<K, V>) {
        if let Some(value) = self.young.get(key) {
            return (Some(value.clone()), None);
        }
        let Some((key, value)) = self.old.remove_entry(key) else {
            return (None, None);
        };
        let dropped = self.insert(key, value.clone(), half, now);
        (Some(value), dropped)
    }

    fn insert(&mut self, key: K, value: V, half: usize, now: Duration) -> Dropped<K, V> {
        let is_full = self.young.len() >= half;
        let dropped = is_full.then(|| self.begin_anew(HashMap::with_capacity(half), now));
        self.young.insert(key, value);
        dropped
    }

    fn is_old(&self, age_max: Duration, now: Duration) -> bool {
        now.saturating_sub(self.began) >= age_max
    }

    fn grow_old(&mut self, age_max: Duration, now: Duration) -> Dropped<K, V> {
        self.is_old(age_max, now)
            .then(|| self.begin_anew(HashMap::new(), now))
    }

    fn begin_anew(&mut self, young: HashMap<K, V>, now: Duration) -> HashMap<K, V> {
        self.began = now;
        mem::replace(&mut self.old, mem::replace(&mut self.young, young))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn key(number: u32) -> [u8; 4] {
        number.to_le_bytes()
    }

    #[test]
    fn what_is_in_use_stays_and_the_rest_goes() {
        let recent = Recent::new(100);
        recent.insert(key(0), 0, NOW);
        for number in 1..10_000 {
            recent.insert(key(number), number, NOW);
            assert_eq!(recent.get(&key(0), NOW), Some(0));
            assert!(recent.len() <= 100);
        }
        assert_eq!(recent.get(&key(9_999), NOW), Some(9_999));
        assert_eq!(recent.get(&key(1), NOW), None);
        recent.remove(&key(0));
        assert_eq!(recent.get(&key(0), NOW), None);
        recent.insert(key(9_999), 7, NOW);
        assert_eq!(recent.get(&key(9_999), NOW), Some(7));
    }

    #[test]
    fn every_bound_holds() {
        for capacity in [1, 2, 3, 1_023, 1_024, 50_000] {
            let recent = Recent::new(capacity);
            for number in 0..60_000 {
                recent.insert(key(number), (), NOW);
            }
            assert!(recent.len() <= capacity.max(2), "{capacity}");
            assert!(recent.len() >= capacity / 3, "{capacity}");
        }
    }

    /// However often what is there was asked for.
    #[test]
    fn the_newest_always_has_room() {
        let recent = Recent::new(2_000);
        for _ in 0..20 {
            for number in 0..2_000 {
                if recent.get(&key(number), NOW).is_none() {
                    recent.insert(key(number), (), NOW);
                }
            }
        }
        for number in 5_000..15_000 {
            recent.insert(key(number), (), NOW);
            assert!(recent.get(&key(number), NOW).is_some(), "{number}");
        }
    }

    #[cfg(feature = "redis")]
    #[test]
    fn what_nobody_uses_is_dropped_in_time() {
        let second = Duration::from_secs(1);
        let recent = Recent::new(100).age_max(second);
        for number in 0..40 {
            recent.insert(key(number), number, NOW);
        }
        for tenths in 1..30 {
            assert_eq!(recent.get(&key(7), second * tenths / 10), Some(7));
        }
        assert_eq!(recent.len(), 1);
        assert_eq!(recent.get_or_insert_with(&key(7), second * 9, || 9), 7);
        let _ = recent.get(&key(8), second * 10);
        assert_eq!(recent.get_or_insert_with(&key(7), second * 11, || 9), 9);
    }
}
