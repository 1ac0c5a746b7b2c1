//! Keys.

mod bounds;

use tollgate::{
    clock::Timestamp,
    key::{
        KeyDigest, KeyProof, KeyRecord, KeyUpdate, KeysPerOwner, Rehash, Rotation, RotationOutcome,
    },
    quota::{CalendarPeriod, Quota},
    store::{BudgetId, KeyId, KeyStore, Page, StoreErrorKind},
};

use crate::engines::{Keys, kind, later, now};

pub(crate) use bounds::{
    a_rotated_key_ends_with_its_overlap_at_the_latest, an_expired_key_goes_on_where_there_is_room,
    an_owner_has_only_so_many_keys_and_others_theirs,
};

fn id(name: &str) -> KeyId {
    KeyId::new(name).unwrap()
}

fn key(name: &str, owner: &str) -> KeyRecord {
    let lineage = BudgetId::new(name).unwrap();
    let digest = KeyDigest::of(&format!("ps_live_{name}"));
    let mut key = KeyRecord::new(id(name), lineage, digest, owner, now());
    key.name = name.to_owned();
    key
}

fn at_most(live_max: u32, kept_max: u32) -> Option<KeysPerOwner> {
    Some(KeysPerOwner { live_max, kept_max })
}

fn rotation(of: &str, into: &str, overlap_ends_at: Timestamp) -> Rotation {
    Rotation {
        owner: "ann".to_owned(),
        replaced: id(of),
        overlap_ends_at,
        at: now(),
        id: id(into),
        digest: KeyDigest::of(&format!("ps_live_{into}")),
        proof: KeyProof::Sha256,
        preview: "ps_live_abcd...xyz9".to_owned(),
        seen: None,
    }
}

async fn get<S: KeyStore>(store: &S, owner: &str, name: &str) -> Option<KeyRecord> {
    store.get(owner, &id(name)).await.unwrap()
}

pub(crate) async fn a_key_is_found_by_its_whole_digest_as_it_was_stored<S: Keys>(store: S) {
    let mut full = key("key-1", "ann");
    full.preview = "ps_live_abcd...xyz9".to_owned();
    full.name = "'; DROP TABLE api_key; --".to_owned();
    full.environment = Some("live".to_owned());
    full.roles = vec!["operator".to_owned(), "b\"]".to_owned()];
    full.resource = Some("agent-1".to_owned());
    full.networks = vec![
        "10.0.0.0/8".parse().unwrap(),
        "2001:db8::/64".parse().unwrap(),
    ];
    full.proof = "hmac-sha256:2026".parse().unwrap();
    full.quotas = Some(
        [
            Quota::per_second(2),
            Quota::calendar(CalendarPeriod::Month, 9),
        ]
        .into(),
    );
    full.expires_at = Some("9999-12-30T00:00:00Z".parse().unwrap());
    full.last_used_at = Some(later(1));
    full.rotated_from = Some(id("key-0"));
    full.rotated_to = Some(id("key-2"));
    full.metadata.insert("team".to_owned(), "é".to_owned());
    assert_eq!(store.find(&full.digest).await.unwrap(), None);
    store.insert(full.clone(), None).await.unwrap();
    assert_eq!(store.find(&full.digest).await.unwrap(), Some(full.clone()));
    assert_eq!(get(&store, "ann", "key-1").await, Some(full));
    for other in ["ps_live_", "ps_live_key-", "ps_live_key-1 "] {
        assert_eq!(store.find(&KeyDigest::of(other)).await.unwrap(), None);
    }
}

pub(crate) async fn an_id_or_a_digest_is_taken_once<S: Keys>(store: S) {
    store.insert(key("key-1", "ann"), None).await.unwrap();
    let mut same_id = key("key-2", "bob");
    same_id.id = id("key-1");
    let mut same_digest = key("key-3", "bob");
    same_digest.digest = KeyDigest::of("ps_live_key-1");
    for taken in [same_id, same_digest, key("key-1", "ann")] {
        let answer = store.insert(taken, None).await;
        assert_eq!(kind(answer), StoreErrorKind::Conflict);
    }
    assert_eq!(get(&store, "ann", "key-1").await, Some(key("key-1", "ann")));
    let bobs = store.list("bob", Page::first(9)).await.unwrap();
    assert_eq!(bobs.items, []);
}

pub(crate) async fn a_rotation_ends_the_old_key_at_the_earlier_end<S: Keys>(store: S) {
    let mut short = key("short", "ann");
    short.expires_at = Some(later(10));
    store.insert(short, None).await.unwrap();
    store.insert(key("long", "ann"), None).await.unwrap();
    for (of, into) in [("short", "short-2"), ("long", "long-2")] {
        let rotated = store.rotate(rotation(of, into, later(60)), None).await;
        let successor = match rotated.unwrap() {
            RotationOutcome::Rotated {
                replaced,
                successor,
            } => {
                assert_eq!(replaced, key(of, "ann").digest);
                *successor
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(get(&store, "ann", into).await, Some(successor.clone()));
        assert_eq!(
            store.find(&successor.digest).await.unwrap(),
            Some(successor)
        );
    }
    let end = async |name| get(&store, "ann", name).await.unwrap().expires_at;
    assert_eq!(end("short").await, Some(later(10)));
    assert_eq!(end("short-2").await, Some(later(10)), "its own end");
    assert_eq!(end("long").await, Some(later(60)));
    assert_eq!(end("long-2").await, None, "and not that of the overlap");
}

pub(crate) async fn a_new_key_has_the_settings_that_the_old_one_has_then<S: Keys>(store: S) {
    let mut old = key("old", "ann");
    old.environment = Some("live".to_owned());
    old.roles = vec!["operator".to_owned()];
    old.lineage = BudgetId::new("ancestor").unwrap();
    store.insert(old.clone(), None).await.unwrap();
    let mut change = KeyUpdate::default();
    change.name = Some("renamed".to_owned());
    change.roles = Some(vec!["viewer".to_owned()]);
    change.resource = Some(Some("agent-1".to_owned()));
    change.networks = Some(vec!["192.0.2.0/24".parse().unwrap()]);
    change.quotas = Some(Some(Quota::per_minute(5).into()));
    change.metadata = Some([("team".to_owned(), "red".to_owned())].into());
    change.expires_at = Some(Some(later(500)));
    let changed = store.update("ann", &id("old"), change, None).await.unwrap();
    store.touch(&id("old"), later(1));
    store.written().await;
    let mut rotation = rotation("old", "new", later(60));
    rotation.proof = "hmac-sha256:2026".parse().unwrap();
    rotation.at = later(2);
    store.rotate(rotation.clone(), None).await.unwrap();

    let mut expected = changed.unwrap();
    expected.id = id("new");
    expected.digest = rotation.digest;
    expected.proof = rotation.proof;
    expected.preview = rotation.preview;
    expected.created_at = later(2);
    expected.rotated_from = Some(id("old"));
    assert_eq!(get(&store, "ann", "new").await, Some(expected));
    let replaced = get(&store, "ann", "old").await.unwrap();
    assert_eq!(replaced.rotated_to, Some(id("new")));
    assert_eq!(replaced.last_used_at, Some(later(1)));
}

pub(crate) async fn a_key_is_rotated_once<S: Keys>(store: S) {
    store.insert(key("old", "ann"), None).await.unwrap();
    let rotate = |into: String| {
        let store = store.clone();
        let rotation = rotation("old", &into, later(60));
        tokio::spawn(async move { store.rotate(rotation, at_most(9, 9)).await.unwrap() })
    };
    let tasks: Vec<_> = (0..16)
        .map(|number| rotate(format!("new-{number}")))
        .collect();
    let (mut winner, mut losers) = (None, Vec::new());
    for task in tasks {
        match task.await.unwrap() {
            RotationOutcome::Rotated { successor, .. } => {
                assert_eq!(winner.replace(successor.id), None, "one wins");
            }
            RotationOutcome::Superseded { by } => losers.push(by),
            other => panic!("{other:?}"),
        }
    }
    let winner = winner.unwrap();
    assert_eq!(losers, vec![winner.clone(); 15]);
    assert_eq!(
        store.list("ann", Page::first(9)).await.unwrap().items.len(),
        2
    );
    // Also when that one is gone: nobody knows any more how long the old one would have lived.
    store.delete("ann", &winner).await.unwrap();
    let again = store.rotate(rotation("old", "late", later(90)), None).await;
    assert_eq!(again.unwrap(), RotationOutcome::Superseded { by: winner });
    let old = get(&store, "ann", "old").await.unwrap();
    assert_eq!(old.expires_at, Some(later(60)));
}

pub(crate) async fn a_rotation_of_what_is_not_an_active_own_key_stores_nothing<S: Keys>(store: S) {
    let mut expired = key("expired", "ann");
    expired.expires_at = Some(now());
    let mut revoked = key("revoked", "ann");
    revoked.revoked_at = Some(now());
    for old in [expired, revoked, key("bobs", "bob")] {
        store.insert(old, None).await.unwrap();
    }
    for (of, expected) in [
        ("expired", RotationOutcome::NotActive),
        ("revoked", RotationOutcome::NotActive),
        ("bobs", RotationOutcome::Unknown),
        ("nobodys", RotationOutcome::Unknown),
    ] {
        let outcome = store.rotate(rotation(of, "new", later(60)), None).await;
        assert_eq!(outcome.unwrap(), expected, "{of}");
        assert_eq!(get(&store, "ann", "new").await, None);
    }
    assert_eq!(get(&store, "bob", "bobs").await, Some(key("bobs", "bob")));
    store.insert(key("key-1", "ann"), None).await.unwrap();
    let taken = store.rotate(rotation("key-1", "bobs", later(60)), None);
    assert_eq!(kind(taken.await), StoreErrorKind::Conflict);
    // Nor does one with other settings than were seen; its name is none of them.
    let mut seen = key("key-1", "ann");
    let mut differently = rotation("key-1", "new", later(60));
    seen.roles = vec!["viewer".to_owned()];
    differently.seen = Some(Box::new(seen));
    let outcome = store.rotate(differently, None).await.unwrap();
    assert_eq!(outcome, RotationOutcome::Changed);
    assert_eq!(get(&store, "ann", "new").await, None);
    assert_eq!(get(&store, "ann", "key-1").await, Some(key("key-1", "ann")));
}

pub(crate) async fn a_key_that_was_changed_since_it_was_seen_is_left_as_it_is<S: Keys>(store: S) {
    let made = key("key-1", "ann");
    store.insert(made.clone(), None).await.unwrap();
    let labelled = |seen: &KeyRecord, label: &str| {
        let mut change = KeyUpdate::default();
        change.metadata = Some([("label".to_owned(), label.to_owned())].into());
        change.seen = Some(Box::new(seen.clone()));
        change
    };
    let mut others = KeyUpdate::default();
    others.roles = Some(vec!["viewer".to_owned()]);
    store.update("ann", &made.id, others, None).await.unwrap();
    let refused = store
        .update("ann", &made.id, labelled(&made, "a"), None)
        .await;
    assert_eq!(kind(refused), StoreErrorKind::Conflict);
    let seen = get(&store, "ann", "key-1").await.unwrap();
    assert_eq!((seen.roles.len(), seen.metadata.len()), (1, 0));
    // Its name and its uses are none of its settings.
    let mut named = KeyUpdate::default();
    named.name = Some("another".to_owned());
    store.update("ann", &made.id, named, None).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let (store, id) = (store.clone(), made.id.clone());
            let change = labelled(&seen, &number.to_string());
            tokio::spawn(async move { store.update("ann", &id, change, None).await })
        })
        .collect();
    let mut changed = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(record) => changed.push(record.unwrap()),
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict),
        }
    }
    assert_eq!(changed.len(), 1, "of several that saw the same, one");
    assert_eq!(get(&store, "ann", "key-1").await, changed.pop());
    let absent = store
        .update("bob", &made.id, labelled(&seen, "b"), None)
        .await;
    assert_eq!(absent.unwrap(), None);
}

pub(crate) async fn another_owner_s_key_is_like_none<S: Keys>(store: S) {
    store.insert(key("key-1", "ann"), None).await.unwrap();
    let mut revoke = KeyUpdate::default();
    revoke.revoked_at = Some(now());
    assert_eq!(get(&store, "bob", "key-1").await, None);
    let updated = store
        .update("bob", &id("key-1"), revoke, None)
        .await
        .unwrap();
    assert_eq!(updated, None);
    assert_eq!(store.delete("bob", &id("key-1")).await.unwrap(), None);
    assert_eq!(get(&store, "ann", "key-1").await, Some(key("key-1", "ann")));
}

pub(crate) async fn keys_are_listed_newest_first_a_page_at_a_time<S: Keys>(store: S) {
    for number in 0..7 {
        store
            .insert(key(&format!("key-{number}"), "ann"), None)
            .await
            .unwrap();
        store
            .insert(key(&format!("bobs-{number}"), "bob"), None)
            .await
            .unwrap();
    }
    let mut page = Page::first(3);
    let mut names = Vec::new();
    let mut pages = 0;
    loop {
        let part = store.list("ann", page).await.unwrap();
        names.extend(part.items.into_iter().map(|key| key.name));
        pages += 1;
        let Some(cursor) = part.next_cursor else {
            break;
        };
        page = Page::first(3).after(cursor);
    }
    let newest_first: Vec<_> = (0..7).rev().map(|number| format!("key-{number}")).collect();
    assert_eq!((names, pages), (newest_first, 3));
    let exact = store.list("ann", Page::first(7)).await.unwrap();
    assert_eq!(exact.next_cursor, None, "no page behind the last");
}

pub(crate) async fn an_update_changes_what_it_names_and_no_revocation<S: Keys>(store: S) {
    let mut expected = key("key-1", "ann");
    store.insert(expected.clone(), None).await.unwrap();
    let mut change = KeyUpdate::default();
    change.name = Some("new".to_owned());
    change.roles = Some(vec!["viewer".to_owned()]);
    change.networks = Some(vec!["192.0.2.0/24".parse().unwrap()]);
    change.expires_at = Some(Some(later(5)));
    change.resource = Some(Some("agent-1".to_owned()));
    change.quotas = Some(Some(Quota::per_hour(100).into()));
    change.metadata = Some([("team".to_owned(), "red".to_owned())].into());
    let updated = store
        .update("ann", &id("key-1"), change.clone(), None)
        .await;
    expected.name = "new".to_owned();
    expected.roles = vec!["viewer".to_owned()];
    expected.networks = change.networks.unwrap();
    expected.resource = Some("agent-1".to_owned());
    expected.quotas = change.quotas.unwrap();
    expected.metadata = change.metadata.unwrap();
    expected.expires_at = Some(later(5));
    assert_eq!(updated.unwrap(), Some(expected.clone()));
    for at in [later(1), later(2)] {
        let mut revoke = KeyUpdate::default();
        revoke.revoked_at = Some(at);
        revoke.expires_at = Some(None);
        revoke.resource = Some(None);
        revoke.quotas = Some(None);
        store
            .update("ann", &id("key-1"), revoke, None)
            .await
            .unwrap();
    }
    expected.expires_at = None;
    expected.resource = None;
    expected.quotas = None;
    expected.revoked_at = Some(later(1));
    assert_eq!(get(&store, "ann", "key-1").await, Some(expected));
    let unknown = store.update("ann", &id("key-2"), KeyUpdate::default(), None);
    assert_eq!(unknown.await.unwrap(), None);
}

pub(crate) async fn a_touch_changes_one_column_and_never_goes_back<S: Keys>(store: S) {
    let mut expected = key("key-1", "ann");
    store.insert(expected.clone(), None).await.unwrap();
    let mut revoke = KeyUpdate::default();
    revoke.revoked_at = Some(now());
    store.touch(&id("key-1"), later(3));
    store
        .update("ann", &id("key-1"), revoke, None)
        .await
        .unwrap();
    store.touch(&id("key-1"), later(9));
    store.touch(&id("key-1"), later(2));
    store.touch(&id("nobodys"), later(2));
    store.written().await;
    expected.revoked_at = Some(now());
    expected.last_used_at = Some(later(9));
    assert_eq!(get(&store, "ann", "key-1").await, Some(expected));
    store.touch(&id("key-1"), later(4));
    store.written().await;
    let last = get(&store, "ann", "key-1").await.unwrap().last_used_at;
    assert_eq!(last, Some(later(9)));
}

pub(crate) async fn a_deleted_key_is_gone<S: Keys>(store: S) {
    let first = key("key-1", "ann");
    store.insert(first.clone(), None).await.unwrap();
    let deleted = store.delete("ann", &id("key-1")).await.unwrap();
    assert_eq!(deleted, Some(first.clone()));
    assert_eq!(store.find(&first.digest).await.unwrap(), None);
    assert_eq!(store.delete("ann", &id("key-1")).await.unwrap(), None);
    let left = store.list("ann", Page::first(9)).await.unwrap();
    assert_eq!(left.items, []);
    store.insert(first, None).await.unwrap();
}

pub(crate) async fn a_key_gets_another_digest_if_it_has_the_old_one<S: Keys>(store: S) {
    let (mut first, second) = (key("key-1", "ann"), key("key-2", "ann"));
    for stored in [&first, &second] {
        store.insert(stored.clone(), None).await.unwrap();
    }
    let rehash = Rehash {
        id: first.id.clone(),
        from: first.digest,
        from_proof: KeyProof::Sha256,
        digest: KeyDigest::of("another"),
        proof: "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaA"
            .parse()
            .unwrap(),
    };
    let mut taken = rehash.clone();
    taken.digest = second.digest;
    assert_eq!(kind(store.rehash(taken).await), StoreErrorKind::Conflict);
    assert!(store.rehash(rehash.clone()).await.unwrap());
    assert!(
        !store.rehash(rehash.clone()).await.unwrap(),
        "it has another by now"
    );
    let mut unknown = rehash.clone();
    unknown.id = id("key-3");
    assert!(!store.rehash(unknown).await.unwrap());
    assert_eq!(store.find(&first.digest).await.unwrap(), None);
    (first.digest, first.proof) = (rehash.digest, rehash.proof);
    assert_eq!(
        store.find(&first.digest).await.unwrap(),
        Some(first.clone())
    );
    assert_ne!(first.proof, KeyProof::Sha256);
    // Under the same start, with a stronger hash.
    let stronger = Rehash {
        id: first.id.clone(),
        from: first.digest,
        from_proof: first.proof.clone(),
        digest: first.digest,
        proof: "$argon2id$v=19$m=64,t=2,p=1$c2FsdHNhbHQ$aGFzaA"
            .parse()
            .unwrap(),
    };
    assert!(store.rehash(stronger.clone()).await.unwrap());
    first.proof = stronger.proof.clone();
    assert_eq!(
        store.find(&first.digest).await.unwrap(),
        Some(first.clone())
    );
    // Of what was compared before that: it isn't what stands there now.
    let mut late = stronger;
    late.proof = "$argon2id$v=19$m=64,t=3,p=1$c2FsdHNhbHQ$aGFzaA"
        .parse()
        .unwrap();
    assert!(!store.rehash(late).await.unwrap());
    assert_eq!(store.find(&first.digest).await.unwrap(), Some(first));
}

/// "Never", for whoever has no null: it is a moment like any other, to the microsecond.
pub(crate) async fn a_key_may_expire_in_the_last_second_of_time<S: Keys>(store: S) {
    let last = Timestamp::MAX.as_second();
    for (name, nanos) in [("whole", 0), ("cut", 999_999_000)] {
        let mut key = key(name, "ann");
        key.expires_at = Some(Timestamp::new(last, nanos).unwrap());
        store.insert(key.clone(), None).await.unwrap();
        assert_eq!(store.find(&key.digest).await.unwrap(), Some(key));
    }
}

pub(crate) async fn active_keys_are_listed_by_their_last_use<S: Keys>(store: S) {
    let mut expired = key("expired", "ann");
    expired.expires_at = Some(now());
    let mut revoked = key("revoked", "ann");
    revoked.revoked_at = Some(now());
    let unused = key("unused", "bob");
    for stored in [
        expired,
        revoked,
        unused,
        key("long-ago", "ann"),
        key("lately", "bob"),
    ] {
        store.insert(stored, None).await.unwrap();
    }
    for (name, at) in [
        ("long-ago", 1),
        ("lately", 5),
        ("revoked", 9),
        ("expired", 9),
    ] {
        store.touch(&id(name), later(at));
    }
    store.written().await;
    let recent = store.recently_used(9).await.unwrap();
    let names: Vec<_> = recent.into_iter().map(|key| key.name).collect();
    assert_eq!(names, ["lately", "long-ago", "unused"]);
    assert_eq!(store.recently_used(1).await.unwrap().len(), 1);
}
