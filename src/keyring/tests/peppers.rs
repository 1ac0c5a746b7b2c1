use std::sync::Arc;

use super::*;

/// The two steps of a pepper change, with every mix of processes.
#[tokio::test]
async fn a_pepper_changes_without_a_key_that_is_refused_anywhere() {
    let store = MemoryStore::new();
    let build = || builder(&store).ttl(Duration::ZERO);
    let before = build().pepper(pepper("one")).build();
    let knowing = build()
        .pepper(pepper("one"))
        .add_next_pepper(pepper("two"))
        .build();
    let after = build()
        .pepper(pepper("two"))
        .add_old_pepper(pepper("one"))
        .build();

    let (key, record) = ring(&store, &before)
        .create("ann", NewKey::default())
        .await
        .unwrap();
    for keys in [&before, &knowing, &before, &knowing] {
        assert_eq!(resolve(keys, key.expose()).await.unwrap(), record.id);
    }
    let same = store.get("ann", &record.id).await.unwrap().unwrap();
    assert_eq!(same.proof, peppered("one"), "nothing is written in step 1");

    assert_eq!(resolve(&after, key.expose()).await.unwrap(), record.id);
    let anew = stored_as(&store, &record.id, &peppered("two")).await;
    let (fresh, new) = ring(&store, &after)
        .create("ann", NewKey::default())
        .await
        .unwrap();
    for keys in [&knowing, &after, &knowing, &after] {
        assert_eq!(resolve(keys, key.expose()).await.unwrap(), record.id);
        assert_eq!(resolve(keys, fresh.expose()).await.unwrap(), new.id);
        tokio::task::yield_now().await;
    }
    let stored = store.get("ann", &record.id).await.unwrap().unwrap();
    assert_eq!(stored.digest, anew.digest, "and nobody writes it back");

    ring(&store, &after)
        .revoke("ann", &record.id)
        .await
        .unwrap();
    for keys in [&knowing, &after] {
        let refused = resolve(keys, key.expose()).await.unwrap_err();
        assert!(matches!(refused, KeyRefusal::Revoked { .. }));
    }
}

/// A change notification carries the stored digest. During a pepper change, that isn't the one
/// under which another process has cached the key.
#[tokio::test]
async fn a_key_that_is_revoked_while_a_pepper_is_rolled_is_refused_by_who_hears_of_it() {
    let store = MemoryStore::new();
    let knowing = builder(&store)
        .pepper(pepper("one"))
        .add_next_pepper(pepper("two"))
        .build();
    let after = builder(&store)
        .pepper(pepper("two"))
        .add_old_pepper(pepper("one"))
        .build();
    let owned = ring(&store, &knowing);
    let theirs = ring(&store, &after).add_listener(Arc::clone(&knowing.0));
    for first in [&knowing, &after] {
        let (key, record) = owned.create("ann", NewKey::default()).await.unwrap();
        for keys in [first, &knowing, &after] {
            assert_eq!(resolve(keys, key.expose()).await.unwrap(), record.id);
        }
        stored_as(&store, &record.id, &peppered("two")).await;
        assert!(is_warm(&knowing, key.expose()));
        theirs.revoke("ann", &record.id).await.unwrap();
        for keys in [&knowing, &after] {
            let refused = resolve(keys, key.expose()).await.unwrap_err();
            assert!(matches!(refused, KeyRefusal::Revoked { .. }));
        }
    }
}

/// During a pepper change, two processes may migrate the same plain key to different digests.
#[tokio::test]
async fn a_key_that_another_process_stores_anew_is_taken_back_by_what_it_became() {
    let store = MemoryStore::new();
    let plain = ring(&store, &builder(&store).build());
    let frozen = KeyResolver::builder(Frozen(store.clone()))
        .pepper(pepper("two"))
        .add_old_pepper(pepper("one"))
        .build();
    let other = builder(&store)
        .pepper(pepper("one"))
        .add_next_pepper(pepper("two"))
        .build();
    let (key, record) = plain.create("ann", NewKey::default()).await.unwrap();
    assert!(resolve(&frozen, key.expose()).await.is_ok());
    assert!(resolve(&other, key.expose()).await.is_ok());
    stored_as(&store, &record.id, &peppered("one")).await;
    assert!(is_warm(&frozen, key.expose()));
    let theirs = ring(&store, &other).add_listener(Arc::clone(&frozen.0));
    theirs.revoke("ann", &record.id).await.unwrap();
    let refused = resolve(&frozen, key.expose()).await.unwrap_err();
    assert!(matches!(refused, KeyRefusal::Revoked { .. }));
}

#[tokio::test]
async fn while_a_pepper_is_rolled_nothing_is_read_that_could_not_be_taken_back() {
    let store = MemoryStore::new();
    let now = builder(&store).pepper(pepper("one"));
    let now = now.build();
    ring(&store, &now)
        .create("ann", NewKey::default())
        .await
        .unwrap();
    assert_eq!(now.warm_up(9).await.unwrap(), 1);
    let knowing = builder(&store)
        .pepper(pepper("one"))
        .add_next_pepper(pepper("two"));
    assert_eq!(knowing.build().warm_up(9).await.unwrap(), 0);
}

/// The first pepper, for processes that had none.
#[tokio::test]
async fn the_first_pepper_comes_in_two_steps_too() {
    let store = MemoryStore::new();
    let build = || builder(&store).ttl(Duration::ZERO);
    let knowing = build().add_next_pepper(pepper("one")).build();
    let after = build().pepper(pepper("one")).build();
    let (key, record) = ring(&store, &knowing)
        .create("ann", NewKey::default())
        .await
        .unwrap();
    assert_eq!(record.proof, KeyProof::Sha256);
    assert_eq!(resolve(&after, key.expose()).await.unwrap(), record.id);
    stored_as(&store, &record.id, &peppered("one")).await;
    assert_eq!(resolve(&knowing, key.expose()).await.unwrap(), record.id);
}

#[tokio::test]
async fn garbage_that_begins_like_a_key_is_neither_looked_up_nor_compared() {
    let store = MemoryStore::new();
    let format = KeyFormat::live_and_test("ps").unwrap();
    let keys = builder(&store)
        .add_format(format.clone())
        .weak_keys(passwords(1), 6)
        .build();
    let key = format.generate(Some("live")).unwrap();
    let wrong = if key.expose().ends_with('0') {
        "1"
    } else {
        "0"
    };
    let garbage = [&key.expose()[..key.expose().len() - 1], wrong].concat();
    for text in [garbage.as_str(), "ps_live_", "ps_hunter22"] {
        let answer = keys.resolve(text);
        assert!(
            matches!(answer, Resolution::Ready(Err(KeyRefusal::Malformed))),
            "{text}: {answer:?}"
        );
    }
    assert_eq!(keys.statistics().loads, 0);
    // A well-formed key, and a text of no known format, are looked up.
    for text in [key.expose(), "team-7hunter22"] {
        assert!(matches!(keys.resolve(text), Resolution::Pending(_)));
    }
}
