//! A store that dies of a change.

use tollgate::{
    clock::Timestamp,
    key::{KeyDigest, KeyRecord, KeyUpdate, KeysPerOwner, RevokedKey, Rotation, RotationOutcome},
    store::{KeyId, KeyLookup, KeyStore, MemoryStore, Page, Paged, StoreFuture},
};

/// Ends a key, and dies before it says so.
#[derive(Debug)]
pub(crate) struct Dying(pub(crate) MemoryStore);

impl KeyLookup for Dying {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        self.0.find(digest)
    }
}

impl KeyStore for Dying {
    fn insert(&self, record: KeyRecord, bounds: Option<KeysPerOwner>) -> StoreFuture<()> {
        self.0.insert(record, bounds)
    }

    fn rotate(
        &self,
        rotation: Rotation,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<RotationOutcome> {
        self.0.rotate(rotation, bounds)
    }

    fn get(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        self.0.get(owner, id)
    }

    fn list(&self, owner: &str, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        self.0.list(owner, page)
    }

    fn list_all(&self, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        self.0.list_all(page)
    }

    fn update(
        &self,
        owner: &str,
        id: &KeyId,
        change: KeyUpdate,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<Option<KeyRecord>> {
        drop(self.0.update(owner, id, change, bounds));
        StoreFuture::new(async { panic!("after it was done") })
    }

    fn revoke_all(&self, owner: &str, at: Timestamp) -> StoreFuture<Vec<RevokedKey>> {
        self.0.revoke_all(owner, at)
    }

    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        self.0.delete(owner, id)
    }
}
