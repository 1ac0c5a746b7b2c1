//! Giving back what was spent.

use super::{Balance, Books, BudgetId, Money, adjust, distinct};
use crate::domain::{
    budget::{Moment, Windows},
    usage::Adjustment,
};

/// The most budgets that one refund names.
const BUDGETS_MAX: usize = 64;

/// A call of which something is given back, as a ledger knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChargedCall {
    /// What it was charged.
    pub charged: Money,
    /// What of that was given back before.
    pub refunded: Money,
    /// The day and the month in which it counted.
    pub windows: Windows,
    /// When it was charged, in seconds since 1970-01-01T00:00:00Z.
    pub second: i64,
}

/// Why nothing is given back. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefundRefusal {
    /// The amount is not above zero, or exceeds what an account can hold.
    #[error("amount out of range")]
    OutOfRange,
    /// The call was charged less, or the rest of it was given back before.
    #[error("more than the call was charged and not given back before")]
    MoreThanCharged,
    /// It names more than 64 budgets.
    #[error("a refund names at most {BUDGETS_MAX} budgets")]
    TooManyBudgets,
}

/// Gives an amount back: to the account, as a correction of what was paid in, and to the `budgets`,
/// which have spent that much less. Of a `call`, at most what it was charged, in its own windows:
/// where a budget's day or month is another by then, it counts in neither. Without one it counts in
/// the current windows. What is charged stays as it is in the account, and in the usage log.
///
/// No budget is left with less than nothing spent: it may have been given back under another
/// reference.
///
/// # Errors
/// [`RefundRefusal`]; then nothing has changed.
pub fn refund(
    books: &mut impl Books,
    budgets: &[BudgetId],
    amount: Money,
    call: Option<&ChargedCall>,
    now: Moment,
) -> Result<(), RefundRefusal> {
    if amount <= Money::ZERO {
        return Err(RefundRefusal::OutOfRange);
    }
    if let Some(call) = call {
        let all = call.refunded.checked_add(amount);
        if all.is_none_or(|all| all > call.charged) {
            return Err(RefundRefusal::MoreThanCharged);
        }
    }
    adjust(books.balance(), amount).ok_or(RefundRefusal::OutOfRange)?;
    for id in distinct(budgets) {
        books.budget(id).refund(amount, call, now);
    }
    Ok(())
}

/// Whether it could be booked in any account. Asked before whatever else may refuse it, so
/// that every engine says the same of nonsense.
pub(crate) fn check(
    change: &Adjustment,
    rule: fn(&mut Balance, Money) -> Option<()>,
) -> Result<(), RefundRefusal> {
    if change.budgets.len() > BUDGETS_MAX {
        return Err(RefundRefusal::TooManyBudgets);
    }
    let is_in_range = match change.is_refund() {
        true => change.amount > Money::ZERO,
        false => rule(&mut Balance::default(), change.amount).is_some(),
    };
    is_in_range.then_some(()).ok_or(RefundRefusal::OutOfRange)
}

/// Books a payment, by its `rule`, or a correction that may be a refund.
pub(crate) fn pay(
    books: &mut impl Books,
    change: &Adjustment,
    rule: fn(&mut Balance, Money) -> Option<()>,
    call: Option<&ChargedCall>,
    now: Moment,
) -> Result<(), RefundRefusal> {
    if change.is_refund() {
        return refund(books, &change.budgets, change.amount, call, now);
    }
    rule(books.balance(), change.amount).ok_or(RefundRefusal::OutOfRange)
}
