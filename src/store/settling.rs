//! Which holds of this process are being settled.
//!
//! A settlement is on its way until it is written, and it may have to wait for its store for longer than its hold was to live.
//! Such a hold is not overdue: it has been heard of. Who clears up leaves it alone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashSet;

use crate::domain::usage::HoldId;

/// The holds whose settlement is on its way. A clone is a reference count.
#[derive(Clone, Debug, Default)]
pub(super) struct Settling(Arc<Mutex<HashSet<HoldId>>>);

/// That a settlement is on its way, for as long as this lives: it travels with it.
#[derive(Debug)]
pub(super) struct OnItsWay {
    hold: HoldId,
    settling: Settling,
}

impl Settling {
    fn holds(&self) -> MutexGuard<'_, HashSet<HoldId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A settlement of that hold sets out.
    pub(super) fn begin(&self, hold: HoldId) -> OnItsWay {
        self.holds().insert(hold);
        OnItsWay {
            hold,
            settling: self.clone(),
        }
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn contains(&self, hold: HoldId) -> bool {
        self.holds().contains(&hold)
    }

    /// Whether a hold of an instance is being settled.
    #[cfg(feature = "postgres")]
    pub(super) fn is_any_of(&self, instance: u64) -> bool {
        self.holds().iter().any(|hold| hold.instance == instance)
    }

    /// The numbers of an instance's holds that are being settled.
    #[cfg(feature = "postgres")]
    pub(super) fn numbers_of(&self, instance: u64) -> Vec<u64> {
        let holds = self.holds();
        let own = holds.iter().filter(|hold| hold.instance == instance);
        own.map(|hold| hold.number).collect()
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.settling.holds().remove(&self.hold);
    }
}
