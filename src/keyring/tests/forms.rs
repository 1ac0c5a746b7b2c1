use super::*;
use crate::domain::key::{Alphabet, ForeignFormat, GenerateKeyError};

const OLD: &str = "sk-0123456789abcdefghijABCDEFGHIJ";

fn resolver(store: &MemoryStore) -> KeyResolver {
    let foreign = ForeignFormat::builder(Alphabet::Base62, 30..=40).prefix("sk-");
    builder(store)
        .add_format(KeyFormat::live_and_test("ps").unwrap())
        .add_foreign_format(foreign.build().unwrap())
        .add_foreign_format(ForeignFormat::uuid())
        .build()
}

fn live() -> NewKey {
    NewKey {
        environment: Some("live".to_owned()),
        ..NewKey::default()
    }
}

#[tokio::test]
async fn an_imported_key_of_a_foreign_form_is_good_and_can_be_rotated() {
    let store = MemoryStore::new();
    let keys = resolver(&store);
    let format = KeyFormat::live_and_test("ps").unwrap();
    let owned = Keyring::new(store, format.clone(), keys.clone());
    for old in [OLD, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"] {
        assert!(keys.claims(old));
        let record = owned.import("ann", old, live()).await.unwrap();
        assert_eq!(resolve(&keys, old).await.unwrap(), record.id);
        let (new, _) = owned
            .rotate("ann", &record.id, Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(format.parse(new.expose()), Ok(Some("live")));
    }
}

#[tokio::test]
async fn a_key_that_would_be_refused_is_not_imported() {
    let store = MemoryStore::new();
    let keys = resolver(&store);
    let format = KeyFormat::live_and_test("ps").unwrap();
    let owned = Keyring::new(store.clone(), format, keys);
    for dead in [
        "pk-0123456789abcdefghijABCDEFGHIJ",
        "sk-0123456789abcdefghij",
        "ps_live_0123456789abcdefghijklmnopqrstuv",
    ] {
        let answer = owned.import("ann", dead, live()).await;
        assert!(matches!(answer, Err(KeyringError::Invalid(_))), "{dead}");
    }
    let placeless = owned.import("ann", OLD, NewKey::default()).await;
    assert!(matches!(
        placeless,
        Err(KeyringError::Generate(GenerateKeyError::UnknownEnvironment))
    ));
    let list = owned
        .list("ann", crate::store::Page::first(9))
        .await
        .unwrap();
    assert!(list.items.is_empty());
}

#[tokio::test]
async fn a_chosen_secret_that_begins_like_a_key_is_not_imported() {
    let store = MemoryStore::new();
    let format = KeyFormat::builder("acme").build().unwrap();
    let keys = builder(&store)
        .add_format(format.clone())
        .weak_keys(passwords(1), 6)
        .build();
    let owned = Keyring::new(store, format, keys);
    let answer = owned
        .import_weak("ann", "acme_hunter22", NewKey::default())
        .await;
    assert!(matches!(answer, Err(KeyringError::Invalid(_))));
}
