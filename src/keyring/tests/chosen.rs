//! Secrets that people chose: what each proves, and how much of it is shown.

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
};

use super::*;
use crate::domain::{BudgetId, clock::Timestamp, key::Rehash};

/// Runs an action just before the second look-up of a digest: after the secret was compared with
/// the result of the first.
struct Meanwhile {
    store: MemoryStore,
    watched: KeyDigest,
    looks: AtomicU32,
    what: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Meanwhile {
    fn new(store: &MemoryStore, watched: KeyDigest, what: impl FnOnce() + Send + 'static) -> Self {
        Self {
            store: store.clone(),
            watched,
            looks: AtomicU32::new(0),
            what: Mutex::new(Some(Box::new(what))),
        }
    }
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl KeyLookup for Meanwhile {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        if *digest == self.watched
            && self.looks.fetch_add(1, Ordering::Relaxed) == 1
            && let Some(what) = self.what.lock().unwrap().take()
        {
            what();
        }
        self.store.find(digest)
    }

    fn rehash(&self, change: Rehash) -> StoreFuture<bool> {
        self.store.rehash(change)
    }
}

/// Immediately, from memory.
fn now<T>(answer: StoreFuture<T>) -> T {
    answer.into_ready().unwrap().unwrap()
}

async fn import(store: &MemoryStore, secret: &str) -> KeyRecord {
    let keys = builder(store).weak_keys(passwords(1), 6).build();
    let owned = ring(store, &keys);
    let record = owned.import_weak("ann", secret, NewKey::default()).await;
    record.unwrap()
}

#[tokio::test]
async fn a_secret_does_not_prove_the_key_that_took_its_place() {
    let store = MemoryStore::new();
    let old = import(&store, "team-7hunter22").await;
    let new = import(&MemoryStore::new(), "team-7the-successor").await;
    assert_eq!(old.digest, new.digest);
    let (there, successor) = (store.clone(), new.clone());
    let replaced = Meanwhile::new(&store, old.digest, move || {
        now(there.delete("ann", &old.id));
        now(there.insert(successor, None));
    });
    // With stronger parameters than those of the stored hash, so that the right secret is rehashed.
    let keys = KeyResolver::builder(replaced)
        .weak_keys(passwords(2), 6)
        .build();
    let refused = resolve(&keys, "team-7hunter22").await.unwrap_err();
    assert!(matches!(refused, KeyRefusal::Unknown), "{refused:?}");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let stored = store.get("ann", &new.id).await.unwrap().unwrap();
    assert_eq!(stored, new, "nor is its hash written over");
    let found = resolve(&keys, "team-7the-successor").await.unwrap();
    assert_eq!(found, new.id);
}

#[tokio::test]
async fn a_secret_that_is_hashed_anew_while_it_is_compared_is_good() {
    let store = MemoryStore::new();
    let record = import(&store, "team-7hunter22").await;
    let again = import(&MemoryStore::new(), "team-7hunter22").await;
    assert_ne!(record.proof, again.proof, "another salt");
    let change = Rehash {
        id: record.id.clone(),
        from: record.digest,
        from_proof: record.proof,
        digest: record.digest,
        proof: again.proof,
    };
    let there = store.clone();
    let hashed = Meanwhile::new(&store, record.digest, move || {
        assert!(now(there.rehash(change)));
    });
    let keys = KeyResolver::builder(hashed)
        .weak_keys(passwords(1), 6)
        .build();
    let found = resolve(&keys, "team-7hunter22").await.unwrap();
    assert_eq!(found, record.id);
}

/// The only hashing thread is taken once the secret has been compared: a right secret doesn't wait
/// to be rehashed.
#[test]
fn a_secret_is_hashed_anew_beside_the_request() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = MemoryStore::new();
        let record = import(&store, "team-7hunter22").await;
        let (go_on, held) = mpsc::channel::<()>();
        let taken = Meanwhile::new(&store, record.digest, move || {
            tokio::task::spawn_blocking(move || held.recv());
        });
        let keys = KeyResolver::builder(taken)
            .weak_keys(passwords(2), 6)
            .build();
        let found = resolve(&keys, "team-7hunter22").await.unwrap();
        assert_eq!(found, record.id);
        drop(go_on);
        loop {
            let stored = store.get("ann", &record.id).await.unwrap().unwrap();
            if stored.proof.to_string().contains("t=2") {
                break;
            }
            tokio::task::yield_now().await;
        }
    });
}

/// A secret is looked up by a digest, and anyone can make a text with the same digest.
#[tokio::test]
async fn the_public_start_is_no_key() {
    let store = MemoryStore::new();
    let record = import(&store, "team-7hunter22").await;
    let text = "start of a key\0team-7";
    assert_eq!(record.digest, KeyDigest::of(text), "or this tests nothing");
    for keys in [
        builder(&store).build(),
        builder(&store).weak_keys(passwords(1), 6).build(),
        builder(&store).pepper(pepper("one")).build(),
    ] {
        let answer = keys.resolve(text);
        assert!(
            matches!(answer, Resolution::Ready(Err(KeyRefusal::Malformed))),
            "{answer:?}"
        );
    }
    // Nor is a stored hash good for whoever knows a text of that digest, if one could be sent.
    let digest = KeyDigest::of("a text that can be sent".replace(' ', "-").as_str());
    let (id, lineage) = (
        KeyId::new("key-1").unwrap(),
        BudgetId::new("key-1").unwrap(),
    );
    let mut known = KeyRecord::new(id, lineage, digest, "ann", Timestamp::UNIX_EPOCH);
    known.proof = record.proof;
    now(store.insert(known, None));
    for keys in [
        builder(&store).build(),
        builder(&store).pepper(pepper("one")).build(),
    ] {
        let refused = resolve(&keys, "a-text-that-can-be-sent").await.unwrap_err();
        assert!(matches!(refused, KeyRefusal::Unknown), "{refused:?}");
    }
}

#[tokio::test]
async fn a_secret_that_is_hardly_longer_than_its_start_is_not_taken() {
    let store = MemoryStore::new();
    for (start, secret) in [(8, "hunter22"), (6, "team-7hunter2"), (0, "team-7hunter22")] {
        let keys = builder(&store).weak_keys(passwords(1), start).build();
        let owned = ring(&store, &keys);
        let refused = owned.import_weak("ann", secret, NewKey::default()).await;
        assert!(
            matches!(refused, Err(KeyringError::Invalid(_))),
            "{start} {secret}: {refused:?}"
        );
    }
    let listed = store.list("ann", crate::store::Page::first(9)).await;
    assert!(listed.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_secret_that_was_tried_before_it_was_one_is_good_at_once() {
    let store = MemoryStore::new();
    let keys = builder(&store).weak_keys(passwords(1), 6).build();
    let owned = ring(&store, &keys);
    let early = resolve(&keys, "team-7hunter22").await.unwrap_err();
    assert!(matches!(early, KeyRefusal::Unknown));
    let record = owned
        .import_weak("ann", "team-7hunter22", NewKey::default())
        .await
        .unwrap();
    let found = resolve(&keys, "team-7hunter22").await;
    assert_eq!(found.unwrap(), record.id);
}
