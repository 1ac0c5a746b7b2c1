//! Users and logins in SQLite.

use rusqlite::{Connection, Row, params};

use super::{
    SqliteStore,
    convert::{Failure, count, from_json, micros, moment, moment_or_none, name, to_json, uncount},
};
use crate::{
    domain::{
        SessionId, UserId,
        clock::Timestamp,
        page::{Page, Paged},
        user::{
            RefreshExchange, RefreshOutcome, SessionRecord, UserRecord, UserUpdate, normal_email,
        },
    },
    store::{
        SessionStore, StoreError, StoreErrorKind, StoreFuture, UserStore,
        people::{address_taken, condition_unmet, overfilled, unstorable},
    },
};

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT position, id, email, password_hash, password_version, roles, attributes,
             active, created_at FROM user WHERE ",
            $condition
        )
    };
}

macro_rules! select_session {
    ($condition:literal) => {
        concat!(
            "SELECT id, user, created_at, expires_at, ended_at, generation, refreshed_at
             FROM session WHERE ",
            $condition
        )
    };
}

fn read_user(row: &Row<'_>) -> Result<(u64, UserRecord), Failure> {
    let user = UserRecord {
        id: name(row, 1)?,
        email: row.get(2)?,
        password_hash: row.get(3)?,
        password_version: uncount(row.get(4)?)?,
        roles: from_json(row, 5)?,
        attributes: from_json(row, 6)?,
        active: row.get(7)?,
        created_at: moment(row.get(8)?)?,
    };
    Ok((uncount(row.get(0)?)?, user))
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
    let mut find = connection.prepare_cached(select_session!("id = ?"))?;
    let mut rows = find.query([id.as_str()])?;
    rows.next()?.map(read_session).transpose()
}

fn find_user(connection: &Connection, id: &UserId) -> Result<Option<UserRecord>, Failure> {
    let mut find = connection.prepare_cached(select!("id = ?"))?;
    let mut rows = find.query([id.as_str()])?;
    let found = rows.next()?.map(read_user).transpose()?;
    Ok(found.map(|(_, user)| user))
}

/// A version as stored; an impossible one equals none.
fn version(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(-1)
}

fn conflict(text: &str) -> Failure {
    StoreError::new(StoreErrorKind::Conflict, text).into()
}

fn insert_user(connection: &Connection, user: &UserRecord) -> Result<(), Failure> {
    if !user.is_storable() {
        return Err(unstorable().into());
    }
    let email = normal_email(&user.email);
    let taken = connection
        .prepare_cached("SELECT 1 FROM user WHERE id = ? OR email = ?")?
        .exists([user.id.as_str(), &email])?;
    if taken {
        return Err(conflict("the id or the address of the user is taken"));
    }
    connection
        .prepare_cached(
            "INSERT INTO user (id, email, password_hash, password_version, roles, attributes,
             active, created_at) VALUES (?,?,?,?,?,?,?,?)",
        )?
        .execute(params![
            user.id.as_str(),
            email,
            user.password_hash,
            i64::try_from(user.password_version).unwrap_or(i64::MAX),
            to_json(&user.roles)?,
            to_json(&user.attributes)?,
            user.active,
            micros(user.created_at),
        ])?;
    Ok(())
}

fn update_user(
    connection: &Connection,
    id: &UserId,
    change: &UserUpdate,
) -> Result<Option<UserRecord>, Failure> {
    let Some(mut user) = find_user(connection, id)? else {
        return Ok(None);
    };
    if !change.is_storable() {
        return Err(unstorable().into());
    }
    if !user.meets_condition_of(change) {
        return Err(condition_unmet().into());
    }
    user.apply(change.clone());
    if user.is_overfilled_by(change) {
        return Err(overfilled().into());
    }
    if change.email.is_some() {
        set_email(connection, &user)?;
    }
    if change.roles.is_some() {
        connection
            .prepare_cached("UPDATE user SET roles = ? WHERE id = ?")?
            .execute([to_json(&user.roles)?.as_str(), id.as_str()])?;
    }
    if change.active.is_some() {
        connection
            .prepare_cached("UPDATE user SET active = ? WHERE id = ?")?
            .execute(params![user.active, id.as_str()])?;
    }
    if !change.attributes.is_empty() {
        connection
            .prepare_cached("UPDATE user SET attributes = ? WHERE id = ?")?
            .execute([to_json(&user.attributes)?.as_str(), id.as_str()])?;
    }
    if let Some(at) = change.logins_end_at {
        connection
            .prepare_cached("UPDATE user SET password_version = ? WHERE id = ?")?
            .execute(params![count(user.password_version), id.as_str()])?;
        end_sessions_of(connection, id, at)?;
    }
    Ok(Some(user))
}

fn set_email(connection: &Connection, user: &UserRecord) -> Result<(), Failure> {
    let taken = connection
        .prepare_cached("SELECT 1 FROM user WHERE email = ? AND id <> ?")?
        .exists([user.email.as_str(), user.id.as_str()])?;
    if taken {
        return Err(address_taken().into());
    }
    connection
        .prepare_cached("UPDATE user SET email = ? WHERE id = ?")?
        .execute([user.email.as_str(), user.id.as_str()])?;
    Ok(())
}

fn end_sessions_of(connection: &Connection, user: &UserId, at: Timestamp) -> Result<u64, Failure> {
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

impl UserStore for SqliteStore {
    fn insert_user(&self, user: UserRecord) -> StoreFuture<()> {
        self.change(move |connection| insert_user(connection, &user))
    }

    fn user(&self, id: &UserId) -> StoreFuture<Option<UserRecord>> {
        let id = id.clone();
        self.0
            .readers
            .read(move |connection| find_user(connection, &id))
    }

    fn user_by_email(&self, email: &str) -> StoreFuture<Option<UserRecord>> {
        let email = normal_email(email);
        self.0.readers.read(move |connection| {
            let mut find = connection.prepare_cached(select!("email = ?"))?;
            let mut rows = find.query([email])?;
            let found = rows.next()?.map(read_user).transpose()?;
            Ok(found.map(|(_, user)| user))
        })
    }

    fn users(&self, page: Page) -> StoreFuture<Paged<UserRecord>> {
        self.0.readers.list(move |connection| {
            let mut list = connection
                .prepare_cached(select!("position < ? ORDER BY position DESC LIMIT ?"))?;
            let before = page.cursor().and_then(|cursor| i64::try_from(cursor).ok());
            let limit = i64::from(page.limit()).saturating_add(1);
            let mut found = list.query(params![before.unwrap_or(i64::MAX), limit])?;
            let mut rows = Vec::new();
            while let Some(row) = found.next()? {
                rows.push(read_user(row)?);
            }
            Ok(Paged::from_rows(&page, rows))
        })
    }

    fn update_user(&self, id: &UserId, change: UserUpdate) -> StoreFuture<Option<UserRecord>> {
        let id = id.clone();
        self.change(move |connection| update_user(connection, &id, &change))
    }

    fn change_password(
        &self,
        id: &UserId,
        expected_version: u64,
        password_hash: String,
        at: Timestamp,
    ) -> StoreFuture<bool> {
        let id = id.clone();
        self.change(move |connection| {
            let changed = connection
                .prepare_cached(
                    "UPDATE user SET password_hash = ?, password_version = password_version + 1
                     WHERE id = ? AND password_version = ?",
                )?
                .execute(params![
                    password_hash,
                    id.as_str(),
                    version(expected_version)
                ])?;
            if changed > 0 {
                end_sessions_of(connection, &id, at)?;
            }
            Ok(changed > 0)
        })
    }

    fn rehash_password(
        &self,
        id: &UserId,
        expected_version: u64,
        password_hash: String,
    ) -> StoreFuture<bool> {
        let id = id.clone();
        self.change(move |connection| {
            let changed = connection
                .prepare_cached(
                    "UPDATE user SET password_hash = ? WHERE id = ? AND password_version = ?",
                )?
                .execute(params![
                    password_hash,
                    id.as_str(),
                    version(expected_version)
                ])?;
            Ok(changed > 0)
        })
    }

    fn delete_user(&self, id: &UserId) -> StoreFuture<bool> {
        let id = id.clone();
        self.change(move |connection| {
            connection
                .prepare_cached("DELETE FROM session WHERE user = ?")?
                .execute([id.as_str()])?;
            let deleted = connection
                .prepare_cached("DELETE FROM user WHERE id = ?")?
                .execute([id.as_str()])?;
            Ok(deleted > 0)
        })
    }
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
            let mut list = connection.prepare_cached(select_session!(
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
