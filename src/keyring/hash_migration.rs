//! Finding keys that are stored under another scheme than the current one, and migrating them.
//!
//! In memory a key is cached under its current digest whatever it is stored by, so that a warm key
//! costs one hash. A change notification carries the stored digest; [`Aliases`] map that to the one
//! in memory. They cover every digest that another process may migrate the key to meanwhile,
//! because migrations are not announced.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard},
};

use hashbrown::HashMap;
use smallvec::SmallVec;
use tokio::{sync::Semaphore, time::timeout};
use zeroize::Zeroizing;

use super::{forms::Form, hashing::Other, resolver::Inner};
use crate::{
    domain::{
        KeyId,
        clock::{Clock, SystemClock},
        key::{KeyDigest, KeyProof, KeyRecord, Rehash},
    },
    login::PasswordCheck,
    repeats::{LogLine, Repeats},
    store::{StoreError, StoreErrorKind},
    sync::lock,
};

/// The capacity for aliases, unless more keys than that are cached.
const ALIASES: usize = 100_000;
/// How often a chosen secret is compared with a key that is being replaced concurrently.
const COMPARISONS_MAX: u32 = 2;
/// How many keys are migrated at a time, and how many of them by Argon2id: its queue is for
/// requests waiting to be admitted.
const UPGRADES_MAX: usize = 64;
const SLOW_UPGRADES_MAX: usize = 1;

/// Stored digest → digest in memory.
pub(super) struct Aliases {
    digests: Mutex<HashMap<KeyDigest, KeyDigest>>,
    most: usize,
}

impl Aliases {
    /// Aliases for a cache of this many keys: with a smaller capacity, all would be forgotten again
    /// and again.
    pub(super) fn new(keys: u64) -> Self {
        Self {
            digests: Mutex::default(),
            most: usize::try_from(keys).unwrap_or(usize::MAX).max(ALIASES),
        }
    }

    /// Returns whether there was room; if not, all other aliases were dropped.
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
        lock(&self.digests)
    }
}

/// The permits for migrations.
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
    /// Looks a key up by the current scheme, and then by those that it may still be stored under.
    /// `clear` is given if there are any.
    pub(super) async fn find(
        &self,
        digest: &KeyDigest,
        clear: Option<&str>,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let Some(clear) = clear else {
            return Ok(self.store.find(digest).await?.filter(is_of_whole_key));
        };
        let others = self.hashing.others(clear);
        if let Some(record) = self.find_current(digest, &others).await? {
            return Ok(Some(record));
        }
        let may_be: SmallVec<[KeyDigest; 4]> = others.iter().map(|other| other.digest).collect();
        for other in &others {
            let found = self.find_as(&other.digest, digest, &may_be).await?;
            if let Some(record) = found.filter(is_of_whole_key) {
                if other.is_outdated {
                    self.migrate(&record, *digest);
                }
                return Ok(Some(record));
            }
        }
        if self.forms.of(clear) == Form::Chosen
            && let Some(record) = self.find_weak(clear, digest).await?
        {
            return Ok(Some(record));
        }
        // Another process may have migrated it between the first look-up and the others.
        self.find_current(digest, &others).await
    }

    /// Looks up by the current scheme. A process that is a step ahead may migrate the key to one of
    /// the next.
    async fn find_current(
        &self,
        digest: &KeyDigest,
        others: &[Other],
    ) -> Result<Option<KeyRecord>, StoreError> {
        let next = others.iter().filter(|other| !other.is_outdated);
        let may_be: SmallVec<[KeyDigest; 4]> = next.map(|other| other.digest).collect();
        let found = self.find_as(digest, digest, &may_be).await?;
        Ok(found.filter(is_of_whole_key))
    }

    /// Looks up twice if the key may be stored by another digest than it is cached under: a
    /// revocation before the alias was added is seen by the second look-up, and one after that is
    /// announced and follows the alias.
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
                // Without their aliases, cached keys could not be invalidated.
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
        // The waits add up to less than the deadline, so that a long wait for a permit isn't
        // mistaken for a store that doesn't answer.
        let mut wait = self.deadline;
        for _ in 0..COMPARISONS_MAX {
            wait = wait.checked_div(2).unwrap_or_default();
            // Takes as long for an unknown start as for a wrong secret.
            let proof = compared.as_ref().map(|record| &record.proof);
            let check = self.hashing.compare(clear, proof, wait).await?;
            if check == PasswordCheck::Mismatch {
                return Ok(None);
            }
            // Only now, because many wrong secrets share the start, and the alias belongs to the
            // right one.
            let found = self.find_as(&start, digest, &[start]).await?;
            // The comparison proves only the key that it was made with, not one that has replaced
            // it since.
            if let (Some(record), Some(compared)) = (&found, &compared)
                && (&record.id, &record.proof) == (&compared.id, &compared.proof)
            {
                if check == PasswordCheck::MatchToRehash {
                    self.rehash_weak(record, clear);
                }
                return Ok(found);
            }
            compared = found;
        }
        let text = "a key was replaced each time that it was compared";
        Err(StoreError::new(StoreErrorKind::Busy, text))
    }

    /// Migrates the key to its current digest.
    fn migrate(&self, record: &KeyRecord, digest: KeyDigest) {
        let stored = (digest, self.hashing.proof());
        self.upgrade(
            &self.upgrades.quick,
            record,
            async move { Ok(Some(stored)) },
        );
    }

    /// Rehashes the key by Argon2id with the current parameters.
    fn rehash_weak(&self, record: &KeyRecord, clear: &str) {
        let (hashing, clear) = (self.hashing.clone(), Zeroizing::new(clear.to_owned()));
        self.upgrade(&self.upgrades.slow, record, async move {
            hashing.hash_weak(&clear).await
        });
    }

    /// Runs in the background. If it can't run now, the key stays valid, and it is tried again the
    /// next time that the key is loaded.
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
                Ok(Err(error)) => log_failure(&name, &error),
                Err(_) => {
                    let text = "the store did not answer in time";
                    log_failure(&name, &StoreError::new(StoreErrorKind::Unavailable, text));
                }
            }
        });
    }
}

fn log_failure(key: &KeyId, error: &StoreError) {
    static FAILURES: Repeats = Repeats::new();
    if let Some(LogLine { left_out }) = FAILURES.failed(error, SystemClock.elapsed()) {
        let key = key.as_str();
        tracing::warn!(target: "tollgate", key, %error, left_out, "could not migrate a key to the current hash");
    }
}

/// Whether the record was found by a digest of the whole key. A digest of only its start proves
/// nothing.
fn is_of_whole_key(record: &KeyRecord) -> bool {
    !matches!(record.proof, KeyProof::Argon2id { .. })
}
