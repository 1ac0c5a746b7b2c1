use super::*;
use crate::domain::{BudgetId, clock::Timestamp, credential::CredentialKind};

pub(super) fn escalates<T>(answer: Result<T, KeyringError>, what: &str) {
    let error = answer.err();
    assert!(
        matches!(error, Some(KeyringError::Escalation { .. })),
        "{what}"
    );
}

pub(super) fn labelled(name: &str, value: &str) -> std::collections::BTreeMap<String, String> {
    [(name.to_owned(), value.to_owned())].into()
}

pub(super) struct World {
    pub(super) ring: Keyring,
    keys: KeyResolver,
}

impl World {
    pub(super) fn new() -> Self {
        let store = MemoryStore::new();
        let keys = builder(&store).build();
        let format = KeyFormat::live_and_test("ps").unwrap();
        let ring = Keyring::new(store, format, keys.clone())
            .with_roles(RoleSet::viewer_operator_admin())
            .add_free_attribute("label")
            .add_free_attribute("agent:*");
        Self { ring, keys }
    }

    async fn key(&self, new: NewKey) -> (Principal, KeyRecord) {
        let (key, record) = self.ring.create("ann", new).await.unwrap();
        (principal_of(&self.keys, key.expose()).await, record)
    }

    pub(super) async fn make(
        &self,
        maker: &Principal,
        new: NewKey,
    ) -> Result<KeyRecord, KeyringError> {
        Ok(self.ring.create_for(maker, new).await?.1)
    }
}

fn bounded_key() -> NewKey {
    NewKey {
        environment: Some("test".to_owned()),
        roles: vec!["operator".to_owned()],
        resource: Some("agent-1".to_owned()),
        networks: vec!["192.0.2.0/24".parse().unwrap()],
        expires_at: Some(Timestamp::MAX),
        quotas: Some(Quotas::from(Quota::per_minute(5))),
        metadata: [labelled("tenant", "acme"), labelled("label", "ci")]
            .into_iter()
            .flatten()
            .collect(),
        ..NewKey::default()
    }
}

type Widening<T> = (&'static str, fn(&mut T));

/// What a maker with that key must not give.
const WIDER: [Widening<NewKey>; 7] = [
    ("role", |new| new.roles = vec!["admin".to_owned()]),
    ("resource", |new| new.resource = Some("agent-2".to_owned())),
    ("environment", |new| {
        new.environment = Some("live".to_owned())
    }),
    ("network", |new| {
        new.networks = vec!["192.0.0.0/16".parse().unwrap()]
    }),
    ("tenant", |new| new.metadata = labelled("tenant", "other")),
    ("tier", |new| new.metadata = labelled("tier", "gold")),
    ("quotas", |new| {
        new.quotas = Some(Quotas::from(Quota::per_second(1_000)))
    }),
];

#[tokio::test]
async fn a_key_that_makes_a_key_hands_its_bounds_on() {
    let world = World::new();
    let (maker, parent) = world.key(bounded_key()).await;
    let child = world.make(&maker, NewKey::default()).await.unwrap();
    assert_eq!(child.environment, parent.environment);
    assert_eq!(child.resource, parent.resource);
    assert_eq!(child.networks, parent.networks);
    assert_eq!(child.expires_at, parent.expires_at);
    assert_eq!(child.lineage, parent.lineage);
    assert_eq!(child.quotas, parent.quotas);
    assert_eq!(child.metadata, labelled("tenant", "acme"), "not the label");
    let labelled_child = NewKey {
        environment: Some("test".to_owned()),
        metadata: labelled("label", "nightly"),
        ..NewKey::default()
    };
    let child = world.make(&maker, labelled_child).await.unwrap();
    assert_eq!(child.metadata.get("label").unwrap(), "nightly");
    for (what, widen) in WIDER {
        let mut new = NewKey::default();
        widen(&mut new);
        escalates(world.make(&maker, new).await, what);
    }
}

#[tokio::test]
async fn a_key_of_no_tenant_makes_none_of_a_tenant() {
    let world = World::new();
    let (maker, _) = world
        .key(NewKey {
            environment: Some("live".to_owned()),
            ..NewKey::default()
        })
        .await;
    let new = NewKey {
        metadata: labelled("tenant", "acme"),
        ..NewKey::default()
    };
    escalates(world.make(&maker, new).await, "tenant");
    let child = world.make(&maker, NewKey::default()).await.unwrap();
    assert_eq!(child.environment.as_deref(), Some("live"));
}

#[tokio::test]
async fn a_user_makes_keys_within_attributes_resource_environment_and_quotas() {
    let world = World::new();
    let quotas = Quotas::from(Quota::per_minute(7));
    let maker = Principal::builder("ann", CredentialKind::Token)
        .role("operator")
        .resource("agent-1")
        .environment("test")
        .quotas(quotas.clone())
        .expires_at(Timestamp::UNIX_EPOCH)
        .attributes(
            [
                ("tenant", "acme"),
                ("team", "7"),
                ("label", "ann's"),
                ("agent:1", "a"),
                ("agent", "b"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        )
        .build();
    let made = world.make(&maker, NewKey::default()).await.unwrap();
    assert_eq!(made.resource.as_deref(), Some("agent-1"));
    assert_eq!(made.environment.as_deref(), Some("test"));
    let handed_on = [("agent", "b"), ("team", "7"), ("tenant", "acme")];
    let handed_on = handed_on.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(made.metadata, handed_on.into(), "all but the free ones");
    assert_eq!(made.quotas, Some(quotas));
    assert_eq!(made.expires_at, None, "a token's end is not the key's");
    for (what, widen) in WIDER {
        // A user isn't bound to a network.
        if what != "network" {
            let mut new = NewKey::default();
            widen(&mut new);
            escalates(world.make(&maker, new).await, what);
        }
    }
    let free = Principal::builder("ann", CredentialKind::Token).build();
    let new = NewKey {
        environment: Some("live".to_owned()),
        resource: Some("agent-2".to_owned()),
        ..NewKey::default()
    };
    world.make(&free, new).await.unwrap();
}

#[tokio::test]
async fn a_maker_changes_keys_within_its_rights_alone() {
    let world = World::new();
    let (maker, _) = world.key(bounded_key()).await;
    let target = world.make(&maker, bounded_key()).await.unwrap();
    let update = |id: KeyId, change: KeyUpdate| {
        let (ring, maker) = (world.ring.clone(), maker.clone());
        async move { ring.update_for(&maker, &id, change).await }
    };
    let change = KeyUpdate {
        name: Some("renamed".to_owned()),
        roles: Some(vec!["viewer".to_owned()]),
        networks: Some(Vec::new()),
        metadata: Some(labelled("label", "nightly")),
        expires_at: Some(None),
        ..KeyUpdate::default()
    };
    let changed = update(target.id.clone(), change).await.unwrap();
    assert_eq!(changed.name, "renamed");
    assert_eq!(changed.networks, target.networks, "never from anywhere");
    assert_eq!(changed.expires_at, Some(Timestamp::MAX), "nor for ever");
    assert_eq!(changed.metadata.get("tenant").unwrap(), "acme");
    assert_eq!(changed.metadata.get("label").unwrap(), "nightly");

    let wider: [Widening<KeyUpdate>; 6] = [
        ("role", |change| {
            change.roles = Some(vec!["admin".to_owned()])
        }),
        ("resource", |change| {
            change.resource = Some(Some("agent-2".to_owned()))
        }),
        ("network", |change| {
            change.networks = Some(vec!["0.0.0.0/0".parse().unwrap()]);
        }),
        ("quotas", |change| change.quotas = Some(None)),
        ("tenant", |change| {
            change.metadata = Some(labelled("tenant", "other"));
        }),
        ("tier", |change| {
            change.metadata = Some(labelled("tier", "gold"))
        }),
    ];
    for (what, widen) in wider {
        let mut change = KeyUpdate::default();
        widen(&mut change);
        escalates(update(target.id.clone(), change).await, what);
    }
    let unbound = KeyUpdate {
        resource: Some(None),
        ..KeyUpdate::default()
    };
    let bound = update(target.id.clone(), unbound).await.unwrap();
    assert_eq!(bound.resource.as_deref(), Some("agent-1"));

    // It can't change a key of the same owner that has more rights.
    for (what, widen) in WIDER {
        let mut more = bounded_key();
        widen(&mut more);
        let (_, more) = world.key(more).await;
        let rotated = world.ring.rotate_for(&maker, &more.id, Duration::ZERO);
        escalates(rotated.await, what);
        escalates(update(more.id, KeyUpdate::default()).await, what);
    }
    let rotated = world.ring.rotate_for(&maker, &target.id, Duration::ZERO);
    assert_eq!(rotated.await.unwrap().1.rotated_from, Some(target.id));
    let (_, foreign) = world.ring.create("bob", bounded_key()).await.unwrap();
    let answer = update(foreign.id, KeyUpdate::default()).await;
    assert!(matches!(answer, Err(KeyringError::NotFound)));
}

/// Otherwise a caller could escape the quotas of its tier or layer with a key that has its own.
#[tokio::test]
async fn a_user_without_quotas_gives_and_changes_none() {
    let world = World::new();
    let user = Principal::builder("ann", CredentialKind::Token).build();
    let quotas = Quotas::from(Quota::per_minute(9));
    let own = NewKey {
        quotas: Some(quotas.clone()),
        environment: Some("live".to_owned()),
        ..NewKey::default()
    };
    escalates(world.make(&user, own.clone()).await, "quotas");
    let (_, tight) = world.ring.create("ann", own).await.unwrap();
    for wanted in [None, Some(quotas)] {
        let change = KeyUpdate {
            quotas: Some(wanted),
            ..KeyUpdate::default()
        };
        escalates(
            world.ring.update_for(&user, &tight.id, change).await,
            "quotas",
        );
    }
}

#[tokio::test]
async fn a_user_without_a_resource_chooses_that_of_a_key() {
    let world = World::new();
    let user = Principal::builder("ann", CredentialKind::Token).build();
    let new = NewKey {
        environment: Some("live".to_owned()),
        ..NewKey::default()
    };
    let made = world.make(&user, new).await.unwrap();
    for wanted in [Some("agent-1"), Some("agent-2"), None] {
        let change = KeyUpdate {
            resource: Some(wanted.map(str::to_owned)),
            ..KeyUpdate::default()
        };
        let changed = world.ring.update_for(&user, &made.id, change).await;
        assert_eq!(changed.unwrap().resource.as_deref(), wanted);
    }
}

/// A handler that goes on with fewer rights makes keys with no more.
#[tokio::test]
async fn a_key_whose_principal_was_narrowed_gives_what_is_left() {
    let world = World::new();
    let admin = NewKey {
        environment: Some("live".to_owned()),
        roles: vec!["admin".to_owned()],
        ..NewKey::default()
    };
    let (caller, _) = world.key(admin.clone()).await;
    assert!(world.make(&caller, admin.clone()).await.is_ok());
    let narrowed = caller.to_builder().roles(["viewer"]).build();
    escalates(world.make(&narrowed, admin).await, "roles");
    let bound = caller.to_builder().resource("agent-1").build();
    let new = NewKey {
        environment: Some("live".to_owned()),
        ..NewKey::default()
    };
    let made = world.make(&bound, new).await.unwrap();
    assert_eq!(made.resource.as_deref(), Some("agent-1"));
}

#[tokio::test]
async fn a_maker_that_has_more_than_a_key_carries_hands_on_no_part_of_it() {
    let world = World::new();
    let many = |prefix: &str| -> std::collections::BTreeMap<_, _> {
        let names = (0..33).map(|number| format!("{prefix}{number}"));
        names.map(|name| (name, "x".to_owned())).collect()
    };
    let user = |attributes| {
        let user = Principal::builder("ann", CredentialKind::Token);
        user.environment("live").attributes(attributes).build()
    };
    let answer = world.make(&user(many("right-")), NewKey::default()).await;
    assert!(
        matches!(answer, Err(KeyringError::Invalid(_))),
        "{answer:?}"
    );
    let made = world.make(&user(many("agent:")), NewKey::default()).await;
    assert!(made.unwrap().metadata.is_empty());
}

#[tokio::test]
async fn what_was_taken_from_a_maker_is_not_given_on() {
    let world = World::new();
    let (maker, own) = world.key(bounded_key()).await;
    let narrow = KeyUpdate {
        roles: Some(vec!["viewer".to_owned()]),
        ..KeyUpdate::default()
    };
    world.ring.update("ann", &own.id, narrow).await.unwrap();
    let new = NewKey {
        roles: vec!["operator".to_owned()],
        ..NewKey::default()
    };
    escalates(world.make(&maker, new).await, "a role of a moment ago");
    world.ring.revoke("ann", &own.id).await.unwrap();
    let answer = world.make(&maker, NewKey::default()).await;
    assert!(matches!(answer, Err(KeyringError::NotActive)));
}

/// A stolen key gives no access to a less restricted key of the same owner.
#[tokio::test]
async fn a_key_touches_no_key_with_another_budget_or_fewer_bounds() {
    let world = World::new();
    let (maker, own) = world.key(bounded_key()).await;
    let (_, apart) = world.key(bounded_key()).await;
    let rotate = |id: KeyId| {
        let (ring, maker) = (world.ring.clone(), maker.clone());
        async move { ring.rotate_for(&maker, &id, Duration::ZERO).await }
    };
    let update = |id: KeyId| {
        let (ring, maker) = (world.ring.clone(), maker.clone());
        async move { ring.update_for(&maker, &id, KeyUpdate::default()).await }
    };
    escalates(rotate(apart.id.clone()).await, "budget");
    escalates(update(apart.id).await, "budget");
    let earlier = KeyUpdate {
        expires_at: Some(Some("9999-01-01T00:00:00Z".parse().unwrap())),
        ..KeyUpdate::default()
    };
    let wider: [Widening<KeyUpdate>; 3] = [
        ("end", |change| change.expires_at = Some(None)),
        ("quotas", |change| change.quotas = Some(None)),
        ("tenant", |change| {
            change.metadata = Some(labelled("label", "ci"))
        }),
    ];
    for (what, widen) in wider {
        let child = world.make(&maker, NewKey::default()).await.unwrap();
        world
            .ring
            .update("ann", &child.id, earlier.clone())
            .await
            .unwrap();
        update(child.id.clone()).await.unwrap();
        let mut change = KeyUpdate::default();
        widen(&mut change);
        world.ring.update("ann", &child.id, change).await.unwrap();
        escalates(rotate(child.id.clone()).await, what);
        escalates(update(child.id).await, what);
    }
    let (_, successor) = rotate(own.id.clone()).await.unwrap();
    assert_eq!(successor.rotated_from, Some(own.id), "itself it may");
}

/// As stored by another program: IPv4 written as IPv6.
#[tokio::test]
async fn a_maker_s_networks_are_the_same_in_either_form() {
    let store = MemoryStore::new();
    let keys = builder(&store).build();
    let owned = ring(&store, &keys);
    let (id, lineage) = (
        KeyId::new("key-1").unwrap(),
        BudgetId::new("key-1").unwrap(),
    );
    let digest = KeyDigest::of("a-key-of-another-program");
    let mut record = KeyRecord::new(id, lineage, digest, "ann", Timestamp::UNIX_EPOCH);
    record.networks = vec!["::ffff:192.0.2.0/120".parse().unwrap()];
    store.insert(record, None).await.unwrap();
    let maker = principal_of(&keys, "a-key-of-another-program").await;
    let within = |network: &str| NewKey {
        networks: vec![network.parse().unwrap()],
        ..NewKey::default()
    };
    for half in ["192.0.2.0/25", "::ffff:192.0.2.0/121"] {
        let made = owned.create_for(&maker, within(half)).await.unwrap();
        assert_eq!(made.1.networks[0].to_string(), "192.0.2.0/25");
    }
    for wide in ["192.0.2.0/23", "::ffff:192.0.2.0/119"] {
        escalates(owned.create_for(&maker, within(wide)).await, wide);
    }
}
