//! Where users and their logins are kept: in one store, or the users in one and the logins in another.

use std::{fmt, sync::Arc};

use super::{Page, Paged, SessionId, StoreError, StoreErrorKind, StoreFuture, UserId};
use crate::domain::{
    clock::Timestamp,
    user::{RefreshExchange, RefreshOutcome, SessionRecord, UserRecord, UserUpdate},
};

/// Keeps users.
///
/// Each change is one step: whatever else is done at once, also by other processes, it is done wholly or not at all, and is durable
/// when it is answered. Where the logins are kept in the same store, they end in the step of their user.
pub trait UserStore: fmt::Debug + Send + Sync + 'static {
    /// Stores a new user, with the address in its [normal form](crate::user::normal_email). Fails with `Conflict` when the id or the
    /// address is taken, and with `Refused` when a text has a NUL in it ([`UserRecord::is_storable`]).
    fn insert_user(&self, user: UserRecord) -> StoreFuture<()>;

    /// One user.
    fn user(&self, id: &UserId) -> StoreFuture<Option<UserRecord>>;

    /// The user with that address, in whatever case it is written.
    fn user_by_email(&self, email: &str) -> StoreFuture<Option<UserRecord>>;

    /// All users, newest first.
    fn users(&self, page: Page) -> StoreFuture<Paged<UserRecord>>;

    /// Changes columns of a user ([`UserRecord::apply`]) and returns it as stored; `None` when there is none. A change that
    /// [ends the logins](UserUpdate::logins_end_at) makes the password version one more and ends every login of the user that is
    /// kept here, in the same step.
    ///
    /// Fails with `Full` when the user had more attributes than there may be then ([`UserRecord::is_overfilled_by`]), and with
    /// `Refused` when a text has a NUL in it ([`UserUpdate::is_storable`]); nothing is changed.
    fn update_user(&self, id: &UserId, change: UserUpdate) -> StoreFuture<Option<UserRecord>>;

    /// Replaces the password and ends every login of the user that is kept here, in one step, if the user's password
    /// version is still `expected_version`; returns whether it was.
    fn change_password(
        &self,
        id: &UserId,
        expected_version: u64,
        password_hash: String,
        at: Timestamp,
    ) -> StoreFuture<bool>;

    /// Replaces the hash by a stronger one of the same password, if the user's password version is still
    /// `expected_version`; returns whether it was. The version stays, and so does every login.
    fn rehash_password(
        &self,
        id: &UserId,
        expected_version: u64,
        password_hash: String,
    ) -> StoreFuture<bool>;

    /// Deletes a user and every login of the user that is kept here; returns whether there was one.
    fn delete_user(&self, id: &UserId) -> StoreFuture<bool>;
}

/// Keeps logins.
///
/// Each change is one step, as in a [`UserStore`]. The moments that are handed over decide, not a clock of the store's. What a
/// store must decide is [`SessionRecord::exchange`] and [`SessionRecord::make_room`]; `tollgate::conformance` (feature `test-util`) has
/// the laws.
pub trait SessionStore: fmt::Debug + Send + Sync + 'static {
    /// Stores a new login, if the user's password version is still `expected_version` and the user
    /// is active; returns whether it was. Without a version it is stored as it is. A store that keeps no users stores the
    /// version with it ([`SessionRecord::password_version`]), and the login is over with another one.
    ///
    /// Of the user's logins `logins_max` are kept with it, at least 1: in the same step those that are too many are forgotten,
    /// and so ended. First those that are over, where they are kept; then those that end first ([`SessionRecord::make_room`]).
    ///
    /// Fails with `Conflict` when the id is taken.
    fn open_session(
        &self,
        session: SessionRecord,
        expected_version: Option<u64>,
        logins_max: u32,
    ) -> StoreFuture<bool>;

    /// One login, ended or not.
    fn session(&self, id: &SessionId) -> StoreFuture<Option<SessionRecord>>;

    /// The open logins of a user at that moment, newest first; at most `limit` of them.
    fn open_sessions_of(
        &self,
        user: &UserId,
        at: Timestamp,
        limit: u16,
    ) -> StoreFuture<Vec<SessionRecord>>;

    /// Exchanges a login's refresh token for the next, in one step: of any number at once, in any number of
    /// processes, one is the first. A token that was exchanged before, and has no grace, ends the login
    /// ([`SessionRecord::exchange`]). Of a login that there isn't it is [`Unknown`](RefreshOutcome::Unknown).
    fn exchange_refresh(
        &self,
        id: &SessionId,
        exchange: RefreshExchange,
    ) -> StoreFuture<RefreshOutcome>;

    /// Ends one login; returns whether it was open.
    fn end_session(&self, id: &SessionId, at: Timestamp) -> StoreFuture<bool>;

    /// Ends every open login of a user; returns how many there were.
    fn end_sessions_of(&self, user: &UserId, at: Timestamp) -> StoreFuture<u64>;

    /// Forgets logins whose time was over before `before`; returns how many: none where they leave by themselves.
    fn purge_sessions(&self, before: Timestamp) -> StoreFuture<u64>;
}

impl<T: UserStore + ?Sized> UserStore for Arc<T> {
    fn insert_user(&self, user: UserRecord) -> StoreFuture<()> {
        T::insert_user(self, user)
    }

    fn user(&self, id: &UserId) -> StoreFuture<Option<UserRecord>> {
        T::user(self, id)
    }

    fn user_by_email(&self, email: &str) -> StoreFuture<Option<UserRecord>> {
        T::user_by_email(self, email)
    }

    fn users(&self, page: Page) -> StoreFuture<Paged<UserRecord>> {
        T::users(self, page)
    }

    fn update_user(&self, id: &UserId, change: UserUpdate) -> StoreFuture<Option<UserRecord>> {
        T::update_user(self, id, change)
    }

    fn change_password(
        &self,
        id: &UserId,
        expected_version: u64,
        password_hash: String,
        at: Timestamp,
    ) -> StoreFuture<bool> {
        T::change_password(self, id, expected_version, password_hash, at)
    }

    fn rehash_password(
        &self,
        id: &UserId,
        expected_version: u64,
        password_hash: String,
    ) -> StoreFuture<bool> {
        T::rehash_password(self, id, expected_version, password_hash)
    }

    fn delete_user(&self, id: &UserId) -> StoreFuture<bool> {
        T::delete_user(self, id)
    }
}

impl<T: SessionStore + ?Sized> SessionStore for Arc<T> {
    fn open_session(
        &self,
        session: SessionRecord,
        expected_version: Option<u64>,
        logins_max: u32,
    ) -> StoreFuture<bool> {
        T::open_session(self, session, expected_version, logins_max)
    }

    fn session(&self, id: &SessionId) -> StoreFuture<Option<SessionRecord>> {
        T::session(self, id)
    }

    fn open_sessions_of(
        &self,
        user: &UserId,
        at: Timestamp,
        limit: u16,
    ) -> StoreFuture<Vec<SessionRecord>> {
        T::open_sessions_of(self, user, at, limit)
    }

    fn exchange_refresh(
        &self,
        id: &SessionId,
        exchange: RefreshExchange,
    ) -> StoreFuture<RefreshOutcome> {
        T::exchange_refresh(self, id, exchange)
    }

    fn end_session(&self, id: &SessionId, at: Timestamp) -> StoreFuture<bool> {
        T::end_session(self, id, at)
    }

    fn end_sessions_of(&self, user: &UserId, at: Timestamp) -> StoreFuture<u64> {
        T::end_sessions_of(self, user, at)
    }

    fn purge_sessions(&self, before: Timestamp) -> StoreFuture<u64> {
        T::purge_sessions(self, before)
    }
}

/// Why a user isn't stored.
pub(super) fn unstorable() -> StoreError {
    StoreError::new(StoreErrorKind::Refused, "a text of a user has a NUL in it")
}

/// Why a user isn't changed.
pub(super) fn overfilled() -> StoreError {
    let text = "the user has as many attributes as there may be";
    StoreError::new(StoreErrorKind::Full, text)
}
