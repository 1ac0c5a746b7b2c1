//! The trait of every ledger.

use std::{fmt, sync::Arc, time::Duration};

use super::{AccountId, BudgetId, Page, Paged, StoreFuture};
use crate::domain::{
    books::{Balance, Budget, HoldRefusal, Snapshot},
    budget::{BudgetWindow, SpendingLimits},
    clock::Timestamp,
    money::Money,
    usage::{Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry},
};

/// Keeps balances, budgets, holds and the usage log. The arithmetic is the domain's
/// ([`books`](crate::books)); an engine makes it atomic and durable.
///
/// A custom ledger must also ensure the following:
///
/// - **[`books::hold`](crate::books::hold) and [`books::settle`](crate::books::settle) run on books
///   that nothing else changes meanwhile**: the account's [`Balance`] and each named [`Budget`],
///   locked in a fixed order. Their results are written in the same step: for a hold its
///   [`Grant`](crate::books::Grant) ([`Hold::granted`]), for a settlement the charge, into the log.
/// - **A hold is settled once**, by its [`HoldId`](crate::usage::HoldId): its record is removed in
///   the step that settles it, and a second settlement changes nothing and is not an error.
/// - **No hold outlives its process.** Holds of a dead process, and those whose
///   [`lifetime`](HoldRequest::lifetime) is over, are resolved as their
///   [`Expiry`](crate::usage::Expiry) says, with a log row that says `abandoned`.
/// - **An answered call is charged, even late.** A process that was only cut off returns and
///   settles holds that were resolved meanwhile. What such a call cost beyond what was charged then
///   is charged, once, for a day ([`Abandoned`](crate::books::Abandoned)), with a second row that
///   holds nothing. This may overdraw the account.
/// - **An [`Idempotency`](crate::usage::Idempotency) key is known from the step of its hold on**
///   ([`KnownCall`](crate::books::KnownCall) says why another call is refused), and forgotten if
///   the hold cost nothing.
/// - **Open holds are bounded** per account ([`HoldRefusal::TooManyOpen`]) and overall (`Busy`).
/// - **A settlement is never refused** because too much is waiting: settlements are bounded by the
///   open holds.
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// Sets money aside in the account and in every budget, or nowhere. A durable engine has
    /// written it by the time it answers.
    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>>;

    /// Ends a hold, once, with what the call actually cost, and writes the usage row, in one step.
    ///
    /// The settlement is in progress as soon as this returns, whether or not the answer is awaited.
    /// If the hold was resolved in the meantime (its lifetime was over, or this process was
    /// declared dead), its usage row stays, and what the call cost beyond the charge of that row is
    /// charged with a second one.
    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()>;

    /// Extends a hold's lifetime to `lifetime` from now. `false` if it is no longer open. Like a
    /// settlement it is in progress as soon as this returns, and is never refused because too much
    /// is waiting: callers wait for the answer before they extend the same hold again.
    fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool>;

    /// Writes a usage row for a call that cost nothing and had no hold; a charge in the settlement
    /// is ignored.
    fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()>;

    /// Pays money in, once per reference, and returns the balance. Fails with `Refused` when the
    /// amount is not positive or too large, or the reference is invalid
    /// ([`is_reference`](crate::usage::is_reference)), and with `Conflict` when the reference was
    /// used for another amount or account.
    fn credit(&self, credit: Credit) -> StoreFuture<Balance>;

    /// Corrects what was paid in, up or down, once per reference, and returns the balance; a refund
    /// also lowers what [its budgets](Adjustment::in_budget) have spent
    /// ([`books::refund`](crate::books::refund)). Fails like [`credit`](Self::credit), with which
    /// it shares the references; an amount of zero is refused, and a refund that is not above zero.
    /// One [of a call](Adjustment::of_call) is refused beyond what that was charged, less all of
    /// its other refunds, and fails with `NotFound` if the call's row is not, or no longer, in the
    /// account's usage log.
    fn adjust(&self, adjustment: Adjustment) -> StoreFuture<Balance>;

    /// Sets how far the account may be spent below what was paid in, and returns the balance. Fails
    /// with `Refused` when it is negative.
    fn set_credit_line(&self, account: &AccountId, line: Money) -> StoreFuture<Balance>;

    /// The balance of an account; an unknown account is empty.
    fn balance(&self, account: &AccountId) -> StoreFuture<Balance>;

    /// The balance, with the newest position in the account's log, read at one moment: the sum of
    /// all movements up to that position is what was paid in less what was charged.
    fn snapshot(&self, account: &AccountId) -> StoreFuture<Snapshot>;

    /// Sets the limits of a budget of the account and returns the budget. They apply from the next
    /// hold on; earlier spending counts too, in a rolling window as far as
    /// [`Budget::set_limits`](crate::books::Budget::set_limits) can tell. Fails with `Refused` when
    /// one is negative.
    fn set_limits(
        &self,
        account: &AccountId,
        budget: &BudgetId,
        limits: SpendingLimits,
    ) -> StoreFuture<Budget>;

    /// A budget of the account as it stands now: a day or month that has ended since the last hold
    /// counts as empty, and so does what has left a rolling window. An unknown budget is empty.
    fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget>;

    /// The usage log of an account, newest first.
    fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>>;

    /// The row of the account's usage log at that [position](UsageEntry::position), of which
    /// something may be [given back](UsageEntry::refund). `None` if there is none, if it is another
    /// account's, or if the log no longer has it.
    fn usage_at(&self, account: &AccountId, position: u64) -> StoreFuture<Option<UsageEntry>>;

    /// Every credit and every charge of an account, newest first.
    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>>;

    /// Waits until everything handed over before is written, for an orderly shutdown.
    fn flush(&self) -> StoreFuture<()>;

    /// When the calendar window that `at` lies in ends, in the ledger's own time zone
    /// ([`Calendar::end`](crate::budget::Calendar::end)): so a refusal by its limit can say until
    /// when that lasts. `None` unless an engine knows, and for windows that have no such end.
    fn window_end(&self, window: BudgetWindow, at: Timestamp) -> Option<Timestamp> {
        let _ = (window, at);
        None
    }
}

impl<T: Ledger + ?Sized> Ledger for Arc<T> {
    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        T::hold(self, request)
    }

    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
        T::settle(self, hold, settlement)
    }

    fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool> {
        T::extend(self, hold, lifetime)
    }

    fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()> {
        T::record(self, call, settlement)
    }

    fn credit(&self, credit: Credit) -> StoreFuture<Balance> {
        T::credit(self, credit)
    }

    fn adjust(&self, adjustment: Adjustment) -> StoreFuture<Balance> {
        T::adjust(self, adjustment)
    }

    fn set_credit_line(&self, account: &AccountId, line: Money) -> StoreFuture<Balance> {
        T::set_credit_line(self, account, line)
    }

    fn balance(&self, account: &AccountId) -> StoreFuture<Balance> {
        T::balance(self, account)
    }

    fn snapshot(&self, account: &AccountId) -> StoreFuture<Snapshot> {
        T::snapshot(self, account)
    }

    fn set_limits(
        &self,
        account: &AccountId,
        budget: &BudgetId,
        limits: SpendingLimits,
    ) -> StoreFuture<Budget> {
        T::set_limits(self, account, budget, limits)
    }

    fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget> {
        T::budget(self, account, budget)
    }

    fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        T::usage(self, account, page)
    }

    fn usage_at(&self, account: &AccountId, position: u64) -> StoreFuture<Option<UsageEntry>> {
        T::usage_at(self, account, position)
    }

    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
        T::transactions(self, account, page)
    }

    fn flush(&self) -> StoreFuture<()> {
        T::flush(self)
    }

    fn window_end(&self, window: BudgetWindow, at: Timestamp) -> Option<Timestamp> {
        T::window_end(self, window, at)
    }
}
