//! Why a key is not taken.

use std::sync::Arc;

use super::ResolvedKey;
use crate::{
    domain::{
        KeyId,
        clock::Timestamp,
        credential::CredentialKind,
        denial::{Denial, DenialKind},
    },
    store::StoreError,
};

/// Why a key is refused. The text is for operators: it names the key, which the client isn't told.
/// Clients see the [`Denial`] that it becomes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRefusal {
    /// It doesn't have the form of a key; refused without a look-up.
    #[error("malformed key")]
    Malformed,
    /// There is no such key.
    #[error("unknown key")]
    Unknown,
    /// It was revoked.
    #[error("{} is revoked", name(.key))]
    Revoked {
        /// The key.
        key: Arc<ResolvedKey>,
    },
    /// It is disabled. Clients aren't told that it may be enabled again.
    #[error("{} is disabled", name(.key))]
    Disabled {
        /// The key.
        key: Arc<ResolvedKey>,
    },
    /// It expired.
    #[error("{} has expired", name(.key))]
    Expired {
        /// When.
        at: Timestamp,
        /// The key.
        key: Arc<ResolvedKey>,
    },
    /// It is valid only from its [networks](ResolvedKey::networks), and the client's address is
    /// outside of them or unknown.
    #[error("{} is used from outside its networks", name(.key))]
    Elsewhere {
        /// The key.
        key: Arc<ResolvedKey>,
    },
    /// The store failed. This says nothing about the key.
    #[error("the key store failed: {0}")]
    Store(#[from] StoreError),
}

fn name(key: &ResolvedKey) -> &str {
    key.id().map_or("a key", KeyId::as_str)
}

impl KeyRefusal {
    /// The key if known: operators and the audit log see whose it is.
    fn key(&self) -> Option<&Arc<ResolvedKey>> {
        match self {
            Self::Malformed | Self::Unknown | Self::Store(_) => None,
            Self::Revoked { key }
            | Self::Disabled { key }
            | Self::Expired { key, .. }
            | Self::Elsewhere { key } => Some(key),
        }
    }
}

/// 401; 403 for a key used from outside its networks; 503 if the store failed.
impl From<KeyRefusal> for Denial {
    fn from(refusal: KeyRefusal) -> Self {
        let kind = match refusal {
            KeyRefusal::Malformed
            | KeyRefusal::Unknown
            | KeyRefusal::Revoked { .. }
            | KeyRefusal::Disabled { .. } => DenialKind::CredentialInvalid,
            KeyRefusal::Expired { .. } => DenialKind::CredentialExpired,
            KeyRefusal::Elsewhere { .. } => DenialKind::AddressRefused,
            KeyRefusal::Store(_) => DenialKind::Unavailable,
        };
        let mut denial = Self::new(kind)
            .of_credential(CredentialKind::ApiKey)
            .because(refusal.to_string());
        if let Some(key) = refusal.key() {
            let principal = key.principal();
            denial = denial.held_by(principal.subject(), principal.key());
        }
        if let KeyRefusal::Expired { at, .. } = refusal {
            denial = denial.expired_at(at);
        }
        denial
    }
}
