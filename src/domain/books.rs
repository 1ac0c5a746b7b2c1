//! The rules of the ledger, as plain arithmetic on what an engine has loaded.
//!
//! Two phases: [`hold`] sets money aside before a request, [`settle`] takes what it really cost. Both
//! are all or nothing. Every engine calls these, so that there is one place where money can go wrong.
//!
//! What always holds:
//! - deposited + credit line = available + held + settled;
//! - in every window with a limit, settled + held ≤ limit when a hold is granted; only a settlement
//!   above its hold (an overrun) can pass it, and then new holds wait.

use super::{
    AccountId, BudgetId,
    budget::{BudgetWindow, SpendingAlert, SpendingLimits, Windows},
    money::Money,
};

/// The money of one account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// All that was ever paid in, with all corrections.
    pub deposited: Money,
    /// All that was ever charged.
    pub settled: Money,
    /// What is set aside for requests under way.
    pub held: Money,
    /// How far the account may be spent below what was paid in.
    pub credit_line: Money,
}

impl Balance {
    /// What a new hold can take; negative after an overrun.
    #[must_use]
    pub fn available(&self) -> Money {
        let exact = i128::from(self.deposited.nanos())
            .saturating_add(i128::from(self.credit_line.nanos()))
            .saturating_sub(i128::from(self.settled.nanos()))
            .saturating_sub(i128::from(self.held.nanos()));
        let ends = i128::from(i64::MIN)..=i128::from(i64::MAX);
        let nanos = exact.clamp(*ends.start(), *ends.end());
        i64::try_from(nanos).map_or(Money::ZERO, Money::from_nanos)
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

    fn left(&self, limit: Option<Money>) -> Option<Money> {
        limit.map(|limit| limit.saturating_sub(self.settled).saturating_sub(self.held))
    }

    fn hold(&mut self, amount: Money) {
        self.held = self.held.saturating_add(amount);
    }

    /// Returns what is spent now if that just passed `soft`.
    fn settle(&mut self, held: Money, charged: Money, soft: Option<Money>) -> Option<Passed> {
        let before = self.settled;
        self.held = self.held.saturating_sub(held);
        self.settled = before.saturating_add(charged);
        let limit = soft.filter(|soft| before < *soft && *soft <= self.settled)?;
        Some(Passed {
            limit,
            spent: self.settled,
        })
    }
}

struct Passed {
    limit: Money,
    spent: Money,
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

    fn left(&self) -> Option<Money> {
        let day = self.day.left(self.limits.daily);
        let month = self.month.left(self.limits.monthly);
        let total = self.total.left(self.limits.total);
        [day, month, total].into_iter().flatten().min()
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

/// Money that was set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the windows are to be stamped on the hold"]
pub struct Grant {
    /// The windows to stamp on the hold, which [`settle`] wants back.
    pub windows: Windows,
    /// What can still be set aside.
    pub left: Left,
}

/// What can still be set aside, just after a hold was granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Of the account.
    pub account: Money,
    /// Of the tightest of the budgets' limits; `None`: no budget has any.
    pub budgets: Option<Money>,
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
    /// A call with the same idempotency key is under way.
    #[error("a call with that idempotency key is under way")]
    InProgress,
    /// A call with the same idempotency key was charged.
    #[error("a call with that idempotency key was charged before")]
    AlreadySettled,
    /// The idempotency key was used for another request.
    #[error("that idempotency key was used for another request")]
    OtherRequest,
}

/// What is kept of an idempotency key: for which request it was used, and how far that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownCall {
    /// Of the request that used it.
    pub fingerprint: [u8; 32],
    /// Whether that was charged; `false`: it is under way.
    pub settled: bool,
}

impl KnownCall {
    /// Why another request with the key is refused.
    #[must_use]
    pub fn refusal(&self, fingerprint: &[u8; 32]) -> HoldRefusal {
        if self.fingerprint != *fingerprint {
            HoldRefusal::OtherRequest
        } else if self.settled {
            HoldRefusal::AlreadySettled
        } else {
            HoldRefusal::InProgress
        }
    }
}

/// What a settlement came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "what was charged belongs into the usage log, and alerts are to be told"]
pub struct Settled {
    /// What was charged: not below zero, and no more than the books can hold.
    pub charged: Money,
    /// Soft limits that this settlement passed.
    pub alerts: Vec<SpendingAlert>,
}

/// Sets `amount` aside in the account and in all `budgets`, or nowhere.
///
/// # Errors
/// [`HoldRefusal`]; then nothing was changed but that windows may have begun anew.
pub fn hold(
    books: &mut impl Books,
    budgets: &[BudgetId],
    amount: Money,
    now: Windows,
) -> Result<Grant, HoldRefusal> {
    if amount.is_negative() {
        return Err(HoldRefusal::NegativeAmount);
    }
    if books.balance().available() < amount {
        return Err(HoldRefusal::InsufficientCredits);
    }
    let stamp = each(budgets).fold(now, |latest, id| latest.max(books.budget(id).windows));
    for id in each(budgets) {
        let budget = books.budget(id);
        budget.roll(stamp);
        if let Some(window) = budget.refuses(amount) {
            return Err(HoldRefusal::LimitReached(window));
        }
    }
    let balance = books.balance();
    balance.held = balance.held.saturating_add(amount);
    let mut left = Left {
        account: balance.available(),
        budgets: None,
    };
    for id in each(budgets) {
        let budget = books.budget(id);
        budget.day.hold(amount);
        budget.month.hold(amount);
        budget.total.hold(amount);
        left.budgets = [left.budgets, budget.left()].into_iter().flatten().min();
    }
    Ok(Grant {
        windows: stamp,
        left,
    })
}

/// Each budget once: one that is named twice is one budget.
fn each(budgets: &[BudgetId]) -> impl Iterator<Item = &BudgetId> {
    let first = |place: usize, id: &BudgetId| {
        let mut before = budgets.iter().take(place);
        !before.any(|earlier| earlier == id)
    };
    let mut numbered = budgets.iter().enumerate();
    std::iter::from_fn(move || {
        numbered
            .by_ref()
            .find(|(place, id)| first(*place, id))
            .map(|(_, id)| id)
    })
}

/// Ends a hold of `account`: gives `held` back and takes `charged`, in the windows that were stamped on it.
///
/// `charged` may be less than, equal to or more than `held`; a negative one counts as nothing, and no
/// more is taken than keeps the sum of all charges within what [`Money`] holds.
pub fn settle(
    books: &mut impl Books,
    account: &AccountId,
    budgets: &[BudgetId],
    stamp: Windows,
    held: Money,
    charged: Money,
) -> Settled {
    let balance = books.balance();
    let room = Money::MAX.saturating_sub(balance.settled);
    let charged = charged.max(Money::ZERO).min(room);
    balance.held = balance.held.saturating_sub(held);
    balance.settled = balance.settled.saturating_add(charged);
    let mut settled = Settled {
        charged,
        ..Settled::default()
    };
    for id in each(budgets) {
        let budget = books.budget(id);
        let soft = budget.limits.soft;
        let mut passed: [(BudgetWindow, Option<Passed>); 3] = [
            (BudgetWindow::Day, None),
            (BudgetWindow::Month, None),
            (
                BudgetWindow::Total,
                budget.total.settle(held, charged, soft.total),
            ),
        ];
        if budget.windows.day == stamp.day {
            passed[0].1 = budget.day.settle(held, charged, soft.daily);
        }
        if budget.windows.month == stamp.month {
            passed[1].1 = budget.month.settle(held, charged, soft.monthly);
        }
        let alerts = passed.into_iter().filter_map(|(window, passed)| {
            passed.map(|passed| SpendingAlert {
                account: account.clone(),
                budget: id.clone(),
                window,
                limit: passed.limit,
                spent: passed.spent,
            })
        });
        settled.alerts.extend(alerts);
    }
    settled
}

/// Pays money in. `None`, and nothing changed: not above zero, or more than an account can hold.
pub fn credit(balance: &mut Balance, amount: Money) -> Option<()> {
    if amount <= Money::ZERO {
        return None;
    }
    balance.deposited = balance.deposited.checked_add(amount)?;
    Some(())
}

/// Corrects what was paid in, up or down: a refund, a chargeback. It may leave less than nothing, and
/// then new holds wait. `None`, and nothing changed: zero, or more than an account can hold.
pub fn adjust(balance: &mut Balance, amount: Money) -> Option<()> {
    if amount.is_zero() {
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

    fn ann() -> AccountId {
        AccountId::new("ann").unwrap()
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
        let yesterday = hold(&mut books, &[key()], Money::from_nanos(10), day(1))
            .unwrap()
            .windows;
        let today = hold(&mut books, &[key()], Money::from_nanos(10), day(2))
            .unwrap()
            .windows;
        let _ = settle(
            &mut books,
            &ann(),
            &[key()],
            yesterday,
            Money::from_nanos(10),
            Money::from_nanos(10),
        );
        assert_eq!(books.budget(&key()).day.settled, Money::ZERO);
        let _ = settle(
            &mut books,
            &ann(),
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
        let _ = hold(&mut books, &[key()], Money::from_nanos(10), day(2)).unwrap();
        assert!(hold(&mut books, &[key()], Money::from_nanos(1), day(1)).is_err());
    }

    #[test]
    fn a_grant_says_what_is_left() {
        let (mut books, team) = (funded(100), BudgetId::new("team").unwrap());
        books.budget(&key()).limits.daily = Some(Money::from_nanos(50));
        books.budget(&team).limits.monthly = Some(Money::from_nanos(30));
        let left = |books: &mut Loaded, ids: &[BudgetId], amount| {
            let left = hold(books, ids, Money::from_nanos(amount), day(1))
                .unwrap()
                .left;
            (left.account.nanos(), left.budgets.map(Money::nanos))
        };
        assert_eq!(left(&mut books, &[key(), team], 10), (90, Some(20)));
        assert_eq!(left(&mut books, &[key()], 10), (80, Some(30)));
        assert_eq!(left(&mut books, &[], 10), (70, None));
    }

    #[test]
    fn a_budget_that_is_named_twice_counts_once() {
        let mut books = funded(1_000);
        books.budget(&key()).limits.daily = Some(Money::from_nanos(10));
        let twice = [key(), key()];
        let stamp = hold(&mut books, &twice, Money::from_nanos(10), day(1))
            .unwrap()
            .windows;
        assert_eq!(books.budget(&key()).day.held, Money::from_nanos(10));
        let ten = Money::from_nanos(10);
        let _ = settle(&mut books, &ann(), &twice, stamp, ten, ten);
        assert_eq!(books.budget(&key()).total.settled, ten);
    }

    #[test]
    fn no_charge_is_larger_than_the_books_can_hold() {
        let mut books = funded(10);
        let mut logged = 0_i64;
        for charged in [7, i64::MAX, i64::MAX, 1] {
            let charged = Money::from_nanos(charged);
            let settled = settle(&mut books, &ann(), &[], day(1), Money::ZERO, charged);
            logged = logged.checked_add(settled.charged.nanos()).unwrap();
            assert_eq!(books.balance.settled.nanos(), logged);
        }
    }

    #[test]
    fn a_credit_line_is_spent_and_no_more() {
        let mut books = funded(10);
        books.balance.credit_line = Money::from_nanos(5);
        assert!(hold(&mut books, &[], Money::from_nanos(16), day(1)).is_err());
        let _ = hold(&mut books, &[], Money::from_nanos(15), day(1)).unwrap();
        assert_eq!(books.balance.available(), Money::ZERO);
        books.balance.credit_line = Money::MAX;
        books.balance.deposited = Money::MAX;
        assert_eq!(books.balance.available(), Money::MAX);
    }

    #[test]
    fn a_correction_may_leave_less_than_nothing() {
        let mut books = funded(10);
        assert_eq!(adjust(&mut books.balance, Money::ZERO), None);
        adjust(&mut books.balance, Money::from_nanos(-15)).unwrap();
        assert_eq!(books.balance.available(), Money::from_nanos(-5));
        assert!(hold(&mut books, &[], Money::ZERO, day(1)).is_err());
        let lowest = Money::from_nanos(i64::MIN);
        assert_eq!(adjust(&mut books.balance, lowest), None);
    }

    #[test]
    fn a_soft_limit_is_told_once_in_a_window() {
        let mut books = funded(1_000);
        books.budget(&key()).limits.soft.daily = Some(Money::from_nanos(10));
        let mut told = Vec::new();
        for (today, charged) in [(1, 4), (1, 5), (1, 1), (1, 20), (2, 9), (2, 2), (2, 9)] {
            let charged = Money::from_nanos(charged);
            let stamp = hold(&mut books, &[key()], charged, day(today))
                .unwrap()
                .windows;
            let settled = settle(&mut books, &ann(), &[key()], stamp, charged, charged);
            told.extend(settled.alerts.into_iter().map(|alert| alert.spent.nanos()));
        }
        assert_eq!(told, [10, 11]);
    }

    #[test]
    fn an_overrun_is_recorded_and_new_holds_wait() {
        let mut books = funded(10);
        let stamp = hold(&mut books, &[], Money::from_nanos(10), day(1))
            .unwrap()
            .windows;
        let _ = settle(
            &mut books,
            &ann(),
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
                if let Ok(Grant { windows: stamp, .. }) = hold(&mut books, &[key()], amount, day(today)) {
                    open.push((stamp, amount));
                    let budget = *books.budget(&key());
                    let spent = budget.day.settled.nanos() + budget.day.held.nanos();
                    prop_assert!(spent <= limit + overrun);
                }
                if settles && let Some((stamp, held)) = open.pop() {
                    let _ = settle(&mut books, &ann(), &[key()], stamp, held, Money::from_nanos(charged));
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
