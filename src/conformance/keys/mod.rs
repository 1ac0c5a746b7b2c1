//! The laws of a key store.
//!
//! Each takes a store that is empty. [`keys`](super::keys()) runs them all.

mod bounds;
mod ends;
mod listing;
mod rotation;

use super::{kind, later, now};
use crate::{
    domain::{
        BudgetId, KeyId,
        clock::Timestamp,
        key::{
            KeyDigest, KeyProof, KeyRecord, KeyUpdate, KeysPerOwner, Rehash, RevokedKey, Rotation,
            RotationOutcome, SuccessorEnd,
        },
        page::Page,
        quota::{CalendarPeriod, Quota},
    },
    store::{KeyStore, StoreErrorKind},
};

pub use bounds::{
    an_expired_key_goes_on_where_there_is_room, an_owner_has_only_so_many_keys_and_others_theirs,
};
pub use ends::{
    a_disabled_key_is_enabled_again_unless_it_was_revoked,
    a_disabled_key_leaves_its_place_and_needs_one_to_come_back,
    all_keys_of_an_owner_end_in_one_step,
};
pub use listing::{
    keys_are_listed_newest_first_a_page_at_a_time, keys_of_all_owners_are_listed_newest_first,
};
pub use rotation::{
    a_key_is_rotated_once, a_new_key_ends_when_it_is_told_to,
    a_new_key_has_the_settings_that_the_old_one_has_then,
    a_rotated_key_ends_with_its_overlap_at_the_latest,
    a_rotation_ends_the_old_key_at_the_earlier_end,
    a_rotation_of_what_is_not_an_active_own_key_stores_nothing,
};

/// [`find`](crate::store::KeyLookup::find) and [`get`](KeyStore::get) return every field as it was
/// [inserted](KeyStore::insert), whatever its text, and a digest that differs in anything finds
/// nothing.
pub async fn a_key_is_found_by_its_whole_digest_as_it_was_stored<S: KeyStore + Clone>(store: S) {
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

/// [`insert`](KeyStore::insert) fails with [`Conflict`](StoreErrorKind::Conflict) where the id or
/// the digest is taken, also by another owner, and changes nothing.
pub async fn an_id_or_a_digest_is_taken_once<S: KeyStore + Clone>(store: S) {
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

/// [`update`](KeyStore::update) fails with [`Conflict`](StoreErrorKind::Conflict) where the
/// settings are others than were [seen](KeyUpdate::seen): of eight at once that saw the same, one
/// is made.
pub async fn a_key_that_was_changed_since_it_was_seen_is_left_as_it_is<S: KeyStore + Clone>(
    store: S,
) {
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

/// Another owner's key is not got, changed or deleted.
pub async fn another_owner_s_key_is_like_none<S: KeyStore + Clone>(store: S) {
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

/// [`update`](KeyStore::update) changes what it names and nothing else; a revocation stays as it
/// was first made.
pub async fn an_update_changes_what_it_names_and_no_revocation<S: KeyStore + Clone>(store: S) {
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

/// [`touch`](crate::store::KeyLookup::touch) changes the last use alone, to the latest, and is
/// written when [`flush_touches`](crate::store::KeyLookup::flush_touches) answers.
pub async fn a_touch_changes_one_column_and_never_goes_back<S: KeyStore + Clone>(store: S) {
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
    store.flush_touches().await.unwrap();
    expected.revoked_at = Some(now());
    expected.last_used_at = Some(later(9));
    assert_eq!(get(&store, "ann", "key-1").await, Some(expected));
    store.touch(&id("key-1"), later(4));
    store.flush_touches().await.unwrap();
    let last = get(&store, "ann", "key-1").await.unwrap().last_used_at;
    assert_eq!(last, Some(later(9)));
}

/// [`delete`](KeyStore::delete) returns what there was, once; then the id and the digest are free.
pub async fn a_deleted_key_is_gone<S: KeyStore + Clone>(store: S) {
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

/// [`rehash`](crate::store::KeyLookup::rehash) replaces digest and proof if both are what was
/// expected, and fails with [`Conflict`](StoreErrorKind::Conflict) where the new digest is another
/// key's.
///
/// A store that leaves [`rehash`](crate::store::KeyLookup::rehash) as it is breaks this law, and
/// may: its keys stay as they are.
pub async fn a_key_gets_another_digest_if_it_has_the_old_one<S: KeyStore + Clone>(store: S) {
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

/// Moments are kept to the microsecond, up to the last of them.
pub async fn a_key_may_expire_in_the_last_second_of_time<S: KeyStore + Clone>(store: S) {
    let last = Timestamp::MAX.as_second();
    for (name, nanos) in [("whole", 0), ("cut", 999_999_000)] {
        let mut key = key(name, "ann");
        key.expires_at = Some(Timestamp::new(last, nanos).unwrap());
        store.insert(key.clone(), None).await.unwrap();
        assert_eq!(store.find(&key.digest).await.unwrap(), Some(key));
    }
}

/// [`recently_used`](crate::store::KeyLookup::recently_used) lists active keys of all owners, those
/// that were used last first.
///
/// A store that leaves it as it is breaks this law, and may: its resolver begins cold.
pub async fn active_keys_are_listed_by_their_last_use<S: KeyStore + Clone>(store: S) {
    let mut expired = key("expired", "ann");
    expired.expires_at = Some(now());
    let mut revoked = key("revoked", "ann");
    revoked.revoked_at = Some(now());
    let mut disabled = key("disabled", "ann");
    disabled.disabled_at = Some(now());
    let unused = key("unused", "bob");
    for stored in [
        expired,
        revoked,
        disabled,
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
        ("disabled", 9),
        ("expired", 9),
    ] {
        store.touch(&id(name), later(at));
    }
    store.flush_touches().await.unwrap();
    let recent = store.recently_used(9).await.unwrap();
    let names: Vec<_> = recent.into_iter().map(|key| key.name).collect();
    assert_eq!(names, ["lately", "long-ago", "unused"]);
    assert_eq!(store.recently_used(1).await.unwrap().len(), 1);
}

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
        end: SuccessorEnd::SameMoment,
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
