//! A key is replaced by another.

use super::*;

/// [`rotate`](KeyStore::rotate) ends the old key with the overlap or at its own end, whichever is
/// earlier; the new one has the end that the old one had.
pub async fn a_rotation_ends_the_old_key_at_the_earlier_end<S: KeyStore + Clone>(store: S) {
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

/// [`rotate`](KeyStore::rotate) gives the new key the [end](SuccessorEnd) that is asked for, and
/// the old one none that is later.
pub async fn a_new_key_ends_when_it_is_told_to<S: KeyStore + Clone>(store: S) {
    let ends = [
        ("same", SuccessorEnd::SameMoment, Some(later(90))),
        ("life", SuccessorEnd::SameLife, Some(later(120))),
        ("at", SuccessorEnd::At(Some(later(500))), Some(later(500))),
        ("never", SuccessorEnd::At(None), None),
    ];
    for (name, end, expected) in ends {
        let mut old = key(name, "ann");
        old.expires_at = Some(later(90));
        store.insert(old, None).await.unwrap();
        let into = format!("{name}-2");
        let mut rotation = rotation(name, &into, later(60));
        (rotation.end, rotation.at) = (end, later(30));
        store.rotate(rotation, None).await.unwrap();
        let ends = async |name| get(&store, "ann", name).await.unwrap().expires_at;
        assert_eq!(ends(&into).await, expected, "{name}");
        assert_eq!(ends(name).await, Some(later(60)), "{name}");
    }
    let mut rotation = rotation("never-2", "never-3", later(60));
    rotation.end = SuccessorEnd::SameLife;
    store.rotate(rotation, None).await.unwrap();
    let last = get(&store, "ann", "never-3").await.unwrap();
    assert_eq!(last.expires_at, None, "for as long as that had");
}

/// [`rotate`](KeyStore::rotate) copies the settings and the lineage as they are stored then, and no
/// use.
pub async fn a_new_key_has_the_settings_that_the_old_one_has_then<S: KeyStore + Clone>(store: S) {
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
    store.flush_touches().await.unwrap();
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

/// Of sixteen [rotations](KeyStore::rotate) of one key at once one wins; the others, and all later
/// ones, are told by which.
pub async fn a_key_is_rotated_once<S: KeyStore + Clone>(store: S) {
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

/// [`rotate`](KeyStore::rotate) stores nothing where the key is expired, revoked, unknown, another
/// owner's or was changed since it was [seen](KeyUpdate::seen), and fails with
/// [`Conflict`](StoreErrorKind::Conflict) where the new id is taken.
pub async fn a_rotation_of_what_is_not_an_active_own_key_stores_nothing<S: KeyStore + Clone>(
    store: S,
) {
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

/// A key that was [rotated](KeyStore::rotate) is never made to go on beyond its overlap.
pub async fn a_rotated_key_ends_with_its_overlap_at_the_latest<S: KeyStore + Clone>(store: S) {
    store.insert(key("old", "ann"), None).await.unwrap();
    let rotated = store.rotate(rotation("old", "new", later(60)), None).await;
    rotated.unwrap();
    for (wanted, end) in [(None, 60), (Some(90), 60), (Some(30), 30), (Some(60), 30)] {
        let mut change = KeyUpdate::default();
        change.expires_at = Some(wanted.map(later));
        let changed = store.update("ann", &id("old"), change, None).await.unwrap();
        assert_eq!(changed.unwrap().expires_at, Some(later(end)), "{wanted:?}");
    }
    let mut change = KeyUpdate::default();
    change.expires_at = Some(Some(later(90)));
    let changed = store.update("ann", &id("new"), change, None).await.unwrap();
    assert_eq!(changed.unwrap().expires_at, Some(later(90)));
}
