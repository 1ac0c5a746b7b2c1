//! The open holds of this process, by account, and when each expires. Only this process knows a
//! hold's lifetime; Redis knows which instance owns it.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use hashbrown::HashMap;

use crate::{
    domain::{AccountId, usage::HoldId},
    store::open_holds::OpenHolds,
    sync::lock,
};

/// An account is forgotten after it had no open holds for this long.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct HoldRegistry(Mutex<State>);

#[derive(Debug)]
struct State {
    /// This process's current identity. It is replaced when the process was declared dead.
    instance: u64,
    numbers: u64,
    count: usize,
    accounts: HashMap<AccountId, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Whether other processes know that this one may have open holds here.
    is_entered: bool,
    open: OpenHolds<Stage>,
    used: Duration,
}

/// The state of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Held,
    /// It has expired and is being resolved.
    Overdue,
    /// Its settlement is in progress, for however long that takes: it no longer expires.
    Settling,
}

/// A reservation for a hold that is about to be opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved {
    pub(super) id: HoldId,
    pub(super) is_entered: bool,
}

/// How many holds may be open, or being opened, at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct HoldLimits {
    pub(super) of_all: usize,
    pub(super) of_account: usize,
}

/// Why a hold can't be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    All,
    Account,
}

/// Expired holds.
#[derive(Debug)]
pub(super) struct Overdue {
    pub(super) account: AccountId,
    pub(super) instance: u64,
    pub(super) numbers: Vec<u64>,
}

impl State {
    /// What `instance` has open in an account, if that is this process's current identity.
    fn open_of(&mut self, account: &AccountId, instance: u64) -> Option<&mut OpenHolds<Stage>> {
        let is_own = self.instance == instance;
        let entry = self.accounts.get_mut(account).filter(|_| is_own)?;
        Some(&mut entry.open)
    }
}

impl HoldRegistry {
    pub(super) fn new(instance: u64) -> Self {
        Self(Mutex::new(State {
            instance,
            numbers: 0,
            count: 0,
            accounts: HashMap::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    pub(super) fn instance(&self) -> u64 {
        self.state().instance
    }

    /// An id that is unique within this instance.
    pub(super) fn next_id(&self) -> HoldId {
        let mut state = self.state();
        state.numbers = state.numbers.wrapping_add(1);
        HoldId {
            instance: state.instance,
            number: state.numbers,
        }
    }

    /// Reserves one more hold.
    pub(super) fn reserve(
        &self,
        account: &AccountId,
        most: HoldLimits,
        now: Duration,
    ) -> Result<Reserved, Full> {
        let mut state = self.state();
        if state.count >= most.of_all {
            return Err(Full::All);
        }
        let own = state.accounts.get(account);
        if own.is_some_and(|own| own.open.len() >= most.of_account) {
            return Err(Full::Account);
        }
        state.count = state.count.saturating_add(1);
        state.numbers = state.numbers.wrapping_add(1);
        let (instance, number) = (state.instance, state.numbers);
        let entry = state.accounts.entry(account.clone()).or_default();
        entry.open.insert(number, None, Stage::Held);
        entry.used = now;
        Ok(Reserved {
            id: HoldId { instance, number },
            is_entered: entry.is_entered,
        })
    }

    /// Records that other processes know about the account now.
    pub(super) fn enter(&self, account: &AccountId, instance: u64) {
        let mut state = self.state();
        if state.instance == instance
            && let Some(entry) = state.accounts.get_mut(account)
        {
            entry.is_entered = true;
        }
    }

    /// Sets when a hold expires; `false` if it isn't held here.
    pub(super) fn extend(&self, account: &AccountId, id: HoldId, ends: Option<Duration>) -> bool {
        let mut state = self.state();
        let Some(open) = state.open_of(account, id.instance) else {
            return false;
        };
        let is_held = open.get(id.number) == Some(&Stage::Held);
        is_held && open.set_end(id.number, ends).is_some()
    }

    /// Its settlement has begun.
    pub(super) fn begin_to_settle(&self, account: &AccountId, id: HoldId) {
        let mut state = self.state();
        let open = state.open_of(account, id.instance);
        if let Some(stage) = open.and_then(|open| open.set_end(id.number, None)) {
            *stage = Stage::Settling;
        }
    }

    /// It is no longer open.
    pub(super) fn release(&self, account: &AccountId, id: HoldId) {
        let mut state = self.state();
        let open = state.open_of(account, id.instance);
        if open.is_some_and(|open| open.remove(id.number).is_some()) {
            state.count = state.count.saturating_sub(1);
        }
    }

    /// The expired holds, to be resolved.
    pub(super) fn take_overdue(&self, now: Duration) -> Vec<Overdue> {
        let mut state = self.state();
        let instance = state.instance;
        let mut all = Vec::new();
        for (account, entry) in &mut state.accounts {
            let over = entry.open.take_expired(now);
            let numbers: Vec<u64> = over.into_iter().map(|(number, _)| number).collect();
            for number in &numbers {
                entry.open.insert(*number, None, Stage::Overdue);
            }
            if !numbers.is_empty() {
                all.push(Overdue {
                    account: account.clone(),
                    instance,
                    numbers,
                });
            }
        }
        all
    }

    /// Records that they are resolved.
    pub(super) fn resolved(&self, overdue: &Overdue) {
        let mut state = self.state();
        let mut resolved = 0_usize;
        if let Some(open) = state.open_of(&overdue.account, overdue.instance) {
            for number in &overdue.numbers {
                // A settlement still in progress is told by the server that it is too late.
                if open.get(*number) == Some(&Stage::Overdue) {
                    open.remove(*number);
                    resolved = resolved.saturating_add(1);
                }
            }
        }
        state.count = state.count.saturating_sub(resolved);
    }

    /// Schedules those that are not resolved for another attempt at `now`, except those that are
    /// being settled meanwhile.
    pub(super) fn put_back(&self, overdue: &Overdue, now: Duration) {
        let mut state = self.state();
        let Some(open) = state.open_of(&overdue.account, overdue.instance) else {
            return;
        };
        for number in &overdue.numbers {
            if open.get(*number) == Some(&Stage::Overdue) {
                open.insert(*number, Some(now), Stage::Held);
            }
        }
    }

    /// Removes up to `most` accounts that have had no open holds for a while.
    pub(super) fn take_idle(&self, now: Duration, most: usize) -> Vec<AccountId> {
        let mut state = self.state();
        let is_idle = |_: &AccountId, entry: &mut Entry| {
            entry.open.is_empty() && entry.used.saturating_add(IDLE) <= now
        };
        let idle = state.accounts.extract_if(is_idle).take(most);
        idle.map(|(account, _)| account).collect()
    }

    /// Assumes that other processes may no longer know where this one has open holds. Returns the
    /// accounts where it has some.
    pub(super) fn forget_entered(&self) -> Vec<AccountId> {
        let mut state = self.state();
        let mut holding = Vec::new();
        for (account, entry) in &mut state.accounts {
            entry.is_entered = false;
            if !entry.open.is_empty() {
                holding.push(account.clone());
            }
        }
        holding
    }

    /// Starts over as a new instance, which has no open holds.
    pub(super) fn reset(&self, instance: u64) {
        let mut state = self.state();
        state.instance = instance;
        state.count = 0;
        state.accounts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ann() -> AccountId {
        AccountId::new("ann").unwrap()
    }

    fn most(of_all: usize) -> HoldLimits {
        HoldLimits {
            of_all,
            of_account: 9,
        }
    }

    #[test]
    fn an_account_takes_no_more_than_its_own_places() {
        let registry = HoldRegistry::new(7);
        let most = HoldLimits {
            of_all: 9,
            of_account: 1,
        };
        let first = registry.reserve(&ann(), most, SECOND).unwrap();
        assert_eq!(
            registry.reserve(&ann(), most, SECOND).unwrap_err(),
            Full::Account
        );
        let bob = AccountId::new("bob").unwrap();
        assert!(registry.reserve(&bob, most, SECOND).is_ok());
        registry.release(&ann(), first.id);
        assert!(registry.reserve(&ann(), most, SECOND).is_ok());
    }

    #[test]
    fn places_are_bounded_and_each_is_given_back_once() {
        let registry = HoldRegistry::new(7);
        let first = registry.reserve(&ann(), most(2), SECOND).unwrap();
        let second = registry.reserve(&ann(), most(2), SECOND).unwrap();
        assert!(registry.reserve(&ann(), most(2), SECOND).is_err());
        for _ in 0..3 {
            registry.release(&ann(), first.id);
        }
        assert!(registry.extend(&ann(), second.id, Some(SECOND)));
        assert!(!registry.extend(&ann(), first.id, Some(SECOND)));
        let overdue = registry.take_overdue(SECOND);
        assert_eq!(overdue[0].numbers, [second.id.number]);
        assert!(
            !registry.extend(&ann(), second.id, None),
            "it is being resolved"
        );
        registry.put_back(&overdue[0], SECOND);
        assert!(registry.reserve(&ann(), most(2), SECOND).is_ok());
        assert!(registry.reserve(&ann(), most(2), SECOND).is_err());
        let overdue = registry.take_overdue(SECOND);
        assert_eq!(overdue[0].numbers, [second.id.number]);
        for _ in 0..3 {
            registry.resolved(&overdue[0]);
            registry.release(&ann(), second.id);
        }
        assert!(registry.reserve(&ann(), most(2), SECOND).is_ok());
        assert!(registry.reserve(&ann(), most(2), SECOND).is_err());
    }

    #[test]
    fn what_is_being_settled_is_not_overdue_however_long_that_takes() {
        let registry = HoldRegistry::new(7);
        let first = registry.reserve(&ann(), most(2), SECOND).unwrap();
        let second = registry.reserve(&ann(), most(2), SECOND).unwrap();
        for id in [first.id, second.id] {
            assert!(registry.extend(&ann(), id, Some(SECOND * 2)));
        }
        registry.begin_to_settle(&ann(), first.id);
        assert!(!registry.extend(&ann(), first.id, Some(SECOND * 2)));
        let overdue = registry.take_overdue(SECOND * 9);
        assert_eq!(overdue[0].numbers, [second.id.number]);
        // The server is down, and the settlement of this one arrives meanwhile.
        registry.begin_to_settle(&ann(), second.id);
        registry.put_back(&overdue[0], SECOND * 9);
        assert!(registry.take_overdue(SECOND * 99).is_empty());
        registry.resolved(&overdue[0]);
        assert!(registry.reserve(&ann(), most(2), SECOND).is_err());
        registry.release(&ann(), second.id);
        assert!(registry.reserve(&ann(), most(2), SECOND).is_ok());
    }

    #[test]
    fn an_account_is_forgotten_when_nothing_was_open_for_long() {
        let registry = HoldRegistry::new(7);
        let held = registry.reserve(&ann(), most(2), SECOND).unwrap();
        registry.enter(&ann(), 8);
        assert!(
            !registry
                .reserve(&ann(), most(9), SECOND)
                .unwrap()
                .is_entered
        );
        registry.enter(&ann(), 7);
        let other = registry.reserve(&ann(), most(9), SECOND).unwrap();
        assert!(other.is_entered);
        assert_eq!(registry.take_idle(SECOND * 100, 9), [], "two are open");
        assert_eq!(registry.forget_entered(), [ann()]);
        assert!(
            !registry
                .reserve(&ann(), most(9), SECOND)
                .unwrap()
                .is_entered
        );
        registry.reset(9);
        registry.release(&ann(), held.id);
        assert_eq!(registry.forget_entered(), []);
        let last = registry.reserve(&ann(), most(1), SECOND).unwrap();
        registry.release(&ann(), last.id);
        assert_eq!(registry.take_idle(SECOND * 60, 9), []);
        assert_eq!(registry.take_idle(SECOND * 61, 9), [ann()]);
    }
}
