mod apart;
mod fake;
mod refresh;
mod reset;
mod standing;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use fake::FakeStore;
use futures_util::{FutureExt, future::join_all};

use super::{LoginErrorKind as Kind, *};
use crate::{
    domain::{
        UserId,
        clock::{Clock, ManualClock},
        denial::{Denial, DenialKind},
        page::Page,
        user::{UserRecord, UserUpdate},
    },
    store::{StoreError, StoreErrorKind, UserStore},
    token::{TokenIssuer, TokenVerifier, VerifiedToken},
};

const SECRET: &[u8] = b"a secret of at least 32 bytes, it is said";
const EMAIL: &str = "ann@example.org";
const PASSWORD: &str = "CANARY correct horse";

struct World {
    store: Arc<FakeStore>,
    clock: Arc<ManualClock>,
    logins: Logins,
    verifier: TokenVerifier,
}

fn cheap() -> PasswordsBuilder {
    Passwords::builder().memory_kib(64).iterations(1)
}

fn logins_on(store: &Arc<FakeStore>, clock: &Arc<ManualClock>, passwords: Passwords) -> Logins {
    let issuer = TokenIssuer::hs256(SECRET)
        .lifetime(Duration::from_secs(3_600))
        .with_clock(clock.clone())
        .build()
        .unwrap();
    Logins::builder(store.clone(), store.clone(), issuer)
        .with_passwords(passwords)
        .deadline(Duration::from_secs(1))
        .build()
        .unwrap()
}

impl World {
    fn new() -> Self {
        let store = Arc::new(FakeStore::default());
        let clock = Arc::new(ManualClock::default());
        let verifier = TokenVerifier::hs256(SECRET)
            .with_clock(clock.clone())
            .build()
            .unwrap();
        let logins = logins_on(&store, &clock, cheap().build().unwrap());
        Self {
            store,
            clock,
            logins,
            verifier,
        }
    }

    async fn with_ann() -> (Self, UserRecord) {
        let world = Self::new();
        let ann = NewUser::new(EMAIL, PASSWORD)
            .role("user")
            .attribute("username", "ann");
        let ann = world.logins.register(ann).await.unwrap();
        (world, ann)
    }

    async fn login(&self) -> (Login, Arc<VerifiedToken>) {
        let login = self.logins.login(EMAIL, PASSWORD).await.unwrap();
        let token = self.verifier.verify(login.token.expose()).unwrap();
        (login, token)
    }

    /// `Ok`, or the kind of refusal, as text.
    async fn verdict(&self, token: &VerifiedToken) -> String {
        match self.logins.resolver().resolve(token).await {
            Ok(_) => "ok".to_owned(),
            Err(error) => format!("{:?}", error.kind())
                .split([' ', '('])
                .next()
                .unwrap()
                .to_owned(),
        }
    }
}

fn kind<T: std::fmt::Debug>(outcome: Result<T, LoginError>) -> String {
    format!("{:?}", outcome.unwrap_err().kind())
}

#[tokio::test]
async fn who_registers_can_log_in_and_is_known_by_the_token() {
    let (world, ann) = World::with_ann().await;
    assert!(ann.id.as_str().starts_with("user-"));
    assert_eq!(ann.id.as_str().len(), "user-".len() + 36);
    let login = world
        .logins
        .login("  ANN@Example.org ", PASSWORD)
        .await
        .unwrap();
    assert_eq!(login.user, ann);
    let token = world.verifier.verify(login.token.expose()).unwrap();
    assert_eq!(token.session(), Some(&login.session));
    let resolved = world.logins.resolver().resolve(&token).await.unwrap();
    let principal = resolved.principal();
    assert_eq!(principal.subject(), ann.id.as_str());
    assert_eq!(principal.session(), Some(&login.session));
    assert_eq!(principal.attribute("username"), Some("ann"));
    // The login outlives its token a little.
    let end = login.token.expires_at() + opening::LOGIN_MARGIN;
    assert_eq!(principal.expires_at(), Some(end));
    assert!(principal.has_role("user"));
    assert_eq!(world.logins.user(&ann.id).await.unwrap(), Some(ann.clone()));
    assert_eq!(
        world.logins.users(Page::first(10)).await.unwrap().items,
        [ann]
    );
}

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
async fn passwords_have_a_length() {
    let world = World::new();
    for password in ["", "1234567", "äöüäöüä", &"x".repeat(1_025)] {
        let outcome = world.logins.register(NewUser::new(EMAIL, password)).await;
        assert!(kind(outcome).starts_with("WeakPassword"), "{password}");
    }
    let longest = "x".repeat(1_024);
    world
        .logins
        .register(NewUser::new(EMAIL, &longest))
        .await
        .unwrap();
    world.logins.login(EMAIL, &longest).await.unwrap();
    assert_eq!(
        kind(world.logins.login(EMAIL, "").await),
        "InvalidCredentials"
    );
    assert_eq!(
        kind(world.logins.login(EMAIL, &"x".repeat(1_025)).await),
        "InvalidCredentials"
    );
}

#[tokio::test]
async fn the_wrong_password_an_unknown_address_and_an_inactive_user_are_one_answer() {
    let (world, ann) = World::with_ann().await;
    let wrong = world.logins.login(EMAIL, "wrong horse").await.unwrap_err();
    let unknown = world
        .logins
        .login("bob@example.org", PASSWORD)
        .await
        .unwrap_err();
    let shapeless = world.logins.login("bob", PASSWORD).await.unwrap_err();
    world.logins.deactivate(&ann.id).await.unwrap();
    let inactive = world.logins.login(EMAIL, PASSWORD).await.unwrap_err();
    for error in [wrong, unknown, shapeless, inactive] {
        assert!(matches!(error.kind(), Kind::InvalidCredentials));
        let denial = Denial::from(error);
        assert_eq!(denial.kind(), DenialKind::LoginFailed);
        assert_eq!(denial.message(), None);
    }
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "the real time is what an attacker sees"
)]
async fn an_unknown_user_takes_the_time_of_a_known_one() {
    let today = Passwords::builder().memory_kib(8_192).build().unwrap();
    let before = Passwords::builder().memory_kib(1_024).iterations(1);
    let before = before.build().unwrap().hash(PASSWORD).await.unwrap();
    let stored = [today.hash(PASSWORD).await.unwrap(), before];
    let callers = [Some(&*stored[0]), Some(&*stored[1]), None];
    let mut times = [Duration::MAX; 3];
    // The shortest of many: others are at work on this machine.
    for _ in 0..200 {
        for (caller, time) in callers.iter().zip(&mut times) {
            let start = std::time::Instant::now();
            today.verify("wrong", *caller).await.unwrap();
            *time = start.elapsed().min(*time);
        }
        let [shortest, longest] = [times.iter().min(), times.iter().max()].map(Option::unwrap);
        if *shortest * 3 > *longest * 2 {
            return;
        }
    }
    panic!("{times:?}");
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
async fn a_weaker_hash_is_replaced_at_login_and_no_login_ends_for_it() {
    let (world, ann) = World::with_ann().await;
    let (_, token) = world.login().await;
    let stronger = logins_on(
        &world.store,
        &world.clock,
        cheap().iterations(2).build().unwrap(),
    );
    stronger.login(EMAIL, "wrong horse").await.unwrap_err();
    assert_eq!(
        stronger.user(&ann.id).await.unwrap().unwrap().password_hash,
        ann.password_hash
    );
    stronger.login(EMAIL, PASSWORD).await.unwrap();
    let hash = stronger.user(&ann.id).await.unwrap().unwrap().password_hash;
    assert!(hash.starts_with("$argon2id$v=19$m=64,t=2,p=1$"), "{hash}");
    assert_eq!(world.verdict(&token).await, "ok");
    world.logins.login(EMAIL, PASSWORD).await.unwrap();
    assert_eq!(
        stronger.user(&ann.id).await.unwrap().unwrap().password_hash,
        hash,
        "not weakened"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waiting_line_has_an_end() {
    let passwords = Passwords::builder()
        .memory_kib(4_096)
        .concurrency(1)
        .waiting(3)
        .build()
        .unwrap();
    let outcomes = join_all((0..10).map(|_| passwords.hash(PASSWORD))).await;
    let busy = outcomes
        .iter()
        .filter(|outcome| **outcome == Err(PasswordError::Busy))
        .count();
    assert_eq!(busy, 6, "one hashed, three waited");
    assert!(
        passwords.hash(PASSWORD).await.is_ok(),
        "places are given back"
    );

    // Whoever hangs up gives the place back only when the hash is done.
    let slow = Passwords::builder()
        .memory_kib(65_536)
        .concurrency(1)
        .waiting(0)
        .build()
        .unwrap();
    let mut abandoned = Box::pin(slow.hash(PASSWORD));
    assert!(abandoned.as_mut().now_or_never().is_none());
    drop(abandoned);
    assert_eq!(slow.hash(PASSWORD).await, Err(PasswordError::Busy));
    let denial = Denial::from(LoginError::from(PasswordError::Busy));
    assert_eq!(denial.kind(), DenialKind::Unavailable);
    assert_eq!(denial.wait_secs(), Some(1));
}

#[tokio::test]
async fn damaged_and_greedy_hashes_let_nobody_in() {
    let passwords = cheap().build().unwrap();
    let stored = passwords.hash(PASSWORD).await.unwrap();
    assert_eq!(
        passwords.verify(PASSWORD, Some(&stored)).await,
        Ok(PasswordCheck::Match)
    );
    let cut = &stored[..stored.len() - 4];
    for damaged in [
        "",
        "plain",
        "$2b$12$abcdefghijklmnopqrstuu",
        "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ",
        &stored.replace("m=64", "m=4294967295"),
        &stored.replace("t=1", "t=4294967295"),
        cut,
    ] {
        assert_eq!(
            passwords.verify(PASSWORD, Some(damaged)).await,
            Ok(PasswordCheck::Mismatch),
            "{damaged}"
        );
    }
    for outcome in ["", &"x".repeat(1_025)] {
        assert_eq!(passwords.hash(outcome).await, Err(PasswordError::Length));
        assert_eq!(
            passwords.verify(outcome, None).await,
            Err(PasswordError::Length)
        );
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    use LoginConfigError as E;
    let refusal = |builder: PasswordsBuilder| builder.build().unwrap_err();
    assert_eq!(refusal(cheap().memory_kib(7)), E::Parameters);
    assert_eq!(refusal(cheap().memory_kib((1 << 20) + 1)), E::Parameters);
    assert_eq!(refusal(cheap().iterations(0)), E::Parameters);
    assert_eq!(refusal(cheap().parallelism(65)), E::Parameters);
    assert_eq!(refusal(cheap().concurrency(0)), E::Concurrency);
    let store = Arc::new(FakeStore::default());
    for length in [0, 1_025] {
        let issuer = TokenIssuer::hs256(SECRET).build().unwrap();
        let builder = Logins::builder(store.clone(), store.clone(), issuer);
        assert_eq!(
            builder.password_length_min(length).build().unwrap_err(),
            E::PasswordLength
        );
    }
    let defaults = format!("{:?}", Passwords::builder());
    assert!(
        defaults.contains("memory_kib: 19456, iterations: 2, parallelism: 1"),
        "{defaults}"
    );
}

#[tokio::test]
async fn no_password_and_no_token_is_in_any_text() {
    let (world, ann) = World::with_ann().await;
    let (login, _) = world.login().await;
    let error = world
        .logins
        .login(EMAIL, "CANARY wrong horse")
        .await
        .unwrap_err();
    let new = NewUser::new(EMAIL, PASSWORD);
    let texts = [
        format!("{new:?} {:?} {login:?} {ann:?}", world.logins),
        format!("{error:?} {error} {:?}", Denial::from(error.clone())),
        format!("{:?}", cheap().build().unwrap()),
    ];
    for text in texts {
        assert!(!text.contains("CANARY"), "{text}");
        assert!(!text.contains("argon2"), "{text}");
        assert!(!text.contains(login.token.expose()), "{text}");
        assert!(!text.contains(EMAIL), "{text}");
    }
    assert!(world.clock.now() < login.token.expires_at());
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
