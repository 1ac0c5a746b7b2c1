//! The tables of PostgreSQL: who makes them, and who works with them.

use std::time::Duration;

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;
use tollgate::{
    audit::{Act, AuditAction, AuditEvent, AuditFilter},
    key::{KeyDigest, KeyRecord},
    store::{
        AuditLog, BudgetId, KeyId, KeyLookup, KeyStore, Ledger, Migrations, Page, PostgresStore,
        SessionStore, StoreErrorKind, UsageLog, UserStore,
    },
};

use crate::{
    engines::{account, balances, budget, costs, hold, kind, now, pay, postgres_on, usage},
    people::user,
    postgres_server::{database, pool},
    sessions::session,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_open_a_new_database_at_once() {
    for _ in 0..4 {
        let Some(place) = database().await else {
            return;
        };
        let opening: Vec<_> = (0..8)
            .map(|_| tokio::spawn(postgres_on(place.clone())))
            .collect();
        for store in opening {
            store.await.unwrap().0.close().await.unwrap();
        }
    }
}

async fn version(pool: &PgPool) -> i32 {
    let version = sqlx::query_scalar("SELECT max(version) FROM tollgate.migration");
    version.fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn tables_of_a_newer_version_are_used_by_those_who_can() {
    let Some(place) = database().await else {
        return;
    };
    postgres_on(place.clone()).await.0.close().await.unwrap();
    let pool = pool(place, 6).await;
    let known = version(&pool).await;
    for (works_from, expected) in [
        (None, "versions from 99 on"),
        (Some(known + 1), "this one is"),
    ] {
        let next = "INSERT INTO tollgate.migration (version, works_from) VALUES (99, $1)
             ON CONFLICT (version) DO UPDATE SET works_from = $1";
        let next = sqlx::query(next).bind(works_from);
        next.execute(&pool).await.unwrap();
        let separate = PostgresStore::builder(pool.clone()).migrations(Migrations::Separate);
        for error in [
            PostgresStore::open(pool.clone()).await.unwrap_err(),
            PostgresStore::migrate(&pool).await.unwrap_err(),
            separate.open().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), StoreErrorKind::Internal);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
    let works = sqlx::query("UPDATE tollgate.migration SET works_from = $1 WHERE version = 99");
    works.bind(known).execute(&pool).await.unwrap();
    PostgresStore::migrate(&pool).await.unwrap();
    let store = PostgresStore::open(pool.clone()).await.unwrap();
    pay(&store, &account("ann"), 100).await;
    store.close().await.unwrap();
    assert_eq!(version(&pool).await, 99, "nothing was taken back");
}

/// A report or a backup holds every table that it has read until it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_a_table_is_read_an_update_waits_and_nobody_waits_behind_it() {
    let Some(place) = database().await else {
        return;
    };
    postgres_on(place.clone()).await.0.close().await.unwrap();
    let pool = pool(place, 6).await;
    let known = version(&pool).await;
    let before = "ALTER TABLE tollgate.api_key DROP COLUMN is_disabled;
         DELETE FROM tollgate.migration WHERE version >= 14";
    sqlx::raw_sql(before).execute(&pool).await.unwrap();
    const READ: &str = "SELECT count(*) FROM tollgate.api_key";
    let mut report = pool.begin().await.unwrap();
    sqlx::raw_sql(READ).execute(&mut *report).await.unwrap();

    let updated = pool.clone();
    let update = tokio::spawn(async move { PostgresStore::migrate(&updated).await });
    let mut attempts = 0;
    let mut was_waiting = false;
    while attempts < 2 {
        let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted
             AND relation = 'tollgate.api_key'::regclass AND mode = 'AccessExclusiveLock')";
        let is_waiting: bool = sqlx::query_scalar(waiting).fetch_one(&pool).await.unwrap();
        attempts += u32::from(is_waiting && !was_waiting);
        was_waiting = is_waiting;
        let served = timeout(Duration::from_secs(5), sqlx::raw_sql(READ).execute(&pool)).await;
        served
            .expect("nobody waits for longer than the update")
            .unwrap();
        assert!(!update.is_finished(), "the report goes on");
    }
    report.rollback().await.unwrap();
    update.await.unwrap().unwrap();
    assert_eq!(version(&pool).await, known);
}

#[tokio::test]
async fn who_finds_no_server_is_told_so_and_nothing_of_the_password() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let url = format!("postgres://ann:CANARY@127.0.0.1:{port}/none");
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(200));
    let pool = pool.connect_lazy(&url).unwrap();
    for error in [
        PostgresStore::open(pool.clone()).await.unwrap_err(),
        PostgresStore::migrate(&pool).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("can't be reached: connection refused"),
            "{text}"
        );
        assert!(!text.contains("CANARY"), "{text}");
    }
}

#[tokio::test]
async fn a_pool_in_full_use_is_called_that_and_a_wrong_name_is_named() {
    let Some(place) = database().await else {
        return;
    };
    let few = || {
        let pool = PgPoolOptions::new().max_connections(1);
        pool.acquire_timeout(Duration::from_millis(200))
    };
    let pool = few().connect_with(place.clone()).await.unwrap();
    let used = pool.acquire().await.unwrap();
    let error = PostgresStore::migrate(&pool).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.to_string().contains("became free in time"), "{error}");
    drop(used);
    let elsewhere = few().connect_lazy_with(place.database("no_such_database"));
    let error = PostgresStore::migrate(&elsewhere).await.unwrap_err();
    assert!(error.to_string().contains("no_such_database"), "{error}");
}

/// As the role that a server has, which makes no tables.
fn as_server(place: &PgConnectOptions) -> PgConnectOptions {
    place.clone().options([("role", "tollgate_server")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_works_with_tables_that_another_role_made() {
    let Some(place) = database().await else {
        return;
    };
    let deployment = pool(place.clone(), 2).await;
    let role = "CREATE ROLE tollgate_server";
    sqlx::raw_sql(role).execute(&deployment).await.unwrap();
    let server = async || {
        let pool = pool(as_server(&place), 6).await;
        let store = PostgresStore::builder(pool).migrations(Migrations::Separate);
        store.open().await
    };
    let error = server().await.unwrap_err();
    assert!(error.to_string().contains("has no tables"), "{error}");
    // Nor may it make them.
    let itself = PostgresStore::open(pool(as_server(&place), 2).await).await;
    assert_eq!(kind(itself), StoreErrorKind::Internal);

    PostgresStore::migrate(&deployment).await.unwrap();
    PostgresStore::migrate(&deployment).await.unwrap();
    let granted = "GRANT USAGE ON SCHEMA tollgate TO tollgate_server;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tollgate TO tollgate_server;
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA tollgate TO tollgate_server";
    sqlx::raw_sql(granted).execute(&deployment).await.unwrap();

    let (ann, key) = (account("ann"), [budget("key-1")]);
    let store = server().await.unwrap();
    let id = KeyId::new("key-1").unwrap();
    let lineage = BudgetId::new("key-1").unwrap();
    let record = KeyRecord::new(id, lineage, KeyDigest::of("ps_live_1"), "ann", now());
    store.insert(record.clone(), None).await.unwrap();
    store.touch(&record.id, now());
    store.insert_user(user("ann")).await.unwrap();
    let login = store.open_session(session("s1", "ann"), Some(0), 9).await;
    assert!(login.unwrap());
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &key, 10).await.unwrap();
    store.settle(held, costs(7)).await.unwrap();
    let all = store.usage_of_all(Page::first(9)).await.unwrap();
    assert_eq!(all.items, usage(&store, &ann).await);
    assert!(store.snapshot(&ann).await.unwrap().position.is_some());
    let act = Act::new(AuditAction::KEY_CREATE).actor("ann");
    store.append(AuditEvent::new(now(), act)).unwrap();
    let entries = store.entries(AuditFilter::default(), Page::first(9)).await;
    assert_eq!(entries.unwrap().items.len(), 1);
    balances(&store, &ann, 100, 0).await;
    store.close().await.unwrap();

    let older = "DELETE FROM tollgate.migration WHERE version = (SELECT max(version) FROM tollgate.migration)";
    sqlx::raw_sql(older).execute(&deployment).await.unwrap();
    let error = server().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Internal);
    assert!(error.to_string().contains("is needed"), "{error}");
    PostgresStore::migrate(&deployment).await.unwrap();
    server().await.unwrap().close().await.unwrap();
}
