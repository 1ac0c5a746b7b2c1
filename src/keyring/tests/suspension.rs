//! Keys that are refused for a while.

use std::sync::{Arc, Mutex};

use super::*;
use crate::{
    domain::{
        clock::Timestamp,
        credential::CredentialKind,
        denial::{Denial, DenialKind},
    },
    store::{Change, ChangeListener},
};

#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Vec<Change>>>);

impl ChangeListener for Told {
    fn changed(&self, change: &Change) {
        self.0.lock().unwrap().push(change.clone());
    }
}

fn is_not_active(answer: &Result<KeyRecord, KeyringError>) -> bool {
    matches!(answer, Err(KeyringError::NotActive))
}

#[tokio::test]
async fn a_disabled_key_is_refused_at_once_until_it_is_enabled() {
    let (store, told) = (MemoryStore::new(), Told::default());
    let keys = builder(&store).build();
    let ring = ring(&store, &keys).add_listener(told.clone());
    let (key, record) = ring.create("ann", NewKey::default()).await.unwrap();
    for _ in 0..2 {
        assert!(keys.find(key.expose()).await.is_ok());
        assert!(is_warm(&keys, key.expose()));
        told.0.lock().unwrap().clear();
        let disabled = ring.disable("ann", &record.id).await.unwrap();
        let again = ring.disable("ann", &record.id).await.unwrap();
        assert_eq!(again.disabled_at, disabled.disabled_at);
        let refusal = keys.find(key.expose()).await.unwrap_err();
        assert_eq!(refusal.to_string(), format!("{} is disabled", record.id));
        let denial = Denial::from(refusal);
        assert_eq!(denial.kind(), DenialKind::CredentialInvalid);
        assert_eq!(&*denial.holder().unwrap().subject, "ann");
        let rotated = ring.rotate("ann", &record.id, Duration::ZERO).await;
        assert!(matches!(rotated, Err(KeyringError::NotActive)));
        let enabled = ring.enable("ann", &record.id).await.unwrap();
        // Its uses may have been noted meanwhile.
        let expected = KeyRecord {
            last_used_at: enabled.last_used_at,
            ..record.clone()
        };
        assert_eq!(enabled, expected);
        // Other processes hear of both.
        let told = told.0.lock().unwrap().clone();
        let ours = told
            .iter()
            .filter(|change| **change == Change::Key(record.digest));
        assert!(ours.count() >= 2, "{told:?}");
    }
    assert!(keys.find(key.expose()).await.is_ok());
}

#[tokio::test]
async fn a_revoked_key_is_neither_disabled_nor_enabled() {
    let store = MemoryStore::new();
    let keys = builder(&store).build();
    let ring = ring(&store, &keys);
    let (key, record) = ring.create("ann", NewKey::default()).await.unwrap();
    ring.disable("ann", &record.id).await.unwrap();
    let revoked = ring.revoke("ann", &record.id).await.unwrap();
    assert!(is_not_active(&ring.enable("ann", &record.id).await));
    assert!(is_not_active(&ring.disable("ann", &record.id).await));
    assert_eq!(ring.get("ann", &record.id).await.unwrap(), revoked);
    let refusal = keys.find(key.expose()).await.unwrap_err();
    assert!(matches!(refusal, KeyRefusal::Revoked { .. }), "{refusal}");
    let anothers = ring.disable("bob", &record.id).await;
    assert!(matches!(anothers, Err(KeyringError::NotFound)));
    // All of an owner's end, and so do those that leaked.
    let (leaked, second) = ring.create("ann", NewKey::default()).await.unwrap();
    let (_, third) = ring.create("ann", NewKey::default()).await.unwrap();
    for id in [&second.id, &third.id] {
        ring.disable("ann", id).await.unwrap();
    }
    let ended = ring.revoke_leaked(leaked.expose()).await.unwrap();
    assert!(ended.revoked_at.is_some());
    assert_eq!(ring.revoke_all("ann").await.unwrap(), [third.id]);
}

#[tokio::test]
async fn a_key_comes_back_only_where_there_is_room() {
    let store = MemoryStore::new();
    let keys = builder(&store).build();
    let ring = ring(&store, &keys).keys_per_owner_max(1);
    let (_, first) = ring.create("ann", NewKey::default()).await.unwrap();
    ring.disable("ann", &first.id).await.unwrap();
    let (_, second) = ring.create("ann", NewKey::default()).await.unwrap();
    let full = ring.enable("ann", &first.id).await;
    assert!(
        matches!(full, Err(KeyringError::TooMany { max: 1 })),
        "{full:?}"
    );
    ring.disable("ann", &second.id).await.unwrap();
    ring.enable("ann", &first.id).await.unwrap();
}

#[tokio::test]
async fn an_owner_disables_its_keys_and_enables_none() {
    let store = MemoryStore::new();
    let keys = builder(&store).build();
    let ring = ring(&store, &keys);
    let (_, record) = ring.create("ann", NewKey::default()).await.unwrap();
    let ann = Principal::builder("ann", CredentialKind::Token).build();
    let set = async |at| {
        let change = KeyUpdate {
            disabled_at: Some(at),
            ..KeyUpdate::default()
        };
        ring.update_for(&ann, &record.id, change).await
    };
    let later = set(Some(Timestamp::MAX)).await;
    assert!(matches!(later, Err(KeyringError::Invalid(_))), "{later:?}");
    let disabled = set(Some(Timestamp::UNIX_EPOCH)).await.unwrap();
    assert_eq!(disabled.disabled_at, Some(Timestamp::UNIX_EPOCH));
    let enabled = set(None).await;
    assert!(
        matches!(enabled, Err(KeyringError::Escalation { .. })),
        "{enabled:?}"
    );
    assert_eq!(ring.get("ann", &record.id).await.unwrap(), disabled);
}

#[tokio::test]
async fn a_key_that_is_disabled_makes_no_others() {
    let store = MemoryStore::new();
    let keys = builder(&store).build();
    let ring = ring(&store, &keys);
    let (key, record) = ring.create("ann", NewKey::default()).await.unwrap();
    let maker = principal_of(&keys, key.expose()).await;
    ring.create_for(&maker, NewKey::default()).await.unwrap();
    ring.disable("ann", &record.id).await.unwrap();
    let refused = ring.create_for(&maker, NewKey::default()).await;
    assert!(matches!(refused, Err(KeyringError::NotActive)));
}
