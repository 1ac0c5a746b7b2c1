//! Logins of two processes; the laws of one are in `tollgate::conformance`.

use std::time::Duration;

use tollgate::{
    clock::Timestamp,
    store::SessionId,
    user::{RefreshExchange, RefreshOutcome, SessionRecord},
};

use crate::{
    engines::{Sessions, later, now},
    people::user_id,
};

pub(crate) fn session_id(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
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

/// Two stores on the same logins.
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
pub(crate) async fn of_two_processes_one_exchanges_a_refresh_token<S: Sessions>(stores: [S; 2]) {
    let login = session("s1", "ann");
    assert!(stores[0].open_session(login, None, 1_000).await.unwrap());
    let attempts = (0..1_000).map(|number| {
        let answer = stores[number % 2].exchange_refresh(&session_id("s1"), exchange(0, now()));
        tokio::spawn(answer)
    });
    let mut won = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        let outcome = attempt.await.unwrap().unwrap();
        won += usize::from(matches!(outcome, RefreshOutcome::Exchanged(_)));
    }
    assert_eq!(won, 1);
    let stored = stores[0].session(&session_id("s1")).await.unwrap();
    assert_eq!(stored.unwrap().ended_at, Some(now()));
}
