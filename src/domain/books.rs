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
//! as long as it is open, and what it comes to from then on ([`RollingWindow`]).

mod lease;
mod rolling;

use std::time::Duration;

use super::{
    AccountId, BudgetId,
    budget::{BudgetWindow, Moment, RollingWindow, SpendingAlert, SpendingLimits, Windows},
    money::Money,
};

pub use lease::{Due, Lease, LeaseId, LeaseStanding, LeaseStep, Served, Stepped, abandoned_call};
pub use rolling::Rolling;

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

/// What was spent in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Charged.
    pub settled: Money,
    /// Set aside.
    pub held: Money,
}

impl Spent {
    /// What there would be with `amount`; `None`: more than can be counted.
    fn after(&self, amount: Money) -> Option<Money> {
        self.settled.checked_add(self.held)?.checked_add(amount)
    }

    fn admits(&self, amount: Money, limit: Option<Money>) -> bool {
        let Some(limit) = limit else { return true };
        self.after(amount).is_some_and(|after| after <= limit)
    }

    fn left(&self, limit: Option<Money>) -> Option<Money> {
        limit.map(|limit| limit.saturating_sub(self.settled).saturating_sub(self.held))
    }

    fn unless(self, is_over: bool) -> Self {
        if is_over { Self::default() } else { self }
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The limits. They are changed by [`set_limits`](Self::set_limits).
    pub limits: SpendingLimits,
    /// The windows that `day` and `month` speak of.
    pub windows: Windows,
    /// Spent in the day.
    pub day: Spent,
    /// Spent in the month.
    pub month: Spent,
    /// Spent ever.
    pub total: Spent,
    /// Charged in the window that rolls; `None`: there never was a limit of one. What is held is that of `total`: all that is
    /// held counts. A limit that is taken away leaves it, so that one of the same length goes on where it was.
    pub rolling: Option<Box<Rolling>>,
}

impl Budget {
    /// As it stands `now`: a window that has ended since the last hold counts as empty.
    #[must_use]
    pub(crate) fn rolled(mut self, now: Moment) -> Self {
        self.roll(now.windows, now.second);
        self
    }

    /// Begins new windows where they have begun. Never goes back.
    fn roll(&mut self, windows: Windows, second: i64) {
        self.day = self.day.unless(windows.day > self.windows.day);
        self.month = self.month.unless(windows.month > self.windows.month);
        self.windows = self.windows.max(windows);
        if let Some(limit) = self.limits.rolling {
            // One that was written into `limits` begins to be counted now.
            self.count_in(limit.window, second);
        }
        if let Some(rolling) = &mut self.rolling {
            rolling.roll(second);
        }
    }

    /// Sets the limits, which count for the next hold; what was spent before counts too.
    ///
    /// In a window that rolls and had no limit, or one of another length, that is what the other window knew, and at least
    /// what was spent in the day or the month if all of it lies within the new one. It counts as late as it may have been
    /// spent: what of these no slice tells counts as spent now.
    pub fn set_limits(&mut self, limits: SpendingLimits, now: Moment) {
        self.roll(now.windows, now.second);
        if let Some(limit) = limits.rolling {
            self.count_in(limit.window, now.second);
            let soft = self.limits.rolling.and_then(|before| before.soft);
            if let Some(rolling) = &mut self.rolling
                && soft != limit.soft
            {
                rolling.tell_anew();
            }
        }
        self.limits = limits;
    }

    fn count_in(&mut self, window: RollingWindow, second: i64) {
        let known = self.rolling.as_deref();
        if known.is_some_and(|rolling| rolling.window() == window) {
            return;
        }
        let mut rolling = match known {
            Some(known) => known.recut(window, second),
            None => Rolling::new(window, second),
        };
        let is_within = |start: i64| second.saturating_sub(start) <= window.seconds();
        if is_within(self.windows.month) {
            rolling.at_least(self.month.settled);
        } else if is_within(self.windows.day) {
            rolling.at_least(self.day.settled);
        }
        self.rolling = Some(Box::new(rolling));
    }

    /// What counts in `second` in the window that rolls, of what was charged and what is held.
    fn spent_rolling(&self, second: i64) -> Spent {
        let rolling = self.rolling.as_deref();
        Spent {
            settled: rolling.map_or(Money::ZERO, |rolling| rolling.settled_at(second)),
            held: self.total.held,
        }
    }

    /// What is left of the tightest limit.
    fn left(&self, now: Moment) -> Option<Money> {
        let day = self.day.unless(now.windows.day > self.windows.day);
        let month = self.month.unless(now.windows.month > self.windows.month);
        let limits = &self.limits;
        let rolling = limits.rolling.and_then(|rolling| rolling.limit);
        let lefts = [
            day.left(limits.daily),
            month.left(limits.monthly),
            self.total.left(limits.total),
            rolling.and_then(|limit| self.spent_rolling(now.second).left(Some(limit))),
        ];
        lefts.into_iter().flatten().min()
    }

    fn refuses(&self, amount: Money, second: i64) -> Option<HoldRefusal> {
        let limits = &self.limits;
        if !self.day.admits(amount, limits.daily) {
            Some(HoldRefusal::LimitReached(BudgetWindow::Day))
        } else if !self.month.admits(amount, limits.monthly) {
            Some(HoldRefusal::LimitReached(BudgetWindow::Month))
        } else if !self.total.admits(amount, limits.total) {
            Some(HoldRefusal::LimitReached(BudgetWindow::Total))
        } else {
            let limit = limits.rolling?.limit?;
            let spent = self.spent_rolling(second);
            (!spent.admits(amount, Some(limit))).then(|| HoldRefusal::RollingLimitReached {
                wait: self.wait(limit, amount, second),
            })
        }
    }

    fn wait(&self, limit: Money, amount: Money, second: i64) -> Option<Duration> {
        let room = limit.checked_sub(amount)?;
        let rolling = self.rolling.as_deref()?;
        (!room.is_negative())
            .then(|| rolling.wait(room, second))
            .flatten()
    }

    /// Ends a hold; returns which soft limits that passed.
    fn settle(
        &mut self,
        stamp: Windows,
        held: Money,
        charged: Money,
        second: i64,
    ) -> [(BudgetWindow, Option<Passed>); 4] {
        let soft = self.limits.soft;
        let mut passed = [
            (BudgetWindow::Day, None),
            (BudgetWindow::Month, None),
            (
                BudgetWindow::Total,
                self.total.settle(held, charged, soft.total),
            ),
            (BudgetWindow::Rolling, None),
        ];
        if self.windows.day == stamp.day {
            passed[0].1 = self.day.settle(held, charged, soft.daily);
        }
        if self.windows.month == stamp.month {
            passed[1].1 = self.month.settle(held, charged, soft.monthly);
        }
        if let Some(rolling) = &mut self.rolling {
            let soft = self.limits.rolling.and_then(|rolling| rolling.soft);
            passed[3].1 = rolling.settle(charged, second, soft);
        }
        passed
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
