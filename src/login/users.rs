//! What an administrator does to users. Every change takes effect on the next request.

use std::sync::Arc;

use super::{LoginError, LoginErrorKind, Logins, user::check_email};
use crate::{
    domain::{
        UserId,
        audit::{Act, AuditAction},
        user::{UserRecord, UserUpdate},
    },
    store::{Change, StoreErrorKind},
    trail,
};

impl Logins {
    /// Replaces a user's roles, at most 64, and returns the user.
    ///
    /// # Errors
    /// `TooManyRoles`, `UnstorableText`, `UnknownUser`, `Store`.
    pub async fn set_roles(
        &self,
        user: &UserId,
        roles: Vec<String>,
    ) -> Result<UserRecord, LoginError> {
        let update = UserUpdate {
            roles: Some(roles),
            ..UserUpdate::default()
        };
        self.update(user, update).await
    }

    /// Gives a user another address, stored trimmed and in lower case, and returns the user. Logins
    /// continue. Whether mail arrives there is for the application to verify first: whoever has the
    /// address can ask for a new password.
    ///
    /// # Errors
    /// `InvalidEmail`, `EmailTaken`, `UnknownUser`, `Store`.
    pub async fn set_email(&self, user: &UserId, email: &str) -> Result<UserRecord, LoginError> {
        let update = UserUpdate {
            email: Some(email.to_owned()),
            ..UserUpdate::default()
        };
        self.update(user, update).await
    }

    /// Lets a user log in again, and returns the user. Earlier logins stay ended.
    ///
    /// # Errors
    /// `UnknownUser`, `Store`.
    pub async fn activate(&self, user: &UserId) -> Result<UserRecord, LoginError> {
        let update = UserUpdate {
            active: Some(true),
            ..UserUpdate::default()
        };
        self.update(user, update).await
    }

    /// Deactivates a user, ends every login of the user, and returns the user. The user's API keys
    /// are independent of users and keep working; end them afterwards by
    /// [`Keyring::revoke_all`](crate::keyring::Keyring::revoke_all).
    ///
    /// # Errors
    /// `UnknownUser`, `Store`.
    pub async fn deactivate(&self, user: &UserId) -> Result<UserRecord, LoginError> {
        let update = UserUpdate {
            active: Some(false),
            ..UserUpdate::default()
        };
        self.update_ending_logins(user, update).await
    }

    /// Deletes a user and every login of the user. The user's API keys are independent of users and
    /// keep working; end them afterwards by
    /// [`Keyring::revoke_all`](crate::keyring::Keyring::revoke_all).
    ///
    /// # Errors
    /// `UnknownUser`, `Store`.
    pub async fn delete_user(&self, user: &UserId) -> Result<(), LoginError> {
        let (users, user) = (Arc::clone(self.users_store()), user.clone());
        let deleted = self
            .change(Change::User(user.clone()), async move {
                let deleted = users.delete_user(&user).await?;
                if deleted {
                    record(AuditAction::USER_DELETE, &user, "");
                }
                Ok(deleted)
            })
            .await?;
        if deleted {
            Ok(())
        } else {
            Err(LoginError::new(LoginErrorKind::UnknownUser))
        }
    }

    /// Changes a user, and returns it. A user who is set inactive here is only suspended: earlier
    /// logins continue once the user is active again, which they don't after
    /// [`deactivate`](Self::deactivate).
    ///
    /// A change that depends on how the user was read, or on how much of a kind the user has, says
    /// so in [`only_if`](UserUpdate::only_if): of such changes at the same time, in any process,
    /// none is made that the others have ruled out.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::sync::Arc;
    /// # use tollgate::{login::{LoginErrorKind, Logins, NewUser}, store::MemoryStore, token::TokenIssuer};
    /// use tollgate::user::{UserCondition, UserUpdate};
    ///
    /// # let store = Arc::new(MemoryStore::new());
    /// # let issuer = TokenIssuer::hs256(b"a secret of at least 32 bytes, kept elsewhere").build()?;
    /// # let logins = Logins::builder(store.clone(), store, issuer).build()?;
    /// let ann = logins.register(NewUser::new("ann@example.org", "correct horse").role("admin")).await?;
    /// let promoted = |role: &str| {
    ///     let mut update = UserUpdate::default();
    ///     update.roles = Some([ann.roles.clone(), vec![role.to_owned()]].concat());
    ///     update.only_if = Some(UserCondition::Unchanged(Box::new(ann.clone())));
    ///     update
    /// };
    /// logins.update(&ann.id, promoted("auditor")).await?;
    /// // It would take away the role that was given meanwhile.
    /// let refused = logins.update(&ann.id, promoted("operator")).await.unwrap_err();
    /// assert!(matches!(refused.kind(), LoginErrorKind::ConditionUnmet));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `TooManyRoles`, `TooManyAttributes`, `InvalidEmail`, `EmailTaken`, `UnstorableText`,
    /// `ConditionUnmet`, `UnknownUser`, `Store`.
    pub async fn update(
        &self,
        user: &UserId,
        update: UserUpdate,
    ) -> Result<UserRecord, LoginError> {
        self.update_and(user, update, ExistingLogins::Keep).await
    }

    /// Changes a user like [`update`](Self::update), in one step, and ends every login of a user
    /// who is set inactive: [`deactivate`](Self::deactivate) with further changes.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use tollgate::{login::{Logins, NewUser}, store::MemoryStore, token::TokenIssuer, user::UserUpdate};
    ///
    /// let store = Arc::new(MemoryStore::new());
    /// let issuer = TokenIssuer::hs256(b"a secret of at least 32 bytes, kept elsewhere").build()?;
    /// let logins = Logins::builder(store.clone(), store, issuer).build()?;
    /// let ann = logins.register(NewUser::new("ann@example.org", "correct horse").role("admin")).await?;
    ///
    /// let mut demotion = UserUpdate::default();
    /// demotion.roles = Some(vec!["viewer".into()]);
    /// demotion.active = Some(false);
    /// let ann = logins.update_ending_logins(&ann.id, demotion).await?;
    /// assert!(!ann.active && ann.roles == ["viewer"]);
    /// assert!(logins.login("ann@example.org", "correct horse").await.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `TooManyRoles`, `TooManyAttributes`, `InvalidEmail`, `EmailTaken`, `UnstorableText`,
    /// `ConditionUnmet`, `UnknownUser`, `Store`.
    pub async fn update_ending_logins(
        &self,
        user: &UserId,
        update: UserUpdate,
    ) -> Result<UserRecord, LoginError> {
        let logins = match update.active {
            Some(false) => ExistingLogins::End,
            _ => ExistingLogins::Keep,
        };
        self.update_and(user, update, logins).await
    }

    async fn update_and(
        &self,
        user: &UserId,
        update: UserUpdate,
        logins: ExistingLogins,
    ) -> Result<UserRecord, LoginError> {
        if let Some(roles) = &update.roles {
            self.check_roles(user, roles)?;
        }
        if let Some(email) = &update.email {
            check_email(email)?;
        }
        if !update.is_storable() {
            return Err(LoginError::new(LoginErrorKind::UnstorableText));
        }
        let (users, sessions) = (Arc::clone(self.users_store()), Arc::clone(self.sessions()));
        let (user, at) = (user.clone(), self.now());
        let what = described(&update);
        // In the same step that deactivates the user: if the logins were ended afterwards, a crash
        // in between would let them continue once the user is active again.
        let mut update = update;
        if logins == ExistingLogins::End {
            update.logins_end_at = Some(at);
        }
        let updated = self.change(Change::User(user.clone()), async move {
            let updated = users.update_user(&user, update).await?;
            if updated.is_some() {
                // Recorded even if ending the logins fails: the user is deactivated.
                record(AuditAction::USER_UPDATE, &user, &what);
            }
            if logins == ExistingLogins::End {
                // They are over already; this removes them from the lists of a store that keeps no
                // users.
                match sessions.end_sessions_of(&user, at).await {
                    // A store of one's own may say so of a user without logins.
                    Err(error) if error.kind() == StoreErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                    Ok(_) => {}
                }
            }
            Ok(updated)
        });
        match updated.await {
            Err(error) if error.is_of(StoreErrorKind::Full) => {
                Err(LoginError::new(LoginErrorKind::TooManyAttributes))
            }
            Err(error) if error.is_of(StoreErrorKind::NotFound) => {
                Err(LoginError::new(LoginErrorKind::ConditionUnmet))
            }
            Err(error) if error.is_of(StoreErrorKind::Conflict) => {
                Err(LoginError::new(LoginErrorKind::EmailTaken))
            }
            updated => updated?.ok_or_else(|| LoginError::new(LoginErrorKind::UnknownUser)),
        }
    }
}

/// What happens to a user's existing logins when the user is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExistingLogins {
    Keep,
    End,
}

fn record(action: AuditAction, user: &UserId, what: &str) {
    let act = Act::new(action).on(user.as_str());
    trail::record(if what.is_empty() {
        act
    } else {
        act.because(what)
    });
}

/// Describes the change, without the address and the values of attributes.
fn described(update: &UserUpdate) -> String {
    let roles = update.roles.as_ref();
    let roles = roles.map(|roles| format!("roles={}", roles.join(",")));
    let email = update.email.is_some().then(|| "email".to_owned());
    let active = update.active.map(|active| format!("active={active}"));
    let names: Vec<_> = update.attributes.keys().map(String::as_str).collect();
    let attributes = (!names.is_empty()).then(|| format!("attributes={}", names.join(",")));
    let parts: Vec<_> = [roles, email, active, attributes]
        .into_iter()
        .flatten()
        .collect();
    parts.join(" ")
}
