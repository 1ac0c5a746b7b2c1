//! This process as the database knows it, and its open holds.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use hashbrown::HashMap;

use crate::{
    domain::{AccountId, usage::HoldId},
    store::{StoreError, gauge::Permit},
    sync::lock,
};

/// An open store. It is replaced by a new one when it was declared dead.
#[derive(Debug)]
pub(super) struct Instance {
    id: u64,
    holds: AtomicU64,
    open: Mutex<Open>,
}

/// Committed open holds by number, with their permits. If a settlement was written but its answer
/// lost, the retry finds no hold in the database, but the hold is still here.
#[derive(Debug, Default)]
struct Open {
    holds: HashMap<u64, OpenHold>,
    of_accounts: HashMap<AccountId, usize>,
    /// It was declared dead: its holds are no longer ours.
    is_lost: bool,
}

#[derive(Debug)]
pub(super) struct OpenHold {
    pub(super) account: AccountId,
    /// Released when this is dropped.
    pub(super) _permit: Option<Permit>,
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

    /// How many holds each account has open, not counting those in `ending`.
    pub(super) fn open_of<'a>(
        &self,
        accounts: impl IntoIterator<Item = &'a AccountId>,
        ending: impl IntoIterator<Item = HoldId>,
    ) -> HashMap<AccountId, usize> {
        let open = self.open();
        let count = |id: &AccountId| Some((id.clone(), *open.of_accounts.get(id)?));
        let mut counts: HashMap<AccountId, usize> =
            accounts.into_iter().filter_map(count).collect();
        let mut seen = hashbrown::HashSet::new();
        for hold in ending {
            if self.granted(hold)
                && seen.insert(hold.number)
                && let Some(ended) = open.holds.get(&hold.number)
                && let Some(count) = counts.get_mut(&ended.account)
            {
                *count = count.saturating_sub(1);
            }
        }
        counts
    }

    /// Records new holds.
    pub(super) fn opened(&self, holds: Vec<(HoldId, OpenHold)>) {
        let mut open = self.open();
        if open.is_lost {
            return;
        }
        for (id, hold) in holds {
            let count = open.of_accounts.entry(hold.account.clone()).or_default();
            *count = count.saturating_add(1);
            open.holds.insert(id.number, hold);
        }
    }

    /// Records holds that have ended.
    pub(super) fn ended(&self, holds: impl IntoIterator<Item = HoldId>) {
        let mut open = self.open();
        for hold in holds {
            if !self.granted(hold) {
                continue;
            }
            let Some(ended) = open.holds.remove(&hold.number) else {
                continue;
            };
            if let Some(count) = open.of_accounts.get_mut(&ended.account) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    open.of_accounts.remove(&ended.account);
                }
            }
        }
    }

    /// Called when it was declared dead; returns how many holds were open.
    pub(super) fn lose(&self) -> usize {
        let mut open = self.open();
        open.is_lost = true;
        open.of_accounts.clear();
        std::mem::take(&mut open.holds).len()
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        lock(&self.open)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering};

    use super::*;
    use crate::store::gauge::Gauge;

    #[test]
    fn every_place_is_left_once() {
        let gauge = Arc::new(Gauge::default());
        let instance = Instance::new().unwrap();
        let ann = AccountId::new("ann").unwrap();
        let ids: Vec<HoldId> = (0..3).map(|_| instance.next_hold()).collect();
        assert_ne!(ids[0], ids[1]);
        assert!(instance.granted(ids[0]) && !Instance::new().unwrap().granted(ids[0]));
        let hold = |id: &HoldId| {
            let permit = Permit::take(&gauge, |gauge| &gauge.open_holds, 3);
            let account = ann.clone();
            let _permit = Some(permit.unwrap());
            (*id, OpenHold { account, _permit })
        };
        let taken = || gauge.open_holds.load(Ordering::SeqCst);
        let open = |ending: &[HoldId]| {
            let counts = instance.open_of([&ann], ending.iter().copied());
            counts.get(&ann).copied().unwrap_or_default()
        };
        instance.opened(ids.iter().map(hold).collect());
        assert!(Permit::take(&gauge, |gauge| &gauge.open_holds, 3).is_none());
        assert_eq!((open(&[]), open(&[ids[0], ids[0], ids[2]])), (3, 1));
        // An end may be written twice, or learned of in two ways.
        instance.ended([ids[0], ids[0]]);
        instance.ended([ids[0]]);
        assert_eq!((taken(), open(&[ids[0]])), (2, 2));
        assert_eq!(instance.lose(), 2);
        assert_eq!((taken(), open(&[])), (0, 0));
        instance.ended([ids[1]]);
        instance.opened(vec![hold(&instance.next_hold())]);
        assert_eq!(taken(), 0, "lost from the beginning");
        assert_eq!(instance.lose(), 0);
    }
}
