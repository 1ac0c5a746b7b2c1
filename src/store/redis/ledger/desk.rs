//! The holds that this process has open: by account, with when each ends. How long a hold may live is known here
//! alone; Redis knows whose it is.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hashbrown::HashMap;

use crate::domain::{AccountId, usage::HoldId};

/// An account in which nothing is open for so long is forgotten.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Desk(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Who this process is to the others. It begins anew when it was taken for dead.
    instance: u64,
    numbers: u64,
    count: usize,
    accounts: HashMap<AccountId, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Whether the others know that this process may have open holds here.
    is_entered: bool,
    /// By number: when they end. `None`: not while this process lives.
    open: HashMap<u64, Option<Duration>>,
    /// No open hold ends before that.
    quiet_until: Option<Duration>,
    used: Duration,
}

impl Entry {
    fn keep(&mut self, number: u64, ends: Option<Duration>) {
        self.open.insert(number, ends);
        self.quiet_until = [self.quiet_until, ends].into_iter().flatten().min();
    }
}

/// A place for a hold that is about to be opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved {
    pub(super) id: HoldId,
    pub(super) is_entered: bool,
}

/// How many holds may be open, or on their way, at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) of_all: usize,
    pub(super) of_account: usize,
}

/// Why there is no place for a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    All,
    Account,
}

/// Holds that outlived their time.
#[derive(Debug)]
pub(super) struct Overdue {
    pub(super) account: AccountId,
    pub(super) instance: u64,
    pub(super) numbers: Vec<u64>,
}

impl Desk {
    pub(super) fn new(instance: u64) -> Self {
        Self(Mutex::new(State {
            instance,
            numbers: 0,
            count: 0,
            accounts: HashMap::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn instance(&self) -> u64 {
        self.state().instance
    }

    /// A name that nothing else of this instance has.
    pub(super) fn next_id(&self) -> HoldId {
        let mut state = self.state();
        state.numbers = state.numbers.wrapping_add(1);
        HoldId {
            instance: state.instance,
            number: state.numbers,
        }
    }

    /// A place for one more.
    pub(super) fn reserve(
        &self,
        account: &AccountId,
        most: Most,
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
        entry.keep(number, None);
        entry.used = now;
        Ok(Reserved {
            id: HoldId { instance, number },
            is_entered: entry.is_entered,
        })
    }

    /// The others know now.
    pub(super) fn enter(&self, account: &AccountId, instance: u64) {
        let mut state = self.state();
        if state.instance == instance
            && let Some(entry) = state.accounts.get_mut(account)
        {
            entry.is_entered = true;
        }
    }

    /// Lets a hold live until then; `false`: it isn't open here.
    pub(super) fn extend(&self, account: &AccountId, id: HoldId, ends: Option<Duration>) -> bool {
        let mut state = self.state();
        if state.instance != id.instance {
            return false;
        }
        match state.accounts.get_mut(account) {
            Some(entry) if entry.open.contains_key(&id.number) => entry.keep(id.number, ends),
            _ => return false,
        }
        true
    }

    /// It is open no more.
    pub(super) fn release(&self, account: &AccountId, id: HoldId) {
        let mut state = self.state();
        if state.instance != id.instance {
            return;
        }
        let entry = state.accounts.get_mut(account);
        if entry.is_some_and(|entry| entry.open.remove(&id.number).is_some()) {
            state.count = state.count.saturating_sub(1);
        }
    }

    /// Takes out what outlived its time.
    pub(super) fn take_overdue(&self, now: Duration) -> Vec<Overdue> {
        let mut state = self.state();
        let instance = state.instance;
        let mut all = Vec::new();
        for (account, entry) in &mut state.accounts {
            if entry.quiet_until.is_none_or(|end| now < end) {
                continue;
            }
            let is_over = |_: &u64, ends: &mut Option<Duration>| ends.is_some_and(|end| end <= now);
            let over = entry.open.extract_if(is_over);
            let numbers: Vec<u64> = over.map(|(number, _)| number).collect();
            entry.quiet_until = entry.open.values().flatten().min().copied();
            if !numbers.is_empty() {
                all.push(Overdue {
                    account: account.clone(),
                    instance,
                    numbers,
                });
            }
        }
        let taken = all.iter().map(|overdue| overdue.numbers.len()).sum();
        state.count = state.count.saturating_sub(taken);
        all
    }

    /// They could not be resolved, and are tried again at `now`.
    pub(super) fn put_back(&self, overdue: &Overdue, now: Duration) {
        let mut state = self.state();
        if state.instance != overdue.instance {
            return;
        }
        state.count = state.count.saturating_add(overdue.numbers.len());
        let entry = state.accounts.entry(overdue.account.clone()).or_default();
        for number in &overdue.numbers {
            entry.keep(*number, Some(now));
        }
    }

    /// Takes out up to `most` accounts in which nothing was open for long.
    pub(super) fn take_idle(&self, now: Duration, most: usize) -> Vec<AccountId> {
        let mut state = self.state();
        let is_idle = |_: &AccountId, entry: &mut Entry| {
            entry.open.is_empty() && entry.used.saturating_add(IDLE) <= now
        };
        let idle = state.accounts.extract_if(is_idle).take(most);
        idle.map(|(account, _)| account).collect()
    }

    /// Nobody may know any more where this process has open holds. Returns where it has.
    pub(super) fn doubt(&self) -> Vec<AccountId> {
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

    /// Begins as another instance, which has no open holds.
    pub(super) fn begin_anew(&self, instance: u64) {
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

    fn most(of_all: usize) -> Most {
        Most {
            of_all,
            of_account: 9,
        }
    }

    #[test]
    fn an_account_takes_no_more_than_its_own_places() {
        let desk = Desk::new(7);
        let most = Most {
            of_all: 9,
            of_account: 1,
        };
        let first = desk.reserve(&ann(), most, SECOND).unwrap();
        assert_eq!(
            desk.reserve(&ann(), most, SECOND).unwrap_err(),
            Full::Account
        );
        let bob = AccountId::new("bob").unwrap();
        assert!(desk.reserve(&bob, most, SECOND).is_ok());
        desk.release(&ann(), first.id);
        assert!(desk.reserve(&ann(), most, SECOND).is_ok());
    }

    #[test]
    fn places_are_bounded_and_each_is_given_back_once() {
        let desk = Desk::new(7);
        let first = desk.reserve(&ann(), most(2), SECOND).unwrap();
        let second = desk.reserve(&ann(), most(2), SECOND).unwrap();
        assert!(desk.reserve(&ann(), most(2), SECOND).is_err());
        for _ in 0..3 {
            desk.release(&ann(), first.id);
        }
        assert!(desk.extend(&ann(), second.id, Some(SECOND)));
        assert!(!desk.extend(&ann(), first.id, Some(SECOND)));
        let overdue = desk.take_overdue(SECOND);
        assert_eq!(overdue[0].numbers, [second.id.number]);
        assert!(
            !desk.extend(&ann(), second.id, None),
            "it is being resolved"
        );
        desk.release(&ann(), second.id);
        desk.put_back(&overdue[0], SECOND);
        assert!(desk.reserve(&ann(), most(2), SECOND).is_ok());
        assert!(desk.reserve(&ann(), most(2), SECOND).is_err());
        assert_eq!(desk.take_overdue(SECOND)[0].numbers, [second.id.number]);
    }

    #[test]
    fn an_account_is_forgotten_when_nothing_was_open_for_long() {
        let desk = Desk::new(7);
        let held = desk.reserve(&ann(), most(2), SECOND).unwrap();
        desk.enter(&ann(), 8);
        assert!(!desk.reserve(&ann(), most(9), SECOND).unwrap().is_entered);
        desk.enter(&ann(), 7);
        let other = desk.reserve(&ann(), most(9), SECOND).unwrap();
        assert!(other.is_entered);
        assert_eq!(desk.take_idle(SECOND * 100, 9), [], "two are open");
        assert_eq!(desk.doubt(), [ann()]);
        assert!(!desk.reserve(&ann(), most(9), SECOND).unwrap().is_entered);
        desk.begin_anew(9);
        desk.release(&ann(), held.id);
        assert_eq!(desk.doubt(), []);
        let last = desk.reserve(&ann(), most(1), SECOND).unwrap();
        desk.release(&ann(), last.id);
        assert_eq!(desk.take_idle(SECOND * 60, 9), []);
        assert_eq!(desk.take_idle(SECOND * 61, 9), [ann()]);
    }
}
