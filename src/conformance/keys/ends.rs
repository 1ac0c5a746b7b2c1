//! All keys of an owner end.

use super::*;

/// [`revoke_all`](KeyStore::revoke_all) ends each key of an owner that wasn't ended before, says which, and leaves others theirs. A key
/// that is rotated at the same time leaves no good one.
pub async fn all_keys_of_an_owner_end_in_one_step<S: KeyStore + Clone>(store: S) {
    let mut expired = key("expired", "ann");
    expired.expires_at = Some(now());
    let mut revoked = key("revoked", "ann");
    revoked.revoked_at = Some(later(1));
    for stored in [expired, revoked, key("good", "ann"), key("bobs", "bob")] {
        store.insert(stored, None).await.unwrap();
    }
    let mut ended = store.revoke_all("ann", later(5)).await.unwrap();
    ended.sort_by(|one, other| one.id.cmp(&other.id));
    let expected = ["expired", "good"].map(|name| RevokedKey {
        id: id(name),
        digest: key(name, "ann").digest,
    });
    assert_eq!(ended, expected);
    for (name, at) in [("expired", 5), ("good", 5), ("revoked", 1)] {
        let stored = get(&store, "ann", name).await.unwrap();
        assert_eq!(stored.revoked_at, Some(later(at)), "{name}");
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
