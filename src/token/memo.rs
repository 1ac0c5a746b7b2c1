//! Remembers the verified tokens that were seen of late.
//!
//! Nobody floods it: only tokens with a good signature come in.

use std::{sync::Arc, time::Duration};

use super::VerifiedToken;
use crate::recent::Recent;

/// The SHA-256 of a whole token.
pub(super) type Digest = [u8; 32];

/// A token is forgotten when others need its place; whoever finds it looks at the time that it tells.
const AGELESS: Duration = Duration::ZERO;

pub(super) struct Memo<V = VerifiedToken>(Recent<Digest, Arc<V>>);

impl<V> Memo<V> {
    /// Holds at most `capacity` tokens, but at least two.
    pub(super) fn new(capacity: usize) -> Self {
        Self(Recent::new(capacity))
    }

    pub(super) fn recall(&self, digest: &Digest) -> Option<Arc<V>> {
        self.0.get(digest, AGELESS)
    }

    pub(super) fn remember(&self, digest: Digest, token: Arc<V>) {
        self.0.insert(digest, token, AGELESS);
    }

    pub(super) fn forget(&self, digest: &Digest) {
        self.0.remove(digest);
    }
}
