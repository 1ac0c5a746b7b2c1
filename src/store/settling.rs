//! Which holds of this process are being settled or extended.
//!
//! A settlement is in progress until it is written, and it may have to wait for the store longer
//! than its hold's lifetime. Such a hold has not expired: its call has ended properly. The same
//! goes for a hold that is being extended. Cleanup leaves both alone.

use std::sync::{Arc, Mutex, MutexGuard};

use hashbrown::{HashMap, hash_map::Entry};

use crate::{domain::usage::HoldId, sync::lock};

/// The holds with operations in progress, and how many. A clone is a reference count.
#[derive(Clone, Debug, Default)]
pub(super) struct Settling(Arc<Mutex<HashMap<HoldId, usize>>>);

/// Marks a settlement or an extension as in progress for as long as this lives; it travels with the
/// command.
#[derive(Debug)]
pub(super) struct OnItsWay {
    hold: HoldId,
    settling: Settling,
}

impl Settling {
    fn holds(&self) -> MutexGuard<'_, HashMap<HoldId, usize>> {
        lock(&self.0)
    }

    /// Marks the start of a settlement or an extension of that hold.
    pub(super) fn begin(&self, hold: HoldId) -> OnItsWay {
        let mut holds = self.holds();
        let count = holds.entry(hold).or_default();
        *count = count.saturating_add(1);
        drop(holds);
        OnItsWay {
            hold,
            settling: self.clone(),
        }
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn contains(&self, hold: HoldId) -> bool {
        self.holds().contains_key(&hold)
    }

    /// Whether any hold of an instance is being settled.
    #[cfg(feature = "postgres")]
    pub(super) fn is_any_of(&self, instance: u64) -> bool {
        self.holds().keys().any(|hold| hold.instance == instance)
    }

    /// The numbers of an instance's holds that are being settled.
    #[cfg(feature = "postgres")]
    pub(super) fn numbers_of(&self, instance: u64) -> Vec<u64> {
        let holds = self.holds();
        let own = holds.keys().filter(|hold| hold.instance == instance);
        own.map(|hold| hold.number).collect()
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.settling.holds().entry(self.hold) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_let_be_until_nothing_of_it_is_on_its_way() {
        let settling = Settling::default();
        let id = |number| HoldId {
            instance: 7,
            number,
        };
        let extended = settling.begin(id(1));
        let settled = settling.clone().begin(id(1));
        let other = settling.begin(id(2));
        drop(extended);
        assert!(settling.holds().contains_key(&id(1)));
        drop(settled);
        assert!(!settling.holds().contains_key(&id(1)));
        drop(other);
        assert!(settling.holds().is_empty());
    }
}
