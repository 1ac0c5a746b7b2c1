//! The laws of a store of logins.
//!
//! Each takes a store that is empty. [`sessions`](super::sessions()) runs them all. What concerns
//! users and logins together, as [`open_session`](SessionStore::open_session) with a password
//! version, is none of them: stores of logins alone have no users.

use std::time::Duration;

use super::{later, now};
use crate::{
    domain::{
        SessionId, UserId,
        clock::Timestamp,
        user::{RefreshExchange, RefreshOutcome, SessionRecord},
    },
    store::SessionStore,
};

/// [`end_session`](SessionStore::end_session) and
/// [`end_sessions_of`](SessionStore::end_sessions_of) end what is open, once, and the moment of the
/// first end stays.
pub async fn a_login_ends_once<S: SessionStore + Clone>(store: S) {
    for name in ["s1", "s2", "s3"] {
        store
            .open_session(session(name, "ann"), None, 1_000)
            .await
            .unwrap();
    }
    store
        .open_session(session("s4", "bob"), None, 1_000)
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
    let ann = user("ann");
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

/// [`exchange_refresh`](SessionStore::exchange_refresh) takes the token of the current generation,
/// and any other ends the login.
pub async fn a_refresh_token_is_exchanged_once_and_the_second_time_ends_the_login<
    S: SessionStore + Clone,
>(
    store: S,
) {
    for name in ["s1", "s2"] {
        store
            .open_session(session(name, "ann"), None, 1_000)
            .await
            .unwrap();
    }
    let s1 = session_id("s1");
    let mut expected = session("s1", "ann");
    for step in 0..3 {
        let at = later(50 * (u32::try_from(step).unwrap() + 1));
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

/// [`exchange_refresh`](SessionStore::exchange_refresh) changes nothing of a login that is over,
/// unknown or another user's, and carries none beyond its longest.
pub async fn a_refresh_of_what_is_over_or_another_s_changes_nothing<S: SessionStore + Clone>(
    store: S,
) {
    for (name, of) in [("s1", "ann"), ("s2", "bob")] {
        store
            .open_session(session(name, of), None, 1_000)
            .await
            .unwrap();
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

/// [`exchange_refresh`](SessionStore::exchange_refresh) is refused where the login would be over at
/// once, and uses nothing up.
pub async fn a_refresh_that_leaves_no_time_is_refused<S: SessionStore + Clone>(store: S) {
    store
        .open_session(session("s1", "ann"), None, 1_000)
        .await
        .unwrap();
    // The longest that a login goes on was made shorter since.
    let shorter = |millis, at| {
        let mut exchange = exchange(0, at);
        exchange.login_lifetime_max = Duration::from_millis(millis);
        store.exchange_refresh(&session_id("s1"), exchange)
    };
    for at in [later(30), later(40)] {
        let over = RefreshOutcome::Expired { at: later(30) };
        assert_eq!(shorter(29_001, at).await.unwrap(), over);
    }
    let stored = store.session(&session_id("s1")).await.unwrap();
    assert_eq!(stored, Some(session("s1", "ann")), "and nothing used up");
    let outcome = shorter(29_001, later(29)).await.unwrap();
    let RefreshOutcome::Exchanged(session) = outcome else {
        panic!("there is a second left: {outcome:?}");
    };
    assert_eq!(session.expires_at, later(30), "in whole seconds");
}

/// Within its [grace](RefreshExchange::grace) the token that was exchanged last is taken once more,
/// and no older one.
pub async fn a_grace_takes_the_immediate_parent_once_more<S: SessionStore + Clone>(store: S) {
    store
        .open_session(session("s1", "ann"), None, 1_000)
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

/// [`open_session`](SessionStore::open_session) forgets what is too many: first what is over, then
/// what ends first, never the new login.
pub async fn a_user_has_only_so_many_logins_and_others_theirs<S: SessionStore + Clone>(store: S) {
    let open = async |name: &str, user: &str, second: u32| {
        let mut login = session(name, user);
        login.created_at = later(second);
        login.expires_at = later(60 + second);
        assert!(store.open_session(login, None, 3).await.unwrap());
    };
    open("b1", "bob", 0).await;
    for (name, second) in [("s1", 0), ("s2", 1), ("s3", 2), ("s4", 3)] {
        open(name, "ann", second).await;
    }
    assert_eq!(open_of(&store, "ann").await, ["s4", "s3", "s2"]);
    assert_eq!(store.session(&session_id("s1")).await.unwrap(), None);
    let first = store.exchange_refresh(&session_id("s1"), exchange(0, later(4)));
    assert_eq!(first.await.unwrap(), RefreshOutcome::Unknown);
    // One that was refreshed is not the first to go.
    let again = store.exchange_refresh(&session_id("s2"), exchange(0, later(4)));
    assert!(matches!(again.await.unwrap(), RefreshOutcome::Exchanged(_)));
    open("s5", "ann", 4).await;
    assert_eq!(open_of(&store, "ann").await, ["s5", "s4", "s2"]);
    // What is over goes before what is open, and the new one never, however short it is.
    let s4 = session_id("s4");
    assert!(store.end_session(&s4, later(5)).await.unwrap());
    let mut short = session("s6", "ann");
    (short.created_at, short.expires_at) = (later(5), later(6));
    assert!(store.open_session(short, None, 3).await.unwrap());
    assert_eq!(open_of(&store, "ann").await, ["s6", "s5", "s2"]);
    let mut short = session("s7", "ann");
    (short.created_at, short.expires_at) = (later(5), later(6));
    assert!(store.open_session(short, None, 1).await.unwrap());
    assert_eq!(open_of(&store, "ann").await, ["s7"]);
    assert_eq!(open_of(&store, "bob").await, ["b1"]);
}

/// Of sixteen [openings](SessionStore::open_session) at once as many stay as there may be.
pub async fn of_any_logins_at_once_so_many_stay_as_there_may_be<S: SessionStore + Clone>(store: S) {
    // After each round anew: the next login would make up for one that was not counted.
    for round in 0..40 {
        let logins = (0..16).map(|number| {
            let login = session(&format!("s-{round}-{number}"), "ann");
            tokio::spawn(store.open_session(login, None, 7))
        });
        for opened in logins.collect::<Vec<_>>() {
            assert!(opened.await.unwrap().unwrap());
        }
        assert_eq!(open_of(&store, "ann").await.len(), 7);
    }
}

/// [`open_sessions_of`](SessionStore::open_sessions_of) lists what is open at the moment, newest
/// first and then by id, up to the limit.
pub async fn open_logins_are_listed_newest_first<S: SessionStore + Clone>(store: S) {
    for (name, second) in [("s1", 0), ("s2", 1), ("s3", 2), ("s4", 3), ("s5", 3)] {
        let mut login = session(name, "ann");
        login.created_at = later(second);
        login.expires_at = later(60 + second);
        store.open_session(login, None, 1_000).await.unwrap();
    }
    store
        .open_session(session("s6", "bob"), None, 1_000)
        .await
        .unwrap();
    store
        .end_session(&session_id("s3"), later(4))
        .await
        .unwrap();
    let names = async |at, limit| {
        let open = store.open_sessions_of(&user("ann"), at, limit).await;
        let names = open.unwrap().into_iter().map(|login| login.id.to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(later(5), 10).await, ["s4", "s5", "s2", "s1"]);
    assert_eq!(names(later(5), 2).await, ["s4", "s5"]);
    assert_eq!(names(later(61), 10).await, ["s4", "s5"]);
}

/// Of a thousand [exchanges](SessionStore::exchange_refresh) of one token at once one wins, one
/// ends the login, and all others find it ended.
pub async fn of_a_thousand_refreshes_at_once_one_wins_and_then_the_login_ends<
    S: SessionStore + Clone,
>(
    store: S,
) {
    store
        .open_session(session("s1", "ann"), None, 1_000)
        .await
        .unwrap();
    let attempts = (0..1_000).map(|_| {
        let answer = store.exchange_refresh(&session_id("s1"), exchange(0, now()));
        tokio::spawn(answer)
    });
    let mut outcomes = Vec::new();
    for attempt in attempts.collect::<Vec<_>>() {
        outcomes.push(attempt.await.unwrap().unwrap());
    }
    let count = |wanted: fn(&RefreshOutcome) -> bool| {
        let found = outcomes.iter().filter(|outcome| wanted(outcome));
        found.count()
    };
    let won = count(|outcome| matches!(outcome, RefreshOutcome::Exchanged(_)));
    let reused = count(|outcome| *outcome == RefreshOutcome::Reused);
    let ended = count(|outcome| *outcome == RefreshOutcome::Ended);
    assert_eq!((won, reused, ended), (1, 1, 998));
    let stored = store.session(&session_id("s1")).await.unwrap().unwrap();
    assert_eq!(stored.ended_at, Some(now()));
    assert_eq!(stored.generation, 1);
}

fn session_id(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn session(name: &str, of: &str) -> SessionRecord {
    SessionRecord::new(session_id(name), user(of), now(), later(60))
}

/// Of ann's login, good for a minute more, five minutes in all.
fn exchange(generation: u64, at: Timestamp) -> RefreshExchange {
    RefreshExchange {
        user: user("ann"),
        generation,
        at,
        lifetime: Duration::from_secs(60),
        login_lifetime_max: Duration::from_secs(300),
        grace: Duration::ZERO,
    }
}

async fn open_of<S: SessionStore>(store: &S, of: &str) -> Vec<String> {
    let open = store.open_sessions_of(&user(of), later(5), 1_000).await;
    let names = open.unwrap().into_iter().map(|login| login.id.to_string());
    names.collect()
}
