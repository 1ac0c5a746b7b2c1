//! The trait of every key store.

use std::{fmt, sync::Arc};

use super::{KeyId, Page, Paged, StoreError, StoreErrorKind, StoreFuture};
use crate::domain::{
    clock::Timestamp,
    key::{
        KeyDigest, KeyRecord, KeyUpdate, KeysPerOwner, NoRoom, Rehash, RevokedKey, Rotation,
        RotationOutcome,
    },
};

/// Looks up keys: all that authentication needs, and all that a custom store must implement.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::{clock::Timestamp, key::{KeyDigest, KeyRecord}, keyring::KeyResolver};
/// use tollgate::store::{BudgetId, KeyId, KeyLookup, StoreFuture};
///
/// /// A partner's service that knows the keys.
/// #[derive(Debug)]
/// struct Partner;
///
/// impl KeyLookup for Partner {
///     fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
///         let digest = *digest;
///         StoreFuture::new(async move {
///             // Ask the service here, for example over the network; a failure is a `StoreError`.
///             let known = digest == KeyDigest::of("a-key-of-the-partner");
///             let (id, lineage) = (KeyId::new("partner-1"), BudgetId::new("partner-1"));
///             Ok(id.ok().zip(lineage.ok()).filter(|_| known).map(|(id, lineage)| {
///                 KeyRecord::new(id, lineage, digest, "partner", Timestamp::UNIX_EPOCH)
///             }))
///         })
///     }
/// }
///
/// let keys = KeyResolver::builder(Partner).build();
/// let found = keys.find("a-key-of-the-partner").await?;
/// assert_eq!(found.principal().subject(), "partner");
/// # Ok(()) }
/// ```
pub trait KeyLookup: fmt::Debug + Send + Sync + 'static {
    /// The key with that digest, whatever its state; `None` if there is none. Callers check for
    /// expiry and revocation.
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>>;

    /// Records that a key was used. It may be written later or, under load, not at all; it must not
    /// block, nor change any other column. The latest time wins, whatever the order of calls.
    fn touch(&self, id: &KeyId, at: Timestamp) {
        let _ = (id, at);
    }

    /// Completes when every use recorded before is written, or lost for good: for an orderly
    /// shutdown. A store that writes immediately has nothing to wait for.
    fn flush_touches(&self) -> StoreFuture<()> {
        StoreFuture::ready(Ok(()))
    }

    /// Stores a key under a new digest and a new proof, if it still has the given old ones
    /// ([`KeyRecord::rehash`]); returns whether it did, in one step. Nothing else of the key
    /// changes. A store without this feature leaves keys as they are, and finds them by the old
    /// digest.
    ///
    /// Fails with `Conflict` when the new digest belongs to another key.
    fn rehash(&self, change: Rehash) -> StoreFuture<bool> {
        let _ = change;
        StoreFuture::ready(Ok(false))
    }

    /// Keys that are neither expired nor revoked nor disabled, at most `limit`, most recently used
    /// first: what [`warm_up`](crate::keyring::KeyResolver::warm_up) reads at startup. Empty if a
    /// store has no such list.
    fn recently_used(&self, limit: u16) -> StoreFuture<Vec<KeyRecord>> {
        let _ = limit;
        StoreFuture::ready(Ok(Vec::new()))
    }

    /// Looks in `next` for keys that aren't here. The first store that knows a key wins, even when
    /// it says that the key is revoked; a store that fails ends the search, since its answer is
    /// unknown.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{key::KeyDigest, store::{FileKeyStore, KeyLookup, StaticKeys}};
    ///
    /// let fallback = StaticKeys::new().add_key("ci", "a-key-for-the-ci-server", ["client"])?;
    /// let keys = FileKeyStore::new("does/not/exist.json").or(fallback);
    /// assert!(keys.find(&KeyDigest::of("a-key-for-the-ci-server")).await?.is_some());
    /// # Ok(()) }
    /// ```
    #[must_use]
    fn or<N: KeyLookup>(self, next: N) -> OrKeys<Self, N>
    where
        Self: Sized,
    {
        OrKeys {
            first: Arc::new(self),
            next: Arc::new(next),
        }
    }
}

/// One store of keys, then another: [`KeyLookup::or`].
pub struct OrKeys<A, B> {
    first: Arc<A>,
    next: Arc<B>,
}

impl<A: KeyLookup, B: KeyLookup> KeyLookup for OrKeys<A, B> {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        match self.first.find(digest).into_ready() {
            Ok(Ok(None)) => self.next.find(digest),
            Ok(answer) => StoreFuture::ready(answer),
            Err(pending) => {
                let (next, digest) = (Arc::clone(&self.next), *digest);
                StoreFuture::new(async move {
                    match pending.await? {
                        None => next.find(&digest).await,
                        found => Ok(found),
                    }
                })
            }
        }
    }

    fn rehash(&self, change: Rehash) -> StoreFuture<bool> {
        let (first, next) = (Arc::clone(&self.first), Arc::clone(&self.next));
        StoreFuture::new(async move {
            if first.rehash(change.clone()).await? {
                return Ok(true);
            }
            next.rehash(change).await
        })
    }

    /// Only the first store's: a key of the second may also be in the first.
    fn recently_used(&self, limit: u16) -> StoreFuture<Vec<KeyRecord>> {
        self.first.recently_used(limit)
    }

    /// Both get it; the one without the key ignores it.
    fn touch(&self, id: &KeyId, at: Timestamp) {
        self.first.touch(id, at);
        self.next.touch(id, at);
    }

    fn flush_touches(&self) -> StoreFuture<()> {
        let (first, next) = (self.first.flush_touches(), self.next.flush_touches());
        StoreFuture::new(async move { first.await.and(next.await) })
    }
}

impl<A, B> Clone for OrKeys<A, B> {
    fn clone(&self) -> Self {
        Self {
            first: Arc::clone(&self.first),
            next: Arc::clone(&self.next),
        }
    }
}

impl<A: fmt::Debug, B: fmt::Debug> fmt::Debug for OrKeys<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OrKeys")
            .field(&self.first)
            .field(&self.next)
            .finish()
    }
}

/// Keeps keys.
///
/// Each change is one step: whatever else happens at the same time, in this or other processes, it
/// happens completely or not at all, and is durable when it is answered. The decisions within it
/// are the domain's, named at each method. `tollgate::conformance` (feature `test-util`) has a
/// complete store made of these, and the laws that it obeys.
pub trait KeyStore: KeyLookup {
    /// Stores a new key if its owner may have another one at the time of its creation
    /// ([`KeysPerOwner::admit`], which also says which key is deleted for it); `None` means no
    /// limit. Concurrent calls never exceed the limit.
    ///
    /// Fails with `Conflict` when the id or the digest is taken, with `Full` when the owner has
    /// reached the limit.
    fn insert(&self, record: KeyRecord, bounds: Option<KeysPerOwner>) -> StoreFuture<()>;

    /// In one step, stores a new key with all current settings of the old one, and ends the old one
    /// at the end of the overlap or at its own expiry, whichever is earlier
    /// ([`KeyRecord::rotate`]). Of several rotations of one key the first one counts. If the owner
    /// is at the limit of stored keys, the oldest one that has ended is deleted in the same step
    /// ([`KeysPerOwner::make_room`]).
    ///
    /// Fails with `Conflict` when the id or the digest is taken, with `Full` when the owner is at
    /// the limit of stored keys and none has ended.
    fn rotate(
        &self,
        rotation: Rotation,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<RotationOutcome>;

    /// One key of one owner; another owner's key is `None`, like one that doesn't exist.
    fn get(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>>;

    /// The keys of one owner, newest first.
    fn list(&self, owner: &str, page: Page) -> StoreFuture<Paged<KeyRecord>>;

    /// The keys of all owners, newest first.
    fn list_all(&self, page: Page) -> StoreFuture<Paged<KeyRecord>>;

    /// Changes columns of one key of one owner ([`KeyRecord::apply`]) and returns it as stored;
    /// `None` if there is none.
    ///
    /// Fails with `Full` when an expired or disabled key would become [valid
    /// again](KeyRecord::comes_back) and its owner has reached the limit of valid keys
    /// ([`KeysPerOwner::admit_again`]); `None` means no limit. Fails with `Conflict` when the key's
    /// settings at the time of the change differ from those that were [seen](KeyUpdate::seen).
    fn update(
        &self,
        owner: &str,
        id: &KeyId,
        change: KeyUpdate,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<Option<KeyRecord>>;

    /// Ends all keys of an owner that have not been revoked before, including expired and disabled
    /// ones, in one step
    /// ([`KeyRecord::revoke`]), and returns them. Successors from concurrent rotations end too.
    fn revoke_all(&self, owner: &str, at: Timestamp) -> StoreFuture<Vec<RevokedKey>>;

    /// Deletes one key of one owner and returns what it was; `None` if there was none.
    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>>;
}

impl<T: KeyLookup + ?Sized> KeyLookup for Arc<T> {
    fn rehash(&self, change: Rehash) -> StoreFuture<bool> {
        T::rehash(self, change)
    }

    fn recently_used(&self, limit: u16) -> StoreFuture<Vec<KeyRecord>> {
        T::recently_used(self, limit)
    }

    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        T::find(self, digest)
    }

    fn touch(&self, id: &KeyId, at: Timestamp) {
        T::touch(self, id, at);
    }

    fn flush_touches(&self) -> StoreFuture<()> {
        T::flush_touches(self)
    }
}

impl<T: KeyStore + ?Sized> KeyStore for Arc<T> {
    fn insert(&self, record: KeyRecord, bounds: Option<KeysPerOwner>) -> StoreFuture<()> {
        T::insert(self, record, bounds)
    }

    fn rotate(
        &self,
        rotation: Rotation,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<RotationOutcome> {
        T::rotate(self, rotation, bounds)
    }

    fn get(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        T::get(self, owner, id)
    }

    fn list(&self, owner: &str, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        T::list(self, owner, page)
    }

    fn list_all(&self, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        T::list_all(self, page)
    }

    fn update(
        &self,
        owner: &str,
        id: &KeyId,
        change: KeyUpdate,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<Option<KeyRecord>> {
        T::update(self, owner, id, change, bounds)
    }

    fn revoke_all(&self, owner: &str, at: Timestamp) -> StoreFuture<Vec<RevokedKey>> {
        T::revoke_all(self, owner, at)
    }

    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        T::delete(self, owner, id)
    }
}

/// How the end of a key is stored: its moment, and whether it can be undone. A disabled key has the
/// column of a revocation set, so that a process that doesn't know of disabled keys refuses it too.
pub(super) fn stored_end(key: &KeyRecord) -> (Option<Timestamp>, bool) {
    let is_disabled = key.revoked_at.is_none() && key.disabled_at.is_some();
    (key.revoked_at.or(key.disabled_at), is_disabled)
}

/// When it was revoked, and when it was disabled, by its [stored end](stored_end).
pub(super) fn read_end(
    at: Option<Timestamp>,
    is_disabled: bool,
) -> (Option<Timestamp>, Option<Timestamp>) {
    if is_disabled {
        // Written by hand, it may lack the moment.
        return (None, Some(at.unwrap_or(Timestamp::UNIX_EPOCH)));
    }
    (at, None)
}

/// Why a key is not stored: its id or its digest is taken.
pub(super) fn taken() -> StoreError {
    let text = "the id or the digest of the key is taken";
    StoreError::new(StoreErrorKind::Conflict, text)
}

/// Why a key is not changed: it was changed since it was read.
pub(super) fn changed_meanwhile() -> StoreError {
    let text = "the key was changed meanwhile";
    StoreError::new(StoreErrorKind::Conflict, text)
}

/// Why a key is not stored: its owner has reached the limit.
impl From<NoRoom> for StoreError {
    fn from(no_room: NoRoom) -> Self {
        Self::new(StoreErrorKind::Full, &no_room.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, StaticKeys};

    #[derive(Debug)]
    struct Failing;

    impl KeyLookup for Failing {
        fn find(&self, _: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
            StoreFuture::new(async { Err(StoreError::new(StoreErrorKind::Unavailable, "gone")) })
        }
    }

    fn keys(name: &str, key: &str) -> StaticKeys {
        StaticKeys::new().add_key(name, key, []).unwrap()
    }

    #[tokio::test]
    async fn the_first_store_that_knows_a_key_wins() {
        let both = MemoryStore::new()
            .or(keys("first", "a-key-of-both"))
            .or(keys("second", "a-key-of-both"));
        let found = both.find(&KeyDigest::of("a-key-of-both")).await.unwrap();
        assert_eq!(found.unwrap().owner, "first");
        let none = both.find(&KeyDigest::of("a-key-of-nobody")).await.unwrap();
        assert_eq!(none, None);
    }

    #[tokio::test]
    async fn a_failing_store_ends_the_search() {
        let digest = KeyDigest::of("a-key-of-both");
        let behind = Failing.or(keys("first", "a-key-of-both"));
        assert!(behind.find(&digest).await.is_err());
        let before = keys("first", "a-key-of-both").or(Failing);
        assert!(before.find(&digest).await.unwrap().is_some());
        assert!(before.find(&KeyDigest::of("another-key")).await.is_err());
    }
}
