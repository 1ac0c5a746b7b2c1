//! A value that can only be reached through exclusive access.

use std::sync::{Mutex, PoisonError};

use http::HeaderMap;

use super::{BodyEnd, Meter};
use crate::store::StoreFuture;

/// Offers no shared access, and so is `Sync` for any `T: Send`: this keeps a body `Sync` around a
/// future that isn't. The mutex is never locked.
pub(super) struct Exclusive<T>(Mutex<T>);

impl<T> Exclusive<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(super) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Meter> Meter for Exclusive<M> {
    fn data(&mut self, piece: &[u8]) {
        self.get_mut().data(piece);
    }

    fn unseen(&mut self, bytes: usize) {
        self.get_mut().unseen(bytes);
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        self.get_mut().trailers(trailers);
    }

    fn end(self, how: BodyEnd) -> Option<StoreFuture<()>> {
        self.into_inner().end(how)
    }
}
