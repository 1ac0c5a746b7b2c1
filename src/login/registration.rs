//! Registration of users.

use super::{
    LoginError, LoginErrorKind, Logins, NewUser,
    logins::{internal, new_session, random_name},
    user::{check_email, check_password},
};
use crate::{
    domain::{
        UserId,
        audit::{Act, AuditAction},
        user::{UserRecord, normal_email},
    },
    store::StoreErrorKind,
    token::IssueError,
    trail,
};

impl Logins {
    /// Creates a user. The address is stored trimmed and in lower case.
    ///
    /// # Errors
    /// `InvalidEmail`, `WeakPassword`, `InvalidName`, `TooManyRoles`, `TooManyAttributes`,
    /// `UnstorableText`, `EmailTaken`; `Busy`, `Store`, `Internal`.
    pub async fn register(&self, user: NewUser) -> Result<UserRecord, LoginError> {
        check_email(&user.email)?;
        check_password(user.password(), self.0.password_length_min)?;
        if let Some(attribute) = user.misnamed {
            return Err(LoginError::new(LoginErrorKind::InvalidName(attribute)));
        }
        let id = UserId::new(&random_name(&self.0.user_id_prefix)?)
            .map_err(|_| internal("a user id"))?;
        self.check_roles(&id, &user.roles)?;
        let hash = self.0.passwords.hash(user.password()).await?;
        let mut record = UserRecord::new(id, &user.email, hash, self.now());
        record.roles = user.roles;
        record.attributes = user.attributes;
        if !record.is_storable() {
            return Err(LoginError::new(LoginErrorKind::UnstorableText));
        }
        if !record.attributes_fit() {
            return Err(LoginError::new(LoginErrorKind::TooManyAttributes));
        }
        let stored = self.await_store(self.0.users.insert_user(record.clone()));
        match stored.await {
            Ok(()) => {
                trail::record(Act::new(AuditAction::USER_CREATE).on(record.id.as_str()));
                Ok(record)
            }
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                Err(LoginError::new(LoginErrorKind::EmailTaken))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the user with this address, creating it if there is none: for a first administrator.
    /// An existing user is left as is, including password and roles.
    ///
    /// # Errors
    /// As [`register`](Self::register), except `EmailTaken`.
    pub async fn ensure_user(&self, user: NewUser) -> Result<UserRecord, LoginError> {
        check_email(&user.email)?;
        let email = normal_email(&user.email);
        if let Some(found) = self.user_by_email(&email).await? {
            return Ok(found);
        }
        match self.register(user).await {
            // Another process was faster.
            Err(error) if matches!(error.kind(), LoginErrorKind::EmailTaken) => self
                .user_by_email(&email)
                .await?
                .ok_or_else(|| LoginError::new(LoginErrorKind::UnknownUser)),
            outcome => outcome,
        }
    }

    /// Checks that a token can hold these roles, so that a user with too many doesn't find out only
    /// at the next login.
    pub(super) fn check_roles(&self, user: &UserId, roles: &[String]) -> Result<(), LoginError> {
        let roles = roles.iter().map(String::as_str);
        match self.0.issuer.check_roles(user, &new_session()?, roles) {
            Err(IssueError::TooLong) => Err(LoginError::new(LoginErrorKind::TooManyRoles)),
            outcome => Ok(outcome?),
        }
    }
}
