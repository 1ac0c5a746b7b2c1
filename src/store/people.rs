//! Where users and their logins are kept: in one store, or the users in one and the logins in another.

use std::fmt;

use super::{Page, Paged, SessionId, StoreError, StoreErrorKind, StoreFuture, UserId};
use crate::domain::{
    clock::Timestamp,
    user::{RefreshExchange, RefreshOutcome, SessionRecord, UserRecord, UserUpdate},
};

/// Keeps users.
pub trait UserStore: fmt::Debug + Send + Sync + 'static {
    /// Stores a new user. Fails with `Conflict` when the id or the address is taken, and with `Refused` when an address, a role
    /// or an attribute has a NUL in it.
    fn insert_user(&self, user: UserRecord) -> StoreFuture<()>;

    /// One user.
    fn user(&self, id: &UserId) -> StoreFuture<Option<UserRecord>>;

    /// The user with that address, in whatever case it is written.
    fn user_by_email(&self, email: &str) -> StoreFuture<Option<UserRecord>>;

    /// All users, newest first.
    fn users(&self, page: Page) -> StoreFuture<Paged<UserRecord>>;

    /// Changes columns of a user and returns it as stored; `None` when there is none. A change that
    /// [ends the logins](UserUpdate::logins_end_at) makes the password version one more and ends every login of the user that is
    /// kept here, in the same step.
    ///
    /// Fails with `Full` when the user had more attributes than there may be then, and with `Refused` when a text has a NUL in
    /// it; nothing is changed.
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
pub trait SessionStore: fmt::Debug + Send + Sync + 'static {
    /// Stores a new login, if the user's password version is still `expected_version` and the user
    /// is active; returns whether it was. Without a version it is stored as it is. A store that keeps no users stores the
    /// version with it ([`SessionRecord::password_version`]), and the login is over with another one.
    ///
    /// Of the user's logins `logins_max` are kept with it, at least 1: in the same step those that are too many are forgotten,
    /// and so ended. First those that are over, where they are kept; then those that end first.
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
    /// processes, one is the first. A token that was exchanged before, and has no grace, ends the login.
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

/// Why a user isn't stored.
pub(super) fn unstorable() -> StoreError {
    StoreError::new(StoreErrorKind::Refused, "a text of a user has a NUL in it")
}

/// Why a user isn't changed.
pub(super) fn overfilled() -> StoreError {
    let text = "the user has as many attributes as there may be";
    StoreError::new(StoreErrorKind::Full, text)
}
