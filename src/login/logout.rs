//! How logins end: individually, all of a user's, and with a new password.

use std::sync::Arc;

use super::{
    LoginError, LoginErrorKind, Logins, PasswordCheck, opening::invalid_credentials,
    user::check_password,
};
use crate::{
    domain::{
        SessionId, UserId,
        audit::{Act, AuditAction},
        user::UserRecord,
    },
    store::{Change, StoreError, StoreErrorKind},
    trail,
};

/// How often setting a password is tried while others change it.
const SET_ATTEMPTS_MAX: u32 = 4;

impl Logins {
    /// Replaces a user's password and ends every login of the user, including the caller's own and
    /// those opened in the same second. API keys are not affected. Log in again for a new token.
    ///
    /// # Errors
    /// `WeakPassword`; `InvalidCredentials` if `current` isn't the password, or no longer is when
    /// the change is made; `Busy`, `Store`, `Internal`.
    pub async fn change_password(
        &self,
        user: &UserId,
        current: &str,
        new: &str,
    ) -> Result<(), LoginError> {
        check_password(new, self.0.password_length_min)?;
        let found = self.user(user).await?.filter(|user| user.active);
        let stored = found.as_ref().map(|user| user.password_hash.as_str());
        let check = self.check(current, stored).await?;
        let (Some(found), PasswordCheck::Match | PasswordCheck::MatchToRehash) = (found, check)
        else {
            return Err(invalid_credentials());
        };
        let hash = self.0.passwords.hash(new).await?;
        if self.replace_password(found, hash).await? {
            Ok(())
        } else {
            Err(invalid_credentials())
        }
    }

    /// Sets a user's password without the current one, and ends every login of the user, as
    /// [`change_password`](Self::change_password) does. API keys are not affected, and a user who
    /// is inactive stays so.
    ///
    /// For forgotten passwords, and for administrators. The application has to verify that it is
    /// the user who asks, for example by a link that is mailed to the user's address, that nobody
    /// can guess, and that works once and not for long. A password that is changed at the same time
    /// is replaced too, so that nobody who knows the old one can keep the user out.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use tollgate::{login::{Logins, NewUser}, store::MemoryStore, token::TokenIssuer};
    ///
    /// let store = Arc::new(MemoryStore::new());
    /// let issuer = TokenIssuer::hs256(b"a secret of at least 32 bytes, kept elsewhere").build()?;
    /// let logins = Logins::builder(store.clone(), store, issuer).build()?;
    /// let ann = logins.register(NewUser::new("ann@example.org", "correct horse")).await?;
    ///
    /// logins.set_password(&ann.id, "battery staple").await?;
    /// assert!(logins.login("ann@example.org", "correct horse").await.is_err());
    /// assert!(logins.login("ann@example.org", "battery staple").await.is_ok());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `WeakPassword`, `UnknownUser`; `Busy`, `Store`, `Internal`.
    pub async fn set_password(&self, user: &UserId, new: &str) -> Result<(), LoginError> {
        check_password(new, self.0.password_length_min)?;
        let unknown = || LoginError::new(LoginErrorKind::UnknownUser);
        let mut found = self.user(user).await?.ok_or_else(unknown)?;
        let hash = self.0.passwords.hash(new).await?;
        for _ in 0..SET_ATTEMPTS_MAX {
            if self.replace_password(found, hash.clone()).await? {
                return Ok(());
            }
            // Somebody else changed it since: this comes after that.
            found = self.user(user).await?.ok_or_else(unknown)?;
        }
        let text = "the password is changed by others all the time";
        Err(StoreError::new(StoreErrorKind::Busy, text).into())
    }

    /// Whether the user's password was still the one that was seen.
    async fn replace_password(&self, seen: UserRecord, hash: String) -> Result<bool, LoginError> {
        let (users, at) = (Arc::clone(&self.0.users), self.now());
        self.change(Change::User(seen.id.clone()), async move {
            let replaced = users
                .change_password(&seen.id, seen.password_version, hash, at)
                .await?;
            if replaced {
                let act = Act::new(AuditAction::PASSWORD_CHANGE);
                trail::record(act.on(seen.id.as_str()));
            }
            Ok(replaced)
        })
        .await
    }

    /// Ends one login; returns whether it was open. The user's other logins continue.
    ///
    /// # Errors
    /// `Store`.
    pub async fn logout(&self, session: &SessionId) -> Result<bool, LoginError> {
        let (sessions, session, at) = (Arc::clone(&self.0.sessions), session.clone(), self.now());
        let touched = Change::Session(session.clone());
        self.change(touched, async move {
            let ended = sessions.end_session(&session, at).await?;
            if ended {
                trail::record(Act::new(AuditAction::LOGOUT).on(session.as_str()));
            }
            Ok(ended)
        })
        .await
    }

    /// Ends every login of a user; returns how many were open.
    ///
    /// # Errors
    /// `Store`.
    pub async fn logout_everywhere(&self, user: &UserId) -> Result<u64, LoginError> {
        let (sessions, user, at) = (Arc::clone(&self.0.sessions), user.clone(), self.now());
        self.change(Change::User(user.clone()), async move {
            let ended = sessions.end_sessions_of(&user, at).await?;
            trail::record(Act::new(AuditAction::LOGOUT).on(user.as_str()));
            Ok(ended)
        })
        .await
    }
}
