//! Keys that end, one or all of an owner's, and keys that are disabled.

use super::*;

/// [`revoke_all`](KeyStore::revoke_all) ends each key of an owner that wasn't ended before, says
/// which, and leaves others theirs. A key that is rotated at the same time leaves no good one.
pub async fn all_keys_of_an_owner_end_in_one_step<S: KeyStore + Clone>(store: S) {
    let mut expired = key("expired", "ann");
    expired.expires_at = Some(now());
    let mut revoked = key("revoked", "ann");
    revoked.revoked_at = Some(later(1));
    let mut disabled = key("disabled", "ann");
    disabled.disabled_at = Some(now());
    for stored in [
        expired,
        revoked,
        disabled,
        key("good", "ann"),
        key("bobs", "bob"),
    ] {
        store.insert(stored, None).await.unwrap();
    }
    let mut ended = store.revoke_all("ann", later(5)).await.unwrap();
    ended.sort_by(|one, other| one.id.cmp(&other.id));
    let expected = ["disabled", "expired", "good"].map(|name| RevokedKey {
        id: id(name),
        digest: key(name, "ann").digest,
    });
    assert_eq!(ended, expected);
    for (name, at) in [("disabled", 5), ("expired", 5), ("good", 5), ("revoked", 1)] {
        let stored = get(&store, "ann", name).await.unwrap();
        let ends = (stored.revoked_at, stored.disabled_at);
        assert_eq!(ends, (Some(later(at)), None), "{name}");
    }
    assert_eq!(get(&store, "bob", "bobs").await, Some(key("bobs", "bob")));
    for nobody in ["ann", "eve", "nobody\0"] {
        let ended = store.revoke_all(nobody, later(9)).await.unwrap();
        assert_eq!(ended, [], "{nobody:?}");
    }
    for round in 0..4 {
        let bounds = at_most(99, 999).filter(|_| round % 2 == 0);
        let names: Vec<_> = (0..8)
            .map(|number| format!("key-{round}-{number}"))
            .collect();
        for name in &names {
            store.insert(key(name, "ann"), None).await.unwrap();
        }
        let mut tasks = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let (store, rotation) = (
                store.clone(),
                rotation(name, &format!("{name}-2"), later(60)),
            );
            tasks.push(tokio::spawn(async move {
                if number == 4 {
                    store.revoke_all("ann", now()).await.unwrap();
                }
                store.rotate(rotation, bounds).await.unwrap();
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let kept = store.list("ann", Page::first(999)).await.unwrap().items;
        let good: Vec<_> = kept.iter().filter(|key| key.is_active(now())).collect();
        assert!(kept.len() >= 8 && good.is_empty(), "{good:?}");
    }
}

/// [`update`](KeyStore::update) disables a key as of the first time and enables it again, and
/// changes nothing else. A revocation ends that: whether it was disabled before is no longer known,
/// and nothing enables it.
pub async fn a_disabled_key_is_enabled_again_unless_it_was_revoked<S: KeyStore + Clone>(store: S) {
    let mut expected = key("key-1", "ann");
    expected.expires_at = Some(later(99));
    store.insert(expected.clone(), None).await.unwrap();
    let set = |at: Option<Timestamp>| {
        let mut change = KeyUpdate::default();
        change.disabled_at = Some(at);
        let store = store.clone();
        async move {
            let set = store.update("ann", &id("key-1"), change, None).await;
            let set = set.unwrap().unwrap();
            assert_eq!(store.find(&set.digest).await.unwrap(), Some(set.clone()));
            set
        }
    };
    assert_eq!(set(None).await, expected, "it wasn't disabled");
    for round in 0..2 {
        for at in [later(1), later(2)] {
            expected.disabled_at = Some(later(1));
            assert_eq!(set(Some(at)).await, expected, "{round}");
            assert!(!expected.is_active(now()));
        }
        let rotated = store.rotate(rotation("key-1", "key-2", later(9)), None);
        assert_eq!(rotated.await.unwrap(), RotationOutcome::NotActive);
        let mut other = KeyUpdate::default();
        other.name = Some(format!("name-{round}"));
        expected.name = format!("name-{round}");
        let renamed = store.update("ann", &id("key-1"), other, None).await;
        assert_eq!(renamed.unwrap(), Some(expected.clone()), "still disabled");
        expected.disabled_at = None;
        assert_eq!(set(None).await, expected);
    }
    set(Some(later(3))).await;
    let mut revoke = KeyUpdate::default();
    revoke.revoked_at = Some(later(4));
    let revoked = store.update("ann", &id("key-1"), revoke.clone(), None);
    expected.revoked_at = Some(later(4));
    assert_eq!(revoked.await.unwrap(), Some(expected.clone()));
    for at in [None, Some(later(5)), None] {
        assert_eq!(set(at).await, expected, "what is revoked stays so");
    }
    // In one change, the revocation counts.
    let both = key("key-3", "ann");
    store.insert(both.clone(), None).await.unwrap();
    revoke.disabled_at = Some(Some(later(3)));
    let revoked = store.update("ann", &both.id, revoke, None).await.unwrap();
    let revoked = revoked.unwrap();
    let ends = (revoked.revoked_at, revoked.disabled_at);
    assert_eq!(ends, (Some(later(4)), None));
}

/// A disabled key isn't one of the active ones of its owner. [`update`](KeyStore::update) enables
/// it where there is room, or else fails with [`Full`](StoreErrorKind::Full); of two at once for
/// one place, one comes back.
pub async fn a_disabled_key_leaves_its_place_and_needs_one_to_come_back<S: KeyStore + Clone>(
    store: S,
) {
    for name in ["first", "second"] {
        store.insert(key(name, "ann"), at_most(2, 9)).await.unwrap();
        let mut disable = KeyUpdate::default();
        disable.disabled_at = Some(Some(now()));
        let disabled = store.update("ann", &id(name), disable, at_most(2, 9));
        assert!(disabled.await.unwrap().unwrap().disabled_at.is_some());
    }
    store
        .insert(key("key-1", "ann"), at_most(2, 9))
        .await
        .unwrap();
    let mut enable = KeyUpdate::default();
    enable.disabled_at = Some(None);
    let tasks = ["first", "second"].map(|name| {
        let (store, change) = (store.clone(), enable.clone());
        tokio::spawn(async move { store.update("ann", &id(name), change, at_most(2, 9)).await })
    });
    let mut full = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(record) => assert_eq!(record.unwrap().disabled_at, None),
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Full);
                full += 1;
            }
        }
    }
    assert_eq!(full, 1, "one of them takes the place");
    // A good key is enabled already, and an expired one doesn't come back by that.
    let again = store.update("ann", &id("key-1"), enable.clone(), at_most(2, 9));
    assert!(again.await.unwrap().is_some());
    let mut expired = key("expired", "ann");
    expired.expires_at = Some(now());
    expired.disabled_at = Some(now());
    store.insert(expired, at_most(2, 9)).await.unwrap();
    let enabled = store.update("ann", &id("expired"), enable, at_most(2, 9));
    assert!(!enabled.await.unwrap().unwrap().is_active(now()));
}
