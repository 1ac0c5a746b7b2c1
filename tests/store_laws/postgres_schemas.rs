//! PostgreSQL: tables in a schema of one's own. What holds in any of them is among the laws of all
//! engines.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tollgate::{
    key::{KeyDigest, KeyRecord},
    store::{
        BudgetId, Change, ChangeListener, Invalidations, KeyId, KeyLookup, KeyStore, Ledger,
        Migrations, PostgresStore, StoreErrorKind,
    },
};

use crate::{
    engines::{account, balances, costs, hold, now, pay, postgres_in},
    postgres_server::{database, pool},
};

fn record() -> KeyRecord {
    KeyRecord::new(
        KeyId::new("key-1").unwrap(),
        BudgetId::new("key-1").unwrap(),
        KeyDigest::of("ps_live_1"),
        "ann",
        now(),
    )
}

#[derive(Default)]
struct Heard(Mutex<Vec<Change>>);

impl ChangeListener for Heard {
    fn changed(&self, change: &Change) {
        self.0.lock().unwrap().push(change.clone());
    }
}

impl Heard {
    fn of(store: &PostgresStore) -> Arc<Self> {
        let heard = Arc::new(Self::default());
        let listener: Weak<Self> = Arc::downgrade(&heard);
        store.subscribe(listener);
        heard
    }

    fn has(&self, change: &Change) -> bool {
        self.0.lock().unwrap().contains(change)
    }

    async fn hears(&self, change: &Change) {
        let hears = async {
            while !self.has(change) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(10), hears).await;
        heard.unwrap_or_else(|_| panic!("{change:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stores_in_two_schemas_have_nothing_to_do_with_each_other() {
    let Some(place) = database().await else {
        return;
    };
    let (usual, _) = postgres_in("tollgate", place.clone()).await;
    let (other, _) = postgres_in("billing", place.clone()).await;
    let (here, there) = (Heard::of(&usual), Heard::of(&other));
    for heard in [&here, &there] {
        heard.hears(&Change::Everything).await;
    }
    let ann = account("ann");
    pay(&usual, &ann, 100).await;
    balances(&other, &ann, 0, 0).await;
    pay(&other, &ann, 7).await;
    let held = hold(&other, &ann, &[], 5).await.unwrap();
    balances(&usual, &ann, 100, 0).await;
    other.settle(held, costs(5)).await.unwrap();
    balances(&other, &ann, 7, 0).await;

    let digest = record().digest;
    other.insert(record(), None).await.unwrap();
    there.hears(&Change::Key(digest)).await;
    assert_eq!(usual.find(&digest).await.unwrap(), None);
    usual.insert(record(), None).await.unwrap();
    here.hears(&Change::Key(digest)).await;
    // Told of one by one: had the first news come here too, they would have come before.
    let news = here
        .0
        .lock()
        .unwrap()
        .iter()
        .filter(|it| **it == Change::Key(digest))
        .count();
    assert_eq!(news, 1);
    usual.close().await.unwrap();
    other.close().await.unwrap();
}

/// Names of one's own that are ours too, wherever a connection looks for them.
#[tokio::test]
async fn neither_tables_of_others_nor_the_session_s_own_stand_in_the_way() {
    let Some(place) = database().await else {
        return;
    };
    let decoys = |kind: &str| {
        [
            "account", "hold", "usage", "users", "session", "api_key", "instance",
        ]
        .map(|name| format!("CREATE {kind} TABLE {name} (nothing TEXT);"))
        .concat()
    };
    let plain = pool(place.clone(), 1).await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(decoys("")))
        .execute(&plain)
        .await
        .unwrap();
    let temporary: Arc<str> = decoys("TEMPORARY").into();
    let pool = PgPoolOptions::new()
        .max_connections(6)
        .after_connect(move |connection, _| {
            let temporary = Arc::clone(&temporary);
            Box::pin(async move {
                let path = "SET search_path = public";
                sqlx::raw_sql(path).execute(&mut *connection).await?;
                sqlx::raw_sql(sqlx::AssertSqlSafe(temporary))
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .connect_with(place)
        .await
        .unwrap();
    let store = PostgresStore::builder(pool.clone()).schema("elsewhere");
    let store = store.open().await.unwrap();
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[], 5).await.unwrap();
    store.settle(held, costs(5)).await.unwrap();
    balances(&store, &ann, 100, 0).await;
    store.insert(record(), None).await.unwrap();
    store.close().await.unwrap();
    for _ in 0..6 {
        let path: String = sqlx::query_scalar("SHOW search_path")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(path, "public", "is the application's");
    }
    let accounts: i64 = sqlx::query_scalar("SELECT count(*) FROM elsewhere.account")
        .fetch_one(&plain)
        .await
        .unwrap();
    assert_eq!(accounts, 1);
}

fn as_role(place: &PgConnectOptions, role: &str) -> PgConnectOptions {
    place.clone().options([("role", role)])
}

#[tokio::test]
async fn in_a_schema_that_is_there_tables_are_made_without_the_right_to_make_schemas() {
    let Some(place) = database().await else {
        return;
    };
    let operator = pool(place.clone(), 1).await;
    let given = "CREATE ROLE of_schemas; CREATE SCHEMA given AUTHORIZATION of_schemas";
    sqlx::raw_sql(given).execute(&operator).await.unwrap();
    let builder = async |schema: &str| {
        let pool = pool(as_role(&place, "of_schemas"), 6).await;
        PostgresStore::builder(pool).schema(schema)
    };
    let error = builder("not_given").await.migrate().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Internal);
    let separate = builder("given").await.migrations(Migrations::Separate);
    let error = separate.open().await.unwrap_err();
    assert!(error.to_string().contains("in the schema given"), "{error}");
    builder("given").await.migrate().await.unwrap();
    let store = builder("given").await.migrations(Migrations::Separate);
    let store = store.open().await.unwrap();
    pay(&store, &account("ann"), 100).await;
    store.close().await.unwrap();
}

/// Without a database: nothing is asked of it.
#[tokio::test]
async fn what_is_no_name_is_refused() {
    let options = PgConnectOptions::new().host("/nowhere");
    let pool: PgPool = PgPoolOptions::new().connect_lazy_with(options);
    for name in [
        "",
        "a-b",
        "\"",
        "x; DROP SCHEMA public",
        "pg_temp",
        "Billing",
    ] {
        let builder = || PostgresStore::builder(pool.clone()).schema(name);
        for error in [
            builder().open().await.unwrap_err(),
            builder().migrate().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), StoreErrorKind::Internal);
            assert!(error.to_string().starts_with("schema: "), "{error}");
        }
    }
}
