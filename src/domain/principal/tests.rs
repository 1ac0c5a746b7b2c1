use super::*;

#[test]
fn a_principal_that_is_derived_has_all_that_the_first_one_has() {
    let later = Timestamp::constant(1_767_225_600, 0);
    let (id, lineage) = (
        KeyId::new("key-1").unwrap(),
        BudgetId::new("line-1").unwrap(),
    );
    let grant = TokenGrant::shared(
        ["read".into()],
        [("tenant", "claimed"), ("plan", "gold")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        [("org".to_owned(), Value::from("acme"))].into(),
    );
    let caller = Principal::builder("ann", CredentialKind::Token)
        .key(id)
        .lineage(lineage)
        .networks(vec!["192.0.2.0/24".parse().unwrap()])
        .role("admin")
        .environment("live")
        .resource("agent-1")
        .attributes([("tenant".to_owned(), "own".to_owned())].into())
        .expires_at(Timestamp::MAX)
        .build()
        .by_token(grant.as_ref(), later);
    let same = caller.to_builder().build();
    for derived in [&caller, &same] {
        assert_eq!(derived.subject(), "ann");
        assert_eq!(derived.key().unwrap().as_str(), "key-1");
        assert_eq!(derived.budgets()[0].as_str(), "line-1");
        assert_eq!(derived.metered_as(), "line-1");
        assert_eq!(derived.identity().networks().len(), 1);
        assert_eq!(derived.environment(), Some("live"));
        assert_eq!(derived.resource(), Some("agent-1"));
        assert_eq!(
            (derived.tenant(), derived.attribute("plan")),
            (Some("own"), Some("gold"))
        );
        let mut attributes: Vec<_> = derived.attributes().collect();
        attributes.sort_unstable();
        assert_eq!(attributes, [("plan", "gold"), ("tenant", "own")]);
        assert_eq!(derived.claim("org").unwrap(), "acme");
        assert_eq!(derived.expires_at(), Some(later));
        assert!(derived.has_role("admin") && derived.has_scope("read"));
    }
    let less = same.to_builder().roles(["viewer"]).build();
    assert!(less.roles().eq(["viewer"]));
}

#[test]
fn a_subject_that_can_name_no_account_is_kept() {
    let long = "a".repeat(300);
    let caller = Principal::builder(&long, CredentialKind::Token).build();
    let derived = caller.to_builder().role("viewer").build();
    assert_eq!(
        (derived.subject(), derived.account()),
        (long.as_str(), None)
    );
}
