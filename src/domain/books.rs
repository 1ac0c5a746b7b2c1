//! The rules of the ledger, as plain arithmetic on what an engine has loaded.
//!
//! Two phases: [`hold`] sets money aside before a request, [`settle`] takes what it really cost. Both
//! are all or nothing. Every engine calls these, so that there is one place where money can go wrong.
//!
//! What always holds:
//! - deposited + credit line = available + held + settled;
//! - in every window with a limit, settled + held ≤ limit when a hold is granted; only a settlement
//!   above its hold (an overrun) can pass it, and then new holds wait.
//!
//! A hold counts in the day and the month in which it began, and so does what it comes to. In a window that rolls it counts for
//! as long as it is open, and what it comes to from then on ([`RollingWindow`](super::budget::RollingWindow)).

mod lease;
mod rolling;
mod spent;

use std::time::Duration;

use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::{
    AccountId, BudgetId,
    budget::{BudgetWindow, Moment, SpendingAlert, Windows},
    money::Money,
};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use lease::PART_OF_LEFT;
pub use lease::{Due, Lease, LeaseId, LeaseStanding, LeaseStep, Served, Stepped, abandoned_call};
pub use rolling::Rolling;
pub use spent::{Budget, Spent};

/// The money of one account. Serialized it has what is [available](Self::available) too.
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

    /// Whether `amount` can be set aside: there is so much, and what was charged, what is held and it can be counted
    /// together. Otherwise a hold would be granted that is written down nowhere, or that could not be charged.
    fn covers(&self, amount: Money) -> bool {
        let all = Spent {
            settled: self.settled,
            held: self.held,
        };
        amount <= self.available() && all.after(amount).is_some()
    }
}

impl Serialize for Balance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut balance = serializer.serialize_struct("Balance", 5)?;
        balance.serialize_field("available", &self.available())?;
        balance.serialize_field("deposited", &self.deposited)?;
        balance.serialize_field("settled", &self.settled)?;
        balance.serialize_field("held", &self.held)?;
        balance.serialize_field("credit_line", &self.credit_line)?;
        balance.end()
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
    /// The balance does not cover the amount, or so much has been charged and is held that no more can be counted.
    #[error("the balance does not cover the amount")]
    InsufficientCredits,
    /// A budget's limit does not.
    #[error("the limit of a {0:?} is reached")]
    LimitReached(BudgetWindow),
    /// A budget's limit of a window that rolls does not.
    #[error("the limit of a rolling window is reached")]
    RollingLimitReached {
        /// After what time enough of what was charged will have left the window. `None`: that would not help, as the amount is
        /// more than the limit, or need not be waited for, as only what is held is in the way, which ends with its call.
        wait: Option<Duration>,
    },
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
    now: Moment,
) -> Result<Grant, HoldRefusal> {
    if amount.is_negative() {
        return Err(HoldRefusal::NegativeAmount);
    }
    if !books.balance().covers(amount) {
        return Err(HoldRefusal::InsufficientCredits);
    }
    let windows = stamp(books, budgets, now.windows);
    for id in each(budgets) {
        let budget = books.budget(id);
        budget.roll(windows, now.second);
        if let Some(refusal) = budget.refuses(amount, now.second) {
            return Err(refusal);
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
        left.budgets = [left.budgets, budget.left(now)].into_iter().flatten().min();
    }
    Ok(Grant { windows, left })
}

/// The windows in which a hold counts: the latest that any of its budgets has seen.
fn stamp(books: &mut impl Books, budgets: &[BudgetId], now: Windows) -> Windows {
    each(budgets).fold(now, |latest, id| latest.max(books.budget(id).windows))
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

/// Ends a hold of `account`: gives `held` back and takes `charged`, in the windows that were stamped on it, and from `second`
/// (since 1970-01-01T00:00:00Z) on in those that roll.
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
    second: i64,
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
        let passed = books.budget(id).settle(stamp, held, charged, second);
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
