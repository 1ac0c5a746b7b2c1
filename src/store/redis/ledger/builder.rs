//! Settings of the Redis ledger and their defaults.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use hashbrown::DefaultHashBuilder;
use tokio::{
    runtime::Handle,
    sync::{Mutex, Notify, RwLock, Semaphore},
};

use super::{
    Inner, RedisLedger,
    in_flight::InFlight,
    maintenance::{self, Maintenance},
    names::Names,
    registry::HoldRegistry,
    server,
    shared::{Failure, Settings, Shared, random},
};
use crate::{
    domain::{
        budget::{Calendar, SpendingAlert},
        clock::{Clock, SystemClock},
    },
    repeats::Repeats,
    store::{StoreError, alerts::Alerts, redis::RedisClient, remote::Availability},
};

/// At least two missed heartbeats; otherwise a live process could be declared dead.
const RECOVER_AFTER_MIN: Duration = Duration::from_secs(5);

/// Settings of a [`RedisLedger`].
#[must_use = "a builder does nothing until the ledger is opened"]
pub struct RedisLedgerBuilder {
    client: RedisClient,
    settings: Settings,
}

impl RedisLedgerBuilder {
    pub(super) fn new(client: RedisClient) -> Self {
        Self {
            client,
            settings: Settings {
                clock: SystemClock::shared(),
                calendar: Calendar::utc(),
                alerts: Alerts::default(),
                usage_rows_max: 10_000,
                recover_after: Duration::from_secs(6),
                open_holds_max: 65_536,
                open_holds_per_account_max: 4_096,
                deadline: Duration::from_secs(2),
            },
        }
    }

    /// The source of the time; the system clock unless set.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.settings.clock = clock;
        self
    }

    /// How spending limits divide days and months; UTC unless set. It must be the same in every
    /// process.
    pub fn calendar(mut self, calendar: Calendar) -> Self {
        self.settings.calendar = calendar;
        self
    }

    /// Called when a [soft limit](crate::budget::SoftLimits) is passed. It runs in a writer task,
    /// after the write, in the process whose call it was, and must not block; a crash or a lost
    /// answer in between loses it. Each one is also a `tracing` event.
    pub fn on_alert(mut self, listener: impl Fn(&SpendingAlert) + Send + Sync + 'static) -> Self {
        self.settings.alerts = Alerts::to(listener);
        self
    }

    /// How many rows of the usage log are kept per account, and as many charges in the list of its
    /// transactions: 10,000 unless set, about 5 MB. The oldest are deleted first, about a hundred
    /// at a time. Payments are kept forever.
    pub fn usage_rows_max(mut self, rows: u64) -> Self {
        // The server accepts no larger number, and a script that fails at that point has written
        // half of its changes.
        self.settings.usage_rows_max = rows.clamp(1, i64::MAX.cast_unsigned());
        self
    }

    /// How long another process must be silent before it is declared dead and its open holds are
    /// released: 6 seconds unless set, at least 5, which is two and a half missed heartbeats. A
    /// process that can't reach the server for that long is declared dead too: what it held is
    /// released, and its calls in progress are not charged.
    pub fn recover_after(mut self, silence: Duration) -> Self {
        self.settings.recover_after = silence.max(RECOVER_AFTER_MIN);
        self
    }

    /// How many holds of this process may be open: 65,536 unless set. Beyond that new ones fail
    /// with `Busy`. This also bounds the waiting settlements, which are never refused; the same
    /// number of rows without a hold may wait.
    pub fn open_holds_max(mut self, holds: usize) -> Self {
        self.settings.open_holds_max = holds.max(1);
        self
    }

    /// How many holds of one account this process may have open or be opening: 4,096 unless set, at
    /// least 1. Beyond that the account's new ones are refused with
    /// [`TooManyOpen`](crate::books::HoldRefusal::TooManyOpen), so that no account can use up the
    /// [`open_holds_max`](Self::open_holds_max) of all.
    pub fn open_holds_per_account_max(mut self, holds: usize) -> Self {
        self.settings.open_holds_per_account_max = holds.max(1);
        self
    }

    /// How long the server may take to answer before a call fails with `Unavailable`: 2 seconds
    /// unless set. After three such failures in a row calls fail immediately, until the server
    /// answers again. The request may still be carried out: a settlement is, and a hold is given
    /// back.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// Connects, checks the server, and starts the ledger. Call it on a Tokio runtime: the ledger's
    /// tasks run there.
    ///
    /// # Errors
    /// `Refused` when the client's address can't be parsed, its settings contradict each other, or
    /// the server is older than Redis 6.2, `Unavailable` when it can't be reached.
    pub async fn open(self) -> Result<RedisLedger, StoreError> {
        let places = self.settings.open_holds_max.min(Semaphore::MAX_PERMITS);
        let instance = random()?;
        let shared = Arc::new(Shared {
            servers: self.client.servers(self.settings.deadline)?,
            availability: Availability::new(
                self.settings.deadline,
                Arc::clone(&self.settings.clock),
            ),
            names: Names::new(&self.client.key_prefix()),
            settings: self.settings,
            hasher: DefaultHashBuilder::default(),
            registry: HoldRegistry::new(instance),
            gate: RwLock::default(),
            in_flight: InFlight::new(),
            records: Arc::new(Semaphore::new(places)),
            maintenance: Mutex::new(Maintenance::default()),
            registering: Mutex::default(),
            unreturned: Repeats::new(),
            needs_reregistration: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            has_shut_down: AtomicBool::new(false),
            closing: Notify::new(),
            runtime: Handle::current(),
        });
        shared.servers.revive().await?;
        server::check(&shared).await?;
        // Runs the periodic work for the first time.
        let begin = async {
            shared.register(instance).await?;
            shared.maintenance.lock().await.run_due(&shared).await
        };
        begin.await.map_err(|failure: Failure| failure.error)?;
        tokio::spawn(maintenance::run(Arc::clone(&shared)));
        Ok(RedisLedger(Arc::new(Inner { shared })))
    }
}

impl fmt::Debug for RedisLedgerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLedgerBuilder")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
