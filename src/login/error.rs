//! Why nobody was logged in, registered or changed.

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

/// Why a login, a registration or a change of a user came to nothing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LoginErrorKind {
    /// Unknown address, wrong password, inactive user, or a password that was changed meanwhile: told apart nowhere. 401.
    InvalidCredentials,
    /// The address is somebody's already. 409.
    EmailTaken,
    /// That is no address. 422.
    InvalidEmail,
    /// The password is too short or too long; the text says which, for the client. 422.
    WeakPassword(&'static str),
    /// More than 64 roles, or longer ones than a token holds: nobody could log in with them. 422.
    TooManyRoles,
    /// The user would have more attributes than 128, or than 32,768 bytes of them. 422.
    TooManyAttributes,
    /// A role or an attribute has a NUL character in it. 422.
    UnstorableText,
    /// There is no such user. 404.
    UnknownUser,
    /// The refresh token's time is over, or its login's. 401.
    RefreshExpired {
        /// Since when.
        at: Timestamp,
    },
    /// That is no refresh token, or its login was ended; the text says which, for the operator. 401.
    RefreshInvalid(&'static str),
    /// The refresh token was exchanged before. Its login was ended for it. 401.
    RefreshReused,
    /// Too many passwords are being hashed already. 503.
    Busy,
    /// The store failed: 503. Or it can't keep what it was given ([`StoreErrorKind::Refused`]): 422.
    Store(StoreError),
    /// No password could be hashed, or no token issued. 500.
    Internal(&'static str),
}

/// A login, a registration or a change came to nothing. The text is for operators; no password, address or token is in it.
#[derive(Clone, Debug)]
pub struct LoginError(LoginErrorKind);

impl LoginError {
    pub(super) const fn new(kind: LoginErrorKind) -> Self {
        Self(kind)
    }

    /// Why.
    #[must_use]
    pub const fn kind(&self) -> &LoginErrorKind {
        &self.0
    }

    pub(super) fn is_full(&self) -> bool {
        matches!(&self.0, LoginErrorKind::Store(error) if error.kind() == StoreErrorKind::Full)
    }
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            LoginErrorKind::InvalidCredentials => f.write_str("invalid credentials"),
            LoginErrorKind::EmailTaken => f.write_str("the address is taken"),
            LoginErrorKind::InvalidEmail => f.write_str("the address is not one"),
            LoginErrorKind::TooManyRoles => f.write_str("more roles than a token holds"),
            LoginErrorKind::TooManyAttributes => f.write_str("the user has too many attributes"),
            LoginErrorKind::UnstorableText => f.write_str("a text of the user has a NUL in it"),
            LoginErrorKind::UnknownUser => f.write_str("there is no such user"),
            LoginErrorKind::RefreshExpired { .. } => f.write_str("the refresh token has expired"),
            LoginErrorKind::RefreshInvalid(text) => write!(f, "no good refresh token: {text}"),
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
            IssueError::NoRandomness => "the system gave no randomness",
            IssueError::TooLong => "the user has more roles than a token holds",
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

/// So that a handler may return it: `Err(error)?`.
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
            LoginErrorKind::WeakPassword(text) => {
                Self::new(DenialKind::Unprocessable).with_message(text)
            }
            LoginErrorKind::TooManyRoles => Self::new(DenialKind::Unprocessable)
                .with_message("These are more roles than a user can have."),
            LoginErrorKind::TooManyAttributes => Self::new(DenialKind::Unprocessable)
                .with_message("This is more than is kept of a user."),
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
    /// The waiting line is full.
    #[error("too many passwords are being hashed")]
    Busy,
    /// Empty, or longer than 1,024 bytes.
    #[error("a password has 1 to 1,024 bytes")]
    Length,
    /// No randomness, no memory, or the runtime is shutting down.
    #[error("the password could not be hashed")]
    Failed,
}

/// [`Passwords`](super::Passwords) or [`Logins`](super::Logins) can't be made so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoginConfigError {
    /// Argon2 takes no such parameters, or they are beyond 1 GiB, 64 passes or 64 lanes.
    #[error("memory_kib, iterations, parallelism: not parameters of Argon2id that we hash with")]
    Parameters,
    /// Nothing could ever be hashed.
    #[error("concurrency: at least 1")]
    Concurrency,
    /// No password could meet it, or every one would.
    #[error("password_length_min: 1 to 1,024")]
    PasswordLength,
    /// Nobody could log in.
    #[error("logins_per_user_max: at least 1")]
    LoginsPerUser,
    /// It stands before every id.
    #[error("user_id_prefix: at most 200 bytes")]
    UserIdPrefix,
    /// A refresh token is good for a while.
    #[error("refresh: a lifetime of 1 second to 3,650 days")]
    RefreshLifetime,
    /// So long a grace would be no rotation.
    #[error("refresh: a grace of at most 60 seconds")]
    RefreshGrace,
    /// The system gave no randomness, or no memory.
    #[error("no password could be hashed")]
    Failed,
}

/// Why a token's login is not good.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SessionErrorKind {
    /// The token belongs to no login, or to one that never was, or to another user's. 401.
    Unknown,
    /// It was ended: by logging out, or by a new password. 401.
    Ended,
    /// Its time is over. 401.
    Expired {
        /// Since when.
        at: Timestamp,
    },
    /// The user may not use it at present. 401.
    Inactive,
    /// The store failed. 503, never 401.
    Store(StoreError),
}

/// A token's login is not good, or nobody can say. The text is for operators.
#[derive(Clone, Debug)]
pub struct SessionError(SessionErrorKind);

impl SessionError {
    pub(super) const fn new(kind: SessionErrorKind) -> Self {
        Self(kind)
    }

    /// Why.
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
