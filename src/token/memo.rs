//! Remembers the verified tokens that were seen of late.
//!
//! Nobody floods it: only tokens with a good signature come in.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::VerifiedToken;
use crate::recent::{Digested, Recent};

/// The SHA-256 of a whole token. All of it is compared; a table needs no more than a part of it to find its place, for every part
/// is as random as the whole.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
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

/// A token is forgotten when others need its place; whoever finds it looks at the time that it tells.
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
