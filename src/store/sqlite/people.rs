//! Users in SQLite.

use rusqlite::{Connection, Row, params};

use super::{
    SqliteStore,
    convert::{Failure, count, from_json, micros, moment, name, to_json, uncount},
    logins::end_sessions_of,
};
use crate::{
    domain::{
        UserId,
        clock::Timestamp,
        page::{Page, Paged},
        user::{UserRecord, UserUpdate, normal_email},
    },
    store::{
        StoreError, StoreErrorKind, StoreFuture, UserStore,
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

fn find_user(connection: &Connection, id: &UserId) -> Result<Option<UserRecord>, Failure> {
    let mut find = connection.prepare_cached(select!("id = ?"))?;
    let mut rows = find.query([id.as_str()])?;
    let found = rows.next()?.map(read_user).transpose()?;
    Ok(found.map(|(_, user)| user))
}

/// A version as stored; an impossible one equals none.
pub(super) fn version(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(-1)
}

pub(super) fn conflict(text: &str) -> Failure {
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
