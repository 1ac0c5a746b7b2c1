//! What a change of unknown outcome invalidates, and when a use is recorded.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use tokio::sync::Notify;

use super::{
    faulty::{Fault, FaultyStore},
    *,
};
use crate::{
    domain::clock::{Clock, ManualClock, Timestamp},
    store::{Change, ChangeListener, StoreErrorKind},
};

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

/// Two keys in memory, `warm` and `old`, and a keyring whose store fails.
struct World {
    keys: KeyResolver,
    warm: String,
    old: String,
    record: KeyRecord,
    faulty: Keyring,
    heard: Arc<Heard>,
}

impl World {
    async fn of(illness: Fault) -> Self {
        let store = MemoryStore::new();
        let keys = builder(&store).build();
        let owned = ring(&store, &keys);
        let (warm, _) = owned.create("bob", NewKey::default()).await.unwrap();
        let (old, record) = loop {
            let (old, record) = owned.create("ann", NewKey::default()).await.unwrap();
            resolve(&keys, warm.expose()).await.unwrap();
            keys.invalidate(&record.digest);
            // One in a thousand shares with another what an invalidation touches.
            if is_warm(&keys, warm.expose()) {
                break (old, record);
            }
        };
        let format = KeyFormat::builder("acme").build().unwrap();
        let heard = Arc::new(Heard::default());
        let faulty = Keyring::new(FaultyStore(store, illness), format, keys.clone());
        let world = Self {
            keys,
            warm: warm.expose().to_owned(),
            old: old.expose().to_owned(),
            record,
            faulty: faulty.add_listener(Arc::clone(&heard)),
            heard,
        };
        for key in [&world.warm, &world.old] {
            resolve(&world.keys, key).await.unwrap();
        }
        world
    }

    /// What happens to the key that may have changed, once a change of it is reported and none of
    /// the other.
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
    let world = World::of(Fault::Mute).await;
    assert!(world.faulty.create("ann", NewKey::default()).await.is_err());
    assert!(is_warm(&world.keys, &world.warm) && is_warm(&world.keys, &world.old));
    world.heard.take();
    let id = &world.record.id;
    assert!(
        world
            .faulty
            .rotate("ann", id, Duration::ZERO)
            .await
            .is_err()
    );
    assert!(is_warm(&world.keys, &world.warm));
    let ended = resolve(&world.keys, &world.old).await.unwrap_err();
    assert!(matches!(ended, KeyRefusal::Expired { .. }), "{ended:?}");
    for deleted in [false, true] {
        let world = World::of(Fault::Mute).await;
        let id = &world.record.id;
        let failed = if deleted {
            world.faulty.delete("ann", id).await
        } else {
            world.faulty.revoke("ann", id).await
        };
        assert!(matches!(failed, Err(KeyringError::Store(_))), "{failed:?}");
        let ended = world.after().await.unwrap_err();
        match ended {
            KeyRefusal::Revoked { .. } => assert!(!deleted),
            KeyRefusal::Unknown => assert!(deleted),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn all_keys_of_an_owner_are_taken_from_memory_where_nobody_knows_whether_they_ended() {
    for fault in [Fault::Mute, Fault::Panics] {
        let world = World::of(fault).await;
        assert!(world.faulty.revoke_all("ann").await.is_err());
        let ended = world.after().await.unwrap_err();
        assert!(matches!(ended, KeyRefusal::Revoked { .. }), "{ended:?}");
    }
}

/// Otherwise the holder of one key could, while the store is down, evict the keys that others rely
/// on.
#[tokio::test]
async fn what_is_not_even_begun_takes_nothing_from_memory() {
    let world = World::of(Fault::Away).await;
    assert!(world.faulty.revoke_all("ann").await.is_err());
    let never = KeyId::new("key-that-never-was").unwrap();
    for id in [&world.record.id, &never] {
        assert!(world.faulty.revoke("ann", id).await.is_err());
        assert!(world.faulty.delete("ann", id).await.is_err());
        let update = world.faulty.update("ann", id, KeyUpdate::default());
        assert!(update.await.is_err());
    }
    assert!(is_warm(&world.keys, &world.warm) && is_warm(&world.keys, &world.old));
    assert_eq!(world.heard.take(), []);
    let mute = World::of(Fault::Mute).await;
    for (owner, id) in [("ann", &never), ("bob", &mute.record.id)] {
        let missing = mute.faulty.revoke(owner, id).await;
        assert!(matches!(missing, Err(KeyringError::NotFound)));
    }
    assert!(is_warm(&mute.keys, &mute.warm) && is_warm(&mute.keys, &mute.old));
    assert_eq!(mute.heard.take(), []);
}

#[tokio::test]
async fn a_store_that_dies_of_a_change_may_have_made_it() {
    let world = World::of(Fault::Panics).await;
    let failed = world.faulty.revoke("ann", &world.record.id).await;
    assert!(matches!(failed, Err(KeyringError::Store(_))), "{failed:?}");
    let ended = world.after().await.unwrap_err();
    assert!(matches!(ended, KeyRefusal::Revoked { .. }), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_a_deadline_and_may_have_made_the_change() {
    let world = World::of(Fault::Hangs).await;
    let failed = world.faulty.revoke("ann", &world.record.id).await;
    let kind = failed.map_err(|error| match error {
        KeyringError::Store(error) => error.kind(),
        other => panic!("{other:?}"),
    });
    assert_eq!(kind, Err(StoreErrorKind::Unavailable));
    let ended = world.after().await.unwrap_err();
    assert!(matches!(ended, KeyRefusal::Revoked { .. }), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_made_after_its_deadline_counts_at_once_too() {
    let told = Arc::new(Notify::new());
    let world = World::of(Fault::Late(Arc::clone(&told))).await;
    let deadline = Duration::from_millis(100);
    let ring = world.faulty.clone().deadline(deadline);
    assert!(ring.revoke("ann", &world.record.id).await.is_err());
    assert!(world.after().await.is_ok(), "not yet");
    assert!(is_warm(&world.keys, &world.old));
    told.notify_one();
    while is_warm(&world.keys, &world.old) {
        tokio::task::yield_now().await;
    }
    let ended = world.after().await.unwrap_err();
    assert!(matches!(ended, KeyRefusal::Revoked { .. }), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn so_many_changes_are_under_way_and_no_more() {
    let world = World::of(Fault::Hangs).await;
    for _ in 0..1_024 {
        let change = world.faulty.create("ann", NewKey::default());
        assert!(change.now_or_never().is_none());
    }
    let revoke = || world.faulty.revoke("ann", &world.record.id);
    let refused = revoke().now_or_never().unwrap();
    let Err(KeyringError::Store(error)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(error.kind(), StoreErrorKind::Busy);
    assert!(
        is_warm(&world.keys, &world.old),
        "the store has heard of nothing"
    );
    // Nothing waits forever for what never comes.
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
