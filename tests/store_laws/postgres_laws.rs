//! What PostgreSQL alone must do: its tables, its failures, its end.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tollgate::{
    key::{KeyDigest, KeyFormat, KeyRecord, KeysPerOwner},
    keyring::{KeyResolver, Keyring, NewKey},
    store::{
        BudgetId, KeyId, KeyLookup, KeyStore, Ledger, Page, PostgresStore, SessionStore,
        StoreErrorKind, UserStore,
    },
};

use crate::{
    engines::{
        Time, account, balances, budget, call, costs, hold, kind, later, nanos, now, pay, postgres,
        postgres_on, request, usage,
    },
    people::{user, user_id},
    postgres_server::{Server, database, pool},
    sessions::{of_two_processes_one_exchanges_a_refresh_token, session, session_id},
};

fn record(name: &str) -> KeyRecord {
    KeyRecord::new(
        KeyId::new(name).unwrap(),
        BudgetId::new(name).unwrap(),
        KeyDigest::of(&format!("ps_live_{name}")),
        "ann",
        now(),
    )
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let Some(place) = database().await else {
        return;
    };
    let (ann, key) = (account("ann"), budget("key-1"));
    let (store, _) = postgres_on(place.clone()).await;
    let record = record("key-1");
    store.insert(record.clone(), None).await.unwrap();
    store.insert_user(user("ann")).await.unwrap();
    let login = session("s1", "ann");
    store
        .open_session(login.clone(), Some(0), 1_000)
        .await
        .unwrap();
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[key.clone()], 10).await.unwrap();
    let open = hold(&store, &ann, &[key.clone()], 20).await.unwrap();
    // Neither is awaited: what was queued is written before the end.
    drop(store.settle(held, costs(7)));
    store.touch(&record.id, later(3));
    store.close().await.unwrap();
    drop(open);

    let (store, _) = postgres_on(place.clone()).await;
    balances(&store, &ann, 100, 0).await;
    let mut touched = record.clone();
    touched.last_used_at = Some(later(3));
    assert_eq!(store.find(&record.digest).await.unwrap(), Some(touched));
    assert_eq!(
        store.user(&user_id("ann")).await.unwrap(),
        Some(user("ann"))
    );
    assert_eq!(store.session(&session_id("s1")).await.unwrap(), Some(login));
    let spent = store.budget(&ann, &key).await.unwrap();
    assert_eq!((spent.day.settled, spent.day.held), (nanos(7), nanos(0)));
    store.close().await.unwrap();
    let pool = pool(place, 1).await;
    let instances: i64 = sqlx::query_scalar("SELECT count(*) FROM tollgate.instance")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(instances, 0, "who left in order is not remembered");
}

#[tokio::test]
async fn a_store_that_is_dropped_ends_in_the_background() {
    let Some(place) = database().await else {
        return;
    };
    let (store, _) = postgres_on(place.clone()).await;
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    drop(store.settle(hold(&store, &ann, &[], 10).await.unwrap(), costs(7)));
    let _open = hold(&store, &ann, &[], 20).await.unwrap();
    drop(store);
    let (again, _) = postgres_on(place).await;
    for _ in 0..200 {
        if again.balance(&ann).await.unwrap().held == nanos(0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    balances(&again, &ann, 100, 0).await;
    assert_eq!(again.balance(&ann).await.unwrap().settled, nanos(7));
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let Some((store, _)) = postgres().await else {
        return;
    };
    let other = store.clone();
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[], 10).await.unwrap();
    store.close().await.unwrap();
    let unavailable = StoreErrorKind::Unavailable;
    assert_eq!(kind(other.hold(request(&ann, &[], 1)).await), unavailable);
    assert_eq!(kind(other.settle(held, costs(1)).await), unavailable);
    assert_eq!(kind(other.balance(&ann).await), unavailable);
    assert_eq!(kind(other.flush().await), unavailable);
    other.close().await.unwrap();
}

#[tokio::test]
async fn of_keys_that_were_rotated_before_the_latest_successor_is_known() {
    let Some(place) = database().await else {
        return;
    };
    let (store, _) = postgres_on(place.clone()).await;
    for (name, of) in [("old", None), ("lost", Some("old")), ("new", Some("old"))] {
        let mut record = record(name);
        record.rotated_from = of.map(|of| KeyId::new(of).unwrap());
        store.insert(record, None).await.unwrap();
    }
    let pool = pool(place, 1).await;
    for step in [
        "ALTER TABLE tollgate.api_key DROP COLUMN rotated_to",
        include_str!("../../src/store/postgres/schema_6.sql"),
    ] {
        sqlx::raw_sql(step).execute(&pool).await.unwrap();
    }
    let found: Vec<(String, String)> =
        sqlx::query_as("SELECT id, rotated_to FROM tollgate.api_key WHERE rotated_to IS NOT NULL")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(found, [("old".to_owned(), "new".to_owned())]);
}

#[tokio::test]
async fn no_clear_secret_is_in_the_database() {
    let Some(place) = database().await else {
        return;
    };
    let (store, _) = postgres_on(place.clone()).await;
    let format = KeyFormat::builder("ps").build().unwrap();
    let resolver = KeyResolver::builder(store.clone())
        .add_format(format.clone())
        .build();
    let ring = Keyring::new(store.clone(), format, resolver);
    let (key, _) = ring.create("ann", NewKey::default()).await.unwrap();
    let pool = pool(place, 1).await;
    let rows: Vec<String> = sqlx::query_scalar("SELECT api_key::text FROM tollgate.api_key")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
    let secret = &key.expose()["ps_".len()..];
    assert!(!rows[0].contains(&secret[8..16]), "{}", rows[0]);
}

#[tokio::test]
async fn a_text_that_cannot_be_stored_is_refused_and_found_nowhere() {
    let Some((store, _)) = postgres().await else {
        return;
    };
    let nul = "a\0b";
    let refused = StoreErrorKind::Refused;
    let mut key = record("key-1");
    key.name = nul.to_owned();
    assert_eq!(kind(store.insert(key, None).await), refused);
    let mut ann = user("ann");
    ann.attributes.insert("name".to_owned(), nul.to_owned());
    assert_eq!(kind(store.insert_user(ann).await), refused);
    assert_eq!(store.user_by_email(nul).await.unwrap(), None);
    assert!(
        store
            .list(nul, Page::first(5))
            .await
            .unwrap()
            .items
            .is_empty()
    );
    // In a batch it harms nobody beside it.
    let bob = account("bob");
    pay(&store, &bob, 100).await;
    let holds: Vec<_> = (0..20)
        .map(|number| {
            let mut wish = request(&bob, &[], 1);
            if number % 2 == 0 {
                wish.call = call(&bob, nul);
            }
            store.hold(wish)
        })
        .collect();
    for (number, answer) in holds.into_iter().enumerate() {
        match answer.await {
            Ok(held) => store.settle(held.unwrap(), costs(1)).await.unwrap(),
            Err(error) => assert_eq!((number % 2, error.kind()), (0, refused)),
        }
    }
    balances(&store, &bob, 100, 0).await;
    assert_eq!(usage(&store, &bob).await.len(), 10);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_given_back() {
    let Some((store, _)) = postgres().await else {
        return;
    };
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    for _ in 0..50 {
        drop(store.hold(request(&ann, &[], 1)));
    }
    store.flush().await.unwrap();
    store.flush().await.unwrap();
    balances(&store, &ann, 100, 0).await;
    let all = hold(&store, &ann, &[], 100).await.unwrap();
    store.settle(all, costs(0)).await.unwrap();
}

#[tokio::test]
async fn open_holds_have_a_bound_and_settlements_none() {
    let Some(place) = database().await else {
        return;
    };
    let store = PostgresStore::builder(pool(place, 6).await)
        .with_clock(Time::default())
        .open_holds_max(2)
        .open()
        .await
        .unwrap();
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    assert!(
        hold(&store, &ann, &[], 101).await.is_err(),
        "takes no place"
    );
    for _ in 0..3 {
        let first = hold(&store, &ann, &[], 1).await.unwrap();
        let second = hold(&store, &ann, &[], 1).await.unwrap();
        let third = store.hold(request(&ann, &[], 1)).await;
        assert_eq!(kind(third), StoreErrorKind::Busy);
        store.settle(first, costs(1)).await.unwrap();
        store.settle(second, costs(1)).await.unwrap();
    }
    balances(&store, &ann, 100, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_lock_calls_end_and_settlements_go_on() {
    let Some(place) = database().await else {
        return;
    };
    let store = PostgresStore::builder(pool(place.clone(), 6).await)
        .with_clock(Time::default())
        .queue_max(4)
        .lanes(1)
        .deadline(Duration::from_millis(300))
        .open()
        .await
        .unwrap();
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[], 10).await.unwrap();
    let stays = hold(&store, &ann, &[], 0).await.unwrap();
    let blocker = pool(place, 1).await;
    let mut lock = blocker.begin().await.unwrap();
    sqlx::raw_sql("LOCK tollgate.account IN EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let unavailable = StoreErrorKind::Unavailable;
    assert_eq!(kind(store.settle(held, costs(10)).await), unavailable);
    let mut waiting: Vec<_> = (0..20).map(|_| store.hold(request(&ann, &[], 1))).collect();
    let last = waiting.pop().unwrap();
    assert_eq!(
        kind(last.await),
        StoreErrorKind::Busy,
        "the queue has an end"
    );
    let longer = store.extend(&stays, Duration::from_secs(600)).await;
    assert_eq!(kind(longer), unavailable, "but for what is open already");
    for answer in waiting {
        assert!(answer.await.is_err());
    }
    let read = store.balance(&ann).await.unwrap();
    assert_eq!(read.held, nanos(10), "who reads waits for nobody");
    lock.commit().await.unwrap();
    for _ in 0..200 {
        let balance = store.balance(&ann).await.unwrap();
        if balance.settled == nanos(10) && balance.held == nanos(0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.settle(stays, costs(0)).await.unwrap();
    balances(&store, &ann, 100, 0).await;
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(10));
}

async fn cut_all_connections(place: &PgConnectOptions) {
    let pool = pool(place.clone(), 1).await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::query(cut).execute(&pool).await.unwrap();
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_is_cut_every_settlement_counts_once_and_nothing_stays_held() {
    let Some(place) = database().await else {
        return;
    };
    let (store, clock) = postgres_on(place.clone()).await;
    let ann = account("ann");
    pay(&store, &ann, 1_000_000).await;
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut settled = 0;
                for _ in 0..100 {
                    // A hold may fail; a settlement is only slow.
                    if let Ok(Ok(held)) = store.hold(request(&account("ann"), &[], 3)).await {
                        store.settle(held, costs(3)).await.unwrap();
                        settled += 1;
                    }
                }
                settled
            })
        })
        .collect();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        cut_all_connections(&place).await;
    }
    let mut settled = 0;
    for caller in callers {
        settled += caller.await.unwrap();
    }
    assert!(settled > 0);
    for _ in 0..100 {
        clock.advance(Duration::from_secs(70));
        if store.flush().await.is_ok() && store.balance(&ann).await.unwrap().held == nanos(0) {
            break;
        }
    }
    balances(&store, &ann, 1_000_000, 0).await;
    let charged = store.balance(&ann).await.unwrap().settled;
    assert_eq!(charged, nanos(3 * settled));
}

#[tokio::test]
async fn the_log_is_bounded_by_rows_and_by_age() {
    let Some(place) = database().await else {
        return;
    };
    let clock = Time::default();
    let store = PostgresStore::builder(pool(place, 6).await)
        .with_clock(clock.clone())
        .usage_rows_max(5)
        .usage_age_max(Duration::from_secs(60))
        .open()
        .await
        .unwrap();
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    for number in 0..20 {
        let call = call(&ann, &format!("{number}"));
        store.record(call, costs(0)).await.unwrap();
    }
    clock.advance(Duration::from_secs(2));
    store.flush().await.unwrap();
    assert_eq!(usage(&store, &ann).await.len(), 5);
    clock.advance(Duration::from_secs(57));
    store.record(call(&ann, "young"), costs(0)).await.unwrap();
    clock.advance(Duration::from_secs(2));
    store.flush().await.unwrap();
    let left = usage(&store, &ann).await;
    assert_eq!(left.len(), 1);
    assert_eq!(&*left[0].call.request_id, "young");
    let moved = store.transactions(&ann, Page::first(9)).await.unwrap();
    assert_eq!(moved.items.len(), 1, "a payment is kept for ever");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_within_the_deadline() {
    let Some(server) = Server::start("-c fsync=off") else {
        return;
    };
    let place = server.create_database("gone").await;
    let store = PostgresStore::builder(pool(place, 6).await)
        .with_clock(Time::default())
        .deadline(Duration::from_millis(300))
        .open()
        .await
        .unwrap();
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    drop(server);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let unavailable = StoreErrorKind::Unavailable;
    let digest = KeyDigest::of("ps_live_key-1");
    assert_eq!(kind(store.find(&digest).await), unavailable);
    assert_eq!(kind(store.hold(request(&ann, &[], 1)).await), unavailable);
    assert_eq!(kind(store.balance(&ann).await), unavailable);
    assert_eq!(kind(store.session(&session_id("s1")).await), unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_pools_one_exchanges_a_refresh_token() {
    let Some(place) = database().await else {
        return;
    };
    let stores = [
        postgres_on(place.clone()).await.0,
        postgres_on(place).await.0,
    ];
    of_two_processes_one_exchanges_a_refresh_token(stores).await;
}

/// As the store takes it, here for another process that is in the middle of making one of the
/// owner's keys.
const TURN: &str = "SELECT pg_advisory_lock(hashtextextended('ann', 7738725070078436896))";

#[tokio::test]
async fn one_owner_s_crowd_leaves_the_connections_to_others() {
    let Some(place) = database().await else {
        return;
    };
    let (store, _) = postgres_on(place.clone()).await;
    let elsewhere = pool(place, 1).await;
    let mut held = elsewhere.acquire().await.unwrap();
    sqlx::query(TURN).execute(&mut *held).await.unwrap();
    let bounds = Some(KeysPerOwner {
        live_max: 1_000,
        kept_max: 1_000,
    });
    let crowd: Vec<_> = (0..600)
        .map(|number| tokio::spawn(store.insert(record(&format!("key-{number}")), bounds)))
        .collect();
    // All of them have asked by then.
    for _ in 0..20 {
        let id = KeyId::new("key-0").unwrap();
        assert_eq!(store.get("ann", &id).await.unwrap(), None, "not yet");
    }
    held.close().await.unwrap();
    let (mut made, mut busy) = (0, 0);
    for asked in crowd {
        match asked.await.unwrap() {
            Ok(()) => made += 1,
            // It got no turn, so nobody has to wonder whether it was made.
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Busy, "{error}");
                busy += 1;
            }
        }
    }
    assert!(made > 0 && busy >= 600 - 512, "{made} {busy}");
    let listed: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tollgate.api_key WHERE owner = 'ann'")
            .fetch_one(&elsewhere)
            .await
            .unwrap();
    assert_eq!(listed, made);
}
