//! Logins in SQLite.

use rusqlite::{Connection, Row, params};

use super::{
    SqliteStore,
    convert::{Failure, count, micros, moment, moment_or_none, name, uncount},
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

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT id, user, created_at, expires_at, ended_at, generation, refreshed_at
             FROM session WHERE ",
            $condition
        )
    };
}

fn read_session(row: &Row<'_>) -> Result<SessionRecord, Failure> {
    Ok(SessionRecord {
        id: name(row, 0)?,
        user: name(row, 1)?,
        created_at: moment(row.get(2)?)?,
        expires_at: moment(row.get(3)?)?,
        ended_at: moment_or_none(row.get(4)?)?,
        generation: uncount(row.get(5)?)?,
        refreshed_at: moment_or_none(row.get(6)?)?,
        password_version: None,
    })
}

fn find_session(connection: &Connection, id: &SessionId) -> Result<Option<SessionRecord>, Failure> {
    let mut find = connection.prepare_cached(select!("id = ?"))?;
    let mut rows = find.query([id.as_str()])?;
    rows.next()?.map(read_session).transpose()
}

pub(super) fn end_sessions_of(
    connection: &Connection,
    user: &UserId,
    at: Timestamp,
) -> Result<u64, Failure> {
    let ended = connection
        .prepare_cached("UPDATE session SET ended_at = ? WHERE user = ? AND ended_at IS NULL")?
        .execute(params![micros(at), user.as_str()])?;
    Ok(u64::try_from(ended).unwrap_or(u64::MAX))
}

fn open_session(
    connection: &Connection,
    session: &SessionRecord,
    expected_version: Option<u64>,
    logins_max: u32,
) -> Result<bool, Failure> {
    if let Some(expected) = expected_version {
        let admitted = connection
            .prepare_cached(
                "SELECT 1 FROM user WHERE id = ? AND password_version = ? AND active = 1",
            )?
            .exists(params![session.user.as_str(), version(expected)])?;
        if !admitted {
            return Ok(false);
        }
    }
    let inserted = connection
        .prepare_cached(
            "INSERT INTO session (id, user, created_at, expires_at, ended_at, generation, refreshed_at)
             VALUES (?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            session.id.as_str(),
            session.user.as_str(),
            micros(session.created_at),
            micros(session.expires_at),
            session.ended_at.map(micros),
            count(session.generation),
            session.refreshed_at.map(micros),
        ])?;
    if inserted == 0 {
        return Err(conflict("the id of the login is taken"));
    }
    make_room(connection, session, logins_max)?;
    Ok(true)
}

/// Deletes the user's logins that exceed the bound when this one is added: first those that are
/// over, then those that end first.
fn make_room(
    connection: &Connection,
    session: &SessionRecord,
    logins_max: u32,
) -> Result<(), Failure> {
    let user = session.user.as_str();
    let kept: i64 = connection
        .prepare_cached("SELECT count(*) FROM session WHERE user = ?")?
        .query_row([user], |row| row.get(0))?;
    if kept <= i64::from(logins_max) {
        return Ok(());
    }
    connection
        .prepare_cached(
            "DELETE FROM session WHERE id IN (
                 SELECT id FROM session WHERE user = ?1 AND id <> ?2
                 ORDER BY ended_at IS NULL AND expires_at > ?3 DESC, expires_at DESC, id DESC
                 LIMIT -1 OFFSET ?4)",
        )?
        .execute(params![
            user,
            session.id.as_str(),
            micros(session.created_at),
            logins_max.saturating_sub(1),
        ])?;
    Ok(())
}

/// The transaction writes from its beginning (IMMEDIATE), so the row can't change between these two
/// statements; since the update also names the expected generation, it would be safe without that
/// too.
fn exchange_refresh(
    connection: &Connection,
    id: &SessionId,
    exchange: &RefreshExchange,
) -> Result<RefreshOutcome, Failure> {
    let Some(mut session) = find_session(connection, id)? else {
        return Ok(RefreshOutcome::Unknown);
    };
    let before = session.generation;
    let outcome = session.exchange(exchange);
    if matches!(
        outcome,
        RefreshOutcome::Exchanged(_) | RefreshOutcome::Reused
    ) {
        let written = connection
            .prepare_cached(
                "UPDATE session SET generation = ?, refreshed_at = ?, expires_at = ?, ended_at = ?
                 WHERE id = ? AND generation = ? AND ended_at IS NULL",
            )?
            .execute(params![
                count(session.generation),
                session.refreshed_at.map(micros),
                micros(session.expires_at),
                session.ended_at.map(micros),
                id.as_str(),
                count(before),
            ])?;
        if written == 0 {
            return Err(Failure::corrupt("a login changed inside a transaction"));
        }
    }
    Ok(outcome)
}

impl SessionStore for SqliteStore {
    fn open_session(
        &self,
        session: SessionRecord,
        expected_version: Option<u64>,
        logins_max: u32,
    ) -> StoreFuture<bool> {
        self.change(move |connection| {
            open_session(connection, &session, expected_version, logins_max)
        })
    }

    fn session(&self, id: &SessionId) -> StoreFuture<Option<SessionRecord>> {
        let id = id.clone();
        self.0
            .readers
            .read(move |connection| find_session(connection, &id))
    }

    fn open_sessions_of(
        &self,
        user: &UserId,
        at: Timestamp,
        limit: u16,
    ) -> StoreFuture<Vec<SessionRecord>> {
        let user = user.clone();
        self.0.readers.list(move |connection| {
            let mut list = connection.prepare_cached(select!(
                "user = ? AND ended_at IS NULL AND expires_at > ?
                 ORDER BY created_at DESC, id LIMIT ?"
            ))?;
            let mut found = list.query(params![user.as_str(), micros(at), limit])?;
            let mut open = Vec::new();
            while let Some(row) = found.next()? {
                open.push(read_session(row)?);
            }
            Ok(open)
        })
    }

    fn exchange_refresh(
        &self,
        id: &SessionId,
        exchange: RefreshExchange,
    ) -> StoreFuture<RefreshOutcome> {
        let id = id.clone();
        self.change(move |connection| exchange_refresh(connection, &id, &exchange))
    }

    fn end_session(&self, id: &SessionId, at: Timestamp) -> StoreFuture<bool> {
        let id = id.clone();
        self.change(move |connection| {
            let ended = connection
                .prepare_cached(
                    "UPDATE session SET ended_at = ? WHERE id = ? AND ended_at IS NULL",
                )?
                .execute(params![micros(at), id.as_str()])?;
            Ok(ended > 0)
        })
    }

    fn end_sessions_of(&self, user: &UserId, at: Timestamp) -> StoreFuture<u64> {
        let user = user.clone();
        self.change(move |connection| end_sessions_of(connection, &user, at))
    }

    fn purge_sessions(&self, before: Timestamp) -> StoreFuture<u64> {
        self.change(move |connection| {
            let purged = connection
                .prepare_cached("DELETE FROM session WHERE expires_at < ?")?
                .execute([micros(before)])?;
            Ok(u64::try_from(purged).unwrap_or(u64::MAX))
        })
    }
}
