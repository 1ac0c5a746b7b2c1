//! What the crate's lock-free protocols are made of. `tests/models` compiles their files with loom's in its place, and
//! looks at every interleaving.

pub(crate) use std::sync::atomic;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use std::sync::{Mutex, MutexGuard};
