//! This process, as the database knows it.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::{domain::usage::HoldId, store::StoreError};

/// An open store. It is replaced by another one when it finds that it was taken for dead.
#[derive(Debug)]
pub(super) struct Instance {
    id: u64,
    holds: AtomicU64,
    open: Mutex<Open>,
}

/// Holds that are open, as committed.
#[derive(Debug, Default)]
struct Open {
    holds: usize,
    /// It was taken for dead: its holds are not ours any more.
    lost: bool,
}

impl Instance {
    pub(super) fn new() -> Result<Self, StoreError> {
        let id = getrandom::u64().map_err(|_| StoreError::internal("no random numbers"))?;
        Ok(Self {
            id,
            holds: AtomicU64::new(0),
            open: Mutex::default(),
        })
    }

    /// As it is stored.
    pub(super) fn id(&self) -> i64 {
        self.id.cast_signed()
    }

    pub(super) fn granted(&self, hold: HoldId) -> bool {
        hold.instance == self.id
    }

    pub(super) fn next_hold(&self) -> HoldId {
        let earlier = self.holds.fetch_add(1, Ordering::Relaxed);
        HoldId {
            instance: self.id,
            number: earlier.saturating_add(1),
        }
    }

    /// Notes holds that were opened; returns how many of them are lost already.
    pub(super) fn opened(&self, holds: usize) -> usize {
        let mut open = self.open();
        if open.lost {
            return holds;
        }
        open.holds = open.holds.saturating_add(holds);
        0
    }

    /// Notes holds that ended; returns how many places that frees.
    pub(super) fn ended(&self, holds: usize) -> usize {
        let mut open = self.open();
        let ended = holds.min(open.holds);
        open.holds = open.holds.saturating_sub(ended);
        ended
    }

    /// It was taken for dead; returns how many holds were open.
    pub(super) fn lose(&self) -> usize {
        let mut open = self.open();
        open.lost = true;
        std::mem::take(&mut open.holds)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_left_once() {
        let instance = Instance::new().unwrap();
        let (first, second) = (instance.next_hold(), instance.next_hold());
        assert_ne!(first, second);
        assert!(instance.granted(first) && !Instance::new().unwrap().granted(first));
        assert_eq!(instance.opened(3), 0);
        assert_eq!(instance.ended(1), 1);
        assert_eq!(instance.lose(), 2);
        assert_eq!(instance.ended(2), 0, "they were left with all others");
        assert_eq!(instance.opened(2), 2, "lost from the beginning");
        assert_eq!(instance.lose(), 0);
    }
}
