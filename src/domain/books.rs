//! The rules of the ledger, as plain arithmetic on what an engine has loaded.
//!
//! Two phases: [`hold`] sets money aside before a request, [`settle`] takes what it really cost. Both
//! are all or nothing. Every engine calls these, so that there is one place where money can go wrong.
//!
//! What always holds:
//! - deposited = available + held + settled;
//! - in every window with a limit, settled + held ≤ limit when a hold is granted; only a settlement
//!   above its hold (an overrun) can pass it, and then new holds wait.

use super::{
    BudgetId,
    budget::{BudgetWindow, SpendingLimits, Windows},
    money::Money,
};

/// The money of one account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// All that was ever paid in.
    pub deposited: Money,
    /// All that was ever charged.
    pub settled: Money,
    /// What is set aside for requests under way.
    pub held: Money,
}

impl Balance {
    /// What a new hold can take; negative after an overrun.
    #[must_use]
    pub fn available(&self) -> Money {
        self.deposited
            .saturating_sub(self.settled)
            .saturating_sub(self.held)
    }
}

/// What was spent in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Charged.
    pub settled: Money,
    /// Set aside.
    pub held: Money,
}

impl Spent {
    fn admits(&self, amount: Money, limit: Option<Money>) -> bool {
        let Some(limit) = limit else { return true };
        let after = self
            .settled
            .checked_add(self.held)
            .and_then(|sum| sum.checked_add(amount));
        after.is_some_and(|after| after <= limit)
    }

    fn hold(&mut self, amount: Money) {
        self.held = self.held.saturating_add(amount);
    }

    fn settle(&mut self, held: Money, charged: Money) {
        self.held = self.held.saturating_sub(held);
        self.settled = self.settled.saturating_add(charged);
    }
}

/// Limits of its own within an account, and what was spent against them. Spending is counted whether
/// or not there is a limit, so that one that is set later counts what came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The limits.
    pub limits: SpendingLimits,
    /// The windows that `day` and `month` speak of.
    pub windows: Windows,
    /// Spent in the day.
    pub day: Spent,
    /// Spent in the month.
    pub month: Spent,
    /// Spent ever.
    pub total: Spent,
}

impl Budget {
    /// As it stands in `now`: a window that has ended since the last hold counts as empty.
    #[must_use]
    pub(crate) fn rolled(mut self, now: Windows) -> Self {
        self.roll(now);
        self
    }

    /// Begins new windows where they have begun. Never goes back.
    fn roll(&mut self, windows: Windows) {
        if windows.day > self.windows.day {
            self.day = Spent::default();
        }
        if windows.month > self.windows.month {
            self.month = Spent::default();
        }
        self.windows = self.windows.max(windows);
    }

    fn refuses(&self, amount: Money) -> Option<BudgetWindow> {
        if !self.day.admits(amount, self.limits.daily) {
            Some(BudgetWindow::Day)
        } else if !self.month.admits(amount, self.limits.monthly) {
            Some(BudgetWindow::Month)
        } else if !self.total.admits(amount, self.limits.total) {
            Some(BudgetWindow::Total)
        } else {
            None
        }
    }
}

/// What an engine has loaded of one account.
pub trait Books {
    /// The account's money.
    fn balance(&mut self) -> &mut Balance;

    /// One of its budgets; an empty one when there was none.
    fn budget(&mut self, id: &BudgetId) -> &mut Budget;
}

/// Why money was not set aside. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HoldRefusal {
    /// The balance does not cover the amount.
    #[error("the balance does not cover the amount")]
    InsufficientCredits,
    /// A budget's limit does not.
    #[error("the limit of a {0:?} is reached")]
    LimitReached(BudgetWindow),
    /// The amount is negative.
    #[error("a hold can't be negative")]
    NegativeAmount,
}

/// Sets `amount` aside in the account and in all `budgets`, or nowhere. Returns the windows to stamp
/// on the hold, which [`settle`] wants back.
///
/// # Errors
/// [`HoldRefusal`]; then nothing was changed but that windows may have begun anew.
pub fn hold(
    books: &mut impl Books,
    budgets: &[BudgetId],
    amount: Money,
    now: Windows,
) -> Result<Windows, HoldRefusal> {
    if amount.is_negative() {
        return Err(HoldRefusal::NegativeAmount);
    }
    if books.balance().available() < amount {
        return Err(HoldRefusal::InsufficientCredits);
    }
    let stamp = budgets
        .iter()
        .fold(now, |latest, id| latest.max(books.budget(id).windows));
    for id in budgets {
        let budget = books.budget(id);
        budget.roll(stamp);
        if let Some(window) = budget.refuses(amount) {
            return Err(HoldRefusal::LimitReached(window));
        }
    }
    let balance = books.balance();
    balance.held = balance.held.saturating_add(amount);
    for id in budgets {
        let budget = books.budget(id);
        budget.day.hold(amount);
        budget.month.hold(amount);
        budget.total.hold(amount);
    }
    Ok(stamp)
}

/// Ends a hold: gives `held` back and takes `charged`, in the windows that were stamped on it.
///
/// `charged` may be less than, equal to or more than `held`; a negative one counts as nothing.
pub fn settle(
    books: &mut impl Books,
    budgets: &[BudgetId],
    stamp: Windows,
    held: Money,
    charged: Money,
) {
    let charged = charged.max(Money::ZERO);
    let balance = books.balance();
    balance.held = balance.held.saturating_sub(held);
    balance.settled = balance.settled.saturating_add(charged);
    for id in budgets {
        let budget = books.budget(id);
        if budget.windows.day == stamp.day {
            budget.day.settle(held, charged);
        }
        if budget.windows.month == stamp.month {
            budget.month.settle(held, charged);
        }
        budget.total.settle(held, charged);
    }
}

/// Pays money in. `None`, and nothing changed: not above zero, or more than an account can hold.
pub fn credit(balance: &mut Balance, amount: Money) -> Option<()> {
    if amount <= Money::ZERO {
        return None;
    }
    balance.deposited = balance.deposited.checked_add(amount)?;
    Some(())
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "amounts in tests are small")]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Loaded {
        balance: Balance,
        budgets: HashMap<BudgetId, Budget>,
    }

    impl Books for Loaded {
        fn balance(&mut self) -> &mut Balance {
            &mut self.balance
        }

        fn budget(&mut self, id: &BudgetId) -> &mut Budget {
            self.budgets.entry(id.clone()).or_default()
        }
    }

    fn key() -> BudgetId {
        BudgetId::new("key-1").unwrap()
    }

    fn day(number: i64) -> Windows {
        Windows {
            day: number * 86_400,
            month: 0,
        }
    }

    fn funded(nanos: i64) -> Loaded {
        let mut books = Loaded::default();
        credit(&mut books.balance, Money::from_nanos(nanos)).unwrap();
        books
    }

    #[test]
    fn a_refused_hold_changes_nothing_anywhere() {
        let (mut books, team) = (funded(100), BudgetId::new("team").unwrap());
        books.budget(&key()).limits.daily = Some(Money::from_nanos(50));
        books.budget(&team).limits.monthly = Some(Money::from_nanos(10));
        let ids = [key(), team.clone()];
        assert_eq!(
            hold(&mut books, &ids, Money::from_nanos(20), day(1)),
            Err(HoldRefusal::LimitReached(BudgetWindow::Month))
        );
        assert_eq!(books.balance.held, Money::ZERO);
        assert_eq!(books.budget(&key()).day, Spent::default());
        assert_eq!(
            hold(&mut books, &ids, Money::from_nanos(101), day(1)),
            Err(HoldRefusal::InsufficientCredits)
        );
        assert_eq!(
            hold(&mut books, &ids, Money::from_nanos(-1), day(1)),
            Err(HoldRefusal::NegativeAmount)
        );
        assert!(hold(&mut books, &ids, Money::from_nanos(10), day(1)).is_ok());
    }

    #[test]
    fn a_call_over_midnight_counts_where_it_began() {
        let mut books = funded(1_000);
        books.budget(&key()).limits.daily = Some(Money::from_nanos(10));
        let yesterday = hold(&mut books, &[key()], Money::from_nanos(10), day(1)).unwrap();
        let today = hold(&mut books, &[key()], Money::from_nanos(10), day(2)).unwrap();
        settle(
            &mut books,
            &[key()],
            yesterday,
            Money::from_nanos(10),
            Money::from_nanos(10),
        );
        assert_eq!(books.budget(&key()).day.settled, Money::ZERO);
        settle(
            &mut books,
            &[key()],
            today,
            Money::from_nanos(10),
            Money::from_nanos(4),
        );
        let budget = *books.budget(&key());
        assert_eq!(
            (budget.day.settled, budget.day.held),
            (Money::from_nanos(4), Money::ZERO)
        );
        assert_eq!(budget.total.settled, Money::from_nanos(14));
    }

    #[test]
    fn a_clock_that_steps_back_frees_nothing() {
        let mut books = funded(1_000);
        books.budget(&key()).limits.daily = Some(Money::from_nanos(10));
        hold(&mut books, &[key()], Money::from_nanos(10), day(2)).unwrap();
        assert!(hold(&mut books, &[key()], Money::from_nanos(1), day(1)).is_err());
    }

    #[test]
    fn an_overrun_is_recorded_and_new_holds_wait() {
        let mut books = funded(10);
        let stamp = hold(&mut books, &[], Money::from_nanos(10), day(1)).unwrap();
        settle(
            &mut books,
            &[],
            stamp,
            Money::from_nanos(10),
            Money::from_nanos(15),
        );
        assert_eq!(books.balance.available(), Money::from_nanos(-5));
        assert!(hold(&mut books, &[], Money::from_nanos(1), day(1)).is_err());
    }

    proptest! {
        #[test]
        fn the_invariants_hold_after_every_step(
            limit in 0_i64..200,
            steps in prop::collection::vec((0_i64..60, 0_i64..80, 0_i64..4, any::<bool>()), 1..60),
        ) {
            let mut books = funded(500);
            books.budget(&key()).limits.daily = Some(Money::from_nanos(limit));
            let mut open = Vec::new();
            let mut charged_total = 0_i64;
            let mut overrun = 0_i64;
            for (amount, charged, today, settles) in steps {
                let amount = Money::from_nanos(amount);
                if let Ok(stamp) = hold(&mut books, &[key()], amount, day(today)) {
                    open.push((stamp, amount));
                    let budget = *books.budget(&key());
                    let spent = budget.day.settled.nanos() + budget.day.held.nanos();
                    prop_assert!(spent <= limit + overrun);
                }
                if settles && let Some((stamp, held)) = open.pop() {
                    settle(&mut books, &[key()], stamp, held, Money::from_nanos(charged));
                    charged_total += charged;
                    overrun += (charged - held.nanos()).max(0);
                }
                let balance = books.balance;
                let in_flight: i64 = open.iter().map(|(_, held)| held.nanos()).sum();
                prop_assert_eq!(balance.held.nanos(), in_flight);
                prop_assert_eq!(balance.settled.nanos(), charged_total);
                prop_assert_eq!(
                    balance.deposited.nanos(),
                    balance.available().nanos() + balance.held.nanos() + balance.settled.nanos()
                );
                prop_assert!(balance.available().nanos() >= -overrun);
            }
        }
    }
}
