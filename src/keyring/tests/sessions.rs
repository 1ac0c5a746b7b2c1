//! What a session hands on, and what is said of a right that is missing.

use super::{
    delegated::{World, escalates, labelled},
    *,
};
use crate::domain::{credential::CredentialKind, denial::Denial};

fn live() -> NewKey {
    NewKey {
        environment: Some("live".to_owned()),
        ..NewKey::default()
    }
}

/// Each cookie has another id: a key that had taken one over could be changed in no later session.
#[tokio::test]
async fn what_describes_a_session_is_no_right_of_its_keys() {
    let world = World::new();
    let cookie = |session: &str, tenant: &str, kind| {
        let attributes = [
            ("jti", session),
            ("email", "ann@example.com"),
            ("name", "Ann"),
            ("tenant", tenant),
        ];
        let owned = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let ann = Principal::builder("ann", kind).attributes(owned.into());
        ann.build()
    };
    let kind = CredentialKind::SessionCookie;
    let first = cookie("s-1", "acme", kind);
    let key = world.make(&first, live()).await.unwrap();
    assert_eq!(key.metadata, labelled("tenant", "acme"));
    let later = cookie("s-2", "acme", kind);
    let change = || KeyUpdate {
        metadata: Some(labelled("label", "nightly")),
        ..KeyUpdate::default()
    };
    world
        .ring
        .update_for(&later, &key.id, change())
        .await
        .unwrap();
    let elsewhere = cookie("s-3", "other", kind);
    let changed = world.ring.update_for(&elsewhere, &key.id, change()).await;
    escalates(changed, "another tenant's");
    let other = NewKey {
        metadata: labelled("email", "bob@example.com"),
        ..live()
    };
    escalates(world.make(&later, other).await, "another's address");
    let own = NewKey {
        metadata: labelled("email", "ann@example.com"),
        ..live()
    };
    let own = world.make(&later, own).await.unwrap();
    assert_eq!(own.metadata["email"], "ann@example.com");
    let overlap = Duration::from_secs(1);
    let rotated = world.ring.rotate_for(&later, &key.id, overlap).await;
    assert_eq!(rotated.unwrap().1.metadata["tenant"], "acme");
    // The application chose a token's attributes itself.
    let token = cookie("s-4", "acme", CredentialKind::Token);
    let key = world.make(&token, live()).await.unwrap();
    assert_eq!(key.metadata.len(), 4);
}

#[tokio::test]
async fn operators_read_which_right_is_missing_and_clients_do_not() {
    let world = World::new();
    let ann = Principal::builder("ann", CredentialKind::Token).build();
    for (new, right) in [
        (labelled("plan", "free"), "attribute \"plan\""),
        (labelled("pl\nan", "free"), "attribute \"pl\\nan\""),
    ] {
        let new = NewKey {
            metadata: new,
            ..NewKey::default()
        };
        let denial = Denial::from(world.make(&ann, new).await.unwrap_err());
        assert!(denial.reason().ends_with(right), "{}", denial.reason());
        let message = "A key can't have more rights than its maker";
        assert_eq!(denial.message(), Some(message));
    }
    let new = NewKey {
        roles: vec!["admin".to_owned()],
        ..NewKey::default()
    };
    let error = world.make(&ann, new).await.unwrap_err();
    assert!(error.to_string().ends_with(": role \"admin\""), "{error}");
}
