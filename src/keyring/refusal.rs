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

/// Why a key is not taken. The text is for operators: it names the key, which a client of a bad one isn't told. What a client reads is
/// the [`Denial`] that it becomes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRefusal {
    /// It has the form of no key: refused without a look-up.
    #[error("malformed key")]
    Malformed,
    /// There is no such key.
    #[error("unknown key")]
    Unknown,
    /// It was revoked.
    #[error("{} is revoked", name(.key))]
    Revoked {
        /// Whose it was.
        key: Arc<ResolvedKey>,
    },
    /// It expired.
    #[error("{} has expired", name(.key))]
    Expired {
        /// When.
        at: Timestamp,
        /// Whose it was.
        key: Arc<ResolvedKey>,
    },
    /// It is good from its [networks](ResolvedKey::networks) alone, and comes from elsewhere, or nobody can say from where.
    #[error("{} is used from outside its networks", name(.key))]
    Elsewhere {
        /// Whose it is.
        key: Arc<ResolvedKey>,
    },
    /// The store can't tell. This is no verdict on the key.
    #[error("the key store failed: {0}")]
    Store(#[from] StoreError),
}

fn name(key: &ResolvedKey) -> &str {
    key.id().map_or("a key", KeyId::as_str)
}

impl KeyRefusal {
    /// The key, where there is one: the operator and the audit log read whose it is.
    fn key(&self) -> Option<&Arc<ResolvedKey>> {
        match self {
            Self::Malformed | Self::Unknown | Self::Store(_) => None,
            Self::Revoked { key } | Self::Expired { key, .. } | Self::Elsewhere { key } => {
                Some(key)
            }
        }
    }
}

/// 401; 403 for one that comes from elsewhere; 503 where the store failed.
impl From<KeyRefusal> for Denial {
    fn from(refusal: KeyRefusal) -> Self {
        let kind = match refusal {
            KeyRefusal::Malformed | KeyRefusal::Unknown | KeyRefusal::Revoked { .. } => {
                DenialKind::CredentialInvalid
            }
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
