//! What becomes of changes to keys that can't be.

use crate::{
    domain::{
        denial::{Denial, DenialKind},
        key::GenerateKeyError,
    },
    store::{StoreError, StoreErrorKind},
};

/// What a key was not made or changed for.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// The owner has no such key. The same for one that never was and one of somebody else.
    #[error("no such key")]
    NotFound,
    /// The key is revoked or expired already.
    #[error("the key is no longer active")]
    NotActive,
    /// A role that the maker of the key doesn't have.
    #[error("a key can't have more rights than its maker")]
    Escalation,
    /// A setting can't be: which, and why.
    #[error("{0}")]
    Invalid(&'static str),
    /// No key could be made.
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
            KeyringError::Escalation => Self::new(DenialKind::NotPermitted)
                .with_message("roles: a key can't have more rights than its maker"),
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
            StoreErrorKind::Conflict => DenialKind::Conflict,
            StoreErrorKind::NotFound => DenialKind::NotFound,
            StoreErrorKind::Refused => DenialKind::Unprocessable,
        };
        Self::new(kind).because(error.to_string())
    }
}
