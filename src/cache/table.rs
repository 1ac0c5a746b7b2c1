//! Where values stand, and from when on they are no longer served.
//!
//! Every key belongs to one of 1,024 stripes. A stripe has a generation, which tells what was read before a revocation from
//! what was read after it, and a table of pointers. A look costs the table and the value itself: with a million values
//! each line of memory that is touched more is a tenth of a microsecond.

use std::{
    hash::{BuildHasher, Hash},
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};

/// As many as [`STRIPE_BITS`] tell apart.
const STRIPES: usize = 1_024;
const STRIPE_BITS: u64 = 1_023;

/// The tables of the stripes take the highest and the lowest bits of a hash, the stripe some of between.
const STRIPE_SHIFT: u32 = 40;

/// What is remembered of a key. A clone is a reference count.
pub(crate) trait Remembered: Clone + Send + Sync + 'static {
    /// What it is remembered under.
    type Key: Hash + Eq + Clone + Send + Sync + 'static;

    /// The whole key, which is compared on every hit.
    fn key(&self) -> &Self::Key;

    /// The stamp that its load was given.
    fn stamp(&self) -> Stamp;
}

/// How its stripe and the clock stood before something was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(super) generation: u64,
    /// In nanoseconds: half the size of a duration.
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

/// Which stripe a key belongs to, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Place {
    /// The name of a key for who keeps count of uses: two of a million keys share one in thirty million such caches.
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

/// In a cache line of its own, with all that a hit writes to.
#[repr(align(64))]
struct Stripe<V> {
    generation: AtomicU64,
    hits: AtomicU64,
    values: RwLock<HashTable<V>>,
}

impl<V> Stripe<V> {
    fn read(&self) -> RwLockReadGuard<'_, HashTable<V>> {
        self.values.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashTable<V>> {
        self.values.write().unwrap_or_else(PoisonError::into_inner)
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

    pub(super) fn place(&self, key: &V::Key) -> Place {
        Place(self.hasher.hash_one(key))
    }

    pub(super) fn generation(&self, place: Place) -> u64 {
        self.stripe(place)
            .map_or(0, |stripe| stripe.generation.load(Ordering::Acquire))
    }

    /// What stands there, of whatever generation.
    pub(super) fn find(&self, place: Place, key: &V::Key) -> Option<V> {
        let values = self.stripe(place)?.read();
        values.find(place.0, |value| value.key() == key).cloned()
    }

    /// Puts a value in the place of the one with its key.
    pub(super) fn put(&self, place: Place, value: V) {
        let Some(stripe) = self.stripe(place) else {
            return;
        };
        let mut values = stripe.write();
        let same = |other: &V| other.key() == value.key();
        let rehash = |other: &V| self.hasher.hash_one(other.key());
        let old = match values.entry(place.0, same, rehash) {
            Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), value)),
            Entry::Vacant(entry) => {
                entry.insert(value);
                None
            }
        };
        // What goes is freed when nobody waits for it.
        drop(values);
        drop(old);
    }

    /// Takes away whatever stands there: usually one, two where keys share a hash.
    pub(super) fn clear(&self, place: Place) {
        let Some(stripe) = self.stripe(place) else {
            return;
        };
        let here = |value: &V| self.hasher.hash_one(value.key()) == place.0;
        while let Some(gone) = {
            let mut values = stripe.write();
            values
                .find_entry(place.0, here)
                .ok()
                .map(|entry| entry.remove().0)
        } {
            drop(gone);
        }
    }

    /// From now on nothing is served that was read of the stripe before.
    pub(super) fn bump(&self, place: Place) {
        if let Some(stripe) = self.stripe(place) {
            stripe.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The same of all stripes.
    pub(super) fn bump_all(&self) {
        for stripe in &self.stripes {
            stripe.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// As all stripes stand now, for values that are about to be read.
    pub(super) fn snapshot(&self) -> Snapshot {
        let stripes = self.stripes.iter();
        Snapshot(
            stripes
                .map(|stripe| stripe.generation.load(Ordering::Acquire))
                .collect(),
        )
    }

    /// As a place's stripe stood then.
    pub(super) fn generation_then(place: Place, then: &Snapshot) -> Option<u64> {
        then.0.get(place.stripe()?).copied()
    }

    /// Counts a hit, and says how many of the stripe there were before it.
    pub(super) fn count_hit(&self, place: Place) -> u64 {
        self.stripe(place)
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

    fn stripe(&self, place: Place) -> Option<&Stripe<V>> {
        self.stripes.get(place.stripe()?)
    }
}
