//! Keys that are looked up without a layer, and leaked keys.

use super::*;
use crate::domain::{
    clock::Timestamp,
    denial::{Denial, DenialKind},
};

#[tokio::test]
async fn a_key_of_networks_is_found_from_there_alone() {
    let store = MemoryStore::new();
    let keys = builder(&store).build();
    let owned = ring(&store, &keys);
    let bound = NewKey {
        networks: vec!["192.0.2.0/24".parse().unwrap()],
        ..NewKey::default()
    };
    let (bound, record) = owned.create("ann", bound).await.unwrap();
    let (free, _) = owned.create("ann", NewKey::default()).await.unwrap();
    for address in ["192.0.2.7", "::ffff:192.0.2.7"] {
        let found = keys
            .find_from(bound.expose(), address.parse().unwrap())
            .await;
        assert_eq!(found.unwrap().principal().key(), Some(&record.id));
    }
    let elsewhere = [
        keys.find(bound.expose()).await,
        keys.find_from(bound.expose(), "192.0.3.7".parse().unwrap())
            .await,
        keys.find_from(bound.expose(), "::1".parse().unwrap()).await,
    ];
    for refused in elsewhere {
        let refusal = refused.unwrap_err();
        assert!(matches!(refusal, KeyRefusal::Elsewhere { .. }), "{refusal}");
    }
    assert!(keys.find(free.expose()).await.is_ok());
    assert!(
        keys.find_from(free.expose(), "::1".parse().unwrap())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_refusal_says_what_a_client_gets_and_what_an_operator_reads() {
    let store = MemoryStore::new();
    let format = KeyFormat::builder("acme").build().unwrap();
    let keys = builder(&store).add_format(format.clone()).build();
    let owned = ring(&store, &keys);
    let (revoked, first) = owned.create("ann", NewKey::default()).await.unwrap();
    owned.revoke("ann", &first.id).await.unwrap();
    let end = Timestamp::constant(1_577_836_800, 0);
    let past = NewKey {
        expires_at: Some(end),
        ..NewKey::default()
    };
    let (expired, second) = owned.create("ann", past).await.unwrap();
    let never = format.generate(None).unwrap();
    let ended = |id: &KeyId, how: &str| format!("{id} {how}");
    let cases = [
        (
            "acme_garbage",
            DenialKind::CredentialInvalid,
            "malformed key".to_owned(),
        ),
        (
            never.expose(),
            DenialKind::CredentialInvalid,
            "unknown key".to_owned(),
        ),
        (
            revoked.expose(),
            DenialKind::CredentialInvalid,
            ended(&first.id, "is revoked"),
        ),
        (
            expired.expose(),
            DenialKind::CredentialExpired,
            ended(&second.id, "has expired"),
        ),
    ];
    for (key, kind, reason) in cases {
        let refusal = keys.find(key).await.unwrap_err();
        assert_eq!(refusal.to_string(), reason);
        let denial = Denial::from(refusal);
        assert_eq!((denial.kind(), denial.reason()), (kind, reason.as_str()));
        let is_expired = kind == DenialKind::CredentialExpired;
        let at = is_expired.then_some(end);
        assert_eq!(denial.expiry(), at);
        let holder = denial.holder().map(|holder| &*holder.subject);
        assert_eq!(holder.is_some(), reason.starts_with("key-"));
        assert!(holder.is_none_or(|holder| holder == "ann"));
    }
}

#[tokio::test]
async fn a_key_that_leaked_ends_whoever_reports_it() {
    let store = MemoryStore::new();
    let format = KeyFormat::builder("acme").build().unwrap();
    let keys = builder(&store)
        .add_format(format.clone())
        .weak_keys(passwords(1), 6)
        .build();
    let owned = ring(&store, &keys);
    let past = NewKey {
        expires_at: Some(Timestamp::UNIX_EPOCH),
        ..NewKey::default()
    };
    let (cold, _) = owned.create("ann", NewKey::default()).await.unwrap();
    let (expired, _) = owned.create("bob", past).await.unwrap();
    owned
        .import_weak("eve", "team-7hunter22", NewKey::default())
        .await
        .unwrap();
    for (key, owner) in [
        (cold.expose(), "ann"),
        (expired.expose(), "bob"),
        ("team-7hunter22", "eve"),
    ] {
        let ended = owned.revoke_leaked(key).await.unwrap();
        assert_eq!(ended.owner, owner);
        assert!(ended.revoked_at.is_some());
        assert_eq!(ended.last_used_at, None, "a look is no use");
        let refused = keys.find(key).await.unwrap_err();
        assert!(matches!(refused, KeyRefusal::Revoked { .. }), "{refused}");
        let again = owned.revoke_leaked(key).await.unwrap();
        assert_eq!(again.revoked_at, ended.revoked_at);
    }
    let never = format.generate(None).unwrap();
    for none in ["acme_garbage", never.expose(), "team-7hunter23", ""] {
        let answer = owned.revoke_leaked(none).await;
        assert!(matches!(answer, Err(KeyringError::NotFound)), "{answer:?}");
    }
}
