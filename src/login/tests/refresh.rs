//! Refresh tokens.

use jiff::SignedDuration;

use super::*;
use crate::{store::MemoryStore, token::TokenErrorKind};

const WEEK: Duration = Duration::from_secs(7 * 86_400);

struct Refreshing {
    store: Arc<FakeStore>,
    clock: Arc<ManualClock>,
    logins: Logins,
    verifier: TokenVerifier,
}

fn issuer(clock: &Arc<ManualClock>) -> TokenIssuer {
    issuer_of(clock, Duration::from_secs(900))
}

fn issuer_of(clock: &Arc<ManualClock>, access: Duration) -> TokenIssuer {
    TokenIssuer::hs256(SECRET)
        .lifetime(access)
        .with_clock(clock.clone())
        .build()
        .unwrap()
}

impl Refreshing {
    async fn new(tokens: RefreshTokens) -> Self {
        Self::with(tokens, Duration::from_secs(900)).await
    }

    async fn with(tokens: RefreshTokens, access: Duration) -> Self {
        let (store, clock) = <(Arc<FakeStore>, Arc<ManualClock>)>::default();
        let issuer = issuer_of(&clock, access);
        let verifier = issuer.verifier().build().unwrap();
        let logins = Logins::builder(store.clone(), store.clone(), issuer)
            .with_passwords(cheap().build().unwrap())
            .refresh(tokens)
            .build()
            .unwrap();
        let ann = NewUser::new(EMAIL, PASSWORD).role("user");
        logins.register(ann).await.unwrap();
        Self {
            store,
            clock,
            logins,
            verifier,
        }
    }

    async fn login(&self) -> Login {
        self.logins.login(EMAIL, PASSWORD).await.unwrap()
    }

    /// What a guarded service says to an access token.
    async fn verdict(&self, login: &Login) -> String {
        let token = match self.verifier.verify(login.token.expose()) {
            Ok(token) => token,
            Err(error) => return format!("{:?}", error.kind()),
        };
        match self.logins.resolver().resolve(&token).await {
            Ok(_) => "ok".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        }
    }
}

fn refresh_of(login: &Login) -> &str {
    login.refresh_token.as_ref().unwrap().expose()
}

#[tokio::test]
async fn a_rotating_token_gives_the_next_one_and_lives_as_long_again() {
    let world = Refreshing::new(RefreshTokens::rotating(WEEK)).await;
    let mut login = world.login().await;
    assert_eq!(login.token.expires_in_secs(), 900);
    assert_eq!(
        login.refresh_token.as_ref().unwrap().expires_in_secs(),
        604_800
    );
    for _ in 0..4 {
        world.clock.advance(WEEK - Duration::from_secs(1));
        assert!(world.verdict(&login).await.starts_with("Expired"));
        let next = world.logins.refresh(refresh_of(&login)).await.unwrap();
        assert_eq!(next.session, login.session);
        assert_eq!(next.user, login.user);
        assert_eq!(world.verdict(&next).await, "ok");
        assert_ne!(refresh_of(&next), refresh_of(&login));
        login = next;
    }
    // Thirty days are over before this one's week is.
    let last = login.refresh_token.as_ref().unwrap();
    assert!(last.expires_in_secs() < 604_800);
    world.clock.advance(WEEK - Duration::from_secs(1));
    let error = world.logins.refresh(refresh_of(&login)).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::RefreshExpired { .. }));
}

#[tokio::test]
async fn a_token_that_comes_twice_ends_all_of_its_login_and_no_other() {
    let world = Refreshing::new(RefreshTokens::rotating(WEEK)).await;
    let (first, other) = (world.login().await, world.login().await);
    let second = world.logins.refresh(refresh_of(&first)).await.unwrap();
    assert_eq!(
        world.verdict(&first).await,
        "ok",
        "the access token goes on"
    );
    assert_eq!(world.verdict(&second).await, "ok");
    let again = world.logins.refresh(refresh_of(&first)).await;
    assert_eq!(kind(again), "RefreshReused");
    for login in [&first, &second] {
        assert_eq!(world.verdict(login).await, "Ended");
        let outcome = world.logins.refresh(refresh_of(login)).await;
        assert!(kind(outcome).starts_with("RefreshInvalid"));
    }
    assert_eq!(world.verdict(&other).await, "ok");
    let next = world.logins.refresh(refresh_of(&other)).await.unwrap();
    assert_eq!(world.verdict(&next).await, "ok");
}

#[tokio::test]
async fn a_grace_covers_the_immediate_parent_alone_and_not_for_long() {
    let tokens = RefreshTokens::rotating(WEEK).grace(Duration::from_secs(10));
    let world = Refreshing::new(tokens).await;
    let first = world.login().await;
    let second = world.logins.refresh(refresh_of(&first)).await.unwrap();
    world.clock.advance(Duration::from_millis(9_999));
    let twin = world.logins.refresh(refresh_of(&first)).await.unwrap();
    assert_eq!(world.verdict(&twin).await, "ok");
    let third = world.logins.refresh(refresh_of(&twin)).await.unwrap();
    let outcome = world.logins.refresh(refresh_of(&first)).await;
    assert_eq!(kind(outcome), "RefreshReused", "a grandparent has no grace");
    for login in [&first, &second, &twin, &third] {
        assert_eq!(world.verdict(login).await, "Ended");
    }
    let first = world.login().await;
    world.logins.refresh(refresh_of(&first)).await.unwrap();
    world.clock.advance(Duration::from_secs(10));
    let outcome = world.logins.refresh(refresh_of(&first)).await;
    assert_eq!(kind(outcome), "RefreshReused", "the grace is over");
}

#[tokio::test]
async fn a_reusable_token_is_good_until_it_expires_or_its_login_ends() {
    let world = Refreshing::new(RefreshTokens::reusable(WEEK)).await;
    let (login, other) = (world.login().await, world.login().await);
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(86_400));
        let next = world.logins.refresh(refresh_of(&login)).await.unwrap();
        assert!(next.refresh_token.is_none());
        assert_eq!(world.verdict(&next).await, "ok");
    }
    world.logins.logout(&login.session).await.unwrap();
    let outcome = world.logins.refresh(refresh_of(&login)).await;
    assert!(kind(outcome).starts_with("RefreshInvalid"));
    world.clock.advance(4 * Duration::from_secs(86_400));
    let error = world.logins.refresh(refresh_of(&other)).await.unwrap_err();
    let at = other.refresh_token.as_ref().unwrap().expires_at();
    assert!(matches!(error.kind(), Kind::RefreshExpired { at: since } if *since == at));
    let denial = Denial::from(error);
    assert_eq!(denial.kind(), DenialKind::CredentialExpired);
    assert_eq!(denial.expiry(), Some(at));
}

#[tokio::test]
async fn neither_token_passes_for_the_other() {
    let world = Refreshing::new(RefreshTokens::rotating(WEEK)).await;
    let login = world.login().await;
    let as_access = world.verifier.verify(refresh_of(&login)).unwrap_err();
    assert_eq!(as_access.kind(), TokenErrorKind::WrongUse);
    for bad in [login.token.expose(), "", "a.b.c", "not a token"] {
        let error = world.logins.refresh(bad).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::RefreshInvalid(_)), "{bad}");
        let denial = Denial::from(error);
        assert_eq!(denial.kind(), DenialKind::CredentialInvalid);
    }
    let next = world.logins.refresh(refresh_of(&login)).await;
    next.expect("none of these has used it up");
}

#[tokio::test]
async fn every_end_of_a_login_counts_for_its_refresh_token_too() {
    for tokens in [RefreshTokens::rotating(WEEK), RefreshTokens::reusable(WEEK)] {
        let world = Refreshing::new(tokens).await;
        let refused = async |login: &Login| {
            let outcome = world.logins.refresh(refresh_of(login)).await;
            assert!(kind(outcome).starts_with("RefreshInvalid"));
        };
        let login = world.login().await;
        let ann = login.user.id.clone();
        world.logins.logout(&login.session).await.unwrap();
        refused(&login).await;
        let login = world.login().await;
        world.logins.logout_everywhere(&ann).await.unwrap();
        refused(&login).await;
        let login = world.login().await;
        let changed = world.logins.change_password(&ann, PASSWORD, PASSWORD);
        changed.await.unwrap();
        refused(&login).await;
        let login = world.login().await;
        world.logins.deactivate(&ann).await.unwrap();
        refused(&login).await;
        world.logins.activate(&ann).await.unwrap();
        refused(&login).await;
        let login = world.login().await;
        let shut_out = UserUpdate {
            active: Some(false),
            ..UserUpdate::default()
        };
        world.logins.update(&ann, shut_out).await.unwrap();
        refused(&login).await;
        world.logins.activate(&ann).await.unwrap();
        let again = world.logins.refresh(refresh_of(&login)).await;
        again.expect("it was not used up while the user was shut out");
        let login = world.login().await;
        world.logins.delete_user(&ann).await.unwrap();
        refused(&login).await;
    }
}

#[tokio::test]
async fn a_refresh_gives_the_roles_of_now() {
    let world = Refreshing::new(RefreshTokens::rotating(WEEK)).await;
    let login = world.login().await;
    let roles = vec!["viewer".to_owned()];
    world.logins.set_roles(&login.user.id, roles).await.unwrap();
    let next = world.logins.refresh(refresh_of(&login)).await.unwrap();
    let token = world.verifier.verify(next.token.expose()).unwrap();
    assert_eq!(token.roles().collect::<Vec<_>>(), ["viewer"]);
}

#[tokio::test]
async fn a_failing_store_is_503_and_uses_nothing_up() {
    for tokens in [RefreshTokens::rotating(WEEK), RefreshTokens::reusable(WEEK)] {
        let world = Refreshing::new(tokens).await;
        let login = world.login().await;
        world.store.failing.store(true, Ordering::Release);
        let error = world.logins.refresh(refresh_of(&login)).await.unwrap_err();
        assert_eq!(Denial::from(error).kind(), DenialKind::Unavailable);
        world.store.failing.store(false, Ordering::Release);
        world.logins.refresh(refresh_of(&login)).await.unwrap();
    }
}

#[tokio::test]
async fn a_user_s_open_logins_are_listed() {
    let world = Refreshing::new(RefreshTokens::rotating(WEEK)).await;
    let first = world.login().await;
    world.clock.advance(Duration::from_secs(60));
    let (second, third) = (world.login().await, world.login().await);
    world.logins.refresh(refresh_of(&first)).await.unwrap();
    world.logins.logout(&third.session).await.unwrap();
    let open = world.logins.logins_of(&first.user.id).await.unwrap();
    let ids: Vec<_> = open.iter().map(|login| &login.id).collect();
    assert_eq!(ids, [&second.session, &first.session]);
    assert_eq!(open[1].refreshed_at, Some(world.clock.now()));
    world.clock.advance(WEEK + opening::LOGIN_MARGIN);
    let open = world.logins.logins_of(&first.user.id).await.unwrap();
    assert!(open.is_empty());
}

#[tokio::test]
async fn the_next_token_is_lost_with_the_caller_and_reuse_is_still_noticed() {
    let world = Refreshing::new(RefreshTokens::rotating(WEEK)).await;
    let login = world.login().await;
    let mut call = Box::pin(world.logins.refresh(refresh_of(&login)));
    assert!(call.as_mut().now_or_never().is_none());
    drop(call);
    tokio::task::yield_now().await;
    let outcome = world.logins.refresh(refresh_of(&login)).await;
    assert_eq!(kind(outcome), "RefreshReused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_thousand_refreshes_at_once_one_wins_and_then_the_family_ends() {
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::new());
    let logins = Logins::builder(store.clone(), store, issuer(&clock))
        .with_passwords(cheap().build().unwrap())
        .refresh(RefreshTokens::rotating(WEEK))
        .build()
        .unwrap();
    logins
        .register(NewUser::new(EMAIL, PASSWORD))
        .await
        .unwrap();
    let login = logins.login(EMAIL, PASSWORD).await.unwrap();
    let calls = (0..1_000).map(|_| {
        let (logins, token) = (logins.clone(), refresh_of(&login).to_owned());
        tokio::spawn(async move { logins.refresh(&token).await })
    });
    let outcomes = join_all(calls.collect::<Vec<_>>()).await;
    let mut winners = Vec::new();
    let mut reused = 0;
    for outcome in outcomes {
        match outcome.unwrap() {
            Ok(login) => winners.push(login),
            Err(error) => reused += usize::from(matches!(error.kind(), Kind::RefreshReused)),
        }
    }
    assert_eq!((winners.len(), reused), (1, 1));
    let outcome = logins.refresh(refresh_of(&winners[0])).await;
    assert!(kind(outcome).starts_with("RefreshInvalid"));
    assert!(logins.logins_of(&login.user.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn settings_of_refresh_tokens_that_make_no_sense_are_refused() {
    let build = |tokens| {
        let (store, clock) = <(Arc<FakeStore>, Arc<ManualClock>)>::default();
        Logins::builder(store.clone(), store, issuer(&clock))
            .with_passwords(cheap().build().unwrap())
            .refresh(tokens)
            .build()
            .map(drop)
    };
    let short = RefreshTokens::rotating(Duration::from_millis(999));
    let long = RefreshTokens::reusable(Duration::MAX);
    let none = RefreshTokens::rotating(WEEK).login_lifetime_max(Duration::from_millis(999));
    for tokens in [short, long, none] {
        assert_eq!(build(tokens), Err(LoginConfigError::RefreshLifetime));
    }
    let lax = RefreshTokens::rotating(WEEK).grace(Duration::from_secs(61));
    assert_eq!(build(lax), Err(LoginConfigError::RefreshGrace));
    let (world, _) = World::with_ann().await;
    let outcome = world.logins.refresh("a.b.c").await;
    assert!(kind(outcome).starts_with("RefreshInvalid"));
    assert!(world.login().await.0.refresh_token.is_none());
}

#[tokio::test]
async fn what_no_token_holds_uses_no_refresh_token_up() {
    let world = Refreshing::new(RefreshTokens::rotating(WEEK)).await;
    let login = world.login().await;
    // Past what is looked at here: by another hand.
    let update = |roles: usize| UserUpdate {
        roles: Some(vec!["r".to_owned(); roles]),
        ..UserUpdate::default()
    };
    let store = &world.store;
    store.update_user(&login.user.id, update(65)).await.unwrap();
    let outcome = world.logins.refresh(refresh_of(&login)).await;
    assert!(kind(outcome).starts_with("Internal"));
    store.update_user(&login.user.id, update(64)).await.unwrap();
    let next = world.logins.refresh(refresh_of(&login)).await.unwrap();
    assert_eq!(world.verdict(&next).await, "ok");
}

#[tokio::test]
async fn every_access_token_is_good_until_it_expires_whenever_it_is_issued() {
    let second = Duration::from_secs(1);
    for tokens in [
        RefreshTokens::reusable(4 * second),
        RefreshTokens::rotating(4 * second),
        RefreshTokens::rotating(second),
    ] {
        for millis in [0, 1, 500, 950, 999] {
            let world = Refreshing::with(tokens, 2 * second).await;
            world.clock.advance(Duration::from_millis(millis));
            let good = async |login: &Login| {
                assert_eq!(login.token.expires_in_secs(), 2);
                let left = login.token.expires_at().duration_since(world.clock.now());
                assert!(left > SignedDuration::from_secs(1), "{left}");
                let moment = Duration::from_millis(1);
                world.clock.advance(left.unsigned_abs() - moment);
                assert_eq!(world.verdict(login).await, "ok", "{millis}: {tokens:?}");
            };
            let login = world.login().await;
            let refresh = login.refresh_token.clone().unwrap();
            let left = refresh.expires_at().duration_since(world.clock.now());
            // At the last moment.
            world
                .clock
                .advance(left.unsigned_abs() - Duration::from_millis(1));
            let next = world.logins.refresh(refresh.expose()).await.unwrap();
            good(&next).await;
            good(&world.login().await).await;
        }
    }
}

#[tokio::test]
async fn a_store_that_takes_its_time_takes_none_of_a_token_s() {
    for tokens in [RefreshTokens::reusable(WEEK), RefreshTokens::rotating(WEEK)] {
        let world = Refreshing::new(tokens).await;
        let clock = world.clock.clone();
        world
            .store
            .before_open(move || clock.advance(Duration::from_secs(3)));
        let login = world.login().await;
        assert_eq!(login.token.expires_in_secs(), 900);
        let refresh = login.refresh_token.as_ref().unwrap();
        assert_eq!(refresh.expires_in_secs(), WEEK.as_secs());
        world.clock.advance(Duration::from_secs(899));
        assert_eq!(world.verdict(&login).await, "ok");
    }
}

#[tokio::test]
async fn no_token_outlives_the_longest_that_a_login_goes_on() {
    let half_a_day = Duration::from_secs(12 * 3_600);
    let tokens = RefreshTokens::rotating(WEEK).login_lifetime_max(half_a_day);
    let world = Refreshing::new(tokens).await;
    let login = world.login().await;
    let end = world.clock.now() + half_a_day;
    assert_eq!(login.refresh_token.as_ref().unwrap().expires_at(), end);
    world.clock.advance(half_a_day - Duration::from_secs(10));
    let next = world.logins.refresh(refresh_of(&login)).await.unwrap();
    assert_eq!(next.token.expires_in_secs(), 10);
    assert_eq!(next.refresh_token.as_ref().unwrap().expires_at(), end);
    world.clock.advance(Duration::from_millis(9_500));
    let outcome = world.logins.refresh(refresh_of(&next)).await;
    let error = outcome.expect_err("it would be good for half a second");
    assert!(matches!(error.kind(), Kind::RefreshExpired { at } if *at == end));
}
