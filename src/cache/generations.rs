//! What was read before a revocation is told from what was read after it.

use std::{
    hash::{BuildHasher, Hash},
    sync::atomic::{AtomicU64, Ordering},
};

use hashbrown::DefaultHashBuilder;

const STRIPES: usize = 1_024;

/// The generations of all stripes at one time.
pub(crate) struct Snapshot(Box<[u64]>);

/// One counter a stripe of keys.
pub(super) struct Generations {
    stripes: Box<[AtomicU64]>,
    hasher: DefaultHashBuilder,
}

impl Generations {
    pub(super) fn new(hasher: DefaultHashBuilder) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(),
            hasher,
        }
    }

    pub(super) fn of<K: Hash>(&self, key: &K) -> u64 {
        self.stripe(key)
            .map_or(0, |stripe| stripe.load(Ordering::Acquire))
    }

    pub(super) fn bump<K: Hash>(&self, key: &K) {
        if let Some(stripe) = self.stripe(key) {
            stripe.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(super) fn bump_all(&self) {
        for stripe in &self.stripes {
            stripe.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// As all stripes stand now, for values that are about to be read.
    pub(super) fn snapshot(&self) -> Snapshot {
        let stripes = self.stripes.iter();
        Snapshot(
            stripes
                .map(|stripe| stripe.load(Ordering::Acquire))
                .collect(),
        )
    }

    /// As a key's stripe stood then.
    pub(super) fn of_then<K: Hash>(&self, key: &K, then: &Snapshot) -> Option<u64> {
        then.0.get(self.index(key)?).copied()
    }

    fn stripe<K: Hash>(&self, key: &K) -> Option<&AtomicU64> {
        self.stripes.get(self.index(key)?)
    }

    fn index<K: Hash>(&self, key: &K) -> Option<usize> {
        let stripes = u64::try_from(STRIPES).unwrap_or(u64::MAX);
        let index = self.hasher.hash_one(key).checked_rem(stripes)?;
        usize::try_from(index).ok()
    }
}
