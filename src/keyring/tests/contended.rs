//! Concurrent changes of keys.

use std::sync::{Arc, Mutex};

use super::{
    faulty::{Fault, FaultyStore},
    *,
};
use crate::domain::credential::CredentialKind;

fn set<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> KeyUpdate {
    let pairs = pairs.into_iter();
    KeyUpdate {
        metadata: Some(
            pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        ),
        ..KeyUpdate::default()
    }
}

fn of_roles(roles: &[&str]) -> KeyUpdate {
    KeyUpdate {
        roles: Some(roles.iter().map(|role| (*role).to_owned()).collect()),
        ..KeyUpdate::default()
    }
}

/// The outcome of a change, by an operator of tier gold, to a key that is being changed
/// concurrently.
async fn change_beside(
    change: KeyUpdate,
    others: Vec<KeyUpdate>,
) -> (Result<KeyRecord, KeyringError>, KeyRecord) {
    let store = MemoryStore::new();
    let updates = Arc::new(Mutex::default());
    let ring = Keyring::new(
        FaultyStore(store.clone(), Fault::Contended(Arc::clone(&updates))),
        KeyFormat::builder("ps").build().unwrap(),
        builder(&store).build(),
    );
    let ring = ring
        .with_roles(RoleSet::viewer_operator_admin())
        .add_free_attribute("label");
    let (_, key) = ring.create("ann", NewKey::default()).await.unwrap();
    *updates.lock().unwrap() = others;
    let maker = Principal::builder("ann", CredentialKind::Token)
        .role("operator")
        .attributes([("tier".to_owned(), "gold".to_owned())].into())
        .build();
    let outcome = ring.update_for(&maker, &key.id, change).await;
    let stored = ring.get("ann", &key.id).await.unwrap();
    (outcome, stored)
}

#[tokio::test]
async fn what_others_change_meanwhile_is_not_written_over() {
    let (outcome, stored) =
        change_beside(set([("label", "mine")]), vec![set([("tier", "gold")])]).await;
    assert_eq!(outcome.unwrap(), stored);
    assert_eq!(stored.metadata["tier"], "gold");
    assert_eq!(stored.metadata["label"], "mine");
}

#[tokio::test]
async fn metadata_that_two_set_at_once_are_the_first_one_s() {
    let theirs = || vec![set([("label", "theirs")])];
    let (outcome, stored) = change_beside(set([("label", "mine")]), theirs()).await;
    assert!(matches!(outcome, Err(KeyringError::Changed)), "{outcome:?}");
    assert_eq!(stored.metadata["label"], "theirs");
    // Changes to different settings may come in any order.
    let (outcome, stored) = change_beside(of_roles(&["viewer"]), theirs()).await;
    assert_eq!(outcome.unwrap(), stored);
    assert_eq!(stored.roles, ["viewer"]);
    assert_eq!(stored.metadata["label"], "theirs");
}

#[tokio::test]
async fn a_key_that_gets_more_rights_meanwhile_is_not_changed() {
    let (outcome, stored) =
        change_beside(set([("label", "mine")]), vec![of_roles(&["admin"])]).await;
    assert!(
        matches!(outcome, Err(KeyringError::Escalation { .. })),
        "{outcome:?}"
    );
    assert!(stored.metadata.is_empty());
}

#[tokio::test]
async fn who_never_comes_first_is_told_so() {
    let others = (0..9).map(|number| of_roles(&[["viewer"], ["operator"]][number % 2]));
    let (outcome, stored) = change_beside(set([("label", "mine")]), others.collect()).await;
    assert!(matches!(outcome, Err(KeyringError::Changed)), "{outcome:?}");
    assert!(stored.metadata.is_empty());
}
