//! The tables, in a schema of their own, and their migrations.
//!
//! These aren't sqlx's migrations, which keep one table of what was applied: an application's
//! migrations and ours would report each other as missing files.

use std::{pin::pin, sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, PgPool, Postgres, pool::PoolConnection, postgres::PgConnection,
};
use tokio::time::{sleep, timeout};

use super::{
    connection::discard,
    convert::{Failure, Reason},
};
use crate::store::StoreError;

/// Applied once each, in this order. A published step never changes. The steps name the default
/// schema.
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
    include_str!("schema_13.sql"),
    include_str!("schema_14.sql"),
    include_str!("schema_15.sql"),
    include_str!("schema_16.sql"),
    include_str!("schema_17.sql"),
    include_str!("schema_18.sql"),
];

/// The oldest version whose programs work with the tables as they are after the last step. Raising
/// it means that the next update requires stopping everything.
const WORKS_FROM: i32 = 12;

/// How long a connection may take before somebody who looks at the log should know.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// Time limit for the steps, including the wait for another process that is applying them.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long a step waits for a table that is in use. Whatever comes after it waits behind it, so a
/// long read must not stop a service that is being updated.
const LOCK_PATIENCE: &str = "SET LOCAL lock_timeout = '1s'";
/// How long the table's users go ahead before the steps are tried again, and how often they are
/// tried.
const LOCK_PAUSE: Duration = Duration::from_secs(1);
const LOCK_ATTEMPTS: u32 = 20;

/// The lock of whoever updates the tables: the first bytes of "tollgate".
const LOCK: i64 = 0x746f_6c6c_6761_7465;

/// Makes visible what another process did while this one waited for it, whatever the server's
/// default.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// How long to look for the reason of a missing connection.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// The default schema.
const USUAL: &str = "tollgate";

/// PostgreSQL truncates names, and refuses channel names, of more than 63 bytes; the channel's name
/// has nine more than the schema's.
const NAME_LENGTH_MAX: usize = 54;

/// The schema of the tables. Its name is written into statements, because it can't be a parameter,
/// so it must have been [checked](Self::check).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schema(Arc<str>);

impl Default for Schema {
    fn default() -> Self {
        Self::new(USUAL)
    }
}

impl Schema {
    pub(super) fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Refuses anything that isn't a plain name.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let name = &*self.0;
        let fits = (1..=NAME_LENGTH_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && !name.starts_with("pg_")
            && name != "information_schema";
        if fits {
            Ok(())
        } else {
            Err(StoreError::internal(
                "schema: 1 to 54 small letters, digits and underscores, no digit first, and not PostgreSQL's own",
            ))
        }
    }

    /// The `search_path`. Temporary tables come last, so that none can shadow ours.
    pub(super) fn path(&self) -> String {
        format!("\"{}\", pg_temp", self.0)
    }

    /// The channel on which its triggers announce changes.
    pub(super) fn channel(&self) -> String {
        match &*self.0 {
            USUAL => USUAL.to_owned(),
            other => format!("{USUAL}.{other}"),
        }
    }

    /// Rewrites a statement for the default schema and its channel to this one.
    fn of(&self, statement: &str) -> String {
        if &*self.0 == USUAL {
            return statement.to_owned();
        }
        statement
            .replace("tollgate.", &format!("\"{}\".", self.0))
            .replace("'tollgate'", &format!("'{}'", self.channel()))
    }
}

/// Updates the tables. If they are current, it changes nothing and needs no rights to.
pub(super) async fn migrate(pool: &PgPool, schema: &Schema) -> Result<(), Failure> {
    within(pool, async |connection| {
        for _ in 1..LOCK_ATTEMPTS {
            if is_usable(version(connection, schema).await?, known())? {
                return Ok(());
            }
            match step_by_step(connection, schema).await {
                Err(failure) if failure.reason == Reason::Locked || failure.is_retryable => {
                    sleep(LOCK_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
        step_by_step(connection, schema).await
    })
    .await
}

/// Checks that this program works with the tables.
pub(super) async fn verify(pool: &PgPool, schema: &Schema) -> Result<(), Failure> {
    within(pool, async |connection| {
        let (found, known) = (version(connection, schema).await?, known());
        if is_usable(found, known)? {
            return Ok(());
        }
        let name = &schema.0;
        let text = match found.number {
            0 => format!(
                "the database has no tables of tollgate in the schema {name}: run PostgresStore::migrate"
            ),
            found => format!(
                "the tables have version {found}, but {known} is needed: run PostgresStore::migrate"
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
    let mut connection = match acquire(pool).await {
        Ok(connection) => connection,
        Err(error) => return Err(why_unconnected(pool, error).await),
    };
    let done = timeout(DEADLINE, work(&mut connection)).await;
    if done.is_err() {
        discard(connection);
    }
    done.unwrap_or_else(|_| Err(Failure::slow()))
}

/// Says once that it waits, if it does: the pool is silent for as long as it may try, half a minute
/// unless the application set another time.
async fn acquire(pool: &PgPool) -> Result<PoolConnection<Postgres>, sqlx::Error> {
    let mut acquired = pin!(pool.acquire());
    if let Ok(acquired) = timeout(SILENT_FOR, acquired.as_mut()).await {
        return acquired;
    }
    let server = pool.connect_options();
    tracing::warn!(
        target: "tollgate",
        host = server.get_host(),
        port = server.get_port(),
        database = server.get_database(),
        at_most_secs = pool.options().get_acquire_timeout().as_secs(),
        "still waiting for a connection to PostgreSQL"
    );
    acquired.await
}

/// The pool tries again for as long as it may, and then says only that it took too long. An attempt
/// of our own tells a server that isn't there, or a password that is wrong, from a pool in full
/// use.
async fn why_unconnected(pool: &PgPool, error: sqlx::Error) -> Failure {
    if !matches!(error, sqlx::Error::PoolTimedOut) {
        return Failure::no_connection(error);
    }
    let options = pool.connect_options();
    match timeout(PROBE_PATIENCE, PgConnection::connect_with(&options)).await {
        Ok(Err(cause)) => Failure::no_connection(cause),
        Ok(Ok(connection)) => {
            // It said nothing of the reason: a failure to say goodbye says nothing either.
            let _ = timeout(PROBE_PATIENCE, connection.close()).await;
            Failure::no_connection(error)
        }
        Err(_) => Failure::no_connection(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

fn known() -> i32 {
    i32::try_from(STEPS.len()).unwrap_or(i32::MAX)
}

/// The last step applied (0 if there are no tables of ours), and the oldest version that works with
/// the tables.
#[derive(Clone, Copy)]
struct Found {
    number: i32,
    works_from: i32,
}

/// Whether a program that knows `known` steps works with these tables; `false` if they are older.
fn is_usable(found: Found, known: i32) -> Result<bool, StoreError> {
    if found.number > known && found.works_from > known {
        let Found { number, works_from } = found;
        let text = format!(
            "the tables have version {number}, from a newer tollgate: they work with versions from {works_from} on, \
             and this one is {known}"
        );
        return Err(StoreError::internal(&text));
    }
    Ok(found.number >= known)
}

async fn step_by_step(connection: &mut PgConnection, schema: &Schema) -> Result<(), Failure> {
    let mut transaction = connection.begin_with(BEGIN).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await?;
    sqlx::raw_sql(LOCK_PATIENCE)
        .execute(&mut *transaction)
        .await?;
    // Another process may have finished this meanwhile.
    let found = version(&mut transaction, schema).await?;
    let number = found.number;
    if is_usable(found, known())? {
        return Ok(());
    }
    if number == 0 {
        begin_with(&mut transaction, schema).await?;
    }
    for (step, next) in STEPS.iter().zip(1_i32..) {
        if next > number {
            sqlx::raw_sql(AssertSqlSafe(schema.of(step)))
                .execute(&mut *transaction)
                .await?;
            let done = schema.of("INSERT INTO tollgate.migration (version) VALUES ($1)");
            sqlx::query(AssertSqlSafe(done))
                .bind(next)
                .execute(&mut *transaction)
                .await?;
        }
    }
    let works = schema.of("UPDATE tollgate.migration SET works_from = $1 WHERE version = $2");
    sqlx::query(AssertSqlSafe(works))
        .bind(WORKS_FROM)
        .bind(known())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// Creates the schema, and the table of applied steps. An existing schema needs no right to create
/// any.
async fn begin_with(connection: &mut PgConnection, schema: &Schema) -> Result<(), Failure> {
    let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)";
    let there: bool = sqlx::query_scalar(there)
        .bind(&*schema.0)
        .fetch_one(&mut *connection)
        .await?;
    let make = if there {
        String::new()
    } else {
        format!("CREATE SCHEMA IF NOT EXISTS \"{}\";", schema.0)
    };
    let first = "CREATE TABLE IF NOT EXISTS tollgate.migration (
             version INTEGER PRIMARY KEY,
             applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
         )";
    let first = format!("{make}{}", schema.of(first));
    sqlx::raw_sql(AssertSqlSafe(first))
        .execute(connection)
        .await?;
    Ok(())
}

/// Doesn't use `to_regclass`, which relies on the session's cache of names, where a schema that
/// another session just created may still be missing. Reads the column through JSON because it is
/// newer than the table.
async fn version(connection: &mut PgConnection, schema: &Schema) -> Result<Found, Failure> {
    let there: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace
         ON pg_namespace.oid = relnamespace WHERE nspname = $1 AND relname = 'migration')",
    )
    .bind(&*schema.0)
    .fetch_one(&mut *connection)
    .await?;
    let nothing = Found {
        number: 0,
        works_from: 0,
    };
    if !there {
        return Ok(nothing);
    }
    let last = schema.of(
        "SELECT version, (to_jsonb(migration) ->> 'works_from')::integer FROM tollgate.migration
         ORDER BY version DESC LIMIT 1",
    );
    let last: Option<(i32, Option<i32>)> = sqlx::query_as(AssertSqlSafe(last))
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
    fn a_schema_has_a_name_and_nothing_else() {
        let longest = "s".repeat(NAME_LENGTH_MAX);
        for good in ["tollgate", "public", "_", "a1", "user", "pg", &longest] {
            assert!(Schema::new(good).check().is_ok(), "{good}");
        }
        let longer = "s".repeat(NAME_LENGTH_MAX + 1);
        for bad in [
            "",
            "1a",
            "Billing",
            "my-schema",
            "a b",
            "a.b",
            "a\"",
            "a'",
            "a;",
            "a\0",
            "ä",
            "pg_catalog",
            "information_schema",
            &longer,
        ] {
            assert!(Schema::new(bad).check().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_step_is_of_the_schema_that_is_set() {
        let usual = Schema::default();
        let other = Schema::new("billing");
        for step in STEPS {
            assert_eq!(usual.of(step), *step);
            let left = other.of(step).replace("'tollgate.billing'", "");
            assert!(
                !left.contains("tollgate.") && !left.contains("'tollgate'"),
                "{left}"
            );
        }
        let told = other.of("PERFORM pg_notify('tollgate', '*')");
        assert_eq!(told, "PERFORM pg_notify('tollgate.billing', '*')");
        assert!(other.channel().len() <= 63);
        assert!(Schema::new(&"s".repeat(NAME_LENGTH_MAX)).channel().len() <= 63);
    }

    /// Or it would stand in one schema alone.
    #[test]
    fn no_statement_but_a_step_names_a_schema() {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/postgres");
        let mut looked_at = 0;
        for folder in ["", "keys", "maintenance"].map(|folder| here.join(folder)) {
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                let is_source = path.extension().is_some_and(|end| end == "rs");
                if !is_source || path.ends_with("schema.rs") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let mut ends = text
                    .match_indices("tollgate.")
                    .map(|(at, name)| at + name.len());
                let named =
                    ends.find(|at| text[*at..].starts_with(|next: char| next.is_ascii_lowercase()));
                assert!(named.is_none(), "{}", path.display());
                looked_at += 1;
            }
        }
        assert!(looked_at > 25, "{looked_at}");
    }

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
