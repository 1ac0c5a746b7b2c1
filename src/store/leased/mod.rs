//! Budget leases: a durable ledger sets money aside, from which calls are paid at the speed of memory.
//!
//! A node that has many calls of an account takes a part of its money from the store, for one set of budgets: a lease. It
//! is set aside there as a hold is, in the account and in every budget, so whatever a node does with it, nothing is
//! overspent. Calls are held and settled against it here, without I/O; what they cost is written down in batches,
//! with the rows of the usage log.
//!
//! - **The store decides.** Nobody is refused here. What no lease covers goes to the store, call by call; before it
//!   refuses, this node has given back what it had of the account. What other nodes have they give back when they have
//!   had no call for [`idle_after`](LeasedLedgerBuilder::idle_after) (a second). A lease grows by no more than an
//!   eighth of what the store has left, so near the end they get small; where it would do for few calls there is none,
//!   and the last cent is spent by exact holds.
//! - **A lease ends** with the day or the month of its budgets, with the life of its store's instance, or when it is idle.
//!   In a window that rolls it counts as held money does, and what was spent of it from its report on.
//! - **Fenced.** A node spends a lease for no longer than four seconds after its store last said that it lives, by its
//!   monotonic clock and by the time of day; after five at the soonest others take it for dead and resolve what it had.
//!   Whatever it still reports then, each of its reports counts once: what was served is charged, beyond the limit if
//!   others were given the money meanwhile. That is remembered for a day.
//! - **A crash loses** what calls cost that ended in the last [`report_every`](LeasedLedgerBuilder::report_every) (100 ms):
//!   they are not charged. Calls under way are not charged either, as on any ledger. The lease itself is given back
//!   about 7 seconds later, or charged whole ([`expiry`](LeasedLedgerBuilder::expiry)).
//! - **Limits and credits.** Whoever asks sees leased money as held. A limit, a credit line or a balance that was lowered counts
//!   for leased money within two intervals of reports and their round trips, and on the node that lowered it at
//!   once.
//! - **What stays the store's.** Holds with an idempotency key, of nothing, or to be charged when their process dies; rows
//!   of calls without a hold; everything that is no hold and no settlement.
//! - **Bounds.** Leases, calls under way and rows that wait; see [`LeasedLedgerBuilder`]. Beyond them a call goes to the
//!   store.
//! - **When the store fails**, leases last for up to four seconds. Then calls are refused as by the store itself; what was
//!   served is reported as soon as it answers. Until then the rows pile up: no more than
//!   [`unreported_max`](LeasedLedgerBuilder::unreported_max) of them, and of no more money than was leased. A node that dies before
//!   its store is back loses all of them, not those of one interval.
//! - **One account does not wait for another.** Of each lease one step is under way; a row that is locked holds up its own
//!   account. Who waits for a report waits for five seconds, then gets `Unavailable`.
//! - **When the reporting task ends** (closed, its runtime gone, a panic), nothing is granted here any more: every call goes to
//!   the store. What was not reported is not charged, and said in the log.
//! - **What the fence can't see:** a virtual machine that was stopped and goes on with both of its clocks where they stood. It spends
//!   what it has leased until the answer to its next report; that is charged, as an overrun.

mod accounts;
mod agent;
mod builder;
mod share;
mod steps;
mod waiters;

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use tokio::task::JoinHandle;

use self::accounts::{Accounts, Held, Scarce, lock};
use super::{
    AccountId, BudgetId, Ledger, Page, Paged, StoreError, StoreFuture, leasing::LeaseStore,
};
use crate::domain::{
    books::{Balance, Budget, HoldRefusal},
    budget::SpendingLimits,
    money::Money,
    usage::{Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry},
};

pub use builder::LeasedLedgerBuilder;

/// A ledger in front of a durable one, which spends money that it has leased. A clone is a reference count.
///
/// [`LeasedLedger::close`] reports everything and gives everything back. When the last clone is dropped instead, that is
/// done in the background, as long as the runtime goes on.
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
/// // Any layer takes it in the place of the store.
/// assert_eq!(ledger.statistics().leases, 0);
/// ledger.close().await?;
/// store.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LeasedLedger {
    accounts: Arc<Accounts>,
    ends: Arc<Ends>,
}

/// What a [`LeasedLedger`] did, and has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseStatistics {
    /// Leases that it has now.
    pub leases: usize,
    /// Calls under way on leases, and ended ones that are not written down yet.
    pub unreported: usize,
    /// Holds that were granted from leases.
    pub held_here: u64,
    /// Holds that the store was asked for.
    pub held_in_store: u64,
}

/// Ends the agent when nobody has the ledger any more.
struct Ends {
    accounts: Arc<Accounts>,
    agent: Mutex<Option<JoinHandle<()>>>,
}

impl Ends {
    fn new(accounts: Arc<Accounts>, agent: JoinHandle<()>) -> Self {
        Self {
            accounts,
            agent: Mutex::new(Some(agent)),
        }
    }

    fn begin(&self) {
        self.accounts.is_closed.store(true, Ordering::Release);
        self.accounts.urgent.notify_one();
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.begin();
    }
}

impl LeasedLedger {
    /// Begins to lease from `store`, with default settings. It must be called on a Tokio runtime.
    ///
    /// # Errors
    /// `Unavailable` outside a Tokio runtime, `Internal` without random numbers.
    pub fn start(store: impl LeaseStore) -> Result<Self, StoreError> {
        Self::builder(store).start()
    }

    /// Settings of one's own for leases from `store`.
    pub fn builder(store: impl LeaseStore) -> LeasedLedgerBuilder {
        LeasedLedgerBuilder::new(Arc::new(store))
    }

    /// Reports what was served and gives back what is free. What is set aside for calls under way stays.
    ///
    /// # Errors
    /// `Unavailable` when the store doesn't take it.
    pub fn give_back(&self) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        self.accounts.close(None);
        self.accounts.owe_all(None);
        self.accounts.cleared(None)
    }

    /// Resolves calls that are still under way, reports everything and gives everything back. The store stays open. Other
    /// clones ask the store for everything from then on.
    ///
    /// It takes 15 seconds at most; what the store has not taken by then is lost, and said so in the log.
    ///
    /// # Errors
    /// `Unavailable` when the store didn't take everything, `Internal` when the reporting task had died.
    pub async fn close(self) -> Result<(), StoreError> {
        self.ends.begin();
        let agent = lock(&self.ends.agent).take();
        if let Some(agent) = agent {
            // A runtime that nobody drives does not end it at all.
            let limit = agent::LEAVE_WITHIN.saturating_mul(2);
            let ended = waiters::within(limit, agent).await;
            if matches!(ended, Some(Err(_))) {
                return Err(StoreError::internal(
                    "the task that reports leases had died",
                ));
            }
        }
        if self.accounts.has_unreported() || !self.accounts.is_empty() {
            return Err(waiters::unreported_rows());
        }
        Ok(())
    }

    /// What it did, and has.
    #[must_use]
    pub fn statistics(&self) -> LeaseStatistics {
        LeaseStatistics {
            leases: self.accounts.leases.load(Ordering::Relaxed),
            unreported: self.accounts.places.load(Ordering::Relaxed),
            held_here: self.accounts.held_here.load(Ordering::Relaxed),
            held_in_store: self.accounts.held_in_store.load(Ordering::Relaxed),
        }
    }

    /// Asks the store, and again if it refuses while this node has money of the account: then that is given back. One
    /// that it had when the store refused may have come back by now.
    fn hold_in_store(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        let accounts = Arc::clone(&self.accounts);
        accounts.held_in_store.fetch_add(1, Ordering::Relaxed);
        let before = accounts.answers(&request.call.account);
        let first = accounts.store.hold(request.clone());
        StoreFuture::new(async move {
            let answer = first.await?;
            let scarce = match answer {
                Err(HoldRefusal::InsufficientCredits) => Scarce::Account,
                // Who spends by other budgets goes on.
                Err(HoldRefusal::LimitReached(_) | HoldRefusal::RollingLimitReached { .. }) => {
                    Scarce::Budgets(&request.budgets)
                }
                _ => return Ok(answer),
            };
            let account = &request.call.account;
            if !accounts.has_scarce(account, scarce) && accounts.answers(account) == before {
                return Ok(answer);
            }
            accounts.close_scarce(account, scarce);
            accounts.cleared(Some(account.clone())).await?;
            accounts.store.hold(request).await
        })
    }

    /// Asks the store when it knows of what was served of the account.
    fn up_to_date<T: Send + Unpin + 'static>(
        &self,
        account: &AccountId,
        ask: impl FnOnce(&dyn LeaseStore) -> StoreFuture<T> + Send + 'static,
    ) -> StoreFuture<T> {
        if !self.accounts.owe(account) {
            return ask(&*self.accounts.store);
        }
        let accounts = Arc::clone(&self.accounts);
        let account = account.clone();
        StoreFuture::new(async move {
            accounts.cleared(Some(account)).await?;
            ask(&*accounts.store).await
        })
    }

    /// Changes what an account may spend; leases that were taken before it are given back before it is answered.
    fn change<T: Send + Unpin + 'static>(
        &self,
        account: &AccountId,
        change: impl FnOnce(&dyn LeaseStore) -> StoreFuture<T> + Send + 'static,
    ) -> StoreFuture<T> {
        if !self.accounts.has_lease(account) {
            return change(&*self.accounts.store);
        }
        let accounts = Arc::clone(&self.accounts);
        let account = account.clone();
        StoreFuture::new(async move {
            accounts.close(Some(&account));
            accounts.cleared(Some(account.clone())).await?;
            let answer = change(&*accounts.store).await?;
            // One that was taken meanwhile.
            accounts.close(Some(&account));
            accounts.cleared(Some(account)).await?;
            Ok(answer)
        })
    }
}

impl Ledger for LeasedLedger {
    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        match self.accounts.hold(request) {
            Held::Yes(hold) => StoreFuture::ready(Ok(Ok(hold))),
            Held::No(request) => self.hold_in_store(request),
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
        // What was served before stands before it in the log.
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

    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
        let owner = account.clone();
        self.up_to_date(account, move |store| store.transactions(&owner, page))
    }

    fn flush(&self) -> StoreFuture<()> {
        self.accounts.owe_all(None);
        let cleared = self.accounts.cleared(None);
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
