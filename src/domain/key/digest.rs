//! Digests, which are stored instead of keys.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use sha2::{Digest, Sha256};

/// The SHA-256 of a whole key, by which stores and caches know it.
///
/// A fast hash is enough for keys with at least 128 random bits (OWASP ASVS 5.0, 6.5.2): there is
/// nothing to guess. Secrets that people choose go through Argon2id instead.
///
/// ```
/// use tollgate::key::KeyDigest;
///
/// let stored = KeyDigest::of("ps_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6");
/// assert_eq!(stored.as_bytes().len(), 32);
/// assert_ne!(stored, KeyDigest::of("ps_live_"), "never of a prefix");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of a plaintext key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// A digest as it was stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Half of it, since every part of a digest is as random as the whole, and two numbers, for which
/// hash functions have a shorter way than for a slice.
impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ([first, second, ..], []) = self.0.as_chunks() else {
            return;
        };
        state.write_u64(u64::from_le_bytes(*first));
        state.write_u64(u64::from_le_bytes(*second));
    }
}

/// The first four bytes: enough to tell digests apart in a log, too few to look one up.
impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "KeyDigest({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}
