//! Logins in PostgreSQL.

use sqlx::{
    Row,
    postgres::{PgConnection, PgRow},
};

use super::{
    PostgresStore,
    convert::{
        Failure, Moment, count, is_storable, moment, moment_or_none, moments, name, uncount,
    },
    people::{conflict, version},
};
use crate::{
    domain::{
        SessionId, UserId,
        clock::Timestamp,
        user::{RefreshExchange, RefreshOutcome, SessionRecord},
    },
    store::{SessionStore, StoreFuture},
};

/// Ends in `WHERE`.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT id, user_id, created_at, expires_at, ended_at, generation, refreshed_at
             FROM session WHERE ",
            $condition
        )
    };
}

fn read_session(row: &PgRow) -> Result<SessionRecord, Failure> {
    Ok(SessionRecord {
        id: name(row, 0)?,
        user: name(row, 1)?,
        created_at: moment(row, 2)?,
        expires_at: moment(row, 3)?,
        ended_at: moment_or_none(row, 4)?,
        generation: uncount(row.try_get(5)?)?,
        refreshed_at: moment_or_none(row, 6)?,
        password_version: None,
    })
}

pub(super) async fn end_sessions_of(
    connection: &mut PgConnection,
    user: &UserId,
    at: Timestamp,
) -> Result<u64, Failure> {
    let ended =
        sqlx::query("UPDATE session SET ended_at = $1 WHERE user_id = $2 AND ended_at IS NULL")
            .bind(Moment(at))
            .bind(user.as_str())
            .execute(connection)
            .await?;
    Ok(ended.rows_affected())
}

/// Separates these locks from other advisory locks of the database: the first bytes of "logins of
/// tollgate".
const TURN: i64 = 0x6c6f_6769_6e73_206f;

/// The user's row stays locked until the login is stored: a concurrent password change waits, and
/// then ends this login too.
async fn open_session(
    connection: &mut PgConnection,
    session: &SessionRecord,
    expected_version: Option<u64>,
    logins_max: u32,
) -> Result<bool, Failure> {
    // Concurrent logins of the same user, here or in other processes, wait here, so that each
    // counts the others.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, $2))")
        .bind(session.user.as_str())
        .bind(TURN)
        .execute(&mut *connection)
        .await?;
    if let Some(expected) = expected_version {
        let admitted = sqlx::query(
            "SELECT 1 FROM users WHERE id = $1 AND password_version = $2 AND active
             FOR SHARE",
        )
        .bind(session.user.as_str())
        .bind(version(expected))
        .fetch_optional(&mut *connection)
        .await?;
        if admitted.is_none() {
            return Ok(false);
        }
    }
    let inserted = sqlx::query(
        "INSERT INTO session (id, user_id, created_at, expires_at, ended_at, generation,
         refreshed_at) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
    )
    .bind(session.id.as_str())
    .bind(session.user.as_str())
    .bind(Moment(session.created_at))
    .bind(Moment(session.expires_at))
    .bind(moments(session.ended_at))
    .bind(count(session.generation))
    .bind(moments(session.refreshed_at))
    .execute(&mut *connection)
    .await?
    .rows_affected();
    if inserted == 0 {
        return Err(conflict("the id of the login is taken"));
    }
    make_room(connection, session, logins_max).await?;
    Ok(true)
}

/// Removes logins of a user beyond the limit: first those that have ended, then those that expire
/// first.
async fn make_room(
    connection: &mut PgConnection,
    session: &SessionRecord,
    logins_max: u32,
) -> Result<(), Failure> {
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM session WHERE user_id = $1")
        .bind(session.user.as_str())
        .fetch_one(&mut *connection)
        .await?;
    if kept <= i64::from(logins_max) {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM session WHERE id IN (
             SELECT id FROM session WHERE user_id = $1 AND id <> $2
             ORDER BY (ended_at IS NULL AND expires_at > $3) DESC, expires_at DESC, id DESC OFFSET $4)",
    )
    .bind(session.user.as_str())
    .bind(session.id.as_str())
    .bind(Moment(session.created_at))
    .bind(i64::from(logins_max.saturating_sub(1)))
    .execute(connection)
    .await?;
    Ok(())
}

/// The login's row stays locked from read to update, so exactly one of several concurrent exchanges
/// comes first.
async fn exchange_refresh(
    connection: &mut PgConnection,
    id: &SessionId,
    exchange: &RefreshExchange,
) -> Result<RefreshOutcome, Failure> {
    let found = sqlx::query(select!("id = $1 FOR UPDATE"))
        .bind(id.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    let Some(mut session) = found.as_ref().map(read_session).transpose()? else {
        return Ok(RefreshOutcome::Unknown);
    };
    let outcome = session.exchange(exchange);
    if matches!(
        outcome,
        RefreshOutcome::Exchanged(_) | RefreshOutcome::Reused
    ) {
        sqlx::query(
            "UPDATE session SET generation = $2, refreshed_at = $3, expires_at = $4,
             ended_at = $5 WHERE id = $1",
        )
        .bind(id.as_str())
        .bind(count(session.generation))
        .bind(moments(session.refreshed_at))
        .bind(Moment(session.expires_at))
        .bind(moments(session.ended_at))
        .execute(connection)
        .await?;
    }
    Ok(outcome)
}

impl SessionStore for PostgresStore {
    fn open_session(
        &self,
        session: SessionRecord,
        expected_version: Option<u64>,
        logins_max: u32,
    ) -> StoreFuture<bool> {
        self.ask(move |shared| async move {
            let mut transaction = shared.begin().await?;
            let opened =
                open_session(&mut transaction, &session, expected_version, logins_max).await?;
            transaction.commit().await?;
            Ok(opened)
        })
    }

    fn session(&self, id: &SessionId) -> StoreFuture<Option<SessionRecord>> {
        let id = id.clone();
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) {
                return Ok(None);
            }
            let found = sqlx::query(select!("id = $1"))
                .bind(id.as_str())
                .fetch_optional(&mut *shared.read().await?)
                .await?;
            found.as_ref().map(read_session).transpose()
        })
    }

    fn open_sessions_of(
        &self,
        user: &UserId,
        at: Timestamp,
        limit: u16,
    ) -> StoreFuture<Vec<SessionRecord>> {
        let user = user.clone();
        self.ask(move |shared| async move {
            if !is_storable(user.as_str()) {
                return Ok(Vec::new());
            }
            let open = sqlx::query(select!(
                "user_id = $1 AND ended_at IS NULL AND expires_at > $2
                 ORDER BY created_at DESC, id LIMIT $3"
            ))
            .bind(user.as_str())
            .bind(Moment(at))
            .bind(i64::from(limit))
            .fetch_all(&mut *shared.read().await?)
            .await?;
            open.iter().map(read_session).collect()
        })
    }

    fn exchange_refresh(
        &self,
        id: &SessionId,
        exchange: RefreshExchange,
    ) -> StoreFuture<RefreshOutcome> {
        let id = id.clone();
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) {
                return Ok(RefreshOutcome::Unknown);
            }
            let mut transaction = shared.begin().await?;
            let outcome = exchange_refresh(&mut transaction, &id, &exchange).await?;
            transaction.commit().await?;
            Ok(outcome)
        })
    }

    fn end_session(&self, id: &SessionId, at: Timestamp) -> StoreFuture<bool> {
        let id = id.clone();
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) {
                return Ok(false);
            }
            let mut transaction = shared.begin().await?;
            let ended =
                sqlx::query("UPDATE session SET ended_at = $1 WHERE id = $2 AND ended_at IS NULL")
                    .bind(Moment(at))
                    .bind(id.as_str())
                    .execute(&mut *transaction)
                    .await?
                    .rows_affected();
            transaction.commit().await?;
            Ok(ended > 0)
        })
    }

    fn end_sessions_of(&self, user: &UserId, at: Timestamp) -> StoreFuture<u64> {
        let user = user.clone();
        self.ask(move |shared| async move {
            if !is_storable(user.as_str()) {
                return Ok(0);
            }
            let mut transaction = shared.begin().await?;
            let ended = end_sessions_of(&mut transaction, &user, at).await?;
            transaction.commit().await?;
            Ok(ended)
        })
    }

    fn purge_sessions(&self, before: Timestamp) -> StoreFuture<u64> {
        self.ask(move |shared| async move {
            let mut transaction = shared.begin().await?;
            let purged = sqlx::query("DELETE FROM session WHERE expires_at < $1")
                .bind(Moment(before))
                .execute(&mut *transaction)
                .await?
                .rows_affected();
            transaction.commit().await?;
            Ok(purged)
        })
    }
}
