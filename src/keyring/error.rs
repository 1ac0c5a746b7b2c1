//! Why keys are not created or changed.

use std::borrow::Cow;

use crate::{
    domain::{
        KeyId,
        denial::{Denial, DenialKind},
        key::GenerateKeyError,
    },
    store::{StoreError, StoreErrorKind},
};

/// Why a key was not created or changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// The owner has no such key. Also returned for another owner's key.
    #[error("no such key")]
    NotFound,
    /// The key is revoked or expired already.
    #[error("the key is no longer active")]
    NotActive,
    /// The key was rotated before; a key can be replaced only once.
    #[error("the key was rotated before, into {by}")]
    Superseded {
        /// The key that replaced it.
        by: KeyId,
    },
    /// The key was changed between the check of the rights and the change itself. A retry checks
    /// them again.
    #[error("the key was changed meanwhile")]
    Changed,
    /// The owner already has this many active keys or, for a rotation, as many as are kept in
    /// total.
    #[error("the owner has {max} good keys already")]
    TooMany {
        /// The limit ([`Keyring::keys_per_owner_max`](super::Keyring::keys_per_owner_max)).
        max: u32,
    },
    /// The maker of the key lacks a role, a resource or another right that it requested, or that
    /// the key has.
    #[error("a key can't have more rights than its maker: {right}")]
    Escalation {
        /// Which one: for operators; its names are the client's, with what isn't printable escaped.
        right: Cow<'static, str>,
    },
    /// A setting is invalid: which, and why.
    #[error("{0}")]
    Invalid(&'static str),
    /// No key could be generated.
    #[error(transparent)]
    Generate(#[from] GenerateKeyError),
    /// The store failed.
    #[error("the key store failed: {0}")]
    Store(#[from] StoreError),
}

impl From<KeyringError> for Denial {
    fn from(error: KeyringError) -> Self {
        match error {
            KeyringError::NotFound => {
                Self::new(DenialKind::NotFound).with_message("There is no such key")
            }
            KeyringError::NotActive => {
                Self::new(DenialKind::Conflict).with_message("The key is no longer active")
            }
            KeyringError::Superseded { by } => Self::new(DenialKind::Conflict).with_message(
                format!("The key was rotated before, into {by}: rotate that one"),
            ),
            KeyringError::Changed => Self::new(DenialKind::Conflict)
                .with_message("The key was changed meanwhile: try again"),
            KeyringError::TooMany { max } => Self::new(DenialKind::Conflict)
                .with_message(format!("There are {max} good keys already: end some first")),
            KeyringError::Escalation { ref right } => Self::new(DenialKind::NotPermitted)
                .with_message("A key can't have more rights than its maker")
                .because(format!(
                    "the maker lacks what the key has or was to get: {right}"
                )),
            KeyringError::Invalid(why) => Self::new(DenialKind::Unprocessable).with_message(why),
            KeyringError::Generate(GenerateKeyError::UnknownEnvironment) => {
                Self::new(DenialKind::Unprocessable)
                    .with_message("environment: there is no such one")
            }
            KeyringError::Generate(error) => {
                Self::new(DenialKind::Unavailable).because(error.to_string())
            }
            KeyringError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Denial {
    fn from(error: StoreError) -> Self {
        let kind = match error.kind() {
            StoreErrorKind::Unavailable | StoreErrorKind::Busy | StoreErrorKind::Internal => {
                DenialKind::Unavailable
            }
            StoreErrorKind::Conflict | StoreErrorKind::Full => DenialKind::Conflict,
            StoreErrorKind::NotFound => DenialKind::NotFound,
            StoreErrorKind::Refused => DenialKind::Unprocessable,
        };
        Self::new(kind).because(error.to_string())
    }
}
