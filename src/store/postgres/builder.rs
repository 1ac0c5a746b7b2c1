//! Settings of a `PostgresStore` and their defaults.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64},
    },
    time::Duration,
};

use hashbrown::{DefaultHashBuilder, HashMap};
use sqlx::PgPool;
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
};

use super::{
    Inner, PostgresStore, Queue, Settings, Shared,
    begin::Begin,
    heartbeat,
    instance::Instance,
    lane::Lane,
    maintenance::Maintenance,
    schema::{self, Schema},
    turns::Turns,
};
use crate::{
    domain::{
        budget::{Calendar, SpendingAlert},
        clock::{Clock, SystemClock},
    },
    repeats::{Repeats, RepeatsOfWriter},
    store::{
        StoreError, Tenure, alerts::Alerts, bounds::not_zero, changes::Listeners, gauge::Gauge,
        leasing::RECOVER_AFTER_MIN, settling::Settling,
    },
};

const DAY: Duration = Duration::from_secs(86_400);

/// Who brings the tables of a [`PostgresStore`] up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Migrations {
    /// Each store when it is opened, if there is something to do. This needs the right to create
    /// tables.
    #[default]
    AtStart,
    /// [`PostgresStore::migrate`], with a role of its own. Opening a store checks that this was
    /// done, and fails if it wasn't. The server's role needs these grants, after each update that
    /// creates tables (`tollgate` is the [schema](PostgresStoreBuilder::schema)):
    ///
    /// ```sql
    /// GRANT USAGE ON SCHEMA tollgate TO server;
    /// GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tollgate TO server;
    /// GRANT USAGE ON ALL SEQUENCES IN SCHEMA tollgate TO server;
    /// ```
    Separate,
}

/// Settings of a [`PostgresStore`].
#[must_use = "a builder does nothing until the store is opened"]
pub struct PostgresStoreBuilder {
    pool: PgPool,
    migrations: Migrations,
    settings: Settings,
}

impl PostgresStoreBuilder {
    pub(super) fn new(pool: PgPool) -> Self {
        let settings = Settings {
            clock: SystemClock::shared(),
            calendar: Calendar::utc(),
            alerts: Alerts::default(),
            usage_rows_max: 100_000_000,
            usage_age_max: DAY.saturating_mul(400),
            audit_rows_max: 1_000_000,
            audit_age_max: DAY.saturating_mul(400),
            recover_after: Duration::from_secs(6),
            queue_max: 8_192,
            open_holds_max: 65_536,
            open_holds_per_account_max: 4_096,
            lanes: 2,
            deadline: Duration::from_secs(5),
            schema: Schema::default(),
        };
        Self {
            pool,
            migrations: Migrations::default(),
            settings,
        }
    }

    /// The schema that everything is in; `tollgate` unless set. 1 to 54 bytes: small letters,
    /// digits and underscores, no digit first, and not `pg_` in front, which is PostgreSQL's own.
    /// It is made where it isn't there, which takes the right to make one.
    ///
    /// The pool's `search_path` is left alone. The push channel is the schema's: `tollgate.` and
    /// its name.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::store::PostgresStore;
    ///
    /// let pool = sqlx::PgPool::connect("postgres://localhost/everything").await?;
    /// let store = PostgresStore::builder(pool).schema("billing").open().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn schema(mut self, name: &str) -> Self {
        self.settings.schema = Schema::new(name);
        self
    }

    /// Who brings the tables up to date; [`Migrations::AtStart`] unless set.
    pub fn migrations(mut self, migrations: Migrations) -> Self {
        self.migrations = migrations;
        self
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
    /// after the commit, in the process whose call it was, and must not block; a crash in between
    /// loses it. Each one is also a `tracing` event.
    pub fn on_alert(mut self, listener: impl Fn(&SpendingAlert) + Send + Sync + 'static) -> Self {
        self.settings.alerts = Alerts::to(listener);
        self
    }

    /// How many rows of the usage log are kept across all accounts: 100 million unless set. The
    /// oldest are deleted first, in small steps, so there may be a few more for a while; and a few
    /// less, because positions of payments and of failed batches count too.
    pub fn usage_rows_max(mut self, rows: u64) -> Self {
        self.settings.usage_rows_max = i64::try_from(rows.max(1)).unwrap_or(i64::MAX);
        self
    }

    /// How long rows of the usage log are kept: 400 days unless set. Payments are kept forever.
    pub fn usage_age_max(mut self, age: Duration) -> Self {
        self.settings.usage_age_max = age;
        self
    }

    /// How many acts the audit log keeps: 1 million unless set. As many entries of known callers
    /// are kept separately, and half as many of strangers ([`AuditLog`](crate::store::AuditLog)).
    /// The oldest are deleted first, in small steps, so there may be a few more for a while.
    pub fn audit_rows_max(mut self, entries: u64) -> Self {
        self.settings.audit_rows_max = i64::try_from(entries.max(1)).unwrap_or(i64::MAX);
        self
    }

    /// How long entries of the audit log are kept: 400 days unless set.
    pub fn audit_age_max(mut self, age: Duration) -> Self {
        self.settings.audit_age_max = age;
        self
    }

    /// How long another process must be silent before it is declared dead and its open holds are
    /// released: 6 seconds unless set, at least 5, which is two and a half missed heartbeats. A
    /// process that can't reach the database for that long is declared dead too: what it held is
    /// released, and its calls in progress are not charged.
    pub fn recover_after(mut self, silence: Duration) -> Self {
        self.settings.recover_after = silence.max(RECOVER_AFTER_MIN);
        self
    }

    /// How many holds and changes of the books may wait to be written: 8,192 unless set. Beyond
    /// that they fail with `Busy`.
    pub fn queue_max(mut self, commands: usize) -> Self {
        self.settings.queue_max = commands.max(1);
        self
    }

    /// How many holds of this process may be open: 65,536 unless set. Beyond that new ones fail
    /// with `Busy`. This also bounds the waiting settlements, which are never refused; the same
    /// number of rows without a hold may wait.
    pub fn open_holds_max(mut self, holds: usize) -> Self {
        self.settings.open_holds_max = holds.max(1);
        self
    }

    /// How many holds of one account this process may have open: 4,096 unless set, at least 1.
    /// Beyond that the account's new ones are refused with
    /// [`TooManyOpen`](crate::books::HoldRefusal::TooManyOpen), so that no account can use up the
    /// [`open_holds_max`](Self::open_holds_max) of all.
    pub fn open_holds_per_account_max(mut self, holds: usize) -> Self {
        self.settings.open_holds_per_account_max = holds.max(1);
        self
    }

    /// How many transactions in the books may run at once: 2 unless set, at least 1. More help when
    /// the network to the database is slow; each uses one connection while it has work.
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.settings.lanes = lanes.max(1);
        self
    }

    /// How long a call waits for its answer before it fails with `Unavailable`: 5 seconds unless
    /// set. The request may still be carried out after that; a settlement always is.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// Creates or updates the tables and does nothing else; see [`PostgresStore::migrate`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn migrate(self) -> Result<(), StoreError> {
        let schema = &self.settings.schema;
        schema.check()?;
        let migrated = schema::migrate(&self.pool, schema).await;
        migrated.map_err(|failure| failure.error)
    }

    /// Creates or updates the tables where needed, and starts the store. Call it on a Tokio
    /// runtime: the store's tasks run there.
    ///
    /// It waits for a connection as long as the pool does (`acquire_timeout`), and after two
    /// seconds says so in a warning. A pool made by `connect` has waited before, and said nothing;
    /// one made by `connect_lazy` hasn't.
    ///
    /// # Errors
    /// `Unavailable` when the database can't be reached, `Internal` when its tables can't be
    /// created, or have a version that this one doesn't work with, or when the
    /// [schema](Self::schema) has an invalid name, or a deadline or an age is zero: the text says
    /// which.
    pub async fn open(self) -> Result<PostgresStore, StoreError> {
        let Self {
            pool,
            migrations,
            settings,
        } = self;
        settings.schema.check()?;
        not_zero("deadline", settings.deadline)?;
        not_zero("usage_age_max", settings.usage_age_max)?;
        not_zero("audit_age_max", settings.audit_age_max)?;
        let ready = match migrations {
            Migrations::AtStart => schema::migrate(&pool, &settings.schema).await,
            Migrations::Separate => schema::verify(&pool, &settings.schema).await,
        };
        ready.map_err(|failure| failure.error)?;
        let (lanes, queues): (Vec<_>, Vec<Queue>) = (0..settings.lanes)
            .map(|_| mpsc::unbounded_channel())
            .unzip();
        let shared = Arc::new(Shared {
            pool,
            begin: Begin::new(settings.deadline, &settings.schema),
            settings,
            gauge: Arc::new(Gauge::default()),
            lanes: lanes.clone(),
            hasher: DefaultHashBuilder::default(),
            instance: Mutex::new(Arc::new(Instance::new()?)),
            tenure: Tenure::default(),
            settling: Settling::default(),
            heartbeat: tokio::sync::Mutex::default(),
            beaten_at: AtomicU64::new(0),
            registering: tokio::sync::Mutex::default(),
            touched: Mutex::new(HashMap::new()),
            turns: Turns::new(),
            log_final_up_to: AtomicI64::new(0),
            events: Mutex::default(),
            writing_events: tokio::sync::Mutex::default(),
            unwritten_batches: RepeatsOfWriter::new(),
            locked_calls: Repeats::new(),
            failed_maintenance: Repeats::new(),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            listeners: Listeners::default(),
            listening: AtomicBool::new(false),
            runtime: Handle::current(),
        });
        let tasks = lanes.into_iter().zip(queues).map(|(sender, queue)| {
            let lane = Lane::new(Arc::clone(&shared), queue, sender);
            tokio::spawn(lane.run())
        });
        let (maintenance, requests) = mpsc::unbounded_channel();
        let mut task = Maintenance::new(Arc::clone(&shared), requests, tasks.collect());
        // Registers the instance, and runs the periodic work for the first time.
        if let Err(failure) = task.start().await {
            task.end_lanes().await;
            return Err(failure.error);
        }
        tokio::spawn(heartbeat::run(Arc::clone(&shared)));
        tokio::spawn(task.run());
        Ok(PostgresStore(Arc::new(Inner {
            shared,
            maintenance,
        })))
    }
}

impl fmt::Debug for PostgresStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStoreBuilder")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use sqlx::postgres::PgPoolOptions;

    use super::*;
    use crate::log::Log;

    /// What is logged while a store is opened on a database that takes connections and says
    /// nothing.
    async fn said_in(wait: Duration) -> (String, String) {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let (log, _logged) = Log::begin();
        let pool = PgPoolOptions::new().acquire_timeout(wait);
        let pool = pool.connect_lazy(&format!("postgres://ann:s3cret@127.0.0.1:{port}/books"));
        let error = PostgresStore::builder(pool.unwrap()).open().await;
        (
            log.text().replace(&port.to_string(), "PORT"),
            error.unwrap_err().to_string(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_for_the_database_is_told_once_and_without_its_password() {
        let (said, error) = said_in(Duration::from_secs(30)).await;
        let expected = "WARN tollgate: still waiting for a connection to PostgreSQL \
                        host=\"127.0.0.1\" port=PORT database=\"books\" at_most_secs=30";
        assert_eq!(said.matches("still waiting").count(), 1, "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains("s3cret") && !error.contains("s3cret"));
        let (said, _) = said_in(Duration::from_secs(1)).await;
        assert!(!said.contains("still waiting"), "{said}");
    }

    #[tokio::test]
    async fn what_would_end_at_once_is_refused_before_anything_is_asked() {
        type Set = fn(PostgresStoreBuilder) -> PostgresStoreBuilder;
        let settings: [(&str, Set); 3] = [
            ("deadline", |builder| builder.deadline(Duration::ZERO)),
            ("usage_age_max", |builder| {
                builder.usage_age_max(Duration::ZERO)
            }),
            ("audit_age_max", |builder| {
                builder.audit_age_max(Duration::ZERO)
            }),
        ];
        for (name, set) in settings {
            let nowhere = PgPoolOptions::new().connect_lazy("postgres://127.0.0.1:1/none");
            let error = set(PostgresStore::builder(nowhere.unwrap())).open().await;
            let text = error.unwrap_err().to_string();
            assert!(text.contains(name), "{text}");
        }
    }
}
