//! Finding keys that are stored under another scheme than today's, and bringing them up to it.
//!
//! In memory a key is known by today's digest whatever the store knows it by, so that a warm key costs one hash. A change
//! of the stored key is told by the stored digest; [`Aliases`] lead from that to what is in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

use super::resolver::Inner;
use crate::{
    domain::key::{KeyDigest, KeyProof, KeyRecord, Rehash},
    login::PasswordCheck,
    store::{StoreError, StoreFuture},
};

/// The most keys of other schemes that are in memory at a time.
const ALIASES_MAX: usize = 100_000;

/// Stored digest → digest in memory.
#[derive(Default)]
pub(super) struct Aliases(Mutex<HashMap<KeyDigest, KeyDigest>>);

impl Aliases {
    /// Whether there is room; if not, there are none any more.
    fn add(&self, stored: KeyDigest, known_by: KeyDigest) -> bool {
        let mut aliases = self.locked();
        let full = aliases.len() >= ALIASES_MAX && !aliases.contains_key(&stored);
        if full {
            aliases.clear();
        }
        aliases.insert(stored, known_by);
        !full
    }

    pub(super) fn remove(&self, stored: &KeyDigest) -> Option<KeyDigest> {
        self.locked().remove(stored)
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<KeyDigest, KeyDigest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Asks the store for a key under today's scheme, and then under those that it may still be stored by. `clear` is
    /// there when there are any.
    pub(super) async fn find(
        &self,
        digest: &KeyDigest,
        clear: Option<&str>,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let found = self.store.find(digest).await?;
        let (None, Some(clear)) = (&found, clear) else {
            return Ok(found);
        };
        for other in self.hashing.others(clear) {
            if let Some(record) = self.find_as(&other.digest, digest).await?
                && !matches!(record.proof, KeyProof::Argon2id { .. })
            {
                if other.is_outdated {
                    self.upgrade(&record, *digest, self.hashing.proof());
                }
                return Ok(Some(record));
            }
        }
        if self.is_weak(clear)
            && let Some(record) = self.find_weak(clear, digest).await?
        {
            return Ok(Some(record));
        }
        // Somebody may have upgraded it between the first look and the others.
        self.store.find(digest).await
    }

    /// Twice: what was revoked before there was an alias is seen by the second look, what is revoked after is told by it.
    async fn find_as(
        &self,
        stored: &KeyDigest,
        known_by: &KeyDigest,
    ) -> Result<Option<KeyRecord>, StoreError> {
        if self.store.find(stored).await?.is_none() {
            return Ok(None);
        }
        if !self.aliases.add(*stored, *known_by) {
            // Without their aliases, what is in memory could not be taken back.
            self.cache.invalidate_all();
        }
        self.store.find(stored).await
    }

    async fn find_weak(
        &self,
        clear: &str,
        digest: &KeyDigest,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let Some(start) = self.hashing.start(clear) else {
            return Ok(None);
        };
        let stored = self.store.find(&start).await?;
        // An unknown start takes as long as a wrong secret.
        let proof = stored.as_ref().map(|record| &record.proof);
        // Half of the deadline: so a long wait for a turn isn't taken for a store that doesn't answer.
        let wait = self.deadline.checked_div(2).unwrap_or_default();
        let check = self.hashing.compare(clear, proof, wait).await?;
        if check == PasswordCheck::Mismatch {
            return Ok(None);
        }
        // Only now: many wrong secrets share the start, and the alias is the right one's.
        let found = self.find_as(&start, digest).await?;
        if check == PasswordCheck::MatchToRehash
            && let Some(record) = &found
            && let Some((start, proof)) = self.hashing.hash_weak(clear).await?
        {
            self.upgrade(record, start, proof);
        }
        Ok(found)
    }

    /// A text of a known format is no secret that somebody chose.
    pub(super) fn is_weak(&self, clear: &str) -> bool {
        self.hashing.takes_weak() && !self.has_form(clear)
    }

    /// Beside the request: a store that can't is asked again the next time.
    fn upgrade(&self, record: &KeyRecord, digest: KeyDigest, proof: KeyProof) {
        let rehash = Rehash {
            id: record.id.clone(),
            from: record.digest,
            digest,
            proof,
        };
        let (id, store) = (record.id.clone(), Arc::clone(&self.store));
        tokio::spawn(async move {
            let upgraded: StoreFuture<bool> = store.rehash(rehash);
            if let Err(error) = upgraded.await {
                tracing::warn!(target: "tollgate", key = id.as_str(), %error, "a key keeps its old hash");
            }
        });
    }
}
