//! The facade that an application's handlers call.

use std::{
    fmt,
    future::Future,
    sync::{Arc, atomic::AtomicU64},
};

use uuid::Uuid;

use super::{
    LoginError, LoginErrorKind, LoginsBuilder, PasswordCheck, PasswordError, Passwords,
    SessionResolver, refresh::Refresher,
};
use crate::{
    change::{Changes, Fate, Touching},
    domain::{
        SessionId, UserId,
        clock::{Clock, Timestamp},
        page::{Page, Paged},
        principal::Principal,
        user::UserRecord,
    },
    store::{Change, SessionStore, StoreError, StoreFuture, UserStore},
    token::TokenIssuer,
};

/// Registers users, logs them in and out, and changes them.
///
/// A change, once begun, is completed and reported to the [`SessionResolver`] even if the caller
/// disconnects. Cloning is cheap.
#[derive(Clone)]
pub struct Logins(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) users: Arc<dyn UserStore>,
    pub(super) sessions: Arc<dyn SessionStore>,
    pub(super) issuer: TokenIssuer,
    pub(super) passwords: Passwords,
    pub(super) resolver: SessionResolver,
    pub(super) refresher: Option<Refresher>,
    pub(super) user_id_prefix: String,
    pub(super) password_length_min: usize,
    pub(super) logins_per_user_max: u32,
    /// When expired logins are next to be deleted, in seconds of the monotonic clock.
    pub(super) purge_at: AtomicU64,
    pub(super) changes: Changes,
}

impl Logins {
    /// Starts with the stores and the issuer. The issuer's lifetime is that of an access token, and
    /// of a login without [`LoginsBuilder::refresh`]; its clock is used here too.
    pub fn builder(
        users: Arc<dyn UserStore>,
        sessions: Arc<dyn SessionStore>,
        issuer: TokenIssuer,
    ) -> LoginsBuilder {
        LoginsBuilder::new(users, sessions, issuer)
    }

    /// The resolver for layers, which says whether a token's login is still open; changes made here
    /// take effect in it at once.
    #[must_use]
    pub fn resolver(&self) -> &SessionResolver {
        &self.0.resolver
    }

    /// One user.
    ///
    /// # Errors
    /// `Store`.
    pub async fn user(&self, id: &UserId) -> Result<Option<UserRecord>, LoginError> {
        Ok(self.await_store(self.0.users.user(id)).await?)
    }

    /// The user that a principal represents: the subject of a token, or the owner of a key.
    ///
    /// # Errors
    /// `UnknownUser`, `Store`.
    pub async fn user_of(&self, principal: &Principal) -> Result<UserRecord, LoginError> {
        let unknown = || LoginError::new(LoginErrorKind::UnknownUser);
        let id = UserId::new(principal.subject()).map_err(|_| unknown())?;
        self.user(&id).await?.ok_or_else(unknown)
    }

    /// All users, newest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn users(&self, page: Page) -> Result<Paged<UserRecord>, LoginError> {
        Ok(self.await_store(self.0.users.users(page)).await?)
    }

    pub(super) fn refresher(&self) -> Option<&Refresher> {
        self.0.refresher.as_ref()
    }

    pub(super) fn issuer(&self) -> &TokenIssuer {
        &self.0.issuer
    }

    pub(super) fn users_store(&self) -> &Arc<dyn UserStore> {
        &self.0.users
    }

    pub(super) fn sessions(&self) -> &Arc<dyn SessionStore> {
        &self.0.sessions
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock().now()
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        self.0.issuer.clock()
    }

    pub(super) async fn user_by_email(
        &self,
        email: &str,
    ) -> Result<Option<UserRecord>, StoreError> {
        self.await_store(self.0.users.user_by_email(email)).await
    }

    /// A password whose length can't be hashed belongs to no user; it is rejected without
    /// comparing.
    pub(super) async fn check(
        &self,
        password: &str,
        stored: Option<&str>,
    ) -> Result<PasswordCheck, LoginError> {
        match self.0.passwords.verify(password, stored).await {
            Err(PasswordError::Length) => Ok(PasswordCheck::Mismatch),
            outcome => Ok(outcome?),
        }
    }

    /// Makes a change, see [`Changes::make`](crate::change::Changes::make). It is announced however
    /// it ends, because a change of several steps may have been made in part.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        touched: Change,
        change: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, LoginError> {
        let touching = Touching {
            may_touch: vec![touched],
            act: None,
        };
        let outcome = self.0.changes.make(touching, change, |_| Fate::Unknown);
        Ok(outcome.await?)
    }

    pub(super) async fn await_store<T: Unpin>(
        &self,
        answer: StoreFuture<T>,
    ) -> Result<T, StoreError> {
        self.0.changes.within_deadline(answer).await
    }
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logins")
            .field("issuer", &self.0.issuer)
            .field("passwords", &self.0.passwords)
            .finish_non_exhaustive()
    }
}

pub(super) fn internal(what: &'static str) -> LoginError {
    LoginError::new(LoginErrorKind::Internal(what))
}

pub(super) fn new_session() -> Result<SessionId, LoginError> {
    SessionId::new(&random_name("session-")?).map_err(|_| internal("a login id"))
}

/// An unguessable name: 122 random bits.
pub(super) fn random_name(prefix: &str) -> Result<String, LoginError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|_| internal("the system provided no randomness"))?;
    let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
    Ok(format!("{prefix}{}", Uuid::hyphenated(uuid)))
}
