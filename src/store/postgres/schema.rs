//! The tables, in a schema of their own, and how they are brought up to date.
//!
//! Not sqlx's own migrations: those keep one table of what was applied, in which an application's migrations and
//! ours would take each other's for missing files.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgPool, postgres::PgConnection};
use tokio::time::timeout;

use super::{connection::discard, convert::Failure};
use crate::store::StoreError;

/// Each step once, in this order; what was published is never changed.
const STEPS: &[&str] = &[
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
    include_str!("schema_6.sql"),
    include_str!("schema_7.sql"),
    include_str!("schema_8.sql"),
    include_str!("schema_9.sql"),
    include_str!("schema_10.sql"),
    include_str!("schema_11.sql"),
];

/// How long the steps may take, with the wait for another process that is at it.
const DEADLINE: Duration = Duration::from_secs(60);

/// Taken by whoever brings the tables up to date: the first bytes of "tollgate".
const LOCK: i64 = 0x746f_6c6c_6761_7465;

/// What another process did while this one waited for it is to be seen, whatever the server's default.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Brings the tables up to date. With tables that are, it changes nothing and needs no right to.
pub(super) async fn migrate(pool: &PgPool) -> Result<(), Failure> {
    let known = i32::try_from(STEPS.len()).unwrap_or(i32::MAX);
    let mut connection = pool.acquire().await.map_err(Failure::away)?;
    let work = async {
        if version(&mut connection).await? != known {
            step_by_step(&mut connection, known).await?;
        }
        Ok(())
    };
    let migrated = timeout(DEADLINE, work).await;
    if migrated.is_err() {
        discard(connection);
    }
    migrated.unwrap_or_else(|_| Err(Failure::slow()))
}

async fn step_by_step(connection: &mut PgConnection, known: i32) -> Result<(), Failure> {
    let mut transaction = connection.begin_with(BEGIN).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await?;
    // Another process may have been here meanwhile.
    let found = version(&mut transaction).await?;
    if found > known {
        let text = "the database was made by a newer version of tollgate";
        return Err(StoreError::internal(text).into());
    }
    if found == 0 {
        let first = "CREATE SCHEMA IF NOT EXISTS tollgate;
             CREATE TABLE IF NOT EXISTS tollgate.migration (
                 version INTEGER PRIMARY KEY,
                 applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
             )";
        sqlx::raw_sql(first).execute(&mut *transaction).await?;
    }
    for (step, number) in STEPS.iter().zip(1_i32..) {
        if number > found {
            sqlx::raw_sql(AssertSqlSafe(*step))
                .execute(&mut *transaction)
                .await?;
            sqlx::query("INSERT INTO tollgate.migration (version) VALUES ($1)")
                .bind(number)
                .execute(&mut *transaction)
                .await?;
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// The last step that was applied; 0 when there is nothing of ours.
///
/// Not by `to_regclass`: it goes by what the session remembers of names, in which a schema that another one has just
/// made may still be missing.
async fn version(connection: &mut PgConnection) -> Result<i32, Failure> {
    let there: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace
         ON pg_namespace.oid = relnamespace WHERE nspname = 'tollgate' AND relname = 'migration')",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !there {
        return Ok(0);
    }
    let version = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM tollgate.migration")
        .fetch_one(connection)
        .await?;
    Ok(version)
}
