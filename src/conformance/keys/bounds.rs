//! How many keys an owner has.

use super::*;

/// [`insert`](KeyStore::insert) and [`rotate`](KeyStore::rotate) keep to [`KeysPerOwner`], however
/// many come at once: the oldest key that has ended makes room, and where there is none they fail
/// with [`Full`](StoreErrorKind::Full).
pub async fn an_owner_has_only_so_many_keys_and_others_theirs<S: KeyStore + Clone>(store: S) {
    let mut revoked = key("revoked", "ann");
    revoked.revoked_at = Some(now());
    let mut expired = key("expired", "ann");
    expired.expires_at = Some(now());
    for ended in [revoked, expired] {
        store.insert(ended, at_most(4, 7)).await.unwrap();
    }
    let insert = |name: String| {
        let store = store.clone();
        let record = key(&name, "ann");
        tokio::spawn(async move { store.insert(record, at_most(4, 7)).await })
    };
    let tasks: Vec<_> = (0..16)
        .map(|number| insert(format!("key-{number}")))
        .collect();
    let mut stored = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(()) => stored += 1,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Full),
        }
    }
    assert_eq!(stored, 4, "exactly, and those that have ended don't count");
    store
        .insert(key("bobs", "bob"), at_most(1, 1))
        .await
        .unwrap();
    // Of those that are kept they do: for one more than these the oldest goes that has ended.
    let ended = |name| {
        let mut ended = key(name, "ann");
        ended.expires_at = Some(now());
        store.insert(ended, at_most(4, 7))
    };
    ended("last").await.unwrap();
    assert!(get(&store, "ann", "revoked").await.is_some());
    ended("late").await.unwrap();
    assert_eq!(get(&store, "ann", "revoked").await, None);
    let full = store.insert(key("later", "ann"), at_most(4, 7)).await;
    assert_eq!(kind(full), StoreErrorKind::Full, "by those that are good");
    let living = store.list("ann", Page::first(9)).await.unwrap().items;
    let living: Vec<_> = living
        .iter()
        .filter(|key| key.expires_at.is_none())
        .collect();
    // A rotation is held to neither, and takes the place of the oldest that has ended.
    let mut next = living[0].id.clone();
    for (number, gone) in ["expired", "last", "late"].into_iter().enumerate() {
        assert!(get(&store, "ann", gone).await.is_some());
        let into = format!("next-{number}");
        let mut rotation = rotation(next.as_str(), &into, later(60));
        rotation.seen = get(&store, "ann", next.as_str()).await.map(Box::new);
        let rotated = store.rotate(rotation, at_most(4, 6)).await;
        assert!(matches!(rotated, Ok(RotationOutcome::Rotated { .. })));
        assert_eq!(get(&store, "ann", gone).await, None);
        next = id(&into);
    }
    let full = store.rotate(rotation(next.as_str(), "beyond", later(60)), at_most(4, 6));
    assert_eq!(kind(full.await), StoreErrorKind::Full, "all are good");
    assert_eq!(get(&store, "ann", "beyond").await, None);
    assert_eq!(
        get(&store, "ann", next.as_str()).await.unwrap().expires_at,
        None
    );
    assert!(get(&store, "bob", "bobs").await.is_some());
}

/// [`update`](KeyStore::update) lets an expired key go on where its owner may have one more, or
/// else fails with [`Full`](StoreErrorKind::Full); of two at once for one place, one does.
pub async fn an_expired_key_goes_on_where_there_is_room<S: KeyStore + Clone>(store: S) {
    for name in ["first", "second"] {
        let mut expired = key(name, "ann");
        expired.expires_at = Some(now());
        store.insert(expired, at_most(2, 9)).await.unwrap();
    }
    for (name, owner) in [("key-1", "ann"), ("bobs", "bob")] {
        store.insert(key(name, owner), at_most(2, 9)).await.unwrap();
    }
    let mut go_on = KeyUpdate::default();
    go_on.expires_at = Some(None);
    let tasks = ["first", "second"].map(|name| {
        let (store, change) = (store.clone(), go_on.clone());
        tokio::spawn(async move { store.update("ann", &id(name), change, at_most(2, 9)).await })
    });
    let mut full = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(record) => assert_eq!(record.unwrap().expires_at, None),
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Full);
                full += 1;
            }
        }
    }
    assert_eq!(full, 1, "one of them takes the place");
    // Whatever else is changed needs none, nor does a good key that gets another end.
    let again = store
        .update("ann", &id("key-1"), go_on.clone(), at_most(2, 9))
        .await;
    assert_eq!(again.unwrap().unwrap().expires_at, None);
    let mut rename = go_on.clone();
    rename.name = Some("renamed".to_owned());
    rename.expires_at = Some(Some(now()));
    for name in ["first", "second"] {
        let renamed = store
            .update("ann", &id(name), rename.clone(), at_most(2, 9))
            .await;
        assert_eq!(renamed.unwrap().unwrap().name, "renamed");
    }
}
