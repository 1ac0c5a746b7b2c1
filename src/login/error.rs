//! Errors of logins, registrations and changes.

use std::{fmt, time::Duration};

use crate::{
    domain::{
        clock::Timestamp,
        credential::CredentialKind,
        denial::{Denial, DenialKind},
    },
    store::{StoreError, StoreErrorKind},
    token::IssueError,
};

/// Why a login, a registration or a change of a user failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LoginErrorKind {
    /// Unknown address, wrong password, inactive user, or a password that was changed meanwhile;
    /// deliberately not distinguished. 401.
    InvalidCredentials,
    /// The address is already registered. 409.
    EmailTaken,
    /// Not a valid address. 422.
    InvalidEmail,
    /// The attribute is not a [name](super::NewUser::name). 422.
    InvalidName(Box<str>),
    /// The password is too short or too long; the text says which, for the client. 422.
    WeakPassword(&'static str),
    /// More than 64 roles, or longer ones than fit into a token: the user could not log in. 422.
    TooManyRoles,
    /// The user would have more than 128 attributes, or more than 32,768 bytes of them. 422.
    TooManyAttributes,
    /// The user is not as the change [requires](crate::user::UserUpdate::only_if). 409.
    ConditionUnmet,
    /// A role or an attribute contains a NUL character. 422.
    UnstorableText,
    /// There is no such user. 404.
    UnknownUser,
    /// The refresh token or its login has expired. 401.
    RefreshExpired {
        /// When it expired.
        at: Timestamp,
    },
    /// Not a refresh token, or its login was ended; the text says which, for the operator. 401.
    RefreshInvalid(&'static str),
    /// The refresh token was exchanged before. Its login was ended because of that. 401.
    RefreshReused,
    /// Too many passwords are being hashed already. 503.
    Busy,
    /// The store failed: 503. Or it can't store what it was given ([`StoreErrorKind::Refused`]):
    /// 422.
    Store(StoreError),
    /// No password could be hashed, or no token issued. 500.
    Internal(&'static str),
}

/// A login, a registration or a change failed. The text is for operators; it contains no password,
/// address or token.
#[derive(Clone, Debug)]
pub struct LoginError(LoginErrorKind);

impl LoginError {
    pub(super) const fn new(kind: LoginErrorKind) -> Self {
        Self(kind)
    }

    /// The reason.
    #[must_use]
    pub const fn kind(&self) -> &LoginErrorKind {
        &self.0
    }

    /// Whether the store failed like this.
    pub(super) fn is_of(&self, failure: StoreErrorKind) -> bool {
        matches!(&self.0, LoginErrorKind::Store(error) if error.kind() == failure)
    }
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            LoginErrorKind::InvalidCredentials => f.write_str("invalid credentials"),
            LoginErrorKind::EmailTaken => f.write_str("the address is taken"),
            LoginErrorKind::InvalidEmail => f.write_str("not an email address"),
            LoginErrorKind::InvalidName(attribute) => write!(f, "{attribute}: not a name"),
            LoginErrorKind::TooManyRoles => f.write_str("more roles than fit into a token"),
            LoginErrorKind::TooManyAttributes => f.write_str("the user has too many attributes"),
            LoginErrorKind::ConditionUnmet => f.write_str("the user is not as the change requires"),
            LoginErrorKind::UnstorableText => f.write_str("a text of the user contains a NUL"),
            LoginErrorKind::UnknownUser => f.write_str("there is no such user"),
            LoginErrorKind::RefreshExpired { .. } => f.write_str("the refresh token has expired"),
            LoginErrorKind::RefreshInvalid(text) => write!(f, "invalid refresh token: {text}"),
            LoginErrorKind::RefreshReused => f.write_str("the refresh token was exchanged before"),
            LoginErrorKind::Busy => f.write_str("too many passwords are being hashed"),
            LoginErrorKind::WeakPassword(text) | LoginErrorKind::Internal(text) => {
                f.write_str(text)
            }
            LoginErrorKind::Store(error) => write!(f, "the store failed: {error}"),
        }
    }
}

impl std::error::Error for LoginError {}

impl From<StoreError> for LoginError {
    fn from(error: StoreError) -> Self {
        Self(LoginErrorKind::Store(error))
    }
}

impl From<IssueError> for LoginError {
    fn from(error: IssueError) -> Self {
        Self(LoginErrorKind::Internal(match error {
            IssueError::NoRandomness => "the system provided no randomness",
            IssueError::TooLong => "the user has more roles than fit into a token",
            _ => "no token could be issued",
        }))
    }
}

impl From<PasswordError> for LoginError {
    fn from(error: PasswordError) -> Self {
        Self(match error {
            PasswordError::Busy => LoginErrorKind::Busy,
            PasswordError::Length => {
                LoginErrorKind::WeakPassword("a password has 1 to 1,024 bytes")
            }
            PasswordError::Failed => LoginErrorKind::Internal("no password could be hashed"),
        })
    }
}

/// Lets a handler return it: `Err(error)?`.
impl From<LoginError> for Denial {
    fn from(error: LoginError) -> Self {
        let reason = error.to_string();
        let denial = match error.0 {
            LoginErrorKind::InvalidCredentials => Self::new(DenialKind::LoginFailed),
            LoginErrorKind::EmailTaken => Self::new(DenialKind::Conflict)
                .with_message("This email address is already registered."),
            LoginErrorKind::InvalidEmail => {
                Self::new(DenialKind::Unprocessable).with_message("This is not an email address.")
            }
            LoginErrorKind::InvalidName(attribute) => Self::new(DenialKind::Unprocessable)
                .with_message(format!(
                    "{attribute}: 1 to 200 characters, none of them a control character"
                )),
            LoginErrorKind::WeakPassword(text) => {
                Self::new(DenialKind::Unprocessable).with_message(text)
            }
            LoginErrorKind::TooManyRoles => Self::new(DenialKind::Unprocessable)
                .with_message("These are more roles than a user can have."),
            LoginErrorKind::TooManyAttributes => Self::new(DenialKind::Unprocessable)
                .with_message("This is more than is kept of a user."),
            LoginErrorKind::ConditionUnmet => Self::new(DenialKind::Conflict)
                .with_message("The user is not as this change requires."),
            LoginErrorKind::UnstorableText => Self::new(DenialKind::Unprocessable)
                .with_message("A text may not have a NUL character in it."),
            LoginErrorKind::UnknownUser => Self::new(DenialKind::NotFound),
            LoginErrorKind::RefreshExpired { at } => Self::new(DenialKind::CredentialExpired)
                .of_credential(CredentialKind::Token)
                .expired_at(at),
            LoginErrorKind::RefreshInvalid(_) | LoginErrorKind::RefreshReused => {
                Self::new(DenialKind::CredentialInvalid).of_credential(CredentialKind::Token)
            }
            LoginErrorKind::Busy => {
                Self::new(DenialKind::Unavailable).retry_after(Duration::from_secs(1))
            }
            LoginErrorKind::Store(error) => Self::new(match error.kind() {
                StoreErrorKind::Refused => DenialKind::Unprocessable,
                _ => DenialKind::Unavailable,
            }),
            LoginErrorKind::Internal(_) => Self::new(DenialKind::Internal),
        };
        denial.because(reason)
    }
}

/// Why a password could not be hashed or compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// The queue is full.
    #[error("too many passwords are being hashed")]
    Busy,
    /// Empty, or longer than 1,024 bytes.
    #[error("a password has 1 to 1,024 bytes")]
    Length,
    /// No randomness, no memory, or the runtime is shutting down.
    #[error("the password could not be hashed")]
    Failed,
}

/// A setting of [`Passwords`](super::Passwords) or [`Logins`](super::Logins) is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoginConfigError {
    /// Not valid for Argon2, or beyond 1 GiB, 64 passes or 64 lanes.
    #[error("memory_kib, iterations, parallelism: not valid for Argon2id, or beyond our limits")]
    Parameters,
    /// With zero, nothing could be hashed.
    #[error("concurrency: at least 1")]
    Concurrency,
    /// Zero would admit every password, more than 1,024 none.
    #[error("password_length_min: 1 to 1,024")]
    PasswordLength,
    /// With zero, nobody could log in.
    #[error("logins_per_user_max: at least 1")]
    LoginsPerUser,
    /// The prefix is too long.
    #[error("user_id_prefix: at most 200 bytes")]
    UserIdPrefix,
    /// The lifetime of refresh tokens is out of range.
    #[error("refresh: a lifetime of 1 second to 3,650 days")]
    RefreshLifetime,
    /// A longer grace period would defeat rotation.
    #[error("refresh: a grace of at most 60 seconds")]
    RefreshGrace,
    /// The system provided no randomness, or no memory.
    #[error("no password could be hashed")]
    Failed,
}

/// Why a token's login is not valid.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SessionErrorKind {
    /// The token belongs to no login, to an unknown one, or to another user's. 401.
    Unknown,
    /// It was ended, by logging out or by a new password. 401.
    Ended,
    /// It has expired. 401.
    Expired {
        /// When it expired.
        at: Timestamp,
    },
    /// The user is currently inactive. 401.
    Inactive,
    /// The store failed. 503, never 401.
    Store(StoreError),
}

/// A token's login is not valid, or could not be checked. The text is for operators.
#[derive(Clone, Debug)]
pub struct SessionError(SessionErrorKind);

impl SessionError {
    pub(super) const fn new(kind: SessionErrorKind) -> Self {
        Self(kind)
    }

    /// The reason.
    #[must_use]
    pub const fn kind(&self) -> &SessionErrorKind {
        &self.0
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            SessionErrorKind::Unknown => f.write_str("there is no such login"),
            SessionErrorKind::Ended => f.write_str("the login was ended"),
            SessionErrorKind::Expired { .. } => f.write_str("the login has expired"),
            SessionErrorKind::Inactive => f.write_str("the user is not active"),
            SessionErrorKind::Store(error) => write!(f, "the store failed: {error}"),
        }
    }
}

impl std::error::Error for SessionError {}

impl From<SessionError> for Denial {
    fn from(error: SessionError) -> Self {
        let denial = match &error.0 {
            SessionErrorKind::Expired { at } => {
                Self::new(DenialKind::CredentialExpired).expired_at(*at)
            }
            SessionErrorKind::Store(_) => Self::new(DenialKind::Unavailable),
            _ => Self::new(DenialKind::CredentialInvalid),
        };
        denial
            .of_credential(CredentialKind::Token)
            .because(error.to_string())
    }
}
