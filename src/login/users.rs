//! What an administrator does to users. Each counts on the next request.

use std::sync::Arc;

use super::{LoginError, LoginErrorKind, Logins, logins::Forget};
use crate::domain::{
    UserId,
    user::{UserRecord, UserUpdate},
};

impl Logins {
    /// Replaces a user's roles, and returns the user.
    ///
    /// # Errors
    /// `UnknownUser`, `Store`.
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

    /// Lets a user log in again, and returns the user. Logins of before stay ended.
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

    /// Shuts a user out, ends every login of the user, and returns the user.
    ///
    /// # Errors
    /// `UnknownUser`, `Store`.
    pub async fn deactivate(&self, user: &UserId) -> Result<UserRecord, LoginError> {
        let update = UserUpdate {
            active: Some(false),
            ..UserUpdate::default()
        };
        let (users, sessions) = (Arc::clone(self.users_store()), Arc::clone(self.sessions()));
        let (user, at) = (user.clone(), self.now());
        let updated = self
            .change(Forget::All, async move {
                // In this order: whoever is not active opens no login after the others are ended.
                let updated = users.update_user(&user, update).await?;
                sessions.end_sessions_of(&user, at).await?;
                Ok(updated)
            })
            .await?;
        updated.ok_or_else(|| LoginError::new(LoginErrorKind::UnknownUser))
    }

    /// Deletes a user and every login of the user.
    ///
    /// # Errors
    /// `UnknownUser`, `Store`.
    pub async fn delete_user(&self, user: &UserId) -> Result<(), LoginError> {
        let (users, user) = (Arc::clone(self.users_store()), user.clone());
        let deleted = self
            .change(Forget::All, async move { users.delete_user(&user).await })
            .await?;
        if deleted {
            Ok(())
        } else {
            Err(LoginError::new(LoginErrorKind::UnknownUser))
        }
    }

    /// Changes a user, and returns it.
    ///
    /// # Errors
    /// `UnknownUser`, `Store`.
    pub async fn update(
        &self,
        user: &UserId,
        update: UserUpdate,
    ) -> Result<UserRecord, LoginError> {
        let (users, user) = (Arc::clone(self.users_store()), user.clone());
        self.change(Forget::All, async move {
            users.update_user(&user, update).await
        })
        .await?
        .ok_or_else(|| LoginError::new(LoginErrorKind::UnknownUser))
    }
}
