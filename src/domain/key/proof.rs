//! The proof stored beside a digest, so that keys of several schemes can live in one store.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::KeyDigest;
use crate::domain::KeyId;

/// The longest proof as text, in bytes.
const LENGTH_MAX: usize = 512;
const SHA256: &str = "sha256";
const HMAC_SHA256: &str = "hmac-sha256:";
const ARGON2ID: &str = "$argon2id$";

/// How a presented key is compared with the stored one. The text form names the scheme, so that
/// keys of several schemes can live side by side.
///
/// ```
/// use tollgate::key::KeyProof;
///
/// assert_eq!(KeyProof::Sha256.to_string(), "sha256");
/// let peppered: KeyProof = "hmac-sha256:2026".parse()?;
/// assert_eq!(peppered, KeyProof::HmacSha256 { pepper: "2026".into() });
/// # Ok::<(), tollgate::key::InvalidProof>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyProof {
    /// The digest is the SHA-256 of the whole key.
    #[default]
    Sha256,
    /// The digest is the HMAC-SHA-256 of the whole key under the named pepper.
    HmacSha256 {
        /// The pepper's name, never the pepper itself.
        pepper: Box<str>,
    },
    /// The digest covers only the key's public start, and this hash covers the whole key: for
    /// secrets chosen by people.
    Argon2id {
        /// A PHC string.
        hash: Box<str>,
    },
}

/// The text does not name a scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`sha256`, `hmac-sha256:NAME` or a PHC string of Argon2id is expected")]
pub struct InvalidProof;

impl FromStr for KeyProof {
    type Err = InvalidProof;

    fn from_str(text: &str) -> Result<Self, InvalidProof> {
        if text.len() > LENGTH_MAX {
            return Err(InvalidProof);
        }
        if text == SHA256 {
            return Ok(Self::Sha256);
        }
        if text.starts_with(ARGON2ID) {
            return Ok(Self::Argon2id { hash: text.into() });
        }
        let pepper = text.strip_prefix(HMAC_SHA256).ok_or(InvalidProof)?;
        if pepper.is_empty() {
            return Err(InvalidProof);
        }
        Ok(Self::HmacSha256 {
            pepper: pepper.into(),
        })
    }
}

/// The stored form.
impl fmt::Display for KeyProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256 => f.write_str(SHA256),
            Self::HmacSha256 { pepper } => write!(f, "{HMAC_SHA256}{pepper}"),
            Self::Argon2id { hash } => f.write_str(hash),
        }
    }
}

/// Without the hash, from which a weak secret could be guessed.
impl fmt::Debug for KeyProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argon2id { .. } => f.write_str("KeyProof($argon2id$..)"),
            other => write!(f, "KeyProof({other})"),
        }
    }
}

impl Serialize for KeyProof {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyProof {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A stored key gets another digest and proof: its scheme is upgraded while its plaintext is at
/// hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehash {
    /// Which key.
    pub id: KeyId,
    /// The digest that it must still have.
    pub from: KeyDigest,
    /// The proof that it must still have. The digest alone is not enough: two chosen secrets may
    /// share their start, and so their digest, one after the other.
    pub from_proof: KeyProof,
    /// The new digest.
    pub digest: KeyDigest,
    /// The new proof.
    pub proof: KeyProof,
}
