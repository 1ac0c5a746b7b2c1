//! What is written down about acts.

use std::time::Duration;

use tollgate::{
    audit::{Act, AuditAction, AuditEntry, AuditEvent, AuditFilter, AuditOutcome},
    clock::Clock,
    store::{AuditLog, KeyId, Page},
};

use crate::engines::{Engine, Time, later, now};

fn event(action: &'static str, actor: &str) -> AuditEvent {
    AuditEvent::new(now(), Act::new(AuditAction::new(action)).actor(actor))
}

async fn all<S: AuditLog>(store: &S, filter: AuditFilter) -> Vec<AuditEntry> {
    let page = store.entries(filter, Page::first(1_000)).await.unwrap();
    assert_eq!(page.next_cursor, None);
    page.items
}

pub(crate) async fn an_event_is_written_down_as_it_was<S: Engine>(store: S, _: Time) {
    let mut full = AuditEvent::new(
        now(),
        Act::new(AuditAction::named("config.update".to_owned()))
            .outcome(AuditOutcome::Refused)
            .actor("user-1")
            .target("É'; DROP TABLE audit; --")
            .because("not_permitted: user-1 lacks configure"),
    );
    full.key = Some(KeyId::new("key-1").unwrap());
    full.address = Some("2001:db8::7".parse().unwrap());
    full.request_id = Some("req-1".into());
    full.route = Some("PUT /api/v1/config".into());
    let empty = AuditEvent::new(now(), Act::new(AuditAction::LOGIN));
    store.append(full.clone()).unwrap();
    store.append(empty.clone()).unwrap();
    let found = all(&store, AuditFilter::default()).await;
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].event, empty, "the newest first");
    assert_eq!(found[1].event, full);
    assert!(found[0].position > found[1].position);
    assert_eq!(store.lost(), 0);
}

pub(crate) async fn the_audit_log_is_read_a_page_at_a_time<S: Engine>(store: S, _: Time) {
    for number in 0..25 {
        let actor = format!("user-{number}");
        store.append(event("login", &actor)).unwrap();
    }
    let (mut page, mut seen) = (Page::first(10), Vec::new());
    loop {
        let part = store.entries(AuditFilter::default(), page).await.unwrap();
        seen.extend(part.items.into_iter().filter_map(|entry| entry.event.actor));
        // What comes meanwhile moves no page.
        store.append(event("logout", "late")).unwrap();
        match part.next_cursor {
            Some(cursor) => page = Page::first(10).after(cursor),
            None => break,
        }
    }
    let expected: Vec<_> = (0..25)
        .rev()
        .map(|number| format!("user-{number}"))
        .collect();
    assert_eq!(seen, expected);
}

/// Events of whom the clock was looked at for first, and who came second.
pub(crate) async fn the_audit_log_is_read_in_the_order_of_its_times<S: Engine>(store: S, _: Time) {
    // Of any number at once, each a little behind its time, of several shares.
    let appenders = (0..4).map(|appender: i64| {
        let store = store.clone();
        tokio::task::spawn_blocking(move || {
            for number in 0..50 {
                let second = number * 4 + (appender * 7) % 4;
                let action = ["key.create", "login", "authenticate"][(number % 3) as usize];
                let late = later(second - 3 * (number % 2));
                let act = Act::new(AuditAction::new(action)).actor("user-1");
                store.append(AuditEvent::new(late, act)).unwrap();
            }
        })
    });
    for appender in appenders.collect::<Vec<_>>() {
        appender.await.unwrap();
    }
    for (actor, action) in [
        (None, None),
        (Some("user-1"), None),
        (None, Some("key.create")),
    ] {
        let filter = AuditFilter {
            actor: actor.map(str::to_owned),
            action: action.map(AuditAction::new),
            outcome: None,
        };
        let whole = all(&store, filter.clone()).await;
        assert_eq!(whole.len(), if action.is_some() { 68 } else { 200 });
        let place = |entry: &AuditEntry| (entry.event.at, entry.position);
        assert!(whole.is_sorted_by(|newer, older| place(newer) > place(older)));
        let (mut page, mut seen) = (Page::first(7), Vec::new());
        loop {
            let part = store.entries(filter.clone(), page).await.unwrap();
            seen.extend(part.items);
            match part.next_cursor {
                Some(cursor) => page = Page::first(7).after(cursor),
                None => break,
            }
        }
        assert_eq!(seen, whole, "and so are its pages");
    }
}

pub(crate) async fn a_filter_finds_what_it_asks_for<S: Engine>(store: S, _: Time) {
    store.append(event("login", "user-1")).unwrap();
    store.append(event("logout", "user-1")).unwrap();
    store.append(event("login", "user-2")).unwrap();
    let mut refused = event("login", "user-1");
    refused.outcome = AuditOutcome::Refused;
    store.append(refused).unwrap();
    let by = |actor: Option<&str>, action: Option<AuditAction>, outcome| AuditFilter {
        actor: actor.map(str::to_owned),
        action,
        outcome,
    };
    let login = || Some(AuditAction::LOGIN);
    assert_eq!(all(&store, by(Some("user-1"), None, None)).await.len(), 3);
    assert_eq!(all(&store, by(None, login(), None)).await.len(), 3);
    assert_eq!(
        all(&store, by(Some("user-1"), login(), None)).await.len(),
        2
    );
    let refused = by(Some("user-1"), login(), Some(AuditOutcome::Refused));
    assert_eq!(all(&store, refused).await.len(), 1);
    assert_eq!(all(&store, by(Some("user-3"), None, None)).await.len(), 0);
}

#[tokio::test]
async fn the_ring_in_memory_keeps_the_newest() {
    let store = tollgate::store::MemoryStore::builder();
    let store = store.audit_rows_max(3).build();
    for actor in ["a", "b", "c", "d", "e"] {
        store.append(event("key.create", actor)).unwrap();
    }
    let kept = all(&store, AuditFilter::default()).await;
    let kept: Vec<_> = kept
        .into_iter()
        .filter_map(|entry| entry.event.actor)
        .collect();
    assert_eq!(kept, ["e", "d", "c"]);
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_forgets_by_number_and_by_age_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Time::default();
    let open = || {
        tollgate::store::SqliteStore::builder(folder.path().join("tollgate.db"))
            .with_clock(clock.clone())
            .audit_rows_max(3)
            .audit_age_max(Duration::from_secs(1_000))
            .open()
    };
    let store = open().await.unwrap();
    for actor in ["a", "b", "c", "d", "e"] {
        store.append(event("key.create", actor)).unwrap();
    }
    store.close().await.unwrap();

    let store = open().await.unwrap();
    clock.advance(Duration::from_secs(2));
    let kept = all(&store, AuditFilter::default()).await;
    let kept: Vec<_> = kept
        .into_iter()
        .filter_map(|entry| entry.event.actor)
        .collect();
    assert_eq!(kept, ["e", "d", "c"]);

    clock.advance(Duration::from_secs(1_001));
    let late = AuditEvent::new(clock.now(), Act::new(AuditAction::LOGIN).actor("f"));
    store.append(late).unwrap();
    let kept = all(&store, AuditFilter::default()).await;
    assert_eq!(kept.len(), 1, "{kept:?}");
}

/// A flood of refusals of strangers and of what one caller does who may do nothing, between acts:
/// how many were not taken because too many waited.
async fn flood<S: AuditLog>(store: &S) -> usize {
    let mut turned_away = 0;
    store.append(event("authenticate", "operator-1")).unwrap();
    for number in 0..100_000 {
        let act = Act::new(AuditAction::AUTHENTICATE).outcome(AuditOutcome::Refused);
        let stranger = AuditEvent::new(now(), act.because("credential_invalid"));
        turned_away += usize::from(store.append(stranger).is_err());
        let viewer = match number % 3 {
            0 => event("authenticate", "viewer-1"),
            1 => event("login", "viewer-1"),
            _ => {
                let mut refused = event("rbac", "viewer-1");
                refused.outcome = AuditOutcome::Refused;
                refused
            }
        };
        turned_away += usize::from(store.append(viewer).is_err());
        if number % 10_000 == 0 {
            // Also in the midst of it there is a place for an act.
            store.append(event("key.revoke", "user-1")).unwrap();
        }
    }
    turned_away
}

/// With 20 acts at most there are 3 entries in each eighth of the callers, and 10 of strangers. The
/// flood leaves its acts, the caller who was there before, and the newest of the others.
const LEFT: usize = 10 + 1 + 3 + 10;

/// All acts of the flood are there, and no more than there may be in all.
async fn nothing_is_pushed_out<S: AuditLog>(store: &S) {
    let by = |actor: &str| AuditFilter {
        actor: Some(actor.to_owned()),
        ..AuditFilter::default()
    };
    assert_eq!(all(store, by("user-1")).await.len(), 10);
    assert_eq!(all(store, by("operator-1")).await.len(), 1);
    assert_eq!(all(store, by("viewer-1")).await.len(), 3);
    let kept = all(store, AuditFilter::default()).await;
    assert_eq!(kept.len(), LEFT);
    let strangers = kept.iter().filter(|entry| entry.event.is_of_a_stranger());
    assert_eq!(strangers.count(), 10, "the newest are kept");
    let ordered = kept.is_sorted_by(|newer, older| newer.position > older.position);
    assert!(ordered, "newest first");
}

#[tokio::test]
async fn nobody_pushes_out_what_is_not_theirs_of_the_rings_in_memory() {
    let store = tollgate::store::MemoryStore::builder();
    let store = store.audit_rows_max(20).build();
    assert_eq!(flood(&store).await, 0);
    nothing_is_pushed_out(&store).await;
    for _ in 0..20 {
        store.append(event("key.create", "user-2")).unwrap();
    }
    let kept = all(&store, AuditFilter::default()).await;
    let of_user_2 = |entry: &&AuditEntry| entry.event.actor.as_deref() == Some("user-2");
    assert_eq!(
        kept.iter().filter(of_user_2).count(),
        20,
        "acts have it all"
    );
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_pushes_out_what_is_not_theirs_of_the_file() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Time::default());
    let store = tollgate::store::SqliteStore::builder(folder.path().join("tollgate.db"))
        .with_clock(clock.clone())
        .audit_rows_max(20)
        .open()
        .await
        .unwrap();
    flood(&store).await;
    for _ in 0..2_000 {
        clock.advance(Duration::from_secs(2));
        let page = store
            .entries(AuditFilter::default(), Page::first(100))
            .await;
        if page.unwrap().items.len() <= LEFT {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    nothing_is_pushed_out(&store).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_pushes_out_what_is_not_theirs_of_the_table() {
    let Some(options) = crate::postgres_server::database().await else {
        return;
    };
    let clock = Time::default();
    let pool = crate::postgres_server::pool(options, 6).await;
    let store = tollgate::store::PostgresStore::builder(pool)
        .with_clock(clock.clone())
        .audit_rows_max(20)
        .open()
        .await
        .unwrap();
    flood(&store).await;
    for _ in 0..2_000 {
        clock.advance(Duration::from_secs(2));
        let page = store
            .entries(AuditFilter::default(), Page::first(100))
            .await;
        if page.unwrap().items.len() <= LEFT {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    nothing_is_pushed_out(&store).await;
    store.close().await.unwrap();
}

/// Each process writes what it has in its own time.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_processes_write_is_read_in_the_order_of_its_times() {
    let Some(place) = crate::postgres_server::database().await else {
        return;
    };
    let (here, _) = crate::engines::postgres_on(place.clone()).await;
    let (there, _) = crate::engines::postgres_on(place).await;
    let told = |second| {
        let act = Act::new(AuditAction::LOGIN).actor("user-1");
        AuditEvent::new(later(second), act)
    };
    for second in [0, 2, 4] {
        here.append(told(second)).unwrap();
    }
    for second in [1, 3, 5] {
        there.append(told(second)).unwrap();
    }
    // Whoever reads writes its own before.
    assert!(all(&there, AuditFilter::default()).await.len() >= 3);
    for store in [&here, &there] {
        let entries = all(store, AuditFilter::default()).await;
        let seconds: Vec<_> = entries.iter().map(|entry| entry.event.at).collect();
        assert_eq!(seconds, [5, 4, 3, 2, 1, 0].map(later));
        let mut page = Page::first(1);
        for (number, expected) in entries.iter().enumerate() {
            let part = store.entries(AuditFilter::default(), page).await.unwrap();
            assert_eq!(part.items, [expected.clone()]);
            assert_eq!(part.next_cursor.is_none(), number == 5);
            page = Page::first(1).after(part.next_cursor.unwrap_or_default());
        }
    }
    here.close().await.unwrap();
    there.close().await.unwrap();
}

/// What is rare is found a part at a time: no question goes through all of a log.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
async fn what_is_rare_is_looked_for_in_parts<S: AuditLog>(store: &S) {
    let rare = |mut event: AuditEvent| {
        event.outcome = AuditOutcome::Failed;
        event
    };
    store.append(rare(event("key.create", "user-1"))).unwrap();
    for _ in 0..12_000 {
        while store.append(event("key.create", "user-1")).is_err() {
            store
                .entries(AuditFilter::default(), Page::first(1))
                .await
                .unwrap();
        }
    }
    for (actor, action) in [
        (None, None),
        (Some("user-1"), None),
        (None, Some("key.create")),
    ] {
        let filter = AuditFilter {
            actor: actor.map(str::to_owned),
            action: action.map(AuditAction::new),
            outcome: Some(AuditOutcome::Failed),
        };
        let part = store.entries(filter.clone(), Page::first(5)).await.unwrap();
        assert_eq!(part.items, []);
        let next = Page::first(5).after(part.next_cursor.expect("there is more"));
        let part = store.entries(filter, next).await.unwrap();
        assert_eq!((part.items.len(), part.next_cursor), (1, None));
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_question_goes_through_all_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = tollgate::store::SqliteStore::open(folder.path().join("tollgate.db"));
    what_is_rare_is_looked_for_in_parts(&store.await.unwrap()).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_question_goes_through_all_of_a_table() {
    let Some(options) = crate::postgres_server::database().await else {
        return;
    };
    let pool = crate::postgres_server::pool(options, 6).await;
    let store = tollgate::store::PostgresStore::open(pool).await.unwrap();
    what_is_rare_is_looked_for_in_parts(&store).await;
    store.close().await.unwrap();
}
