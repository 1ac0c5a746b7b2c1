//! What the crate's lock-free protocols are made of, and how its locks are taken. `tests/models`
//! compiles the files of the protocols with loom's types in their place, and looks at every
//! interleaving.

pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Takes a lock, also after a panic. No lock is held where a caller's code could panic, so the data
/// behind a poisoned one is sound.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a lock to read, as [`lock`] does.
pub(crate) fn read<T>(of: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    of.read().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a lock to write, as [`lock`] does.
pub(crate) fn write<T>(of: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    of.write().unwrap_or_else(PoisonError::into_inner)
}
