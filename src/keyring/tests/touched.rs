//! What a change takes from memory that may or may not have been made, and when a use is noted.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use tokio::sync::Notify;

use super::*;
use crate::{
    domain::{
        clock::{Clock, ManualClock, Timestamp},
        key::{KeysPerOwner, Rotation, RotationOutcome},
        page::{Page, Paged},
    },
    store::{Change, ChangeListener, StoreError, StoreErrorKind},
};

/// How a store fails that does what it is asked for.
#[derive(Clone, Debug)]
enum Illness {
    /// It can't say so.
    Mute,
    /// It dies of it.
    Panics,
    /// It never answers.
    Hangs,
    /// It does it when it is told to.
    Late(Arc<Notify>),
    /// It isn't there at all, and does nothing.
    Away,
}

#[derive(Clone, Debug)]
struct Ill(MemoryStore, Illness);

impl Ill {
    fn change<T: Send + Unpin + 'static>(
        &self,
        change: impl FnOnce(&MemoryStore) -> StoreFuture<T> + Send + 'static,
    ) -> StoreFuture<T> {
        match &self.1 {
            Illness::Mute => nobody_knows(change(&self.0)),
            Illness::Panics => {
                drop(change(&self.0));
                StoreFuture::new(async { panic!("after it was done") })
            }
            Illness::Hangs => {
                drop(change(&self.0));
                StoreFuture::new(std::future::pending())
            }
            Illness::Late(told) => {
                let (store, told) = (self.0.clone(), Arc::clone(told));
                StoreFuture::new(async move {
                    told.notified().await;
                    change(&store).await
                })
            }
            Illness::Away => StoreFuture::ready(Err(gone())),
        }
    }

    fn look<T>(&self, look: StoreFuture<T>) -> StoreFuture<T> {
        match &self.1 {
            Illness::Away => StoreFuture::ready(Err(gone())),
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

impl KeyLookup for Ill {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        self.look(self.0.find(digest))
    }
}

impl KeyStore for Ill {
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

    fn update(
        &self,
        owner: &str,
        id: &KeyId,
        change: KeyUpdate,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        self.change(move |store| store.update(&owner, &id, change, bounds))
    }

    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        self.change(move |store| store.delete(&owner, &id))
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<Change>>);

impl Heard {
    fn take(&self) -> Vec<Change> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl ChangeListener for Heard {
    fn changed(&self, change: &Change) {
        self.0.lock().unwrap().push(change.clone());
    }
}

/// Two keys in memory, `warm` and `old`, and a keyring whose store is ill.
struct Ward {
    keys: KeyResolver,
    warm: String,
    old: String,
    record: KeyRecord,
    ill: Keyring,
    heard: Arc<Heard>,
}

impl Ward {
    async fn of(illness: Illness) -> Self {
        let store = MemoryStore::new();
        let keys = builder(&store).build();
        let owned = ring(&store, &keys);
        let (warm, _) = owned.create("bob", NewKey::default()).await.unwrap();
        let (old, record) = owned.create("ann", NewKey::default()).await.unwrap();
        let format = KeyFormat::builder("acme").build().unwrap();
        let heard = Arc::new(Heard::default());
        let ill = Keyring::new(Ill(store, illness), format, keys.clone());
        let ward = Self {
            keys,
            warm: warm.expose().to_owned(),
            old: old.expose().to_owned(),
            record,
            ill: ill.add_listener(Arc::clone(&heard)),
            heard,
        };
        for key in [&ward.warm, &ward.old] {
            resolve(&ward.keys, key).await.unwrap();
        }
        ward
    }

    /// What becomes of the key that may have been touched, once it was told and the other wasn't.
    async fn after(&self) -> Result<KeyId, KeyRefusal> {
        assert!(
            is_warm(&self.keys, &self.warm),
            "it has nothing to do with it"
        );
        assert_eq!(self.heard.take(), [Change::Key(self.record.digest)]);
        resolve(&self.keys, &self.old).await
    }
}

#[tokio::test]
async fn a_change_that_nobody_knows_of_takes_from_memory_what_it_may_have_touched() {
    let ward = Ward::of(Illness::Mute).await;
    assert!(ward.ill.create("ann", NewKey::default()).await.is_err());
    assert!(is_warm(&ward.keys, &ward.warm) && is_warm(&ward.keys, &ward.old));
    ward.heard.take();
    let id = &ward.record.id;
    assert!(ward.ill.rotate("ann", id, Duration::ZERO).await.is_err());
    assert!(is_warm(&ward.keys, &ward.warm));
    let ended = resolve(&ward.keys, &ward.old).await.unwrap_err();
    assert!(matches!(ended, KeyRefusal::Expired { .. }), "{ended:?}");
    for deleted in [false, true] {
        let ward = Ward::of(Illness::Mute).await;
        let id = &ward.record.id;
        let failed = if deleted {
            ward.ill.delete("ann", id).await
        } else {
            ward.ill.revoke("ann", id).await
        };
        assert!(matches!(failed, Err(KeyringError::Store(_))), "{failed:?}");
        let ended = ward.after().await.unwrap_err();
        match ended {
            KeyRefusal::Revoked { .. } => assert!(!deleted),
            KeyRefusal::Unknown => assert!(deleted),
            other => panic!("{other:?}"),
        }
    }
}

/// Or whoever has a key could, while the store is away, take from all what they go on with.
#[tokio::test]
async fn what_is_not_even_begun_takes_nothing_from_memory() {
    let ward = Ward::of(Illness::Away).await;
    let never = KeyId::new("key-that-never-was").unwrap();
    for id in [&ward.record.id, &never] {
        assert!(ward.ill.revoke("ann", id).await.is_err());
        assert!(ward.ill.delete("ann", id).await.is_err());
        let update = ward.ill.update("ann", id, KeyUpdate::default());
        assert!(update.await.is_err());
    }
    assert!(is_warm(&ward.keys, &ward.warm) && is_warm(&ward.keys, &ward.old));
    assert_eq!(ward.heard.take(), []);
    let mute = Ward::of(Illness::Mute).await;
    for (owner, id) in [("ann", &never), ("bob", &mute.record.id)] {
        let missing = mute.ill.revoke(owner, id).await;
        assert!(matches!(missing, Err(KeyringError::NotFound)));
    }
    assert!(is_warm(&mute.keys, &mute.warm) && is_warm(&mute.keys, &mute.old));
    assert_eq!(mute.heard.take(), []);
}

#[tokio::test]
async fn a_store_that_dies_of_a_change_may_have_made_it() {
    let ward = Ward::of(Illness::Panics).await;
    let failed = ward.ill.revoke("ann", &ward.record.id).await;
    assert!(matches!(failed, Err(KeyringError::Store(_))), "{failed:?}");
    let ended = ward.after().await.unwrap_err();
    assert!(matches!(ended, KeyRefusal::Revoked { .. }), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_a_deadline_and_may_have_made_the_change() {
    let ward = Ward::of(Illness::Hangs).await;
    let failed = ward.ill.revoke("ann", &ward.record.id).await;
    let kind = failed.map_err(|error| match error {
        KeyringError::Store(error) => error.kind(),
        other => panic!("{other:?}"),
    });
    assert_eq!(kind, Err(StoreErrorKind::Unavailable));
    let ended = ward.after().await.unwrap_err();
    assert!(matches!(ended, KeyRefusal::Revoked { .. }), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_made_after_its_deadline_counts_at_once_too() {
    let told = Arc::new(Notify::new());
    let ward = Ward::of(Illness::Late(Arc::clone(&told))).await;
    let deadline = Duration::from_millis(100);
    let ring = ward.ill.clone().deadline(deadline);
    assert!(ring.revoke("ann", &ward.record.id).await.is_err());
    assert!(ward.after().await.is_ok(), "not yet");
    assert!(is_warm(&ward.keys, &ward.old));
    told.notify_one();
    while is_warm(&ward.keys, &ward.old) {
        tokio::task::yield_now().await;
    }
    let ended = ward.after().await.unwrap_err();
    assert!(matches!(ended, KeyRefusal::Revoked { .. }), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn so_many_changes_are_under_way_and_no_more() {
    let ward = Ward::of(Illness::Hangs).await;
    for _ in 0..1_024 {
        let change = ward.ill.create("ann", NewKey::default());
        assert!(change.now_or_never().is_none());
    }
    let revoke = || ward.ill.revoke("ann", &ward.record.id);
    let refused = revoke().now_or_never().unwrap();
    let Err(KeyringError::Store(error)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(error.kind(), StoreErrorKind::Busy);
    assert!(
        is_warm(&ward.keys, &ward.old),
        "the store has heard of nothing"
    );
    // Nobody waits for ever for what never comes.
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(revoke().now_or_never().is_none());
}

#[tokio::test]
async fn a_use_is_noted_once_in_an_interval_however_often_the_key_is_read_anew() {
    let (store, clock) = (MemoryStore::new(), Arc::new(ManualClock::default()));
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
