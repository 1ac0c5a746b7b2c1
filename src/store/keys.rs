//! Where keys are kept.

use std::{fmt, sync::Arc};

use super::{KeyId, Page, Paged, StoreFuture};
use crate::domain::{
    clock::Timestamp,
    key::{KeyDigest, KeyRecord, KeyUpdate, RotationOf},
};

/// Finds keys: all that authentication needs, and all that a store of one's own must do.
pub trait KeyLookup: fmt::Debug + Send + Sync + 'static {
    /// The key with that digest, whatever its state; `None` when there is none. Expired and revoked
    /// keys are told apart by the caller.
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>>;

    /// Notes that a key was used. It may be written later or, under load, not at all; it must not
    /// block, nor touch any other column. The latest moment stays, in whatever order they come.
    fn touch(&self, id: &KeyId, at: Timestamp) {
        let _ = (id, at);
    }
}

/// Keeps keys.
pub trait KeyStore: KeyLookup {
    /// Stores a new key. With `rotation`, in the same step ends the replaced key at the end of the
    /// overlap or its own, whichever is earlier.
    ///
    /// Fails with `Conflict` when the id or the digest is taken, with `NotFound` when the key to
    /// replace is unknown, of another owner, or no longer active.
    fn insert(&self, record: KeyRecord, rotation: Option<RotationOf>) -> StoreFuture<()>;

    /// One key of one owner; another owner's is `None`, like one that never was.
    fn get(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>>;

    /// The keys of one owner, newest first.
    fn list(&self, owner: &str, page: Page) -> StoreFuture<Paged<KeyRecord>>;

    /// Changes columns of one key of one owner and returns it as stored; `None` when there is none.
    fn update(&self, owner: &str, id: &KeyId, change: KeyUpdate) -> StoreFuture<Option<KeyRecord>>;

    /// Deletes one key of one owner and returns what it was; `None` when there was none.
    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>>;
}

impl<T: KeyLookup + ?Sized> KeyLookup for Arc<T> {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        T::find(self, digest)
    }

    fn touch(&self, id: &KeyId, at: Timestamp) {
        T::touch(self, id, at);
    }
}

impl<T: KeyStore + ?Sized> KeyStore for Arc<T> {
    fn insert(&self, record: KeyRecord, rotation: Option<RotationOf>) -> StoreFuture<()> {
        T::insert(self, record, rotation)
    }

    fn get(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        T::get(self, owner, id)
    }

    fn list(&self, owner: &str, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        T::list(self, owner, page)
    }

    fn update(&self, owner: &str, id: &KeyId, change: KeyUpdate) -> StoreFuture<Option<KeyRecord>> {
        T::update(self, owner, id, change)
    }

    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        T::delete(self, owner, id)
    }
}
