//! Settings of a leased ledger and their defaults.

use std::{sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::{Ends, LeasedLedger, accounts::Accounts, agent::Agent};
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

    /// How often what was served is written down: every 100 milliseconds unless set, at least every one. What calls
    /// cost that ended in the last interval is what a crash loses; and for an interval and a few round trips a
    /// limit that was lowered elsewhere is not heard of.
    pub fn report_every(mut self, interval: Duration) -> Self {
        self.settings.report_every = interval.max(REPORT_EVERY_MIN);
        self
    }

    /// After what time without calls a lease is given back: 1 second unless set. It is given back within an interval
    /// of reports more.
    pub fn idle_after(mut self, time: Duration) -> Self {
        self.settings.idle_after = time;
        self
    }

    /// The most that is free in one lease: 100 dollars unless set. Near the end of an account or a budget it is
    /// never more than an eighth of what is left.
    pub fn lease_max(mut self, amount: Money) -> Self {
        self.settings.lease_max = amount.max(Money::ZERO);
        self
    }

    /// How many leases this node may have at once: 4,096 unless set. The calls of other accounts go to the store.
    pub fn leases_max(mut self, leases: usize) -> Self {
        self.settings.leases_max = leases;
        self
    }

    /// From how many calls in one interval of reports on a lease is taken: 4 unless set, at least 1. The calls before go
    /// to the store.
    pub fn busy_from(mut self, calls: u32) -> Self {
        self.settings.busy_from = calls.max(1);
        self
    }

    /// How many calls may be under way on leases, or ended and not written down yet: 65,536 unless set. Beyond that
    /// calls go to the store, at its speed. A crash loses no more of them.
    pub fn unreported_max(mut self, calls: usize) -> Self {
        self.settings.unreported_max = calls;
        self
    }

    /// How many calls of one account may be under way on its leases: 4,096 unless set. Those beyond go to the store,
    /// which has a bound of its own.
    pub fn open_holds_per_account_max(mut self, holds: usize) -> Self {
        self.settings.open_holds_per_account_max = holds;
        self
    }

    /// What becomes of the lease of a node that fell silent: it is given back unless set otherwise. Charged whole, it
    /// costs its account also what nobody used; and only then holds are granted from leases that are
    /// [charged](Expiry::Charge) when their process dies: otherwise those go to the store.
    pub fn expiry(mut self, expiry: Expiry) -> Self {
        self.settings.expiry = expiry;
        self
    }

    /// Begins to lease. It must be called on a Tokio runtime, on which the reports are then made.
    ///
    /// # Errors
    /// `Unavailable` outside a Tokio runtime, `Internal` without random numbers.
    pub fn start(self) -> Result<LeasedLedger, StoreError> {
        let runtime = Handle::try_current().map_err(|_| {
            StoreError::new(StoreErrorKind::Unavailable, "no Tokio runtime to report on")
        })?;
        let accounts = Arc::new(Accounts::new(self.store, self.settings)?);
        // It is there before it is spawned: a runtime that ends drops it without having run it.
        let agent = runtime.spawn(Agent::new(Arc::clone(&accounts)).run());
        Ok(LeasedLedger {
            accounts: Arc::clone(&accounts),
            ends: Arc::new(Ends::new(accounts, agent)),
        })
    }
}
