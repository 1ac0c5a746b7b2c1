//! The trait of every store that counts what is under way.

use std::{any::Any, fmt, sync::Arc};

use super::{RateKey, StoreFuture};

/// Counts requests under way by key, for many processes. `tollgate::conformance::slots` (feature
/// `test-util`) has its laws as tests.
pub trait ConcurrencyStore: fmt::Debug + Send + Sync + 'static {
    /// One of `key`'s `most` slots; `None` if all are taken. The slot is taken until it is dropped.
    /// A caller may give up, and drop the future: whatever was taken then is free again.
    fn acquire(&self, key: &RateKey, most: u32) -> StoreFuture<Option<Slot>>;
}

impl<T: ConcurrencyStore + ?Sized> ConcurrencyStore for Arc<T> {
    fn acquire(&self, key: &RateKey, most: u32) -> StoreFuture<Option<Slot>> {
        T::acquire(self, key, most)
    }
}

/// A slot that was taken. It is free again once this is dropped.
#[must_use = "it is free again at once"]
pub struct Slot {
    _taken: Box<dyn Any + Send>,
}

impl Slot {
    /// A slot that is free again once `taken` is dropped.
    pub fn new(taken: impl Send + 'static) -> Self {
        Self {
            _taken: Box::new(taken),
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}
