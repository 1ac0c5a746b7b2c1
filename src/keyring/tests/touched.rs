//! What a change takes from memory that may or may not have been made, and when a use is noted.

use super::*;
use crate::{
    domain::{
        clock::{Clock, ManualClock, Timestamp},
        key::{KeysPerOwner, Rotation, RotationOutcome},
        page::{Page, Paged},
    },
    store::{StoreError, StoreErrorKind},
};

/// Does what it is asked for, and can't say so.
#[derive(Clone, Debug)]
struct Mute(MemoryStore);

fn nobody_knows<T>(_: StoreFuture<T>) -> StoreFuture<T> {
    let gone = StoreError::new(StoreErrorKind::Unavailable, "gone");
    StoreFuture::ready(Err(gone))
}

impl KeyLookup for Mute {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        self.0.find(digest)
    }
}

impl KeyStore for Mute {
    fn insert(&self, record: KeyRecord, bounds: Option<KeysPerOwner>) -> StoreFuture<()> {
        nobody_knows(self.0.insert(record, bounds))
    }

    fn rotate(
        &self,
        rotation: Rotation,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<RotationOutcome> {
        nobody_knows(self.0.rotate(rotation, bounds))
    }

    fn get(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        self.0.get(owner, id)
    }

    fn list(&self, owner: &str, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        self.0.list(owner, page)
    }

    fn update(&self, owner: &str, id: &KeyId, change: KeyUpdate) -> StoreFuture<Option<KeyRecord>> {
        nobody_knows(self.0.update(owner, id, change))
    }

    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        nobody_knows(self.0.delete(owner, id))
    }
}

#[tokio::test]
async fn a_change_that_nobody_knows_of_takes_from_memory_what_it_may_have_touched() {
    let store = MemoryStore::new();
    let keys = builder(&store).build();
    let owned = ring(&store, &keys);
    let (warm, _) = owned.create("bob", NewKey::default()).await.unwrap();
    let (old, record) = owned.create("ann", NewKey::default()).await.unwrap();
    let format = KeyFormat::builder("acme").build().unwrap();
    let mute = Keyring::new(Mute(store.clone()), format, keys.clone());
    for key in [&warm, &old] {
        resolve(&keys, key.expose()).await.unwrap();
    }

    assert!(mute.create("ann", NewKey::default()).await.is_err());
    assert!(is_warm(&keys, warm.expose()) && is_warm(&keys, old.expose()));
    let rotated = mute.rotate("ann", &record.id, Duration::ZERO).await;
    assert!(rotated.is_err());
    assert!(
        is_warm(&keys, warm.expose()),
        "it has nothing to do with it"
    );
    let ended = resolve(&keys, old.expose()).await.unwrap_err();
    assert!(matches!(ended, KeyRefusal::Expired { .. }), "{ended:?}");
    // Of one that is known by its id nobody can say which it is.
    assert!(mute.revoke("ann", &record.id).await.is_err());
    assert!(!is_warm(&keys, warm.expose()));
}

#[tokio::test]
async fn a_use_is_noted_once_in_an_interval_however_often_the_key_is_read_anew() {
    let (store, clock) = (
        MemoryStore::new(),
        std::sync::Arc::new(ManualClock::default()),
    );
    let keys = builder(&store)
        .ttl(Duration::from_secs(1))
        .touch_interval(Duration::from_secs(60))
        .with_clock(clock.clone())
        .build();
    let owned = ring(&store, &keys).with_clock(clock.clone());
    let (key, record) = owned.create("ann", NewKey::default()).await.unwrap();
    let used = async || -> Option<Timestamp> {
        resolve(&keys, key.expose()).await.unwrap();
        owned.get("ann", &record.id).await.unwrap().last_used_at
    };
    let first = clock.now();
    for _ in 0..20 {
        assert_eq!(used().await, Some(first));
        clock.advance(Duration::from_secs(2));
    }
    clock.advance(Duration::from_secs(20));
    assert_eq!(used().await, Some(clock.now()));
}
