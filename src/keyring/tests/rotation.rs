use super::*;
use crate::domain::denial::{Denial, DenialKind};

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn who_lost_the_answer_of_a_rotation_is_told_where_to_go_on() {
    let store = MemoryStore::new();
    let keys = builder(&store).build();
    let owned = ring(&store, &keys);
    let (old, first) = owned.create("ann", NewKey::default()).await.unwrap();
    let (lost, second) = owned.rotate("ann", &first.id, HOUR).await.unwrap();

    let again = owned.rotate("ann", &first.id, HOUR).await.unwrap_err();
    let KeyringError::Superseded { by } = &again else {
        panic!("{again:?}");
    };
    assert_eq!(*by, second.id);
    let denial = Denial::from(again.clone());
    assert_eq!(denial.kind(), DenialKind::Conflict);
    assert!(denial.message().unwrap().contains(second.id.as_str()));

    let (key, third) = owned.rotate("ann", by, Duration::ZERO).await.unwrap();
    assert_eq!(third.expires_at, None, "it doesn't end with the first one");
    assert_eq!(resolve(&keys, key.expose()).await.unwrap(), third.id);
    assert_eq!(resolve(&keys, old.expose()).await.unwrap(), first.id);
    let gone = resolve(&keys, lost.expose()).await.unwrap_err();
    assert!(matches!(gone, KeyRefusal::Expired { .. }));
}

/// An update between a rotation's read of the key and its change.
#[tokio::test]
async fn a_rotation_undoes_no_update_beside_it() {
    let store = MemoryStore::new();
    let keys = builder(&store).build();
    let owned = ring(&store, &keys);
    for _ in 0..200 {
        let new = NewKey {
            roles: vec!["admin".to_owned()],
            ..NewKey::default()
        };
        let (_, old) = owned.create("ann", new).await.unwrap();
        let narrow = KeyUpdate {
            roles: Some(vec!["viewer".to_owned()]),
            ..KeyUpdate::default()
        };
        let update = owned.update("ann", &old.id, narrow);
        let rotate = owned.rotate("ann", &old.id, HOUR);
        let (rotated, updated) = tokio::join!(rotate, update);
        let (successor, old) = (rotated.unwrap().1, updated.unwrap());
        // Either the update was first, and the successor has it, or the key had already been
        // replaced.
        let was_first = old.rotated_to.is_none();
        let expected = if was_first { "viewer" } else { "admin" };
        assert_eq!(successor.roles, [expected]);
        owned.delete("ann", &old.id).await.unwrap();
        owned.delete("ann", &successor.id).await.unwrap();
    }
}
