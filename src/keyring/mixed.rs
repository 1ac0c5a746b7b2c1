//! Finding keys that are stored under another scheme than today's, and bringing them up to it.
//!
//! In memory a key is known by today's digest whatever the store knows it by, so that a warm key costs one hash. A change
//! of the stored key is told by the stored digest; [`Aliases`] lead from that to what is in memory. They lead from all digests
//! that another process may store the key by meanwhile, since nobody tells of that.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hashbrown::HashMap;
use smallvec::SmallVec;
use tokio::{sync::Semaphore, time::timeout};
use zeroize::Zeroizing;

use super::{forms::Form, hashing::Other, resolver::Inner};
use crate::{
    domain::key::{KeyDigest, KeyProof, KeyRecord, Rehash},
    login::PasswordCheck,
    store::{StoreError, StoreErrorKind},
};

/// How many aliases there are at a time, if no more keys than that are remembered.
const ALIASES: usize = 100_000;
/// How often a chosen secret is compared with a key that others replace meanwhile.
const COMPARISONS_MAX: u32 = 2;
/// How many keys are stored anew at a time, and how many of them hashed by Argon2id: the line is for those who are to be let in.
const UPGRADES_MAX: usize = 64;
const SLOW_UPGRADES_MAX: usize = 1;

/// Stored digest → digest in memory.
pub(super) struct Aliases {
    digests: Mutex<HashMap<KeyDigest, KeyDigest>>,
    most: usize,
}

impl Aliases {
    /// For so many keys in memory: with fewer aliases than that, all would be forgotten time and again.
    pub(super) fn new(keys: u64) -> Self {
        Self {
            digests: Mutex::default(),
            most: usize::try_from(keys).unwrap_or(usize::MAX).max(ALIASES),
        }
    }

    /// Whether there is room; if not, there are none any more.
    fn add(&self, stored: KeyDigest, known_by: KeyDigest) -> bool {
        let mut aliases = self.locked();
        let full = aliases.len() >= self.most && !aliases.contains_key(&stored);
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
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns of those that are stored anew.
pub(super) struct Upgrades {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

impl Default for Upgrades {
    fn default() -> Self {
        Self {
            quick: Arc::new(Semaphore::new(UPGRADES_MAX)),
            slow: Arc::new(Semaphore::new(SLOW_UPGRADES_MAX)),
        }
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
        let Some(clear) = clear else {
            return Ok(self.store.find(digest).await?.filter(is_of_whole_key));
        };
        let others = self.hashing.others(clear);
        if let Some(record) = self.find_today(digest, &others).await? {
            return Ok(Some(record));
        }
        let may_be: SmallVec<[KeyDigest; 4]> = others.iter().map(|other| other.digest).collect();
        for other in &others {
            let found = self.find_as(&other.digest, digest, &may_be).await?;
            if let Some(record) = found.filter(is_of_whole_key) {
                if other.is_outdated {
                    self.store_anew(&record, *digest);
                }
                return Ok(Some(record));
            }
        }
        if self.forms.of(clear) == Form::Chosen
            && let Some(record) = self.find_weak(clear, digest).await?
        {
            return Ok(Some(record));
        }
        // Somebody may have upgraded it between the first look and the others.
        self.find_today(digest, &others).await
    }

    /// By today's scheme. A process that is a step further may store it anew by one of tomorrow's.
    async fn find_today(
        &self,
        digest: &KeyDigest,
        others: &[Other],
    ) -> Result<Option<KeyRecord>, StoreError> {
        let next = others.iter().filter(|other| !other.is_outdated);
        let may_be: SmallVec<[KeyDigest; 4]> = next.map(|other| other.digest).collect();
        let found = self.find_as(digest, digest, &may_be).await?;
        Ok(found.filter(is_of_whole_key))
    }

    /// Twice, where it may be stored by another digest than it is known by: what was revoked before there was an alias is seen by
    /// the second look, what is revoked after is told by it.
    async fn find_as(
        &self,
        stored: &KeyDigest,
        known_by: &KeyDigest,
        may_be: &[KeyDigest],
    ) -> Result<Option<KeyRecord>, StoreError> {
        let found = self.store.find(stored).await?;
        if found.is_none() || may_be.is_empty() {
            return Ok(found);
        }
        for other in may_be {
            if !self.aliases.add(*other, *known_by) {
                // Without their aliases, what is in memory could not be taken back.
                self.cache.invalidate_all();
            }
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
        let mut compared = self.store.find(&start).await?;
        // Of all of them less than the deadline: so a long wait for a turn isn't taken for a store that doesn't answer.
        let mut wait = self.deadline;
        for _ in 0..COMPARISONS_MAX {
            wait = wait.checked_div(2).unwrap_or_default();
            // An unknown start takes as long as a wrong secret.
            let proof = compared.as_ref().map(|record| &record.proof);
            let check = self.hashing.compare(clear, proof, wait).await?;
            if check == PasswordCheck::Mismatch {
                return Ok(None);
            }
            // Only now: many wrong secrets share the start, and the alias is the right one's.
            let found = self.find_as(&start, digest, &[start]).await?;
            // A secret proves the key that it was compared with, and no other that has its place since.
            if let (Some(record), Some(compared)) = (&found, &compared)
                && (&record.id, &record.proof) == (&compared.id, &compared.proof)
            {
                if check == PasswordCheck::MatchToRehash {
                    self.hash_anew(record, clear);
                }
                return Ok(found);
            }
            compared = found;
        }
        let text = "a key was replaced each time that it was compared";
        Err(StoreError::new(StoreErrorKind::Busy, text))
    }

    /// By today's digest.
    fn store_anew(&self, record: &KeyRecord, digest: KeyDigest) {
        let stored = (digest, self.hashing.proof());
        self.upgrade(
            &self.upgrades.quick,
            record,
            async move { Ok(Some(stored)) },
        );
    }

    /// By Argon2id with the parameters of today.
    fn hash_anew(&self, record: &KeyRecord, clear: &str) {
        let (hashing, clear) = (self.hashing.clone(), Zeroizing::new(clear.to_owned()));
        self.upgrade(&self.upgrades.slow, record, async move {
            hashing.hash_weak(&clear).await
        });
    }

    /// Beside the request. Where it can't be now, the key is as good as before, and is tried again the next time that it is read.
    fn upgrade(
        &self,
        turns: &Arc<Semaphore>,
        record: &KeyRecord,
        stored: impl Future<Output = Result<Option<(KeyDigest, KeyProof)>, StoreError>> + Send + 'static,
    ) {
        let Ok(turn) = Arc::clone(turns).try_acquire_owned() else {
            return;
        };
        let (id, from, from_proof) = (record.id.clone(), record.digest, record.proof.clone());
        let (store, deadline) = (Arc::clone(&self.store), self.deadline);
        tokio::spawn(async move {
            let _turn = turn;
            let name = id.clone();
            let work = async move {
                let Some((digest, proof)) = stored.await? else {
                    return Ok(false);
                };
                let change = Rehash {
                    id,
                    from,
                    from_proof,
                    digest,
                    proof,
                };
                store.rehash(change).await
            };
            match timeout(deadline, work).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == StoreErrorKind::Busy => {}
                Ok(Err(error)) => {
                    tracing::warn!(target: "tollgate", key = name.as_str(), %error, "a key keeps its old hash");
                }
                Err(_) => {
                    tracing::warn!(target: "tollgate", key = name.as_str(), "the store took too long to keep a key under another hash");
                }
            }
        });
    }
}

/// A whole key is found by a digest of all of it. Of one whose digest is of its start alone, the digest proves nothing.
fn is_of_whole_key(record: &KeyRecord) -> bool {
    !matches!(record.proof, KeyProof::Argon2id { .. })
}
