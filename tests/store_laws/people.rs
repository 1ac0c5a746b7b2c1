//! Users and logins.

use std::time::Duration;

use tollgate::{
    clock::Timestamp,
    store::{Page, SessionId, StoreErrorKind, UserId},
    user::{RefreshExchange, RefreshOutcome, SessionRecord, UserRecord, UserUpdate},
};

use crate::engines::{Engine, Time, kind, later, now};

pub(crate) fn user_id(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn session_id(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

pub(crate) fn user(name: &str) -> UserRecord {
    let email = format!(" {name}@Example.com ");
    UserRecord::new(user_id(name), &email, "$argon2id$old".to_owned(), now())
}

pub(crate) fn session(name: &str, user: &str) -> SessionRecord {
    SessionRecord::new(session_id(name), user_id(user), now(), later(60))
}

/// Of ann's login, good for a minute more, five minutes in all.
pub(crate) fn exchange(generation: u64, at: Timestamp) -> RefreshExchange {
    RefreshExchange {
        user: user_id("ann"),
        generation,
        at,
        lifetime: Duration::from_secs(60),
        login_lifetime_max: Duration::from_secs(300),
        grace: Duration::ZERO,
    }
}

pub(crate) async fn an_address_is_taken_once_in_whatever_case<S: Engine>(store: S, _: Time) {
    let mut ann = user("ann");
    ann.attributes
        .insert("name".to_owned(), "Ann \"A\"".to_owned());
    ann.roles = vec!["admin".to_owned()];
    store.insert_user(ann.clone()).await.unwrap();
    let mut shouting = user("bob");
    shouting.email = "ANN@EXAMPLE.COM".to_owned();
    for taken in [ann.clone(), shouting] {
        let answer = store.insert_user(taken).await;
        assert_eq!(kind(answer), StoreErrorKind::Conflict);
    }
    for written in ["ann@example.com", "\tAnn@Example.COM\n"] {
        let found = store.user_by_email(written).await.unwrap();
        assert_eq!(found, Some(ann.clone()));
    }
    assert_eq!(store.user(&ann.id).await.unwrap(), Some(ann));
    assert_eq!(store.user(&user_id("bob")).await.unwrap(), None);
    assert_eq!(store.user_by_email("ann").await.unwrap(), None);
}

pub(crate) async fn users_are_listed_newest_first_a_page_at_a_time<S: Engine>(store: S, _: Time) {
    for name in ["a", "b", "c", "d"] {
        store.insert_user(user(name)).await.unwrap();
    }
    assert!(store.delete_user(&user_id("c")).await.unwrap());
    let first = store.users(Page::first(2)).await.unwrap();
    let names = |users: Vec<UserRecord>| users.into_iter().map(|user| user.id).collect::<Vec<_>>();
    assert_eq!(names(first.items), [user_id("d"), user_id("b")]);
    let page = Page::first(2).after(first.next_cursor.unwrap());
    let last = store.users(page).await.unwrap();
    assert_eq!(names(last.items), [user_id("a")]);
    assert_eq!(last.next_cursor, None);
}

pub(crate) async fn a_user_s_update_changes_what_it_names<S: Engine>(store: S, _: Time) {
    let mut expected = user("ann");
    expected.attributes.insert("a".to_owned(), "1".to_owned());
    expected.attributes.insert("b".to_owned(), "1".to_owned());
    store.insert_user(expected.clone()).await.unwrap();
    let mut change = UserUpdate::default();
    change.attributes.insert("b".to_owned(), "2".to_owned());
    change.active = Some(false);
    let updated = store.update_user(&expected.id, change).await.unwrap();
    expected.attributes.insert("b".to_owned(), "2".to_owned());
    expected.active = false;
    assert_eq!(updated, Some(expected.clone()));
    let mut change = UserUpdate::default();
    change.roles = Some(vec!["viewer".to_owned()]);
    store.update_user(&expected.id, change).await.unwrap();
    expected.roles = vec!["viewer".to_owned()];
    assert_eq!(store.user(&expected.id).await.unwrap(), Some(expected));
    let unknown = store.update_user(&user_id("bob"), UserUpdate::default());
    assert_eq!(unknown.await.unwrap(), None);
}

pub(crate) async fn a_new_password_ends_every_login_in_one_step<S: Engine>(store: S, _: Time) {
    let ann = user("ann");
    store.insert_user(ann.clone()).await.unwrap();
    for (name, of) in [("s1", "ann"), ("s2", "ann"), ("s3", "bob")] {
        assert!(store.open_session(session(name, of), None).await.unwrap());
    }
    assert!(
        store
            .end_session(&session_id("s2"), later(1))
            .await
            .unwrap()
    );
    let change = |expected| {
        let hash = "$argon2id$new".to_owned();
        store.change_password(&ann.id, expected, hash, later(5))
    };
    for wrong in [1, u64::MAX] {
        assert!(!change(wrong).await.unwrap());
    }
    assert_eq!(store.user(&ann.id).await.unwrap(), Some(ann.clone()));
    assert!(change(0).await.unwrap());
    assert!(!change(0).await.unwrap(), "once for each version");
    let stored = store.user(&ann.id).await.unwrap().unwrap();
    assert_eq!(stored.password_hash, "$argon2id$new");
    assert_eq!(stored.password_version, 1);
    let mut ends = Vec::new();
    for name in ["s1", "s2", "s3"] {
        let session = store.session(&session_id(name)).await.unwrap().unwrap();
        ends.push(session.ended_at);
    }
    assert_eq!(ends, [Some(later(5)), Some(later(1)), None]);
    let nobody = store.change_password(&user_id("bob"), 0, String::new(), now());
    assert!(!nobody.await.unwrap());
}

pub(crate) async fn a_stronger_hash_of_the_same_password_ends_nothing<S: Engine>(
    store: S,
    _: Time,
) {
    let ann = user("ann");
    store.insert_user(ann.clone()).await.unwrap();
    assert!(
        store
            .open_session(session("s1", "ann"), None)
            .await
            .unwrap()
    );
    let rehash = |version| store.rehash_password(&ann.id, version, "$argon2id$dear".to_owned());
    assert!(!rehash(1).await.unwrap());
    assert!(rehash(0).await.unwrap());
    let stored = store.user(&ann.id).await.unwrap().unwrap();
    assert_eq!(
        (stored.password_hash.as_str(), stored.password_version),
        ("$argon2id$dear", 0)
    );
    let session = store.session(&session_id("s1")).await.unwrap().unwrap();
    assert_eq!(session.ended_at, None);
}

pub(crate) async fn a_login_opens_only_for_an_active_user_with_that_password<S: Engine>(
    store: S,
    _: Time,
) {
    store.insert_user(user("ann")).await.unwrap();
    let open = |name: &str, of: &str, expected| store.open_session(session(name, of), expected);
    assert!(!open("s1", "ann", Some(1)).await.unwrap());
    assert!(!open("s1", "ann", Some(u64::MAX)).await.unwrap());
    assert!(
        !open("s1", "bob", Some(0)).await.unwrap(),
        "nobody of that name"
    );
    assert_eq!(store.session(&session_id("s1")).await.unwrap(), None);
    assert!(open("s1", "ann", Some(0)).await.unwrap());
    assert_eq!(
        kind(open("s1", "ann", Some(0)).await),
        StoreErrorKind::Conflict
    );
    let stored = store.session(&session_id("s1")).await.unwrap();
    assert_eq!(stored, Some(session("s1", "ann")));
    let mut change = UserUpdate::default();
    change.active = Some(false);
    store.update_user(&user_id("ann"), change).await.unwrap();
    assert!(!open("s2", "ann", Some(0)).await.unwrap());
    assert!(open("s2", "ann", None).await.unwrap());
}

pub(crate) async fn a_login_ends_once<S: Engine>(store: S, _: Time) {
    for name in ["s1", "s2", "s3"] {
        store
            .open_session(session(name, "ann"), None)
            .await
            .unwrap();
    }
    store
        .open_session(session("s4", "bob"), None)
        .await
        .unwrap();
    assert!(
        store
            .end_session(&session_id("s1"), later(1))
            .await
            .unwrap()
    );
    assert!(
        !store
            .end_session(&session_id("s1"), later(2))
            .await
            .unwrap()
    );
    assert!(
        !store
            .end_session(&session_id("s0"), later(2))
            .await
            .unwrap()
    );
    let ann = user_id("ann");
    assert_eq!(store.end_sessions_of(&ann, later(3)).await.unwrap(), 2);
    assert_eq!(store.end_sessions_of(&ann, later(4)).await.unwrap(), 0);
    let ended = |name| {
        let found = store.session(&session_id(name));
        async { found.await.unwrap().unwrap().ended_at }
    };
    assert_eq!(ended("s1").await, Some(later(1)));
    assert_eq!(ended("s3").await, Some(later(3)));
    assert_eq!(ended("s4").await, None);
}

pub(crate) async fn a_deleted_user_s_logins_are_gone<S: Engine>(store: S, _: Time) {
    store.insert_user(user("ann")).await.unwrap();
    store
        .open_session(session("s1", "ann"), None)
        .await
        .unwrap();
    store
        .open_session(session("s2", "bob"), None)
        .await
        .unwrap();
    assert!(store.delete_user(&user_id("ann")).await.unwrap());
    assert!(!store.delete_user(&user_id("ann")).await.unwrap());
    assert_eq!(store.session(&session_id("s1")).await.unwrap(), None);
    assert!(store.session(&session_id("s2")).await.unwrap().is_some());
    assert_eq!(store.user_by_email("ann@example.com").await.unwrap(), None);
    store.insert_user(user("ann")).await.unwrap();
}

pub(crate) async fn logins_are_forgotten_after_their_time<S: Engine>(store: S, _: Time) {
    store
        .open_session(session("s1", "ann"), None)
        .await
        .unwrap();
    let mut long = session("s2", "ann");
    long.expires_at = later(120);
    store.open_session(long, None).await.unwrap();
    assert_eq!(store.purge_sessions(later(60)).await.unwrap(), 0);
    assert_eq!(store.purge_sessions(later(61)).await.unwrap(), 1);
    assert_eq!(store.session(&session_id("s1")).await.unwrap(), None);
    assert!(store.session(&session_id("s2")).await.unwrap().is_some());
}

pub(crate) async fn a_refresh_token_is_exchanged_once_and_the_second_time_ends_the_login<
    S: Engine,
>(
    store: S,
    _: Time,
) {
    for name in ["s1", "s2"] {
        store
            .open_session(session(name, "ann"), None)
            .await
            .unwrap();
    }
    let s1 = session_id("s1");
    let mut expected = session("s1", "ann");
    for step in 0..3 {
        let at = later(50 * (i64::try_from(step).unwrap() + 1));
        let outcome = store
            .exchange_refresh(&s1, exchange(step, at))
            .await
            .unwrap();
        expected.generation = step + 1;
        expected.refreshed_at = Some(at);
        expected.expires_at = at + Duration::from_secs(60);
        assert_eq!(outcome, RefreshOutcome::Exchanged(expected.clone()));
        assert_eq!(store.session(&s1).await.unwrap(), Some(expected.clone()));
    }
    for used_up in [1, 2] {
        let reuse = store.exchange_refresh(&s1, exchange(used_up, later(151)));
        let outcome = reuse.await.unwrap();
        match used_up {
            1 => assert_eq!(outcome, RefreshOutcome::Reused),
            _ => assert_eq!(outcome, RefreshOutcome::Ended),
        }
    }
    expected.ended_at = Some(later(151));
    assert_eq!(store.session(&s1).await.unwrap(), Some(expected));
    let good = store.exchange_refresh(&s1, exchange(3, later(151)));
    assert_eq!(good.await.unwrap(), RefreshOutcome::Ended);
    let other = store.session(&session_id("s2")).await.unwrap();
    assert_eq!(other, Some(session("s2", "ann")));
    // One that was never issued is no better than one that is used up.
    let forged = store.exchange_refresh(&session_id("s2"), exchange(7, later(1)));
    assert_eq!(forged.await.unwrap(), RefreshOutcome::Reused);
}

pub(crate) async fn a_refresh_of_what_is_over_or_another_s_changes_nothing<S: Engine>(
    store: S,
    _: Time,
) {
    for (name, of) in [("s1", "ann"), ("s2", "bob")] {
        store.open_session(session(name, of), None).await.unwrap();
    }
    let try_on = |name: &str, at| store.exchange_refresh(&session_id(name), exchange(0, at));
    for name in ["s0", "s2"] {
        let outcome = try_on(name, later(1)).await.unwrap();
        assert_eq!(outcome, RefreshOutcome::Unknown);
    }
    let over = RefreshOutcome::Expired { at: later(60) };
    assert_eq!(try_on("s1", later(60)).await.unwrap(), over);
    for (name, of) in [("s1", "ann"), ("s2", "bob")] {
        let stored = store.session(&session_id(name)).await.unwrap();
        assert_eq!(stored, Some(session(name, of)));
    }
    // No exchange carries a login beyond its longest.
    let mut long = exchange(0, later(59));
    long.lifetime = Duration::from_secs(1_000);
    let outcome = store.exchange_refresh(&session_id("s1"), long);
    let RefreshOutcome::Exchanged(session) = outcome.await.unwrap() else {
        panic!("it was good");
    };
    assert_eq!(session.expires_at, later(300));
}

pub(crate) async fn a_grace_takes_the_immediate_parent_once_more<S: Engine>(store: S, _: Time) {
    store
        .open_session(session("s1", "ann"), None)
        .await
        .unwrap();
    let graced = |generation, at| {
        let mut exchange = exchange(generation, at);
        exchange.grace = Duration::from_secs(10);
        store.exchange_refresh(&session_id("s1"), exchange)
    };
    let first = graced(0, later(1)).await.unwrap();
    let RefreshOutcome::Exchanged(standing) = first else {
        panic!("it was good");
    };
    let repeated = RefreshOutcome::Repeated(standing.clone());
    assert_eq!(graced(0, later(10)).await.unwrap(), repeated);
    let stored = store.session(&session_id("s1")).await.unwrap();
    assert_eq!(stored, Some(standing));
    let next = graced(1, later(10)).await.unwrap();
    assert!(matches!(next, RefreshOutcome::Exchanged(_)));
    let grandparent = graced(0, later(10)).await.unwrap();
    assert_eq!(grandparent, RefreshOutcome::Reused);
}

pub(crate) async fn open_logins_are_listed_newest_first<S: Engine>(store: S, _: Time) {
    for (name, second) in [("s1", 0), ("s2", 1), ("s3", 2), ("s4", 3), ("s5", 3)] {
        let mut login = session(name, "ann");
        login.created_at = later(second);
        login.expires_at = later(60 + second);
        store.open_session(login, None).await.unwrap();
    }
    store
        .open_session(session("s6", "bob"), None)
        .await
        .unwrap();
    store
        .end_session(&session_id("s3"), later(4))
        .await
        .unwrap();
    let names = async |at, limit| {
        let open = store.open_sessions_of(&user_id("ann"), at, limit).await;
        let names = open.unwrap().into_iter().map(|login| login.id.to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(later(5), 10).await, ["s4", "s5", "s2", "s1"]);
    assert_eq!(names(later(5), 2).await, ["s4", "s5"]);
    assert_eq!(names(later(61), 10).await, ["s4", "s5"]);
}
