//! Users in PostgreSQL.

use sqlx::{
    Row,
    postgres::{PgConnection, PgRow},
    types::Json,
};

use super::{
    PostgresStore,
    convert::{Failure, Moment, is_storable, moment, name, uncount},
    listing::by_position,
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

/// Ends in `WHERE`.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT position, id, email, password_hash, password_version, roles, attributes,
             active, created_at FROM users WHERE ",
            $condition
        )
    };
}

fn read_user(row: &PgRow) -> Result<(u64, UserRecord), Failure> {
    let Json(attributes) = row.try_get(6)?;
    let user = UserRecord {
        id: name(row, 1)?,
        email: row.try_get(2)?,
        password_hash: row.try_get(3)?,
        password_version: uncount(row.try_get(4)?)?,
        roles: row.try_get(5)?,
        attributes,
        active: row.try_get(7)?,
        created_at: moment(row, 8)?,
    };
    Ok((uncount(row.try_get(0)?)?, user))
}

fn read_one(found: Option<&PgRow>) -> Result<Option<UserRecord>, Failure> {
    let found = found.map(read_user).transpose()?;
    Ok(found.map(|(_, user)| user))
}

/// A version as stored; one out of range maps to a value that matches none.
pub(super) fn version(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(-1)
}

pub(super) fn conflict(text: &str) -> Failure {
    StoreError::new(StoreErrorKind::Conflict, text).into()
}

async fn insert_user(connection: &mut PgConnection, user: &UserRecord) -> Result<(), Failure> {
    let inserted = sqlx::query(
        "INSERT INTO users (id, email, password_hash, password_version, roles, attributes,
         active, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
    )
    .bind(user.id.as_str())
    .bind(normal_email(&user.email))
    .bind(&user.password_hash)
    .bind(i64::try_from(user.password_version).unwrap_or(i64::MAX))
    .bind(&user.roles)
    .bind(Json(&user.attributes))
    .bind(user.active)
    .bind(Moment(user.created_at))
    .execute(connection)
    .await?
    .rows_affected();
    match inserted {
        0 => Err(conflict("the id or the address of the user is taken")),
        _ => Ok(()),
    }
}

/// Whether the user meets the condition of `change`, and will until the end of the transaction: the
/// row is locked. Nobody meets every condition, because nobody is changed.
async fn is_met(
    connection: &mut PgConnection,
    id: &UserId,
    change: &UserUpdate,
) -> Result<bool, Failure> {
    if change.only_if.is_none() {
        return Ok(true);
    }
    let locked = sqlx::query(select!("id = $1 FOR UPDATE"))
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    let user = read_one(locked.as_ref())?;
    Ok(user.is_none_or(|user| user.meets_condition_of(change)))
}

impl UserStore for PostgresStore {
    fn insert_user(&self, user: UserRecord) -> StoreFuture<()> {
        self.ask(move |shared| async move {
            if !user.is_storable() {
                return Err(unstorable().into());
            }
            let mut transaction = shared.begin().await?;
            insert_user(&mut transaction, &user).await?;
            transaction.commit().await?;
            Ok(())
        })
    }

    fn user(&self, id: &UserId) -> StoreFuture<Option<UserRecord>> {
        let id = id.clone();
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) {
                return Ok(None);
            }
            let found = sqlx::query(select!("id = $1"))
                .bind(id.as_str())
                .fetch_optional(&mut *shared.read().await?)
                .await?;
            read_one(found.as_ref())
        })
    }

    fn user_by_email(&self, email: &str) -> StoreFuture<Option<UserRecord>> {
        let email = normal_email(email);
        self.ask(move |shared| async move {
            if !is_storable(&email) {
                return Ok(None);
            }
            let found = sqlx::query(select!("email = $1"))
                .bind(email)
                .fetch_optional(&mut *shared.read().await?)
                .await?;
            read_one(found.as_ref())
        })
    }

    fn users(&self, page: Page) -> StoreFuture<Paged<UserRecord>> {
        self.ask(move |shared| async move {
            let query = select!("position < $1 ORDER BY position DESC LIMIT $2");
            by_position(&mut *shared.read().await?, query, &page, read_user).await
        })
    }

    fn update_user(&self, id: &UserId, change: UserUpdate) -> StoreFuture<Option<UserRecord>> {
        let id = id.clone();
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) {
                return Ok(None);
            }
            if !change.is_storable() {
                return Err(unstorable().into());
            }
            let mut transaction = shared.begin().await?;
            if !is_met(&mut transaction, &id, &change).await? {
                return Err(condition_unmet().into());
            }
            sqlx::query(
                "UPDATE users SET roles = coalesce($2, roles),
                 active = coalesce($3, active), attributes = attributes || $4,
                 password_version = password_version + $5, email = coalesce($6, email)
                 WHERE id = $1",
            )
            .bind(id.as_str())
            .bind(&change.roles)
            .bind(change.active)
            .bind(Json(&change.attributes))
            .bind(i64::from(change.logins_end_at.is_some()))
            .bind(change.email.as_deref().map(normal_email))
            .execute(&mut *transaction)
            .await
            .map_err(|error| match &error {
                // The address is the only unique column that is set here.
                sqlx::Error::Database(refused) if refused.is_unique_violation() => {
                    address_taken().into()
                }
                _ => Failure::from(error),
            })?;
            // The user's row first, in the same order as deletion.
            if let Some(at) = change.logins_end_at {
                end_sessions_of(&mut transaction, &id, at).await?;
            }
            let stored = sqlx::query(select!("id = $1"))
                .bind(id.as_str())
                .fetch_optional(&mut *transaction)
                .await?;
            let stored = read_one(stored.as_ref())?;
            if stored
                .as_ref()
                .is_some_and(|user| user.is_overfilled_by(&change))
            {
                return Err(overfilled().into());
            }
            transaction.commit().await?;
            Ok(stored)
        })
    }

    fn change_password(
        &self,
        id: &UserId,
        expected_version: u64,
        password_hash: String,
        at: Timestamp,
    ) -> StoreFuture<bool> {
        let id = id.clone();
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) {
                return Ok(false);
            }
            let mut transaction = shared.begin().await?;
            let changed = sqlx::query(
                "UPDATE users SET password_hash = $1,
                 password_version = password_version + 1 WHERE id = $2 AND password_version = $3",
            )
            .bind(password_hash)
            .bind(id.as_str())
            .bind(version(expected_version))
            .execute(&mut *transaction)
            .await?
            .rows_affected();
            if changed > 0 {
                end_sessions_of(&mut transaction, &id, at).await?;
            }
            transaction.commit().await?;
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
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) {
                return Ok(false);
            }
            let mut transaction = shared.begin().await?;
            let changed = sqlx::query(
                "UPDATE users SET password_hash = $1
                 WHERE id = $2 AND password_version = $3",
            )
            .bind(password_hash)
            .bind(id.as_str())
            .bind(version(expected_version))
            .execute(&mut *transaction)
            .await?
            .rows_affected();
            transaction.commit().await?;
            Ok(changed > 0)
        })
    }

    fn delete_user(&self, id: &UserId) -> StoreFuture<bool> {
        let id = id.clone();
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) {
                return Ok(false);
            }
            let mut transaction = shared.begin().await?;
            // The user's row first: a concurrent login holds a lock on it, and is then seen by the
            // next statement.
            let deleted = sqlx::query("DELETE FROM users WHERE id = $1")
                .bind(id.as_str())
                .execute(&mut *transaction)
                .await?
                .rows_affected();
            sqlx::query("DELETE FROM session WHERE user_id = $1")
                .bind(id.as_str())
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(deleted > 0)
        })
    }
}
