//! Where users and their logins are kept: in one store, or in two.

use std::{fmt, sync::Arc};

use super::{Page, Paged, SessionId, StoreError, StoreErrorKind, StoreFuture, UserId};
use crate::domain::{
    clock::Timestamp,
    user::{RefreshExchange, RefreshOutcome, SessionRecord, UserRecord, UserUpdate},
};

/// Keeps users.
///
/// Each change is one step: whatever else happens at the same time, in this or other processes, it
/// happens completely or not at all, and is durable when it is answered. If the logins are in the
/// same store, they end in the same step as their user.
pub trait UserStore: fmt::Debug + Send + Sync + 'static {
    /// Stores a new user, with the address in its [normal form](crate::user::normal_email). Fails
    /// with `Conflict` when the id or the address is taken, and with `Refused` when a text contains
    /// a NUL ([`UserRecord::is_storable`]).
    fn insert_user(&self, user: UserRecord) -> StoreFuture<()>;

    /// One user.
    fn user(&self, id: &UserId) -> StoreFuture<Option<UserRecord>>;

    /// The user with that address, in upper or lower case.
    fn user_by_email(&self, email: &str) -> StoreFuture<Option<UserRecord>>;

    /// All users, newest first.
    fn users(&self, page: Page) -> StoreFuture<Paged<UserRecord>>;

    /// Changes columns of a user ([`UserRecord::apply`]) and returns it as stored; `None` if there
    /// is none. A change that [ends the logins](UserUpdate::logins_end_at) increments the password
    /// version and ends every login of the user that is kept here, in the same step.
    ///
    /// If the user doesn't meet the [condition](UserUpdate::only_if) of the change
    /// ([`UserRecord::meets_condition_of`]) in that step, it fails with `NotFound`, and with that
    /// rather than with `Full` or `Conflict`.
    ///
    /// Fails with `Full` when the user would have too many attributes
    /// ([`UserRecord::is_overfilled_by`]), with `Conflict` when another user has the address, and
    /// with `Refused` when a text contains a NUL ([`UserUpdate::is_storable`]); then nothing is
    /// changed.
    fn update_user(&self, id: &UserId, change: UserUpdate) -> StoreFuture<Option<UserRecord>>;

    /// Replaces the password and ends every login of the user that is kept here, in one step, if
    /// the user's password version is still `expected_version`; returns whether it was.
    fn change_password(
        &self,
        id: &UserId,
        expected_version: u64,
        password_hash: String,
        at: Timestamp,
    ) -> StoreFuture<bool>;

    /// Replaces the hash with a stronger one of the same password, if the user's password version
    /// is still `expected_version`; returns whether it was. The version and all logins stay.
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
/// Each change is one step, as in a [`UserStore`]. The times passed in decide, not a clock of the
/// store. A store's decisions are [`SessionRecord::exchange`] and [`SessionRecord::make_room`];
/// `tollgate::conformance` (feature `test-util`) has the laws.
pub trait SessionStore: fmt::Debug + Send + Sync + 'static {
    /// Stores a new login if the user's password version is still `expected_version` and the user
    /// is active; returns whether that was so. Without a version it is stored unconditionally. A
    /// store that keeps no users stores the version with the login
    /// ([`SessionRecord::password_version`]), which is invalid under any other version.
    ///
    /// At most `logins_max` of the user's logins are kept, including this one, at least 1: in the
    /// same step those beyond it are deleted, and so ended; first those that are over, if they are
    /// kept at all, then those that expire first ([`SessionRecord::make_room`]).
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

    /// The logins of a user that are open at that moment, newest first; at most `limit` of them.
    fn open_sessions_of(
        &self,
        user: &UserId,
        at: Timestamp,
        limit: u16,
    ) -> StoreFuture<Vec<SessionRecord>>;

    /// Exchanges a login's refresh token for the next one, in one step: of concurrent exchanges, in
    /// any number of processes, exactly one comes first. A token that was exchanged before, and is
    /// past its grace period, ends the login ([`SessionRecord::exchange`]). For a login that
    /// doesn't exist the outcome is [`Unknown`](RefreshOutcome::Unknown).
    fn exchange_refresh(
        &self,
        id: &SessionId,
        exchange: RefreshExchange,
    ) -> StoreFuture<RefreshOutcome>;

    /// Ends one login; returns whether it was open.
    fn end_session(&self, id: &SessionId, at: Timestamp) -> StoreFuture<bool>;

    /// Ends every open login of a user; returns how many there were.
    fn end_sessions_of(&self, user: &UserId, at: Timestamp) -> StoreFuture<u64>;

    /// Deletes logins that expired before `before`; returns how many: none in stores where they
    /// expire by themselves.
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
    StoreError::new(StoreErrorKind::Refused, "a text of the user contains a NUL")
}

/// Why a user's address isn't changed.
pub(super) fn address_taken() -> StoreError {
    let text = "the address of the user is taken";
    StoreError::new(StoreErrorKind::Conflict, text)
}

/// Why a user isn't changed who is not as the change requires.
pub(super) fn condition_unmet() -> StoreError {
    let text = "the user is not as the change requires";
    StoreError::new(StoreErrorKind::NotFound, text)
}

/// Why a user isn't changed.
pub(super) fn overfilled() -> StoreError {
    let text = "the user has reached the maximum number of attributes";
    StoreError::new(StoreErrorKind::Full, text)
}
