//! Remembers the verified tokens that were seen of late.
//!
//! Two halves a shard: a token goes into the young one; when that is full it becomes the old one, and the old
//! one's tokens are forgotten unless they were asked for since. That keeps what is in use, within a bound, at less than
//! half of what moka asks for an insertion (1.9 µs here, more than the verification it would save). moka's
//! frequency sketch guards against floods; there are none here, since only tokens with a good signature come in.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hashbrown::HashMap;

use super::VerifiedToken;

const SHARDS: usize = 64;

/// The SHA-256 of a whole token.
pub(super) type Digest = [u8; 32];

pub(super) struct Memo<V = VerifiedToken> {
    shards: Box<[Mutex<Shard<V>>]>,
    /// How many tokens one half of a shard holds.
    half: usize,
}

struct Shard<V> {
    young: HashMap<Digest, Arc<V>>,
    old: HashMap<Digest, Arc<V>>,
}

impl<V> Default for Shard<V> {
    fn default() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

impl<V> Memo<V> {
    /// Holds at most `capacity` tokens, but at least two.
    pub(super) fn new(capacity: usize) -> Self {
        // Few tokens in one shard, so that the bound is as stated whichever shards they would fall into.
        let shards = if capacity < SHARDS.saturating_mul(16) {
            1
        } else {
            SHARDS
        };
        let half = capacity.checked_div(shards).unwrap_or(0) / 2;
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            half: half.max(1),
        }
    }

    pub(super) fn recall(&self, digest: &Digest) -> Option<Arc<V>> {
        let mut shard = self.shard(digest)?;
        if let Some(token) = shard.young.get(digest) {
            return Some(Arc::clone(token));
        }
        let token = shard.old.remove(digest)?;
        let forgotten = shard.insert(*digest, Arc::clone(&token), self.half);
        drop(shard);
        drop(forgotten);
        Some(token)
    }

    pub(super) fn remember(&self, digest: Digest, token: Arc<V>) {
        let Some(mut shard) = self.shard(&digest) else {
            return;
        };
        let forgotten = shard.insert(digest, token, self.half);
        // In this order: hundreds of tokens are not dropped while others wait.
        drop(shard);
        drop(forgotten);
    }

    pub(super) fn forget(&self, digest: &Digest) {
        if let Some(mut shard) = self.shard(digest) {
            shard.young.remove(digest);
            shard.old.remove(digest);
        }
    }

    fn shard(&self, digest: &Digest) -> Option<MutexGuard<'_, Shard<V>>> {
        let [first, ..] = *digest;
        let index = usize::from(first).checked_rem(self.shards.len())?;
        let shard = self.shards.get(index)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<V> Shard<V> {
    /// Returns what is forgotten for it.
    fn insert(&mut self, digest: Digest, token: Arc<V>, half: usize) -> HashMap<Digest, Arc<V>> {
        let forgotten = if self.young.len() >= half {
            let full = mem::replace(&mut self.young, HashMap::with_capacity(half));
            mem::replace(&mut self.old, full)
        } else {
            HashMap::new()
        };
        self.young.insert(digest, token);
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::clock::Timestamp;

    fn token() -> Arc<VerifiedToken> {
        Arc::new(VerifiedToken {
            subject: "me".into(),
            session: None,
            id: None,
            issued_at: None,
            not_before: None,
            expires_at: Timestamp::MAX,
            roles: Box::default(),
            grant: None,
            kept: BTreeMap::new(),
            keys: 0,
            principal: Default::default(),
        })
    }

    fn digest(number: u32) -> Digest {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&number.to_le_bytes());
        digest
    }

    fn held(memo: &Memo) -> usize {
        let count = |shard: &Mutex<Shard<VerifiedToken>>| {
            let shard = shard.lock().unwrap();
            [shard.young.len(), shard.old.len()]
        };
        memo.shards.iter().flat_map(count).sum()
    }

    #[test]
    fn what_is_in_use_stays_and_the_rest_goes() {
        let memo = Memo::new(100);
        memo.remember(digest(0), token());
        for number in 1..10_000 {
            memo.remember(digest(number), token());
            assert!(memo.recall(&digest(0)).is_some());
            assert!(held(&memo) <= 100);
        }
        assert!(memo.recall(&digest(9_999)).is_some());
        assert!(memo.recall(&digest(1)).is_none());
        memo.forget(&digest(0));
        assert!(memo.recall(&digest(0)).is_none());
    }

    #[test]
    fn every_bound_holds() {
        for capacity in [1, 2, 3, 1_023, 1_024, 50_000] {
            let memo = Memo::new(capacity);
            for number in 0..60_000 {
                memo.remember(digest(number), token());
            }
            assert!(held(&memo) <= capacity.max(2), "{capacity}");
            assert!(held(&memo) >= capacity / 3, "{capacity}");
        }
    }
}
