//! Caches recently verified tokens.
//!
//! It can't be flooded: only tokens with a good signature are added.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::VerifiedToken;
use crate::recent::{Digested, Recent};

/// The SHA-256 of a whole token. Equality compares all of it; the hash table uses only a part,
/// since every part is as random as the whole.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(super) fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl TokenDigest {
    /// The digest of a text that is judged by what it is beside. The salt holds no NUL, and so no
    /// other salt and text have the same.
    pub(super) fn salted(salt: &str, token: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(salt).chain_update([0]);
        Self(digest.chain_update(token).finalize().into())
    }
}

impl Hash for TokenDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let place = self.0.first_chunk().copied().unwrap_or_default();
        state.write_u64(u64::from_le_bytes(place));
    }
}

impl Digested for TokenDigest {
    fn first_byte(&self) -> u8 {
        self.0.first_byte()
    }
}

/// Tokens are dropped only to make room; the reader checks their expiry.
const AGELESS: Duration = Duration::ZERO;

pub(super) struct Memo<V = VerifiedToken>(Recent<TokenDigest, Arc<V>>);

impl<V> Memo<V> {
    /// Holds at most `capacity` tokens, but at least two.
    pub(super) fn new(capacity: usize) -> Self {
        Self(Recent::new(capacity))
    }

    pub(super) fn recall(&self, digest: &TokenDigest) -> Option<Arc<V>> {
        self.0.get(digest, AGELESS)
    }

    pub(super) fn remember(&self, digest: TokenDigest, token: Arc<V>) {
        self.0.insert(digest, token, AGELESS);
    }

    pub(super) fn forget(&self, digest: &TokenDigest) {
        self.0.remove(digest);
    }
}
