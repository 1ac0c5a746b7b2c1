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
    include_str!("schema_12.sql"),
];

/// The oldest of these whose programs work with the tables as they are after the last one. To raise it is to ask for
/// a stop of everything at the next update.
const WORKS_FROM: i32 = 12;

/// How long the steps may take, with the wait for another process that is at it.
const DEADLINE: Duration = Duration::from_secs(60);

/// Taken by whoever brings the tables up to date: the first bytes of "tollgate".
const LOCK: i64 = 0x746f_6c6c_6761_7465;

/// What another process did while this one waited for it is to be seen, whatever the server's default.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Brings the tables up to date. With tables that are, it changes nothing and needs no right to.
pub(super) async fn migrate(pool: &PgPool) -> Result<(), Failure> {
    within(pool, async |connection| {
        if !is_usable(version(connection).await?, known())? {
            step_by_step(connection).await?;
        }
        Ok(())
    })
    .await
}

/// Looks whether these are tables that this program works with.
pub(super) async fn verify(pool: &PgPool) -> Result<(), Failure> {
    within(pool, async |connection| {
        let (found, known) = (version(connection).await?, known());
        if is_usable(found, known)? {
            return Ok(());
        }
        let text = match found.number {
            0 => "the database has no tables of tollgate: PostgresStore::migrate makes them".to_owned(),
            found => format!(
                "the tables are of version {found}, and {known} is needed: PostgresStore::migrate brings them there"
            ),
        };
        Err(StoreError::internal(&text).into())
    })
    .await
}

async fn within(
    pool: &PgPool,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut connection = pool.acquire().await.map_err(Failure::away)?;
    let done = timeout(DEADLINE, work(&mut connection)).await;
    if done.is_err() {
        discard(connection);
    }
    done.unwrap_or_else(|_| Err(Failure::slow()))
}

fn known() -> i32 {
    i32::try_from(STEPS.len()).unwrap_or(i32::MAX)
}

/// The last step that was applied, 0 when there is nothing of ours, and from which version on programs work with
/// the tables.
#[derive(Clone, Copy)]
struct Found {
    number: i32,
    works_from: i32,
}

/// Whether a program that knows so many steps works with these tables; `false`: they are older.
fn is_usable(found: Found, known: i32) -> Result<bool, StoreError> {
    if found.number > known && found.works_from > known {
        let Found { number, works_from } = found;
        let text = format!(
            "the tables are of version {number}, made by a newer version of tollgate: programs of {works_from} and later \
             work with them, and this is {known}"
        );
        return Err(StoreError::internal(&text));
    }
    Ok(found.number >= known)
}

async fn step_by_step(connection: &mut PgConnection) -> Result<(), Failure> {
    let mut transaction = connection.begin_with(BEGIN).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await?;
    // Another process may have been here meanwhile.
    let found = version(&mut transaction).await?;
    let number = found.number;
    if is_usable(found, known())? {
        return Ok(());
    }
    if number == 0 {
        let first = "CREATE SCHEMA IF NOT EXISTS tollgate;
             CREATE TABLE IF NOT EXISTS tollgate.migration (
                 version INTEGER PRIMARY KEY,
                 applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
             )";
        sqlx::raw_sql(first).execute(&mut *transaction).await?;
    }
    for (step, next) in STEPS.iter().zip(1_i32..) {
        if next > number {
            sqlx::raw_sql(AssertSqlSafe(*step))
                .execute(&mut *transaction)
                .await?;
            sqlx::query("INSERT INTO tollgate.migration (version) VALUES ($1)")
                .bind(next)
                .execute(&mut *transaction)
                .await?;
        }
    }
    sqlx::query("UPDATE tollgate.migration SET works_from = $1 WHERE version = $2")
        .bind(WORKS_FROM)
        .bind(known())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// Not by `to_regclass`: it goes by what the session remembers of names, in which a schema that another one has just
/// made may still be missing. And by way of JSON: the column is younger than the table.
async fn version(connection: &mut PgConnection) -> Result<Found, Failure> {
    let there: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace
         ON pg_namespace.oid = relnamespace WHERE nspname = 'tollgate' AND relname = 'migration')",
    )
    .fetch_one(&mut *connection)
    .await?;
    let nothing = Found {
        number: 0,
        works_from: 0,
    };
    if !there {
        return Ok(nothing);
    }
    let last: Option<(i32, Option<i32>)> = sqlx::query_as(
        "SELECT version, (to_jsonb(migration) ->> 'works_from')::integer FROM tollgate.migration
         ORDER BY version DESC LIMIT 1",
    )
    .fetch_optional(connection)
    .await?;
    Ok(last.map_or(nothing, |(number, works_from)| Found {
        number,
        works_from: works_from.unwrap_or(number),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_tables_are_used_by_those_who_can_and_older_ones_by_nobody() {
        let usable = |number, works_from| is_usable(Found { number, works_from }, 20).ok();
        assert_eq!(usable(20, 12), Some(true));
        assert_eq!(usable(23, 20), Some(true));
        assert_eq!(usable(23, 21), None);
        assert_eq!(usable(19, 19), Some(false));
        assert_eq!(usable(0, 0), Some(false));
        assert!(WORKS_FROM <= known(), "these tables are for this program");
    }
}
