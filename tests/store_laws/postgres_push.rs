//! PostgreSQL's push channel: what one process changes, others hear of.

use std::time::Duration;

use sqlx::PgPool;
use tollgate::{
    key::{KeyFormat, KeyRecord, KeyUpdate},
    keyring::{KeyRefusal, KeyResolver, Keyring, NewKey, Resolution},
    store::{KeyLookup, KeyStore, Ledger, PostgresStore},
};

use crate::{
    engines::{later, now, postgres_on},
    postgres_server::{database, pool},
};

struct Follower {
    resolver: KeyResolver,
    key: String,
    record: KeyRecord,
    here: PostgresStore,
    there: PostgresStore,
    pool: PgPool,
}

/// A key that one process remembers for an hour, and that another one knows.
async fn follower() -> Option<Follower> {
    let place = database().await?;
    let (here, _) = postgres_on(place.clone()).await;
    let (there, _) = postgres_on(place.clone()).await;
    let format = KeyFormat::builder("ps").build().unwrap();
    let resolver = KeyResolver::builder(here.clone())
        .add_format(format.clone())
        .ttl(Duration::from_secs(3_600))
        .negative_ttl(Duration::from_secs(3_600))
        .build();
    resolver.follow(&here);
    let ring = Keyring::new(here.clone(), format, resolver.clone());
    let (key, record) = ring.create("ann", NewKey::default()).await.unwrap();
    let key = key.expose().to_owned();
    let pool = pool(place, 1).await;
    let follower = Follower {
        resolver,
        key,
        record,
        here,
        there,
        pool,
    };
    follower.listens().await;
    Some(follower)
}

impl Follower {
    async fn resolve(&self) -> Result<(), KeyRefusal> {
        match self.resolver.resolve(&self.key) {
            Resolution::Ready(verdict) => verdict.map(drop),
            Resolution::Pending(verdict) => verdict.await.map(drop),
        }
    }

    async fn listens(&self) {
        let listening = "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        for _ in 0..200 {
            let count: i64 = sqlx::query_scalar(listening)
                .fetch_one(&self.pool)
                .await
                .unwrap();
            if count > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody listens");
    }

    async fn is_refused_within(&self, bound: Duration) -> bool {
        let refused = async {
            while self.resolve().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(bound, refused).await.is_ok()
    }
}

#[tokio::test]
async fn a_key_that_another_process_revokes_is_refused_within_a_second() {
    let Some(follower) = follower().await else {
        return;
    };
    follower.resolve().await.unwrap();
    let mut revoke = KeyUpdate::default();
    revoke.revoked_at = Some(now());
    let id = &follower.record.id;
    follower
        .there
        .update("ann", id, revoke, None)
        .await
        .unwrap();
    assert!(follower.is_refused_within(Duration::from_secs(1)).await);
    assert!(matches!(
        follower.resolve().await,
        Err(KeyRefusal::Revoked { .. })
    ));
    follower.here.clone().close().await.unwrap();
}

#[tokio::test]
async fn a_key_that_an_operator_deletes_by_hand_is_refused_within_a_second() {
    let Some(follower) = follower().await else {
        return;
    };
    follower.resolve().await.unwrap();
    let loads = follower.resolver.statistics().loads;
    follower.there.touch(&follower.record.id, later(5));
    follower.there.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    follower.resolve().await.unwrap();
    assert_eq!(
        follower.resolver.statistics().loads,
        loads,
        "that it was used is no news"
    );
    sqlx::query("DELETE FROM tollgate.api_key")
        .execute(&follower.pool)
        .await
        .unwrap();
    assert!(follower.is_refused_within(Duration::from_secs(1)).await);
    follower
        .there
        .insert(follower.record.clone(), None)
        .await
        .unwrap();
    let found = async {
        while follower.resolve().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), found)
        .await
        .expect("that there is none is forgotten too");
}

#[tokio::test]
async fn what_was_told_while_nobody_listened_is_not_missed() {
    let Some(follower) = follower().await else {
        return;
    };
    follower.resolve().await.unwrap();
    let mut both = follower.pool.begin().await.unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::query(cut).execute(&mut *both).await.unwrap();
    sqlx::query("UPDATE tollgate.api_key SET revoked_at = now()")
        .execute(&mut *both)
        .await
        .unwrap();
    both.commit().await.unwrap();
    assert!(follower.is_refused_within(Duration::from_secs(5)).await);
    // And then it listens again.
    follower.listens().await;
    sqlx::query("UPDATE tollgate.api_key SET revoked_at = NULL")
        .execute(&follower.pool)
        .await
        .unwrap();
    let good = async {
        while follower.resolve().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), good)
        .await
        .unwrap();
}
