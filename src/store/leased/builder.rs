//! Settings of a leased ledger and their defaults.

use std::{sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::{LeasedLedger, ReporterGuard, accounts::Accounts, reporter::LeaseReporter};
use crate::{
    domain::{money::Money, usage::Expiry},
    store::{LeaseStore, StoreError, StoreErrorKind},
};

const REPORT_EVERY_MIN: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) report_every: Duration,
    pub(super) idle_after: Duration,
    pub(super) lease_max: Money,
    pub(super) leases_max: usize,
    pub(super) busy_from: u32,
    pub(super) unreported_max: usize,
    pub(super) open_holds_per_account_max: usize,
    pub(super) expiry: Expiry,
}

/// Settings of a [`LeasedLedger`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct LeasedLedgerBuilder {
    store: Arc<dyn LeaseStore>,
    settings: Settings,
}

impl LeasedLedgerBuilder {
    pub(super) fn new(store: Arc<dyn LeaseStore>) -> Self {
        Self {
            store,
            settings: Settings {
                report_every: Duration::from_millis(100),
                idle_after: Duration::from_secs(1),
                lease_max: Money::from_nanos(100_000_000_000),
                leases_max: 4_096,
                busy_from: 4,
                unreported_max: 65_536,
                open_holds_per_account_max: 4_096,
                expiry: Expiry::Release,
            },
        }
    }

    /// How often calls are reported to the store: every 100 milliseconds unless set, and no more
    /// often than every millisecond. A crash loses the charges of the calls that ended in the last
    /// interval, and a limit lowered elsewhere takes effect here an interval and a few round trips
    /// later.
    pub fn report_every(mut self, interval: Duration) -> Self {
        self.settings.report_every = interval.max(REPORT_EVERY_MIN);
        self
    }

    /// How long a lease may go without calls before it is given back: 1 second unless set. It is
    /// given back at the next report after that.
    pub fn idle_after(mut self, time: Duration) -> Self {
        self.settings.idle_after = time;
        self
    }

    /// The most free money in one lease: 100 dollars unless set. Near the end of an account or a
    /// budget a lease never has more than an eighth of what is left.
    pub fn lease_max(mut self, amount: Money) -> Self {
        self.settings.lease_max = amount.max(Money::ZERO);
        self
    }

    /// How many leases this node may have at once: 4,096 unless set. Calls of other accounts go to
    /// the store.
    pub fn leases_max(mut self, leases: usize) -> Self {
        self.settings.leases_max = leases;
        self
    }

    /// How many calls in one report interval it takes before a lease is requested: 4 unless set, at
    /// least 1. Calls before that go to the store.
    pub fn busy_from(mut self, calls: u32) -> Self {
        self.settings.busy_from = calls.max(1);
        self
    }

    /// How many calls may be in progress on leases, or ended but not yet reported: 65,536 unless
    /// set. Beyond that calls go to the store, at its speed. It is also the most calls that a crash
    /// can lose.
    pub fn unreported_max(mut self, calls: usize) -> Self {
        self.settings.unreported_max = calls;
        self
    }

    /// How many calls of one account may be in progress on its leases: 4,096 unless set. Those
    /// beyond go to the store, which has a limit of its own.
    pub fn open_holds_per_account_max(mut self, holds: usize) -> Self {
        self.settings.open_holds_per_account_max = holds;
        self
    }

    /// What happens to the lease of a node that stopped responding: it is released unless set
    /// otherwise. If it is charged in full, the account also pays for money that was never used.
    /// Only with [`Expiry::Charge`] are holds granted from leases that must themselves be
    /// [charged](Expiry::Charge) when their process dies; otherwise such holds go to the store.
    pub fn expiry(mut self, expiry: Expiry) -> Self {
        self.settings.expiry = expiry;
        self
    }

    /// Starts leasing. Call it on a Tokio runtime: the reports run there.
    ///
    /// # Errors
    /// `Unavailable` outside a Tokio runtime, `Internal` without random numbers.
    pub fn start(self) -> Result<LeasedLedger, StoreError> {
        let runtime = Handle::try_current().map_err(|_| {
            StoreError::new(StoreErrorKind::Unavailable, "leases need a Tokio runtime")
        })?;
        let accounts = Arc::new(Accounts::new(self.store, self.settings)?);
        // The guard of `LeaseReporter` exists before the task is spawned: a runtime that is
        // shutting down drops the task without running it.
        let task = runtime.spawn(LeaseReporter::new(Arc::clone(&accounts)).run());
        Ok(LeasedLedger {
            accounts: Arc::clone(&accounts),
            reporter: Arc::new(ReporterGuard::new(accounts, task)),
        })
    }
}
