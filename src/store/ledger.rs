//! The trait of every ledger.

use std::{fmt, sync::Arc, time::Duration};

use super::{AccountId, BudgetId, Page, Paged, StoreFuture};
use crate::domain::{
    books::{Balance, Budget, HoldRefusal},
    budget::SpendingLimits,
    money::Money,
    usage::{Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry},
};

/// Keeps balances, budgets, holds and the usage log. The arithmetic is the domain's
/// ([`books`](crate::books)); an engine makes it atomic and durable.
///
/// What a ledger of one's own must see to besides:
///
/// - **[`books::hold`](crate::books::hold) and [`books::settle`](crate::books::settle) run on books that nobody else changes
///   meanwhile**: the account's [`Balance`] and each [`Budget`] that is named, locked in one order. What they return is written in the
///   same step: of a hold its [`Grant`](crate::books::Grant) ([`Hold::granted`]), of a settlement what was charged, into the log.
/// - **A hold is settled once**, by its [`HoldId`](crate::usage::HoldId): what is written down of it goes in the step that settles it, and
///   a second settlement, or one of a hold that was resolved, changes nothing and is no failure.
/// - **No hold outlives its process.** Those of one that died, and those whose [`lifetime`](HoldRequest::lifetime) is over, are resolved
///   as their [`Expiry`](crate::usage::Expiry) says, with a row of the log that says `abandoned`.
/// - **An [`Idempotency`](crate::usage::Idempotency) key is known from the step of the hold on** ([`KnownCall`](crate::books::KnownCall)
///   says why another is refused), and forgotten with a hold that cost nothing.
/// - **Open holds have a bound**, one for each account ([`HoldRefusal::TooManyOpen`]), and one for all (`Busy`).
/// - **A settlement is never refused** because much is waiting: what it waits for are holds, which have a bound.
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// Sets money aside in the account and in every budget, or nowhere. When it answers, a durable
    /// engine has written it down.
    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>>;

    /// Ends a hold, once, with what the call really cost, and writes the usage row, in one step.
    ///
    /// The settlement is on its way as soon as this returns, whether or not the answer is awaited; a
    /// hold that was resolved in the meantime (it outlived its lifetime) stays as it was resolved.
    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()>;

    /// Lets a hold live for `lifetime` from now on. `false`: it isn't open any more. Like a settlement it is
    /// on its way as soon as this returns, and isn't refused because much is waiting: whoever asks waits for the
    /// answer before he asks again for the same hold.
    fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool>;

    /// Writes a usage row for a call that cost nothing and had no hold; what the settlement says was
    /// charged counts as nothing.
    fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()>;

    /// Pays money in, once for each reference, and returns the balance. Fails with `Refused` when the
    /// amount is not above zero or too large, or the reference none ([`is_reference`](crate::usage::is_reference)),
    /// with `Conflict` when the reference was used for another amount or account.
    fn credit(&self, credit: Credit) -> StoreFuture<Balance>;

    /// Corrects what was paid in, up or down, once for each reference, and returns the balance. Fails
    /// like [`credit`](Self::credit), with which it shares the references; an amount of zero is refused.
    fn adjust(&self, adjustment: Adjustment) -> StoreFuture<Balance>;

    /// Sets how far the account may be spent below what was paid in, and returns the balance. Fails with
    /// `Refused` when it is below zero.
    fn set_credit_line(&self, account: &AccountId, line: Money) -> StoreFuture<Balance>;

    /// The money of an account; one that never was is empty.
    fn balance(&self, account: &AccountId) -> StoreFuture<Balance>;

    /// Sets the limits of a budget of the account and returns the budget. They count for the next
    /// hold; what was spent before counts too, in a window that rolls as far as
    /// [`Budget::set_limits`](crate::books::Budget::set_limits) can know of it. Fails with `Refused` when one is below zero.
    fn set_limits(
        &self,
        account: &AccountId,
        budget: &BudgetId,
        limits: SpendingLimits,
    ) -> StoreFuture<Budget>;

    /// A budget of the account as it stands now: a day or month that has ended since the last hold
    /// counts as empty, and what has left a window that rolls is left out. One that never was is empty.
    fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget>;

    /// The usage log of an account, newest first.
    fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>>;

    /// Every credit and every charge of an account, newest first.
    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>>;

    /// Waits until all that was handed over before is written, for an orderly end.
    fn flush(&self) -> StoreFuture<()>;
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

    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
        T::transactions(self, account, page)
    }

    fn flush(&self) -> StoreFuture<()> {
        T::flush(self)
    }
}
