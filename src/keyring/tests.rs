mod bounds;
mod chosen;
mod contended;
mod delegated;
mod faulty;
mod forms;
mod found;
mod peppers;
mod rotation;
mod sessions;
mod suspension;
mod touched;

use std::time::Duration;

use super::*;
use crate::{
    domain::{
        KeyId,
        key::{KeyDigest, KeyFormat, KeyProof, KeyRecord, KeyUpdate},
        principal::Principal,
        quota::{Quota, Quotas},
        role::RoleSet,
    },
    login::Passwords,
    store::{KeyLookup, KeyStore, MemoryStore, StoreFuture},
};

const PEPPER: &[u8] = b"a pepper made for these tests, 40 bytes.";

fn pepper(name: &str) -> Pepper {
    Pepper::new(name, &[PEPPER, name.as_bytes()].concat()).unwrap()
}

fn builder(store: &MemoryStore) -> KeyResolverBuilder {
    KeyResolver::builder(store.clone())
}

fn ring(store: &MemoryStore, resolver: &KeyResolver) -> Keyring {
    let format = KeyFormat::builder("acme").build().unwrap();
    Keyring::new(store.clone(), format, resolver.clone())
}

async fn resolve(keys: &KeyResolver, key: &str) -> Result<KeyId, KeyRefusal> {
    let found = match keys.resolve(key) {
        Resolution::Ready(found) => found,
        Resolution::Pending(found) => found.await,
    };
    found.map(|key| key.principal().key().unwrap().clone())
}

async fn principal_of(keys: &KeyResolver, key: &str) -> Principal {
    let found = match keys.resolve(key) {
        Resolution::Ready(found) => found,
        Resolution::Pending(found) => found.await,
    };
    found.unwrap().principal()
}

fn is_warm(keys: &KeyResolver, key: &str) -> bool {
    matches!(keys.resolve(key), Resolution::Ready(_))
}

/// Waits for background work.
async fn stored_as(store: &MemoryStore, id: &KeyId, proof: &KeyProof) -> KeyRecord {
    loop {
        let record = store.get("ann", id).await.unwrap().unwrap();
        if record.proof == *proof {
            return record;
        }
        tokio::task::yield_now().await;
    }
}

fn peppered(name: &str) -> KeyProof {
    KeyProof::HmacSha256 {
        pepper: name.into(),
    }
}

#[tokio::test]
async fn with_a_pepper_the_store_alone_tells_nothing() {
    let store = MemoryStore::new();
    let keys = builder(&store).pepper(pepper("one")).build();
    let (key, record) = ring(&store, &keys)
        .create("ann", NewKey::default())
        .await
        .unwrap();
    assert_eq!(record.proof, peppered("one"));
    assert_ne!(record.digest, KeyDigest::of(key.expose()));
    assert_eq!(resolve(&keys, key.expose()).await.unwrap(), record.id);
    for other in [
        builder(&store).build(),
        builder(&store).pepper(pepper("two")).build(),
    ] {
        let refused = resolve(&other, key.expose()).await.unwrap_err();
        assert!(matches!(refused, KeyRefusal::Unknown));
    }
}

#[tokio::test]
async fn a_key_of_an_older_scheme_goes_on_and_is_upgraded_by_its_use() {
    let store = MemoryStore::new();
    let plain = builder(&store).build();
    let (key, record) = ring(&store, &plain)
        .create("ann", NewKey::default())
        .await
        .unwrap();
    assert_eq!(record.proof, KeyProof::Sha256);

    let first = builder(&store).pepper(pepper("one")).build();
    assert_eq!(resolve(&first, key.expose()).await.unwrap(), record.id);
    assert!(is_warm(&first, key.expose()));
    stored_as(&store, &record.id, &peppered("one")).await;

    let second = builder(&store)
        .pepper(pepper("two"))
        .add_old_pepper(pepper("one"))
        .build();
    assert_eq!(resolve(&second, key.expose()).await.unwrap(), record.id);
    let upgraded = stored_as(&store, &record.id, &peppered("two")).await;
    let third = builder(&store).pepper(pepper("two")).build();
    assert_eq!(resolve(&third, key.expose()).await.unwrap(), record.id);
    assert_eq!(
        (upgraded.lineage, upgraded.created_at),
        (record.lineage, record.created_at)
    );
}

/// A store that can't migrate keys, and so keeps them under older schemes.
#[derive(Clone, Debug)]
struct Frozen(MemoryStore);

impl KeyLookup for Frozen {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        self.0.find(digest)
    }
}

#[tokio::test]
async fn a_key_of_an_older_scheme_is_taken_back_at_once_too() {
    let store = MemoryStore::new();
    let plain = ring(&store, &builder(&store).build());
    let keys = KeyResolver::builder(Frozen(store.clone()))
        .pepper(pepper("one"))
        .build();
    let ring = ring(&store, &keys);
    for _ in 0..2 {
        let (key, record) = plain.create("ann", NewKey::default()).await.unwrap();
        assert!(resolve(&keys, key.expose()).await.is_ok());
        assert!(is_warm(&keys, key.expose()));
        ring.update("ann", &record.id, KeyUpdate::default())
            .await
            .unwrap();
        assert!(!is_warm(&keys, key.expose()), "its alias is there");
        assert!(resolve(&keys, key.expose()).await.is_ok());
        ring.revoke("ann", &record.id).await.unwrap();
        let refused = resolve(&keys, key.expose()).await.unwrap_err();
        assert!(matches!(refused, KeyRefusal::Revoked { .. }));
    }
}

fn passwords(iterations: u32) -> Passwords {
    Passwords::builder()
        .memory_kib(64)
        .iterations(iterations)
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_chosen_secret_is_found_by_its_start_and_compared_by_argon2id() {
    let store = MemoryStore::new();
    let format = KeyFormat::builder("acme").build().unwrap();
    let build = |iterations| {
        let builder = builder(&store).add_format(format.clone());
        builder.weak_keys(passwords(iterations), 6).build()
    };
    let keys = build(1);
    let owned = ring(&store, &keys);
    let record = owned
        .import_weak("ann", "team-7hunter22", NewKey::default())
        .await
        .unwrap();
    let KeyProof::Argon2id { hash } = &record.proof else {
        panic!("{:?}", record.proof)
    };
    assert!(hash.starts_with("$argon2id$") && !format!("{record:?}").contains(hash.as_ref()));
    assert_eq!(record.preview, "team-7...");

    assert_eq!(resolve(&keys, "team-7hunter22").await.unwrap(), record.id);
    assert!(is_warm(&keys, "team-7hunter22"));
    for wrong in [
        "team-7hunter23",
        "team-7",
        "team-8hunter22",
        "team-7hunter22x",
        "x",
    ] {
        let refused = resolve(&keys, wrong).await.unwrap_err();
        assert!(matches!(refused, KeyRefusal::Unknown), "{wrong}");
    }
    let alike = owned
        .import_weak("ann", "team-7another-one", NewKey::default())
        .await;
    assert!(matches!(alike, Err(KeyringError::Store(_))));

    let stronger = build(2);
    assert_eq!(
        resolve(&stronger, "team-7hunter22").await.unwrap(),
        record.id
    );
    loop {
        let stored = store.get("ann", &record.id).await.unwrap().unwrap();
        if stored.proof.to_string().contains("t=2") {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(
        resolve(&build(2), "team-7hunter22").await.unwrap(),
        record.id
    );
    owned.revoke("ann", &record.id).await.unwrap();
    let refused = resolve(&keys, "team-7hunter22").await.unwrap_err();
    assert!(matches!(refused, KeyRefusal::Revoked { .. }));
}

#[tokio::test]
async fn a_key_of_an_older_system_is_taken_over() {
    let store = MemoryStore::new();
    let keys = builder(&store).pepper(pepper("one")).build();
    let owned = ring(&store, &keys);
    let old = "sk-0123456789abcdefghijABCDEFGHIJ";
    let record = owned.import("ann", old, NewKey::default()).await.unwrap();
    assert_eq!(
        (record.preview.as_str(), &record.proof),
        ("sk-0...GHIJ", &peppered("one"))
    );
    assert_eq!(resolve(&keys, old).await.unwrap(), record.id);
    for bad in ["short", "with a blank in it, and long", &"a".repeat(513)] {
        assert!(matches!(
            owned.import("ann", bad, NewKey::default()).await,
            Err(KeyringError::Invalid(_))
        ));
    }
    let weak = owned
        .import_weak("ann", "team-7hunter22", NewKey::default())
        .await;
    assert!(
        matches!(weak, Err(KeyringError::Invalid(_))),
        "the resolver takes none"
    );
}

#[tokio::test]
async fn quotas_and_changes_reach_the_principal_at_once() {
    let store = MemoryStore::new();
    let keys = builder(&store).build();
    let owned = ring(&store, &keys).with_roles(RoleSet::viewer_operator_admin());
    let quotas = Quotas::from([Quota::per_second(2), Quota::per_minute(60)]);
    let new = NewKey {
        quotas: Some(quotas.clone()),
        ..NewKey::default()
    };
    let (key, record) = owned.create("ann", new).await.unwrap();
    let found = |key: String| {
        let keys = keys.clone();
        async move {
            match keys.resolve(&key) {
                Resolution::Ready(found) => found.unwrap(),
                Resolution::Pending(found) => found.await.unwrap(),
            }
        }
    };
    let before = found(key.expose().to_owned()).await;
    assert_eq!(before.principal().quotas(), Some(&quotas));
    let (rotated, _) = owned
        .rotate("ann", &record.id, Duration::ZERO)
        .await
        .unwrap();
    let after = found(rotated.expose().to_owned()).await;
    assert_eq!(after.principal().quotas(), Some(&quotas));

    let id = after.principal().key().unwrap().clone();
    let change = KeyUpdate {
        quotas: Some(None),
        resource: Some(Some("agent-1".to_owned())),
        metadata: Some([("team".to_owned(), "red".to_owned())].into()),
        ..KeyUpdate::default()
    };
    owned.update("ann", &id, change).await.unwrap();
    let changed = found(rotated.expose().to_owned()).await;
    let principal = changed.principal();
    assert_eq!(
        (principal.quotas(), principal.resource()),
        (None, Some("agent-1"))
    );
    assert_eq!(principal.attribute("team"), Some("red"));

    let unknown = KeyUpdate {
        roles: Some(vec!["emperor".to_owned()]),
        ..KeyUpdate::default()
    };
    let long = KeyUpdate {
        name: Some("n".repeat(256)),
        ..KeyUpdate::default()
    };
    let many = KeyUpdate {
        networks: Some(vec!["10.0.0.0/8".parse().unwrap(); 65]),
        ..KeyUpdate::default()
    };
    for change in [unknown, long, many] {
        let refused = owned.update("ann", &id, change).await;
        assert!(matches!(refused, Err(KeyringError::Invalid(_))));
    }
}

#[test]
fn a_pepper_is_long_named_and_shown_to_nobody() {
    for (name, secret) in [
        ("one", &PEPPER[..31]),
        ("", PEPPER),
        ("a b", PEPPER),
        (&"n".repeat(65), PEPPER),
    ] {
        assert!(Pepper::new(name, secret).is_err());
    }
    assert_eq!(format!("{:?}", pepper("one")), "Pepper(one)");
}
