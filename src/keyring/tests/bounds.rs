use super::*;
use crate::domain::clock::Timestamp;

fn refused<T>(answer: Result<T, KeyringError>, column: &str) {
    match answer {
        Err(KeyringError::Invalid(why)) => assert!(why.starts_with(column), "{column}: {why}"),
        Err(other) => panic!("{column}: {other:?}"),
        Ok(_) => panic!("{column} was taken"),
    }
}

fn repeat(what: &str, times: usize) -> Vec<String> {
    (0..times).map(|number| format!("{what}{number}")).collect()
}

#[tokio::test]
async fn a_role_that_is_named_often_is_one() {
    let store = MemoryStore::new();
    let owned = ring(&store, &builder(&store).build());
    let roles = vec!["user".to_owned(), "admin".to_owned()];
    let new = NewKey {
        roles: [roles.clone(), vec!["user".to_owned(); 290_000]].concat(),
        ..NewKey::default()
    };
    let (_, record) = owned.create("ann", new.clone()).await.unwrap();
    assert_eq!(record.roles, roles);
    let change = KeyUpdate {
        roles: Some(new.roles),
        ..KeyUpdate::default()
    };
    let updated = owned.update("ann", &record.id, change).await.unwrap();
    assert_eq!(updated.roles, roles);
}

#[tokio::test]
async fn what_is_as_large_as_a_client_likes_has_a_bound() {
    let store = MemoryStore::new();
    let owned = ring(&store, &builder(&store).build());
    let (_, record) = owned.create("ann", NewKey::default()).await.unwrap();
    type Widen = fn(&mut NewKey, usize);
    let columns: [(&str, usize, Widen); 8] = [
        ("name", 255, |new, length| new.name = "n".repeat(length)),
        ("resource", 255, |new, length| {
            new.resource = Some("r".repeat(length));
        }),
        ("roles", 64, |new, count| new.roles = repeat("role", count)),
        ("roles", 64, |new, length| {
            new.roles = vec!["r".repeat(length)];
        }),
        ("networks", 64, |new, count| {
            new.networks = vec!["10.0.0.0/8".parse().unwrap(); count];
        }),
        ("quotas", 16, |new, count| {
            new.quotas = Some(Quotas::new(vec![Quota::per_minute(1); count]).unwrap());
        }),
        ("metadata", 32, |new, count| {
            let names = repeat("name", count).into_iter();
            new.metadata = names.map(|name| (name, String::new())).collect();
        }),
        ("metadata", 4_095, |new, length| {
            new.metadata = [("n".to_owned(), "v".repeat(length))].into();
        }),
    ];
    for (column, most, widen) in columns {
        let mut fits = NewKey::default();
        widen(&mut fits, most);
        owned.create("ann", fits).await.unwrap();
        let mut wide = NewKey::default();
        widen(&mut wide, most + 1);
        refused(owned.create("ann", wide.clone()).await, column);
        let old = "sk-0123456789abcdefghijABCDEFGHIJ";
        refused(owned.import("ann", old, wide.clone()).await, column);
        let change = KeyUpdate {
            name: Some(wide.name),
            resource: Some(wide.resource),
            roles: Some(wide.roles),
            networks: Some(wide.networks),
            quotas: Some(wide.quotas),
            metadata: Some(wide.metadata),
            ..KeyUpdate::default()
        };
        refused(owned.update("ann", &record.id, change).await, column);
    }
    let long = "o".repeat(256);
    refused(owned.create(&long, NewKey::default()).await, "owner");
}

/// PostgreSQL can't store it; no store accepts it, so that keys are the same in all of them.
#[tokio::test]
async fn no_text_of_a_key_has_a_nul_in_it() {
    let store = MemoryStore::new();
    let owned = ring(&store, &builder(&store).build());
    let (_, record) = owned.create("ann", NewKey::default()).await.unwrap();
    let nul = || "a\0b".to_owned();
    type Spoil = fn(&mut NewKey, String);
    let columns: [(&str, Spoil); 5] = [
        ("name", |new, text| new.name = text),
        ("resource", |new, text| new.resource = Some(text)),
        ("roles", |new, text| {
            new.roles = vec!["user".to_owned(), text]
        }),
        ("metadata", |new, text| {
            new.metadata = [(text, String::new())].into()
        }),
        ("metadata", |new, text| {
            new.metadata = [("team".to_owned(), text)].into()
        }),
    ];
    for (column, spoil) in columns {
        let mut new = NewKey::default();
        spoil(&mut new, nul());
        refused(owned.create("ann", new.clone()).await, column);
        let old = "sk-0123456789abcdefghijABCDEFGHIJ";
        refused(owned.import("ann", old, new.clone()).await, column);
        let change = KeyUpdate {
            name: Some(new.name),
            resource: Some(new.resource),
            roles: Some(new.roles),
            metadata: Some(new.metadata),
            ..KeyUpdate::default()
        };
        refused(owned.update("ann", &record.id, change).await, column);
    }
    refused(owned.create(&nul(), NewKey::default()).await, "owner");
}

#[tokio::test]
async fn a_name_has_no_control_characters() {
    let store = MemoryStore::new();
    let owned = ring(&store, &builder(&store).build());
    let (_, record) = owned.create("ann", NewKey::default()).await.unwrap();
    for name in [
        "a\nb",
        "\t",
        "\u{1b}[2J",
        "a\u{7f}",
        "a\u{85}b",
        "a\u{202e}b",
        "a\u{200b}",
    ] {
        let new = NewKey {
            name: name.to_owned(),
            ..NewKey::default()
        };
        refused(owned.create("ann", new).await, "name: a control character");
        let change = KeyUpdate {
            name: Some(name.to_owned()),
            ..KeyUpdate::default()
        };
        let changed = owned.update("ann", &record.id, change).await;
        refused(changed, "name: a control character");
    }
    let new = NewKey {
        name: "Köln \u{1f980}".to_owned(),
        ..NewKey::default()
    };
    owned.create("ann", new).await.unwrap();
}

#[tokio::test]
async fn an_owner_has_so_many_good_keys_and_so_many_more_of_any_state() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let store = MemoryStore::new();
    let owned = ring(&store, &builder(&store).build());
    let owned = owned.keys_per_owner_max(2).ended_keys_per_owner_max(18);
    let make = || owned.create("ann", NewKey::default());
    let full = |error| {
        assert!(
            matches!(error, KeyringError::TooMany { max: 2 }),
            "{error:?}"
        )
    };
    let (_, first) = make().await.unwrap();
    let (_, second) = make().await.unwrap();
    owned.create("bob", NewKey::default()).await.unwrap();
    full(make().await.unwrap_err());
    let old = "sk-0123456789abcdefghijABCDEFGHIJ";
    full(
        owned
            .import("ann", old, NewKey::default())
            .await
            .unwrap_err(),
    );
    // Neither limit applies to rotations: the replaced key stays only for the overlap.
    let (_, mut newest) = owned.rotate("ann", &first.id, HOUR).await.unwrap();
    owned.rotate("ann", &second.id, HOUR).await.unwrap();
    full(make().await.unwrap_err());
    for _ in 5..=20 {
        newest = owned.rotate("ann", &newest.id, HOUR).await.unwrap().1;
    }
    let denied = owned.rotate("ann", &newest.id, HOUR).await;
    full(denied.unwrap_err());
    let unchanged = owned.get("ann", &newest.id).await.unwrap();
    assert_eq!(unchanged, newest, "a rotation without room ends nothing");
    // The oldest ended key makes room.
    owned.revoke("ann", &second.id).await.unwrap();
    for _ in 0..9 {
        let id = newest.id;
        newest = owned.rotate("ann", &id, Duration::ZERO).await.unwrap().1;
    }
    let gone = owned.get("ann", &second.id).await;
    assert!(matches!(gone, Err(KeyringError::NotFound)));
    owned.get("ann", &first.id).await.unwrap();
    full(make().await.unwrap_err());
}

#[tokio::test]
async fn of_keys_that_have_ended_an_owner_s_list_has_only_the_latest() {
    use crate::domain::page::Page;

    let store = MemoryStore::new();
    let owned = ring(&store, &builder(&store).build()).keys_per_owner_max(2);
    let mut ids = Vec::new();
    for _ in 0..300 {
        let (_, made) = owned.create("ann", NewKey::default()).await.unwrap();
        owned.revoke("ann", &made.id).await.unwrap();
        ids.push(made.id);
    }
    let listed = owned.list("ann", Page::first(1_000)).await.unwrap().items;
    let listed: Vec<_> = listed.into_iter().map(|key| key.id).collect();
    let latest: Vec<_> = ids.into_iter().rev().take(102).collect();
    assert_eq!(listed, latest);
}

#[tokio::test]
async fn keys_that_were_made_expired_go_on_within_the_bound() {
    let store = MemoryStore::new();
    let owned = ring(&store, &builder(&store).build()).keys_per_owner_max(1);
    owned.create("ann", NewKey::default()).await.unwrap();
    let expired = NewKey {
        expires_at: Some(Timestamp::UNIX_EPOCH),
        ..NewKey::default()
    };
    let (_, expired) = owned.create("ann", expired).await.unwrap();
    let change = KeyUpdate {
        expires_at: Some(None),
        ..KeyUpdate::default()
    };
    let answer = owned.update("ann", &expired.id, change).await;
    assert!(matches!(answer, Err(KeyringError::TooMany { max: 1 })));
    let unchanged = owned.get("ann", &expired.id).await.unwrap();
    assert_eq!(unchanged, expired);
}
