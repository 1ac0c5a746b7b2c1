//! The rules of the ledger, as plain arithmetic on what an engine has loaded.
//!
//! Two phases: [`hold`] sets money aside before a request, [`settle`] takes what it really cost. Both
//! are all or nothing. Every engine calls these, so that there is one place where money can go wrong.
//!
//! What always holds:
//! - deposited + credit line = available + held + settled;
//! - in every window with a limit, settled + held ≤ limit when a hold is granted; only a settlement
//!   above its hold (an overrun) can pass it, and then new holds wait.

mod lease;

use super::{
    AccountId, BudgetId,
    budget::{BudgetWindow, SpendingAlert, SpendingLimits, Windows},
    money::Money,
};

pub use lease::{Due, Lease, LeaseId, LeaseStanding, LeaseStep, Served, Stepped, abandoned_call};

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

impl Left {
    /// The less of both.
    #[must_use]
    pub fn least(&self) -> Money {
        let budgets = self.budgets.unwrap_or(self.account);
        budgets.min(self.account)
    }
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
    /// As many holds of the account are open as may be at once.
    #[error("too many calls of the account are under way")]
    TooManyOpen,
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
mod tests;
