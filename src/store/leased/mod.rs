//! Budget leases: a durable ledger sets money aside, from which calls are paid at the speed of
//! memory.
//!
//! A node with many calls of an account takes part of the account's money from the store, for one
//! set of budgets: a lease. The store sets it aside like a hold, in the account and in every
//! budget, so nothing is overspent whatever the node does with it. Calls are held and settled
//! against it in memory, without I/O; their costs are written in batches, with the rows of the
//! usage log.
//!
//! - **The store decides.** No call is refused here. What no lease covers goes to the store, call
//!   by call, and before a refusal stands this node gives back everything it holds of the account.
//!   Other nodes give back what they have after [`idle_after`](LeasedLedgerBuilder::idle_after) (a
//!   second) without calls. A lease grows by no more than an eighth of what the store has left, so
//!   leases get small near the end; where one would last for only a few calls there is none, and
//!   the last cent is spent by exact holds.
//! - **A lease ends** with the day or month of its budgets, with its store's instance, or when it
//!   is idle. In a rolling window a lease counts as held money does, and what was spent from it
//!   counts from the time of its report.
//! - **Fenced.** A node spends a lease for at most four seconds after the store last confirmed that
//!   the node is alive, measured by both its monotonic clock and the time of day; other nodes
//!   declare it dead and resolve its leases after five seconds at the earliest. Each report counts
//!   once, even one that arrives after that: what was served is charged, past the limit if others
//!   were given the money in the meantime. Reports are remembered for a day for this.
//! - **A crash loses** the charges of calls that ended in the last
//!   [`report_every`](LeasedLedgerBuilder::report_every) (100 ms). Calls in progress are not
//!   charged either, as on any ledger. The lease itself is released about 7 seconds later, or
//!   charged in full ([`expiry`](LeasedLedgerBuilder::expiry)).
//! - **Limits and credits.** Balances and budgets show leased money as held. A lowered limit,
//!   credit line or balance applies to leased money within two report intervals and their round
//!   trips, and immediately on the node that lowered it.
//! - **What always goes to the store.** Holds with an idempotency key, holds of nothing, holds to
//!   be charged when their process dies; rows of calls without a hold; every operation other than
//!   hold and settle.
//! - **Bounds.** Leases, calls in progress and unreported rows; see [`LeasedLedgerBuilder`]. Beyond
//!   these a call goes to the store.
//! - **When the store fails**, leases last for up to four seconds. After that calls are refused as
//!   they are by the store itself; what was served is reported as soon as the store answers. Until
//!   then rows pile up: at most [`unreported_max`](LeasedLedgerBuilder::unreported_max) of them,
//!   and for no more money than was leased. A node that dies before its store is back loses all of
//!   them, not just those of one interval.
//! - **Accounts don't wait for each other.** Each lease has at most one step in progress, so a
//!   locked row delays only its own account. A caller that needs a report to finish waits up to
//!   five seconds, then gets `Unavailable`.
//! - **When the reporting task ends** (closed, its runtime gone, a panic), nothing is granted here
//!   any more: every call goes to the store. What was not reported is not charged; the log says how
//!   much that is.
//! - **What the fence can't see:** a virtual machine that was paused and resumes with both clocks
//!   where they stood. It spends what it has leased until its next report is answered; that is
//!   charged, as an overrun.

mod account;
mod accounts;
mod builder;
mod lease;
mod reporter;
mod steps;
mod waiters;

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use tokio::task::JoinHandle;

use self::{accounts::Accounts, lease::Scarcity};
use super::{
    AccountId, BudgetId, Ledger, Page, Paged, StoreError, StoreFuture, leasing::LeaseStore,
};
use crate::domain::{
    books::{Balance, Budget, HoldRefusal, Snapshot},
    budget::{BudgetWindow, SpendingLimits},
    clock::Timestamp,
    money::Money,
    usage::{Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry},
};

use crate::sync::lock;

pub use builder::LeasedLedgerBuilder;

/// A ledger in front of a durable one that spends leased money. A clone is a reference count.
///
/// [`LeasedLedger::close`] reports everything and gives everything back. When the last clone is
/// dropped instead, this happens in the background for as long as the runtime runs.
///
/// ```
/// use tollgate::store::{LeasedLedger, Ledger, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("tollgate.db");
/// let store = SqliteStore::open(&path).await?;
/// let ledger = LeasedLedger::start(store.clone())?;
/// // Any layer takes it in place of the store.
/// assert_eq!(ledger.statistics().leases, 0);
/// ledger.close().await?;
/// store.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LeasedLedger {
    accounts: Arc<Accounts>,
    reporter: Arc<ReporterGuard>,
}

/// Counters and current sizes of a [`LeasedLedger`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseStatistics {
    /// Leases that it currently has.
    pub leases: usize,
    /// Calls in progress on leases, and ended ones that are not reported yet.
    pub unreported: usize,
    /// Holds granted from leases.
    pub held_here: u64,
    /// Holds passed on to the store.
    pub held_in_store: u64,
}

/// Stops the reporter when the last clone of the ledger is dropped.
struct ReporterGuard {
    accounts: Arc<Accounts>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl ReporterGuard {
    fn new(accounts: Arc<Accounts>, task: JoinHandle<()>) -> Self {
        Self {
            accounts,
            task: Mutex::new(Some(task)),
        }
    }

    fn stop(&self) {
        self.accounts.is_closed.store(true, Ordering::Release);
        self.accounts.urgent.notify_one();
    }
}

impl Drop for ReporterGuard {
    fn drop(&mut self) {
        self.stop();
    }
}

impl LeasedLedger {
    /// Starts leasing from `store`, with default settings. Call it on a Tokio runtime.
    ///
    /// # Errors
    /// `Unavailable` outside a Tokio runtime, `Internal` without random numbers.
    pub fn start(store: impl LeaseStore) -> Result<Self, StoreError> {
        Self::builder(store).start()
    }

    /// A builder with custom settings for leases from `store`.
    pub fn builder(store: impl LeaseStore) -> LeasedLedgerBuilder {
        LeasedLedgerBuilder::new(Arc::new(store))
    }

    /// Reports what was served and gives back what is free. Money set aside for calls in progress
    /// stays.
    ///
    /// # Errors
    /// `Unavailable` when the store doesn't take it.
    pub fn give_back(&self) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        self.accounts.close(None);
        self.accounts.await_all(None);
        self.accounts.until_cleared(None)
    }

    /// Resolves calls that are still in progress, reports everything and gives everything back. The
    /// store stays open. Other clones pass every request to the store from then on.
    ///
    /// It takes 15 seconds at most; what the store has not accepted by then is lost, and logged.
    ///
    /// # Errors
    /// `Unavailable` when the store didn't accept everything, `Internal` when the reporting task
    /// had died.
    pub async fn close(self) -> Result<(), StoreError> {
        self.reporter.stop();
        let task = lock(&self.reporter.task).take();
        if let Some(task) = task {
            // Twice the reporter's own limit: it never finishes on a runtime that nobody drives.
            let limit = reporter::SHUT_DOWN_WITHIN.saturating_mul(2);
            let ended = waiters::within(limit, task).await;
            if matches!(ended, Some(Err(_))) {
                return Err(StoreError::internal("the lease reporting task had died"));
            }
        }
        if self.accounts.has_unreported() || !self.accounts.is_empty() {
            return Err(waiters::unreported_rows());
        }
        Ok(())
    }

    /// Counters and current sizes.
    #[must_use]
    pub fn statistics(&self) -> LeaseStatistics {
        LeaseStatistics {
            leases: self.accounts.leases.load(Ordering::Relaxed),
            unreported: self.accounts.unreported.load(Ordering::Relaxed),
            held_here: self.accounts.held_here.load(Ordering::Relaxed),
            held_in_store: self.accounts.held_in_store.load(Ordering::Relaxed),
        }
    }

    /// Asks the store. If it refuses while this node has leased money of the account, gives that
    /// back and asks again. A lease given back after the refusal counts too: hence the count of
    /// answers.
    fn hold_in_store(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        let accounts = Arc::clone(&self.accounts);
        accounts.held_in_store.fetch_add(1, Ordering::Relaxed);
        let before = accounts.answers(&request.call.account);
        let first = accounts.store.hold(request.clone());
        StoreFuture::new(async move {
            let answer = first.await?;
            let scarcity = match answer {
                Err(HoldRefusal::InsufficientCredits | HoldRefusal::OnlyHeld { limit: None }) => {
                    Scarcity::Account
                }
                // Leases under other budgets keep going.
                Err(
                    HoldRefusal::LimitReached(_)
                    | HoldRefusal::RollingLimitReached { .. }
                    | HoldRefusal::OnlyHeld { limit: Some(_) },
                ) => Scarcity::Budgets,
                _ => return Ok(answer),
            };
            let (account, budgets) = (&request.call.account, &*request.budgets);
            if !accounts.has_scarce(account, scarcity, budgets)
                && accounts.answers(account) == before
            {
                return Ok(answer);
            }
            accounts.close_scarce(account, scarcity, budgets);
            accounts.until_cleared(Some(account.clone())).await?;
            accounts.store.hold(request).await
        })
    }

    /// Asks the store once it knows what was served for the account.
    fn up_to_date<T: Send + Unpin + 'static>(
        &self,
        account: &AccountId,
        ask: impl FnOnce(&dyn LeaseStore) -> StoreFuture<T> + Send + 'static,
    ) -> StoreFuture<T> {
        if !self.accounts.mark_awaited(account) {
            return ask(&*self.accounts.store);
        }
        let accounts = Arc::clone(&self.accounts);
        let account = account.clone();
        StoreFuture::new(async move {
            accounts.until_cleared(Some(account)).await?;
            ask(&*accounts.store).await
        })
    }

    /// Changes what an account may spend. Leases taken before the change are given back before it
    /// is acknowledged.
    fn change<T: Send + Unpin + 'static>(
        &self,
        account: &AccountId,
        change: impl FnOnce(&dyn LeaseStore) -> StoreFuture<T> + Send + 'static,
    ) -> StoreFuture<T> {
        let (accounts, account) = (Arc::clone(&self.accounts), account.clone());
        let begun = if accounts.has_lease(&account) {
            Err(change)
        } else {
            Ok(change(&*accounts.store))
        };
        StoreFuture::new(async move {
            let answer = match begun {
                Ok(begun) => begun.await?,
                Err(change) => {
                    accounts.close(Some(&account));
                    accounts.until_cleared(Some(account.clone())).await?;
                    change(&*accounts.store).await?
                }
            };
            // A lease may have been taken during the change.
            if accounts.has_lease(&account) {
                accounts.close(Some(&account));
                accounts.until_cleared(Some(account)).await?;
            }
            Ok(answer)
        })
    }
}

impl Ledger for LeasedLedger {
    fn window_end(&self, window: BudgetWindow, at: Timestamp) -> Option<Timestamp> {
        self.accounts.store.window_end(window, at)
    }

    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        match self.accounts.hold(request) {
            Ok(hold) => StoreFuture::ready(Ok(Ok(hold))),
            Err(request) => self.hold_in_store(request),
        }
    }

    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
        match self.accounts.settle(hold, settlement) {
            None => StoreFuture::ready(Ok(())),
            Some((hold, settlement)) => self.accounts.store.settle(hold, settlement),
        }
    }

    fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool> {
        match self.accounts.extend(hold, lifetime) {
            Some(extended) => StoreFuture::ready(Ok(extended)),
            None => self.accounts.store.extend(hold, lifetime),
        }
    }

    fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()> {
        self.accounts.store.record(call, settlement)
    }

    fn credit(&self, credit: Credit) -> StoreFuture<Balance> {
        // What was served earlier must come earlier in the log.
        let account = credit.account.clone();
        self.up_to_date(&account, |store| store.credit(credit))
    }

    fn adjust(&self, adjustment: Adjustment) -> StoreFuture<Balance> {
        let account = adjustment.account.clone();
        self.change(&account, |store| store.adjust(adjustment))
    }

    fn set_credit_line(&self, account: &AccountId, line: Money) -> StoreFuture<Balance> {
        let owner = account.clone();
        self.change(account, move |store| store.set_credit_line(&owner, line))
    }

    fn balance(&self, account: &AccountId) -> StoreFuture<Balance> {
        let owner = account.clone();
        self.up_to_date(account, move |store| store.balance(&owner))
    }

    fn snapshot(&self, account: &AccountId) -> StoreFuture<Snapshot> {
        let owner = account.clone();
        self.up_to_date(account, move |store| store.snapshot(&owner))
    }

    fn set_limits(
        &self,
        account: &AccountId,
        budget: &BudgetId,
        limits: SpendingLimits,
    ) -> StoreFuture<Budget> {
        let (owner, budget) = (account.clone(), budget.clone());
        self.change(account, move |store| {
            store.set_limits(&owner, &budget, limits)
        })
    }

    fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget> {
        let (owner, budget) = (account.clone(), budget.clone());
        self.up_to_date(account, move |store| store.budget(&owner, &budget))
    }

    fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        let owner = account.clone();
        self.up_to_date(account, move |store| store.usage(&owner, page))
    }

    fn usage_at(&self, account: &AccountId, position: u64) -> StoreFuture<Option<UsageEntry>> {
        let owner = account.clone();
        self.up_to_date(account, move |store| store.usage_at(&owner, position))
    }

    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
        let owner = account.clone();
        self.up_to_date(account, move |store| store.transactions(&owner, page))
    }

    fn flush(&self) -> StoreFuture<()> {
        self.accounts.await_all(None);
        let cleared = self.accounts.until_cleared(None);
        let accounts = Arc::clone(&self.accounts);
        StoreFuture::new(async move {
            cleared.await?;
            accounts.store.flush().await
        })
    }
}

impl fmt::Debug for LeasedLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedLedger")
            .field("store", &self.accounts.store)
            .finish_non_exhaustive()
    }
}
