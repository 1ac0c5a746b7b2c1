//! The values, and the generations that revoke them.
//!
//! Every key belongs to one of 1,024 stripes. A stripe has a generation, which separates what was
//! read before a revocation from what was read after it, and a table of pointers. A lookup touches
//! only the table and the value itself: with a million values, each further cache line costs a
//! tenth of a microsecond.

use std::{
    hash::{BuildHasher, Hash},
    sync::{
        RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};

use crate::sync::{read, write};

/// As many as [`STRIPE_BITS`] can address.
const STRIPES: usize = 1_024;
const STRIPE_BITS: u64 = 1_023;

/// A stripe's table uses the highest and the lowest bits of a hash, the choice of stripe some of
/// the middle ones.
const STRIPE_SHIFT: u32 = 40;

/// A cached value. Cloning must be cheap.
pub(crate) trait Remembered: Clone + Send + Sync + 'static {
    /// The type of its key.
    type Key: Hash + Eq + Clone + Send + Sync + 'static;

    /// The whole key, which is compared on every hit.
    fn key(&self) -> &Self::Key;

    /// The stamp that its load was given.
    fn stamp(&self) -> Stamp;
}

/// The stripe's generation and the time before a value was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(super) generation: u64,
    /// In nanoseconds, which takes half the size of a `Duration`.
    loaded_at: u64,
}

impl Stamp {
    pub(super) fn new(generation: u64, loaded_at: Duration) -> Self {
        Self {
            generation,
            loaded_at: u64::try_from(loaded_at.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn loaded_at(self) -> Duration {
        Duration::from_nanos(self.loaded_at)
    }
}

/// The generations of all stripes at one time.
pub(super) struct Snapshot(Box<[u64]>);

/// A key's stripe, and its position in it: the key's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u64);

impl Slot {
    /// Identifies a key when counting uses: in one of thirty million caches with a million keys,
    /// two keys collide.
    pub(super) fn hash(self) -> u64 {
        self.0
    }

    pub(super) fn of_hash(hash: u64) -> Self {
        Self(hash)
    }

    fn stripe(self) -> Option<usize> {
        usize::try_from((self.0 >> STRIPE_SHIFT) & STRIPE_BITS).ok()
    }
}

/// A striped hash table.
pub(super) struct Table<V> {
    stripes: Box<[Stripe<V>]>,
    hasher: DefaultHashBuilder,
}

/// Has its own cache line, with everything that a hit writes to.
#[repr(align(64))]
struct Stripe<V> {
    generation: AtomicU64,
    hits: AtomicU64,
    values: RwLock<HashTable<V>>,
}

impl<V> Stripe<V> {
    fn read(&self) -> RwLockReadGuard<'_, HashTable<V>> {
        read(&self.values)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashTable<V>> {
        write(&self.values)
    }
}

impl<V: Remembered> Table<V> {
    pub(super) fn new() -> Self {
        let stripe = |_| Stripe {
            generation: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            values: RwLock::new(HashTable::new()),
        };
        Self {
            stripes: (0..STRIPES).map(stripe).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    pub(super) fn slot(&self, key: &V::Key) -> Slot {
        Slot(self.hasher.hash_one(key))
    }

    pub(super) fn generation(&self, slot: Slot) -> u64 {
        self.stripe(slot)
            .map_or(0, |stripe| stripe.generation.load(Ordering::Acquire))
    }

    /// The value of `key`, of any generation.
    pub(super) fn find(&self, slot: Slot, key: &V::Key) -> Option<V> {
        let values = self.stripe(slot)?.read();
        values.find(slot.0, |value| value.key() == key).cloned()
    }

    /// Inserts a value, replacing any with the same key.
    pub(super) fn put(&self, slot: Slot, value: V) {
        let Some(stripe) = self.stripe(slot) else {
            return;
        };
        let mut values = stripe.write();
        let same = |other: &V| other.key() == value.key();
        let rehash = |other: &V| self.hasher.hash_one(other.key());
        let old = match values.entry(slot.0, same, rehash) {
            Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), value)),
            Entry::Vacant(entry) => {
                entry.insert(value);
                None
            }
        };
        // The old value is freed after the lock is released.
        drop(values);
        drop(old);
    }

    /// Removes the values with this hash: usually one, two if keys collide.
    pub(super) fn clear(&self, slot: Slot) {
        let Some(stripe) = self.stripe(slot) else {
            return;
        };
        let here = |value: &V| self.hasher.hash_one(value.key()) == slot.0;
        while let Some(gone) = {
            let mut values = stripe.write();
            values
                .find_entry(slot.0, here)
                .ok()
                .map(|entry| entry.remove().0)
        } {
            drop(gone);
        }
    }

    /// From now on, values of the stripe that were read earlier are not served.
    pub(super) fn bump(&self, slot: Slot) {
        if let Some(stripe) = self.stripe(slot) {
            stripe.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The same for all stripes.
    pub(super) fn bump_all(&self) {
        for stripe in &self.stripes {
            stripe.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The current generations of all stripes, for values that are about to be read.
    pub(super) fn snapshot(&self) -> Snapshot {
        let stripes = self.stripes.iter();
        Snapshot(
            stripes
                .map(|stripe| stripe.generation.load(Ordering::Acquire))
                .collect(),
        )
    }

    /// The generation of a key's stripe in a snapshot.
    pub(super) fn generation_at(slot: Slot, then: &Snapshot) -> Option<u64> {
        then.0.get(slot.stripe()?).copied()
    }

    /// Counts a hit, and returns the stripe's previous count.
    pub(super) fn count_hit(&self, slot: Slot) -> u64 {
        self.stripe(slot)
            .map_or(0, |stripe| stripe.hits.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn hits(&self) -> u64 {
        let stripes = self.stripes.iter();
        let hits = stripes.map(|stripe| stripe.hits.load(Ordering::Relaxed));
        hits.fold(0, u64::wrapping_add)
    }

    /// How many values there are.
    pub(super) fn len(&self) -> u64 {
        let lengths = self.stripes.iter().map(|stripe| stripe.read().len());
        let sum = lengths.fold(0, usize::saturating_add);
        u64::try_from(sum).unwrap_or(u64::MAX)
    }

    fn stripe(&self, slot: Slot) -> Option<&Stripe<V>> {
        self.stripes.get(slot.stripe()?)
    }
}
