//! Whether a login stands.

use super::*;
use crate::change::CHANGES_MAX;

#[tokio::test]
async fn logout_counts_at_once_and_for_one_login_alone() {
    let (world, _) = World::with_ann().await;
    let (first, first_token) = world.login().await;
    let (_, second_token) = world.login().await;
    assert_eq!(world.verdict(&first_token).await, "ok");
    assert_eq!(world.verdict(&second_token).await, "ok");
    assert!(world.logins.resolver().peek(&first_token).unwrap().is_ok());
    assert!(world.logins.logout(&first.session).await.unwrap());
    assert_eq!(world.verdict(&first_token).await, "Ended");
    assert_eq!(world.verdict(&second_token).await, "ok");
    assert!(
        !world.logins.logout(&first.session).await.unwrap(),
        "ended once"
    );
    assert_eq!(
        world
            .logins
            .logout_everywhere(&first.user.id)
            .await
            .unwrap(),
        1
    );
    assert_eq!(world.verdict(&second_token).await, "Ended");
}

#[tokio::test]
async fn a_new_password_ends_every_older_login_also_of_the_same_second() {
    let (world, ann) = World::with_ann().await;
    let (_, token) = world.login().await;
    assert_eq!(world.verdict(&token).await, "ok");
    let change = |current, new| world.logins.change_password(&ann.id, current, new);
    assert_eq!(
        kind(change("wrong horse", "new password").await),
        "InvalidCredentials"
    );
    assert!(kind(change(PASSWORD, "short").await).starts_with("WeakPassword"));
    assert_eq!(world.verdict(&token).await, "ok");
    change(PASSWORD, "new password").await.unwrap();
    assert_eq!(world.verdict(&token).await, "Ended");
    assert_eq!(
        kind(world.logins.login(EMAIL, PASSWORD).await),
        "InvalidCredentials"
    );
    let login = world.logins.login(EMAIL, "new password").await.unwrap();
    let fresh = world.verifier.verify(login.token.expose()).unwrap();
    assert_eq!(fresh.issued_at(), token.issued_at(), "the same second");
    assert_eq!(world.verdict(&fresh).await, "ok");
    let nobody = UserId::new("nobody").unwrap();
    let outcome = world
        .logins
        .change_password(&nobody, PASSWORD, "new password")
        .await;
    assert_eq!(kind(outcome), "InvalidCredentials");
}

#[tokio::test]
async fn a_login_that_raced_a_new_password_is_not_opened() {
    let (world, ann) = World::with_ann().await;
    let store = Arc::clone(&world.store);
    // Between the look at the user and the opening, as seen from the store.
    world.store.before_open(move || {
        let changed = store.change_password(&ann.id, 0, "x".to_owned(), ann.created_at);
        assert!(changed.now_or_never().unwrap().unwrap());
    });
    assert_eq!(
        kind(world.logins.login(EMAIL, PASSWORD).await),
        "InvalidCredentials"
    );
}

#[tokio::test]
async fn of_two_concurrent_new_passwords_one_wins() {
    let (world, ann) = World::with_ann().await;
    let (one, other) = tokio::join!(
        world
            .logins
            .change_password(&ann.id, PASSWORD, "password one"),
        world
            .logins
            .change_password(&ann.id, PASSWORD, "password two"),
    );
    assert!(one.is_ok() != other.is_ok());
    let winner = if one.is_ok() {
        "password one"
    } else {
        "password two"
    };
    world.logins.login(EMAIL, winner).await.unwrap();
}

#[tokio::test]
async fn roles_and_shut_outs_count_on_the_next_request() {
    let (world, ann) = World::with_ann().await;
    let (_, token) = world.login().await;
    let roles = async |token: &VerifiedToken| {
        let resolved = world.logins.resolver().resolve(token).await.unwrap();
        let roles: Vec<_> = resolved.principal().roles().map(str::to_owned).collect();
        roles
    };
    assert_eq!(roles(&token).await, ["user"]);
    world
        .logins
        .set_roles(&ann.id, vec!["admin".to_owned(), "user".to_owned()])
        .await
        .unwrap();
    assert_eq!(roles(&token).await, ["admin", "user"]);
    world.logins.set_roles(&ann.id, Vec::new()).await.unwrap();
    assert!(roles(&token).await.is_empty());
    assert_eq!(
        token.roles().collect::<Vec<_>>(),
        ["user"],
        "the token's are not asked"
    );

    assert!(!world.logins.deactivate(&ann.id).await.unwrap().active);
    assert_eq!(world.verdict(&token).await, "Ended");
    assert!(world.logins.activate(&ann.id).await.unwrap().active);
    assert_eq!(
        world.verdict(&token).await,
        "Ended",
        "logins of before stay ended"
    );
    let (_, token) = world.login().await;
    assert_eq!(world.verdict(&token).await, "ok");
    world.logins.delete_user(&ann.id).await.unwrap();
    assert_eq!(world.verdict(&token).await, "Unknown");

    let gone = &ann.id;
    assert_eq!(kind(world.logins.delete_user(gone).await), "UnknownUser");
    assert_eq!(
        kind(world.logins.set_roles(gone, Vec::new()).await),
        "UnknownUser"
    );
    assert_eq!(kind(world.logins.activate(gone).await), "UnknownUser");
    assert_eq!(kind(world.logins.deactivate(gone).await), "UnknownUser");
}

#[tokio::test]
async fn an_inactive_user_is_told_apart_from_an_ended_login() {
    let (world, ann) = World::with_ann().await;
    let (_, token) = world.login().await;
    let update = UserUpdate {
        active: Some(false),
        ..UserUpdate::default()
    };
    world.logins.update(&ann.id, update).await.unwrap();
    assert_eq!(world.verdict(&token).await, "Inactive");
}

#[tokio::test]
async fn roles_and_standing_change_in_one_step_and_who_is_shut_out_stays_out() {
    let (world, ann) = World::with_ann().await;
    let (_, token) = world.login().await;
    let change = |role: &str, active| UserUpdate {
        roles: Some(vec![role.to_owned()]),
        active,
        ..UserUpdate::default()
    };
    let logins = &world.logins;
    let change_ann = |update| logins.update_ending_logins(&ann.id, update);
    let changed = change_ann(change("viewer", None)).await.unwrap();
    assert_eq!(
        (&*changed.roles, changed.active),
        (&["viewer".to_owned()][..], true)
    );
    assert_eq!(world.verdict(&token).await, "ok");

    let changed = change_ann(change("operator", Some(false))).await.unwrap();
    assert_eq!(
        (&*changed.roles, changed.active),
        (&["operator".to_owned()][..], false)
    );
    assert_eq!(world.verdict(&token).await, "Ended");
    change_ann(change("admin", Some(true))).await.unwrap();
    assert_eq!(world.verdict(&token).await, "Ended");

    let nobody = UserId::new("nobody").unwrap();
    let outcome = logins.update_ending_logins(&nobody, change("viewer", Some(false)));
    assert_eq!(kind(outcome.await), "UnknownUser");
    let many = vec!["a long name of a role".repeat(100); 60];
    let many = UserUpdate {
        roles: Some(many),
        active: Some(false),
        ..UserUpdate::default()
    };
    let refused = logins.update_ending_logins(&ann.id, many).await;
    assert_eq!(kind(refused), "TooManyRoles");
    let ann = logins.user(&ann.id).await.unwrap().unwrap();
    assert!(ann.active, "all of it or nothing");
}

/// Whoever asked hangs up between the two.
#[tokio::test]
async fn who_is_shut_out_is_out_although_the_caller_hangs_up() {
    let (world, ann) = World::with_ann().await;
    let (_, token) = world.login().await;
    let shut_out = UserUpdate {
        active: Some(false),
        roles: Some(Vec::new()),
        ..UserUpdate::default()
    };
    let begun = world.logins.update_ending_logins(&ann.id, shut_out);
    assert!(begun.now_or_never().is_none());
    tokio::task::yield_now().await;
    let ann = world.logins.user(&ann.id).await.unwrap().unwrap();
    assert!(!ann.active && ann.roles.is_empty());
    assert_eq!(world.verdict(&token).await, "Ended");
}

#[tokio::test]
async fn another_processes_change_is_seen_within_the_ttl() {
    let (world, _) = World::with_ann().await;
    let other = logins_on(&world.store, &world.clock, cheap().build().unwrap());
    let (login, token) = world.login().await;
    assert_eq!(world.verdict(&token).await, "ok");
    other.logout(&login.session).await.unwrap();
    assert_eq!(
        world.verdict(&token).await,
        "ok",
        "not seen yet: nobody said so"
    );
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.verdict(&token).await, "Ended");
}

#[tokio::test]
async fn a_login_ends_by_itself_even_when_it_is_remembered() {
    let (world, _) = World::with_ann().await;
    let resolver = SessionResolver::builder(world.store.clone(), world.store.clone())
        .ttl(Duration::from_secs(86_400))
        .with_clock(world.clock.clone())
        .build();
    let (login, token) = world.login().await;
    resolver.resolve(&token).await.unwrap();
    world
        .clock
        .advance(Duration::from_secs(3_599) + opening::LOGIN_MARGIN);
    assert!(resolver.peek(&token).unwrap().is_ok());
    world.clock.advance(Duration::from_secs(1));
    let error = resolver.peek(&token).unwrap().unwrap_err();
    let at = login.token.expires_at() + opening::LOGIN_MARGIN;
    assert!(matches!(error.kind(), SessionErrorKind::Expired { at: end } if *end == at));
    let denial = Denial::from(error);
    assert_eq!(denial.kind(), DenialKind::CredentialExpired);
    assert_eq!(denial.expiry(), Some(at));
}

#[tokio::test]
async fn a_token_of_no_login_or_of_anothers_is_nobodys() {
    let (world, ann) = World::with_ann().await;
    let (login, _) = world.login().await;
    let issuer = TokenIssuer::hs256(SECRET)
        .with_clock(world.clock.clone())
        .build()
        .unwrap();
    let issue = |user: &str, session: &str| {
        let (user, session) = (
            UserId::new(user).unwrap(),
            crate::store::SessionId::new(session).unwrap(),
        );
        let token = issuer.issue(&user, &session, []).unwrap();
        world.verifier.verify(token.expose()).unwrap()
    };
    let never = issue(ann.id.as_str(), "session-that-never-was");
    assert_eq!(world.verdict(&never).await, "Unknown");
    let loads = world.logins.resolver().statistics().loads;
    assert_eq!(world.verdict(&never).await, "Unknown");
    assert_eq!(
        world.logins.resolver().statistics().loads,
        loads,
        "remembered"
    );
    let borrowed = issue("user-eve", login.session.as_str());
    assert_eq!(world.verdict(&borrowed).await, "Unknown");
}

#[tokio::test]
async fn a_failing_store_is_503_and_never_401() {
    let (world, ann) = World::with_ann().await;
    let (login, token) = world.login().await;
    world.store.failing.store(true, Ordering::Release);
    let denial = Denial::from(world.logins.resolver().resolve(&token).await.unwrap_err());
    assert_eq!(denial.kind(), DenialKind::Unavailable);
    let error = world.logins.login(EMAIL, PASSWORD).await.unwrap_err();
    assert_eq!(Denial::from(error).kind(), DenialKind::Unavailable);
    let error = world.logins.logout(&login.session).await.unwrap_err();
    assert_eq!(Denial::from(error).kind(), DenialKind::Unavailable);
    let error = world.logins.set_roles(&ann.id, Vec::new()).await;
    assert!(matches!(error.unwrap_err().kind(), Kind::Store(_)));
    world.store.failing.store(false, Ordering::Release);
    assert_eq!(
        world.verdict(&token).await,
        "ok",
        "the failure is not remembered"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hanging_store_costs_a_deadline() {
    let (world, _) = World::with_ann().await;
    let (login, token) = world.login().await;
    world.store.hanging.store(true, Ordering::Release);
    let error = world.logins.login(EMAIL, PASSWORD).await.unwrap_err();
    assert!(
        matches!(error.kind(), Kind::Store(error) if error.kind() == StoreErrorKind::Unavailable)
    );
    assert!(kind(world.logins.logout(&login.session).await).starts_with("Store"));
    assert_eq!(world.verdict(&token).await, "Store");
}

#[tokio::test]
async fn a_change_is_told_to_the_resolver_although_the_store_panics_after_it() {
    let (world, _) = World::with_ann().await;
    let (login, token) = world.login().await;
    assert_eq!(world.verdict(&token).await, "ok");
    world.store.panicking.store(true, Ordering::Release);
    assert!(world.logins.logout(&login.session).await.is_err());
    world.store.panicking.store(false, Ordering::Release);
    assert_ne!(world.verdict(&token).await, "ok");
}

#[tokio::test(start_paused = true)]
async fn changes_that_hang_have_a_bound_and_an_end() {
    let (world, ann) = World::with_ann().await;
    world.store.hanging.store(true, Ordering::Release);
    let change = || world.logins.set_roles(&ann.id, Vec::new());
    let hanging = (0..CHANGES_MAX).map(|_| change());
    let ends = futures_util::future::join_all(hanging).await;
    assert!(ends.iter().all(Result::is_err));
    let busy = Denial::from(change().await.unwrap_err());
    assert_eq!(busy.kind(), DenialKind::Unavailable);
    world.store.hanging.store(false, Ordering::Release);
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(change().await.is_ok());
}

#[tokio::test]
async fn a_change_is_told_to_the_resolver_although_the_caller_hung_up() {
    let (world, _) = World::with_ann().await;
    let (login, token) = world.login().await;
    assert_eq!(world.verdict(&token).await, "ok");
    let mut call = Box::pin(world.logins.logout(&login.session));
    assert!(call.as_mut().now_or_never().is_none());
    drop(call);
    tokio::task::yield_now().await;
    assert_eq!(world.verdict(&token).await, "Ended");
}

#[tokio::test]
async fn logins_that_are_over_are_forgotten_once_an_hour_whatever_the_time_of_day() {
    let (world, _) = World::with_ann().await;
    let purges = async || {
        world.login().await;
        world.store.purges.load(Ordering::Acquire)
    };
    let now = world.clock.now();
    let year = Duration::from_secs(365 * 86_400);
    world.clock.set(now.checked_add(year).unwrap());
    assert_eq!(purges().await, 1);
    world.clock.set(now);
    world.clock.advance(Duration::from_secs(3_599));
    assert_eq!(purges().await, 1);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(purges().await, 2);
}

#[tokio::test]
async fn a_user_has_as_many_roles_as_a_token_holds() {
    let (world, ann) = World::with_ann().await;
    let roles = |count: usize, length: usize| vec!["r".repeat(length); count];
    for too_many in [roles(65, 1), roles(64, 1_000), roles(1, 16_384)] {
        let error = world.logins.set_roles(&ann.id, too_many.clone()).await;
        let error = error.unwrap_err();
        assert!(matches!(error.kind(), Kind::TooManyRoles));
        assert_eq!(Denial::from(error).kind(), DenialKind::Unprocessable);
        let mut bob = NewUser::new("bob@example.org", PASSWORD);
        for role in &too_many {
            bob = bob.role(role);
        }
        assert_eq!(kind(world.logins.register(bob).await), "TooManyRoles");
    }
    assert_eq!(world.logins.user(&ann.id).await.unwrap(), Some(ann.clone()));
    world
        .logins
        .set_roles(&ann.id, roles(64, 100))
        .await
        .unwrap();
    let (_, token) = world.login().await;
    assert_eq!(token.roles().count(), 64);
}
