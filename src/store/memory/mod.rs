//! The in-memory engine: nothing survives a restart.
//!
//! It answers immediately, without I/O, tasks or boxed futures. Its memory grows with the number of
//! keys, users, logins, accounts, budgets and payments. The usage log is a ring of
//! [`MemoryStoreBuilder::usage_rows_max`] rows, in which new rows replace the oldest. Idempotency
//! keys are bounded too: 100,000 per account, each kept no longer than requested.

mod accounts;
mod audit;
mod idempotency;
mod keys;
mod ledger;
mod listing;
mod log;
mod payments;
mod people;
mod rate;

pub use rate::{MemoryRateLimiter, RateLimiterStatistics};

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use super::alerts::Alerts;
use crate::domain::{
    budget::{Calendar, SpendingAlert},
    clock::{Clock, SystemClock},
};

/// Entries kept in the audit log unless set otherwise.
const AUDIT_ROWS_MAX: usize = 10_000;

/// Open holds per account unless set otherwise.
const OPEN_HOLDS_MAX: usize = 4_096;

/// Rows kept in the usage log unless set otherwise.
const USAGE_ROWS_MAX: usize = 100_000;

/// Keys, users, logins and money in this process's memory. A clone is a reference count.
///
/// ```
/// use tollgate::{
///     money::Money,
///     store::{AccountId, Ledger, MemoryStore},
///     usage::Credit,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let account = AccountId::new("user-7")?;
/// let payment = Credit {
///     account: account.clone(),
///     amount: Money::from_nanos(5_000_000_000),
///     reference: "payment-1".to_owned(),
/// };
/// store.credit(payment.clone()).await?;
/// store.credit(payment).await?;
/// let balance = store.balance(&account).await?;
/// assert_eq!(balance.available().to_string(), "$5.0000", "one reference counts once");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    calendar: Calendar,
    alerts: Alerts,
    keys: Mutex<keys::Keys>,
    people: Mutex<people::People>,
    accounts: accounts::Accounts,
    open_holds_per_account_max: usize,
    log: Mutex<log::UsageLog>,
    audit: Mutex<audit::Log>,
}

/// Settings of a [`MemoryStore`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct MemoryStoreBuilder {
    clock: Arc<dyn Clock>,
    calendar: Calendar,
    alerts: Alerts,
    usage_rows_max: usize,
    audit_rows_max: usize,
    open_holds_per_account_max: usize,
}

impl MemoryStore {
    /// An empty store with the system's clock, days in UTC, and a usage log of 100,000 rows.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A builder with custom settings.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder {
            clock: SystemClock::shared(),
            calendar: Calendar::utc(),
            alerts: Alerts::default(),
            usage_rows_max: USAGE_ROWS_MAX,
            audit_rows_max: AUDIT_ROWS_MAX,
            open_holds_per_account_max: OPEN_HOLDS_MAX,
        }
    }

    /// Resolves all holds whose lifetime is over, and returns how many there were.
    ///
    /// An account's own are resolved by the next operation on it; this is for accounts that nothing
    /// is asked of any more. It locks one part of the accounts at a time.
    #[expect(
        clippy::must_use_candidate,
        reason = "callers want the effect more than the count"
    )]
    pub fn resolve_expired(&self) -> usize {
        self.0.resolve_expired()
    }
}

impl MemoryStoreBuilder {
    /// The source of the time; the system clock unless set.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How spending limits divide days and months; UTC unless set.
    pub fn calendar(mut self, calendar: Calendar) -> Self {
        self.calendar = calendar;
        self
    }

    /// Called when a [soft limit](crate::budget::SoftLimits) is passed: in the task that settled,
    /// so it must not block. Each one is also a `tracing` event.
    pub fn on_alert(mut self, listener: impl Fn(&SpendingAlert) + Send + Sync + 'static) -> Self {
        self.alerts = Alerts::to(listener);
        self
    }

    /// How many rows of the usage log are kept across all accounts; 100,000 unless set, at least 1.
    pub fn usage_rows_max(mut self, rows: usize) -> Self {
        self.usage_rows_max = rows.max(1);
        self
    }

    /// How many acts the audit log keeps; 10,000 unless set, at least 1. As
    /// many entries of known callers are kept separately, and half as many of strangers
    /// ([`AuditLog`](crate::store::AuditLog)).
    pub fn audit_rows_max(mut self, entries: usize) -> Self {
        self.audit_rows_max = entries.max(1);
        self
    }

    /// How many holds of one account may be open: 4,096 unless set, at least 1. Beyond that new
    /// ones are refused with [`TooManyOpen`](crate::books::HoldRefusal::TooManyOpen).
    pub fn open_holds_per_account_max(mut self, holds: usize) -> Self {
        self.open_holds_per_account_max = holds.max(1);
        self
    }

    /// Builds the store.
    #[must_use]
    pub fn build(self) -> MemoryStore {
        MemoryStore(Arc::new(Inner {
            clock: self.clock,
            calendar: self.calendar,
            alerts: self.alerts,
            keys: Mutex::default(),
            people: Mutex::default(),
            accounts: accounts::Accounts::new(),
            open_holds_per_account_max: self.open_holds_per_account_max,
            log: Mutex::new(log::UsageLog::new(self.usage_rows_max)),
            audit: Mutex::new(audit::Log::new(self.audit_rows_max)),
        }))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}
