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
    store::{StoreError, alerts::Alerts, rate::Breaker, redis::Place},
};

/// Two missed beats, at least: or a process that lives would be taken for dead.
const RECOVER_AFTER_MIN: Duration = Duration::from_secs(5);

/// Settings of a [`RedisLedger`].
#[must_use = "a builder does nothing until the ledger is opened"]
pub struct RedisLedgerBuilder {
    place: Place,
    connections: usize,
    prefix: String,
    settings: Settings,
}

impl RedisLedgerBuilder {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            connections: 4,
            prefix: "tollgate".to_owned(),
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

    /// How many connections to a server accounts are spread over; 4 unless set, at least 1. To a cluster there is
    /// one for each node.
    pub fn connections(mut self, count: usize) -> Self {
        self.connections = count;
        self
    }

    /// What the names of all keys begin with; `tollgate` unless set. The same in every process that shares the books.
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Where the time comes from; the system's clock unless set.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.settings.clock = clock;
        self
    }

    /// The days and months of spending limits; UTC unless set. The same in every process.
    pub fn calendar(mut self, calendar: Calendar) -> Self {
        self.settings.calendar = calendar;
        self
    }

    /// Whom to tell when a [soft limit](crate::budget::SoftLimits) is passed. It is called in a task that writes, after
    /// that is written, by the process whose call it was, and must not block; a crash or a lost answer in between loses
    /// the call. `tracing` has an event of each in any case.
    pub fn on_alert(mut self, listener: impl Fn(&SpendingAlert) + Send + Sync + 'static) -> Self {
        self.settings.alerts = Alerts::to(listener);
        self
    }

    /// How many rows of the usage log are kept of each account, and as many charges in the list of its transactions:
    /// 10,000 unless set, some 5 MB. The oldest go first, about a hundred at a time. Payments are kept for ever.
    pub fn usage_rows_max(mut self, rows: u64) -> Self {
        // The server takes no larger number, and a script that fails there has written half of what it was to.
        self.settings.usage_rows_max = rows.clamp(1, i64::MAX.cast_unsigned());
        self
    }

    /// After how long a silence another process counts as dead, and its open holds are given back: 6 seconds unless
    /// set, at least 5, which are two and a half missed signs of life. A process that can't reach the server for so
    /// long counts as dead too: what it held is given back, and calls under way meanwhile are not charged.
    pub fn recover_after(mut self, silence: Duration) -> Self {
        self.settings.recover_after = silence.max(RECOVER_AFTER_MIN);
        self
    }

    /// How many holds of this process may be open: 65,536 unless set. Beyond that new ones fail with `Busy`. It bounds
    /// the settlements that can wait, which are never refused, and as many rows without a hold may wait.
    pub fn open_holds_max(mut self, holds: usize) -> Self {
        self.settings.open_holds_max = holds.max(1);
        self
    }

    /// How many holds that this process opened for one account may be open, or on their way: 4,096 unless set, one at
    /// least. Beyond that the account's new ones are refused with [`TooManyOpen`](crate::books::HoldRefusal::TooManyOpen), so
    /// that no account can use up what [`open_holds_max`](Self::open_holds_max) allows all of them.
    pub fn open_holds_per_account_max(mut self, holds: usize) -> Self {
        self.settings.open_holds_per_account_max = holds.max(1);
        self
    }

    /// How long the server may take to answer before a call fails with `Unavailable`: 2 seconds unless set. After
    /// three such in a row nobody waits any more, until the server answers again. What was asked for may still be
    /// done: a settlement is, and a hold is given back.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// Connects, looks at the server, and begins to work on the books. It must be called on a Tokio runtime, on which
    /// the ledger's tasks then run.
    ///
    /// # Errors
    /// `Refused` when the address can't be read or the server is older than Redis 6.2, `Unavailable` when it can't be
    /// reached.
    pub async fn open(self) -> Result<RedisLedger, StoreError> {
        let places = self.settings.open_holds_max.min(Semaphore::MAX_PERMITS);
        let instance = random()?;
        let shared = Arc::new(Shared {
            servers: self.place.servers(self.connections)?,
            breaker: Breaker::default(),
            names: Names::new(&self.prefix),
            settings: self.settings,
            hasher: DefaultHashBuilder::default(),
            registry: HoldRegistry::new(instance),
            gate: RwLock::default(),
            in_flight: InFlight::new(),
            records: Arc::new(Semaphore::new(places)),
            maintenance: Mutex::new(Maintenance::default()),
            registering: Mutex::default(),
            in_doubt: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
            closing: Notify::new(),
            runtime: Handle::current(),
        });
        shared.servers.revive().await?;
        server::look_at(&shared).await?;
        // Looks around for the first time.
        let begin = async {
            shared.register(instance).await?;
            shared.maintenance.lock().await.turn(&shared).await
        };
        begin.await.map_err(|failure: Failure| failure.error)?;
        tokio::spawn(maintenance::keep(Arc::clone(&shared)));
        Ok(RedisLedger(Arc::new(Inner { shared })))
    }
}

impl fmt::Debug for RedisLedgerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may hold a password.
        f.debug_struct("RedisLedgerBuilder").finish_non_exhaustive()
    }
}
