//! The rules of the ledger, as plain arithmetic on what an engine has loaded.
//!
//! Two phases: [`hold`] sets money aside before a request, [`settle`] takes what it really cost.
//! Both are all or nothing. Every engine calls these, so that there is one place where money can go
//! wrong.
//!
//! What always holds:
//! - deposited + credit line = available + held + settled;
//! - settled is the sum of all charges in the usage log; a [`refund`] pays in and changes no
//!   charge;
//! - in every window with a limit, settled + held ≤ limit when a hold is granted; only a settlement
//!   above its hold (an overrun) can pass it, and then new holds wait.
//!
//! A hold, and the charge that settles it, count in the day and the month in which the hold began.
//! In a rolling window a hold counts for as long as it is open, and its charge counts from
//! settlement on ([`RollingWindow`](super::budget::RollingWindow)).

mod late;
mod lease;
mod refund;
mod rolling;
mod spent;

use std::time::Duration;

use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::{
    AccountId, BudgetId,
    budget::{BudgetWindow, Moment, SpendingAlert, Windows},
    money::Money,
};

pub use late::Abandoned;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use lease::PART_OF_LEFT;
pub use lease::{
    Due, LateReport, Lease, LeaseId, LeaseStanding, LeaseStep, Served, StepKind, Stepped,
    abandoned_call,
};
pub use refund::{ChargedCall, RefundRefusal, refund};
pub(crate) use refund::{check, pay};
pub use rolling::Rolling;
use spent::Passed;
pub use spent::{Budget, Spent};

/// The money of one account. Its serialized form includes what is [available](Self::available).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Everything ever paid in, corrections included.
    pub deposited: Money,
    /// Everything ever charged.
    pub settled: Money,
    /// What is set aside for requests under way.
    pub held: Money,
    /// How far spending may exceed what was paid in.
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

    /// Whether `amount` can be set aside: it is available, and the sum of charged, held and
    /// `amount` does not overflow. On overflow a hold would be granted that is recorded nowhere, or
    /// that could not be charged.
    fn covers(&self, amount: Money) -> bool {
        let all = Spent {
            settled: self.settled,
            held: self.held,
        };
        amount <= self.available() && all.after(amount).is_some()
    }

    /// The same if no call were under way.
    fn would_cover(&self, amount: Money) -> bool {
        let free = Self {
            held: Money::ZERO,
            ..*self
        };
        free.covers(amount)
    }
}

/// An account's money, and up to where in its log that is: both of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The money.
    pub balance: Balance,
    /// The position of the account's newest movement, which the balance includes as it does every
    /// older one; `None` if nothing has ever moved. It may be that of a newer row which moved
    /// nothing.
    pub position: Option<u64>,
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

/// One account as an engine has loaded it.
pub trait Books {
    /// The account's money.
    fn balance(&mut self) -> &mut Balance;

    /// One of its budgets; an empty one if it does not exist yet.
    fn budget(&mut self, id: &BudgetId) -> &mut Budget;
}

/// Money that was set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the windows must be stamped on the hold"]
pub struct Grant {
    /// The windows to stamp on the hold; [`settle`] needs them back.
    pub windows: Windows,
    /// What can still be set aside.
    pub left: Left,
}

/// What could still be set aside right after a hold was granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// In the account.
    pub account: Money,
    /// Under the tightest of the budgets' limits; `None` if no budget has a limit.
    pub budgets: Option<Money>,
}

impl Left {
    /// The smaller of the two.
    #[must_use]
    pub fn least(&self) -> Money {
        let budgets = self.budgets.unwrap_or(self.account);
        budgets.min(self.account)
    }
}

/// Why money was not set aside. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HoldRefusal {
    /// The balance does not cover the amount, even if nothing were held; or the sum of what is
    /// charged and the amount would overflow.
    #[error("the balance does not cover the amount")]
    InsufficientCredits,
    /// What is charged leaves room for the amount in the balance and in every budget, but other
    /// calls hold it at the moment. It may fit as soon as one of them ends.
    #[error("calls under way hold what the amount needs of {}", .limit.map_or("the balance", named))]
    OnlyHeld {
        /// The limit, of the first budget that has no room; `None` if the balance has none.
        limit: Option<BudgetWindow>,
    },
    /// A budget's limit for a calendar window, or its total, does not cover it, even if nothing
    /// were held.
    #[error("the limit of a {0:?} is reached")]
    LimitReached(BudgetWindow),
    /// A budget's limit for its rolling window does not cover it, even if nothing were held.
    #[error("the limit of a rolling window is reached")]
    RollingLimitReached {
        /// How long until enough charges have left the window. `None` if waiting does not help
        /// because the amount exceeds the limit.
        wait: Option<Duration>,
    },
    /// The amount is negative.
    #[error("a hold can't be negative")]
    NegativeAmount,
    /// The account has reached its limit of open holds.
    #[error("too many calls of the account are under way")]
    TooManyOpen,
    /// A call with the same idempotency key is under way.
    #[error("a call with that idempotency key is under way")]
    InProgress,
    /// A call with the same idempotency key was already charged.
    #[error("a call with that idempotency key was charged before")]
    AlreadySettled,
    /// The idempotency key was used for a different request.
    #[error("that idempotency key was used for another request")]
    OtherRequest,
}

const fn named(limit: BudgetWindow) -> &'static str {
    match limit {
        BudgetWindow::Day => "the limit of a day",
        BudgetWindow::Month => "the limit of a month",
        BudgetWindow::Total => "the total limit",
        BudgetWindow::Rolling => "the limit of a rolling window",
    }
}

/// What is stored for an idempotency key: which request used it, and how far that request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownCall {
    /// Fingerprint of the request that used it.
    pub fingerprint: [u8; 32],
    /// Whether that request was charged; `false` while it is under way.
    pub settled: bool,
}

impl KnownCall {
    /// Why a further request with this key is refused.
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

/// The result of a settlement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "what was charged belongs in the usage log, and alerts must be delivered"]
pub struct Settled {
    /// What was charged: never negative, and never more than the books can record.
    pub charged: Money,
    /// Soft limits that this settlement crossed.
    pub alerts: Vec<SpendingAlert>,
}

/// Sets `amount` aside in the account and in all `budgets`, or in none of them.
///
/// What is charged comes before what is held: [`HoldRefusal::OnlyHeld`] is the answer only if the
/// amount would fit everywhere without the holds.
///
/// # Errors
/// [`HoldRefusal`]; then nothing has changed, except that windows may have rolled over.
pub fn hold(
    books: &mut impl Books,
    budgets: &[BudgetId],
    amount: Money,
    now: Moment,
) -> Result<Grant, HoldRefusal> {
    if amount.is_negative() {
        return Err(HoldRefusal::NegativeAmount);
    }
    let mut occupied = None;
    let balance = books.balance();
    if !balance.covers(amount) {
        if !balance.would_cover(amount) {
            return Err(HoldRefusal::InsufficientCredits);
        }
        occupied = Some(HoldRefusal::OnlyHeld { limit: None });
    }
    let windows = stamp(books, budgets, now.windows);
    for id in distinct(budgets) {
        let budget = books.budget(id);
        budget.roll(windows, now.second);
        if let Some(window) = budget.lacks(amount, now.second) {
            if let Some(refusal) = budget.refuses(amount, now.second) {
                return Err(refusal);
            }
            let limit = Some(window);
            occupied.get_or_insert(HoldRefusal::OnlyHeld { limit });
        }
    }
    if let Some(refusal) = occupied {
        return Err(refusal);
    }
    let balance = books.balance();
    balance.held = balance.held.saturating_add(amount);
    let mut left = Left {
        account: balance.available(),
        budgets: None,
    };
    for id in distinct(budgets) {
        let budget = books.budget(id);
        budget.day.hold(amount);
        budget.month.hold(amount);
        budget.total.hold(amount);
        left.budgets = [left.budgets, budget.left(now)].into_iter().flatten().min();
    }
    Ok(Grant { windows, left })
}

/// The windows in which a hold counts: the latest that any of its budgets has seen, so that a clock
/// that is behind does not reopen an older window.
fn stamp(books: &mut impl Books, budgets: &[BudgetId], now: Windows) -> Windows {
    distinct(budgets).fold(now, |latest, id| latest.max(books.budget(id).windows))
}

/// Each budget once, even if it is named twice.
fn distinct(budgets: &[BudgetId]) -> impl Iterator<Item = &BudgetId> {
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

/// Ends a hold of `account`: releases `held` and charges `charged`. In calendar windows the charge
/// counts where the hold was stamped; in rolling windows it counts from `second` on (seconds since
/// 1970-01-01T00:00:00Z).
///
/// `charged` may be less than, equal to or more than `held`. A negative charge counts as zero, and
/// a charge is capped so that the sum of all charges fits into [`Money`].
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
    for id in distinct(budgets) {
        let alerts = &mut settled.alerts;
        let tell = |window, passed: Passed| {
            alerts.push(SpendingAlert {
                account: account.clone(),
                budget: id.clone(),
                window,
                limit: passed.limit,
                spent: passed.spent,
            });
        };
        let budget = books.budget(id);
        budget.settle(stamp, held, charged, second, tell);
    }
    settled
}

/// Pays money in. `None` if the amount is not above zero or exceeds what an account can hold; then
/// nothing has changed.
pub fn credit(balance: &mut Balance, amount: Money) -> Option<()> {
    if amount <= Money::ZERO {
        return None;
    }
    balance.deposited = balance.deposited.checked_add(amount)?;
    Some(())
}

/// Corrects what was paid in, up or down: a gift, a chargeback, or a [`refund`], which also lowers
/// what budgets have spent. The balance may become negative; new holds are refused until it is
/// covered. `None` if the amount is zero or exceeds what an account can hold; then nothing has
/// changed.
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
