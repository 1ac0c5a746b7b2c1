//! How logins end: individually, all of a user's, and with a new password.

use std::sync::Arc;

use super::{
    LoginError, Logins, PasswordCheck, opening::invalid_credentials, user::check_password,
};
use crate::{
    domain::{
        SessionId, UserId,
        audit::{Act, AuditAction},
    },
    store::Change,
    trail,
};

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
        let (users, at) = (Arc::clone(&self.0.users), self.now());
        let replaced = self
            .change(Change::User(user.clone()), async move {
                let replaced = users
                    .change_password(&found.id, found.password_version, hash, at)
                    .await?;
                if replaced {
                    let act = Act::new(AuditAction::PASSWORD_CHANGE);
                    trail::record(act.on(found.id.as_str()));
                }
                Ok(replaced)
            })
            .await?;
        if replaced {
            Ok(())
        } else {
            Err(invalid_credentials())
        }
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
