mod apart;
mod fake;
mod hashes;
mod refresh;
mod registration;
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
