//! Who registers: addresses, names and ids.

use super::*;

#[tokio::test]
async fn addresses_have_a_shape_and_belong_to_one_user() {
    let (world, _) = World::with_ann().await;
    let long = format!("{}@example.org", "x".repeat(243));
    for email in [
        "",
        "@",
        "ann",
        "ann@",
        "@x",
        "a@b@c",
        "a b@c",
        "a@b\tc",
        "a\0@b",
        "a@b\u{a0}c",
        "a\n@b",
        &long,
    ] {
        let outcome = world.logins.register(NewUser::new(email, PASSWORD)).await;
        assert_eq!(kind(outcome), "InvalidEmail", "{email:?}");
    }
    for name in [
        "",
        " \t",
        "a\nb",
        "a\u{9b}b",
        &"n".repeat(201),
        &"n".repeat(1 << 20),
    ] {
        let odd = NewUser::new("bob@example.org", PASSWORD).name("username", name);
        let refused = kind(world.logins.register(odd).await);
        assert_eq!(refused, "InvalidName(\"username\")");
    }
    let bob = NewUser::new("bob@example.org", PASSWORD).name("username", " Bob ");
    let bob = world.logins.register(bob).await.unwrap();
    assert_eq!(bob.attributes["username"], "Bob");
    for email in [EMAIL, " ANN@EXAMPLE.ORG"] {
        let again = NewUser::new(email, "another password");
        assert_eq!(kind(world.logins.register(again).await), "EmailTaken");
    }
    world.logins.login(EMAIL, PASSWORD).await.unwrap();
}

#[tokio::test]
async fn a_first_administrator_is_made_once_and_left_alone() {
    let world = World::new();
    let admin = || NewUser::new(EMAIL, PASSWORD).role("admin");
    let made = world.logins.ensure_user(admin()).await.unwrap();
    assert_eq!(made.roles, ["admin"]);
    let again = NewUser::new("ANN@example.org", "another password").role("user");
    assert_eq!(world.logins.ensure_user(again).await.unwrap(), made);
    world.logins.login(EMAIL, PASSWORD).await.unwrap();

    let world = World::new();
    let racers = join_all((0..8).map(|_| world.logins.ensure_user(admin()))).await;
    let first = racers[0].as_ref().unwrap();
    assert!(
        racers
            .iter()
            .all(|racer| racer.as_ref().unwrap().id == first.id)
    );
}

#[tokio::test]
async fn an_id_begins_as_the_application_wants_it() {
    let build = |prefix: &str| {
        let store = Arc::new(FakeStore::default());
        let issuer = TokenIssuer::hs256(SECRET).build().unwrap();
        Logins::builder(store.clone(), store, issuer)
            .with_passwords(cheap().build().unwrap())
            .user_id_prefix(prefix)
            .build()
    };
    for prefix in ["", "usr_", &"p".repeat(200)] {
        let logins = build(prefix).unwrap();
        let ann = logins
            .register(NewUser::new(EMAIL, PASSWORD))
            .await
            .unwrap();
        let uuid = ann.id.as_str().strip_prefix(prefix).unwrap();
        assert!(uuid::Uuid::try_parse(uuid).is_ok(), "{uuid}");
        let login = logins.login(EMAIL, PASSWORD).await.unwrap();
        assert!(login.session.as_str().starts_with("session-"));
    }
    let refused = build(&"p".repeat(201)).unwrap_err();
    assert_eq!(refused, LoginConfigError::UserIdPrefix);
}

#[tokio::test]
async fn a_text_that_not_every_store_keeps_is_the_client_s_fault() {
    let (world, ann) = World::with_ann().await;
    let with = |value: &str| NewUser::new("bob@example.org", PASSWORD).attribute("name", value);
    let error = world.logins.register(with("a\0b")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UnstorableText));
    assert_eq!(Denial::from(error).kind(), DenialKind::Unprocessable);
    let mut update = UserUpdate::default();
    update.attributes.insert("a\0b".to_owned(), String::new());
    let error = world.logins.update(&ann.id, update).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UnstorableText));
    let roles = vec!["a\0b".to_owned()];
    let error = world.logins.set_roles(&ann.id, roles).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UnstorableText));
    // A store of one's own may be more particular.
    let refused = StoreError::new(StoreErrorKind::Refused, "no");
    let denial = Denial::from(LoginError::from(refused));
    assert_eq!(denial.kind(), DenialKind::Unprocessable);
    world.logins.register(with("ab")).await.unwrap();
}
