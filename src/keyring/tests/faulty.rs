//! Stores that misbehave.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::*;
use crate::{
    domain::{
        clock::Timestamp,
        key::{KeysPerOwner, RevokedKey, Rotation, RotationOutcome},
        page::{Page, Paged},
    },
    store::{StoreError, StoreErrorKind},
};

/// How the store misbehaves.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// It makes changes, but reports failure.
    Mute,
    /// It makes changes, and panics.
    Panics,
    /// It makes changes, and never answers.
    Hangs,
    /// It makes changes when released.
    Late(Arc<Notify>),
    /// It fails, and does nothing.
    Away,
    /// Before each update, another caller makes the last of these updates.
    Contended(Arc<Mutex<Vec<KeyUpdate>>>),
}

#[derive(Clone, Debug)]
pub(super) struct FaultyStore(pub(super) MemoryStore, pub(super) Fault);

impl FaultyStore {
    fn change<T: Send + Unpin + 'static>(
        &self,
        change: impl FnOnce(&MemoryStore) -> StoreFuture<T> + Send + 'static,
    ) -> StoreFuture<T> {
        match &self.1 {
            Fault::Mute => nobody_knows(change(&self.0)),
            Fault::Panics => {
                drop(change(&self.0));
                StoreFuture::new(async { panic!("after it was done") })
            }
            Fault::Hangs => {
                drop(change(&self.0));
                StoreFuture::new(std::future::pending())
            }
            Fault::Late(told) => {
                let (store, told) = (self.0.clone(), Arc::clone(told));
                StoreFuture::new(async move {
                    told.notified().await;
                    change(&store).await
                })
            }
            Fault::Away => StoreFuture::ready(Err(gone())),
            Fault::Contended(_) => change(&self.0),
        }
    }

    fn look<T>(&self, look: StoreFuture<T>) -> StoreFuture<T> {
        match &self.1 {
            Fault::Away => StoreFuture::ready(Err(gone())),
            _ => look,
        }
    }
}

fn gone() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "gone")
}

fn nobody_knows<T>(_: StoreFuture<T>) -> StoreFuture<T> {
    StoreFuture::ready(Err(gone()))
}

impl KeyLookup for FaultyStore {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        self.look(self.0.find(digest))
    }
}

impl KeyStore for FaultyStore {
    fn insert(&self, record: KeyRecord, bounds: Option<KeysPerOwner>) -> StoreFuture<()> {
        self.change(move |store| store.insert(record, bounds))
    }

    fn rotate(
        &self,
        rotation: Rotation,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<RotationOutcome> {
        self.change(move |store| store.rotate(rotation, bounds))
    }

    fn get(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        self.look(self.0.get(owner, id))
    }

    fn list(&self, owner: &str, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        self.look(self.0.list(owner, page))
    }

    fn list_all(&self, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        self.look(self.0.list_all(page))
    }

    fn update(
        &self,
        owner: &str,
        id: &KeyId,
        change: KeyUpdate,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<Option<KeyRecord>> {
        if let Fault::Contended(others) = &self.1
            && let Some(other) = others.lock().unwrap().pop()
        {
            let made = self.0.update(owner, id, other, None).into_ready();
            assert!(matches!(made, Ok(Ok(Some(_)))));
        }
        let (owner, id) = (owner.to_owned(), id.clone());
        self.change(move |store| store.update(&owner, &id, change, bounds))
    }

    fn revoke_all(&self, owner: &str, at: Timestamp) -> StoreFuture<Vec<RevokedKey>> {
        let owner = owner.to_owned();
        self.change(move |store| store.revoke_all(&owner, at))
    }

    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        self.change(move |store| store.delete(&owner, &id))
    }
}
