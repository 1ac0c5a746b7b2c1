//! The engine on a PostgreSQL database (12 or later): many processes share one set of books.
//!
//! It works on a [`PgPool`](sqlx::PgPool) passed in by the application, which thus controls the
//! connection options, including TLS. Everything is in the schema `tollgate`, unless
//! [another](PostgresStoreBuilder::schema) is set, which is created on first open. Stores in
//! different schemas of one database are independent of each other.
//!
//! Changes of the books go through a few lanes; each account always uses the same one. A lane
//! writes everything that waits in one transaction (group commit): it locks the accounts in a fixed
//! order, applies the rules in memory, and writes accounts, budgets, holds and the log with one
//! statement. A call is answered once it is committed, with `synchronous_commit` at least `on`.
//! Nothing of the books is cached between transactions.
//!
//! - **Bounds.** Waiting holds and changes, open holds, waiting reads, waiting audit events, and
//!   the usage and audit logs by age and rows; see [`PostgresStoreBuilder`]. Beyond them a call
//!   fails with `Busy`. A settlement is never refused: if the database is down, it is retried until
//!   it is written.
//! - **Deadlines.** Whatever the database does, a call ends within
//!   [`PostgresStoreBuilder::deadline`].
//! - **Crashes.** Holds of a dead process are released, uncharged, by another one about 7 seconds
//!   after its last heartbeat ([`PostgresStoreBuilder::recover_after`]); their usage rows say
//!   `abandoned`. If that process was only cut off, its calls are charged when it settles them,
//!   within a day.
//! - **Updates.** Each version updates the tables when a store is opened or, if the server's role
//!   may not do so ([`Migrations::Separate`]), beforehand by [`PostgresStore::migrate`]. The tables
//!   record the oldest version that works with them, so instances of an older version either still
//!   start beside newer ones, or fail with a clear message.
//! - **Push.** Triggers announce every change of keys, users and logins (`LISTEN`/`NOTIFY`),
//!   whoever makes it; resolvers [follow](crate::store::Invalidations) them. This doesn't work
//!   through a pooler that shares sessions between clients, such as PgBouncer in transaction mode;
//!   that is found out, and a warning says that resolvers rely on their time to live.
//! - **Connections.** From the pool: one per lane, and one for periodic work; keys, users and lists
//!   use the rest. With fewer than five they wait for each other. Outside the pool: one for
//!   heartbeats, and one that listens once a resolver follows. A connection with an overdue answer
//!   is closed.
//! - **Poolers.** PgBouncer needs `ignore_startup_parameters = extra_float_digits`. In transaction
//!   mode it must know prepared statements (1.21 or later, `max_prepared_statements` above zero),
//!   or opening fails with an error that says so; in session mode it must have as many connections
//!   as all pools and the two beside each.
//! - **Fences.** Transactions that write say so (`READ WRITE`), whatever
//!   `default_transaction_read_only` says. An old primary is fenced by refusing it connections.
//! - **Precision.** Times are kept to the microsecond, money to the nano-dollar. A text with a NUL
//!   is refused.

mod attempt;
mod audit;
mod batch;
mod begin;
mod builder;
mod command;
mod connection;
mod convert;
mod heartbeat;
mod idempotency;
mod instance;
mod keys;
mod lane;
mod late;
mod leases;
mod ledger;
mod listener;
mod listing;
mod logins;
mod maintenance;
mod payments;
mod people;
mod schema;
mod statements;
mod turns;
mod usage_log;
mod write;

use std::{
    fmt,
    future::Future,
    hash::BuildHasher,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::{DefaultHashBuilder, HashMap};
use sqlx::{PgPool, postgres::PgConnection};
use tokio::{
    runtime::Handle,
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, UnboundedSender},
        oneshot,
    },
    time::timeout,
};

use self::{
    begin::Begin,
    command::Command,
    connection::Work,
    convert::Failure,
    heartbeat::Heartbeat,
    instance::Instance,
    maintenance::Request,
    schema::Schema,
    turns::{Taken, Turns},
};
use super::{
    StoreError, StoreErrorKind, StoreFuture, Tenure,
    alerts::Alerts,
    changes::Listeners,
    gauge::{Gauge, Permit, StoreStatistics},
    settling::Settling,
};
use crate::{
    domain::{
        AccountId, KeyId,
        audit::AuditEvent,
        budget::Calendar,
        clock::{Clock, Timestamp},
    },
    repeats::{Repeats, RepeatsOfWriter},
    sync::lock,
};

pub use builder::{Migrations, PostgresStoreBuilder};

/// Reads and changes outside the books that may wait or be in progress.
const REQUESTS_MAX: usize = 4_096;

/// Keys, users, logins and money in a PostgreSQL database. A clone is a reference count.
///
/// [`PostgresStore::close`] writes what is queued and shuts down in order. When the last clone is
/// dropped instead, this happens in the background for as long as the runtime runs; otherwise
/// another process releases what this one held.
///
/// ```no_run
/// use tollgate::{
///     money::Money,
///     store::{AccountId, Ledger, PostgresStore},
///     usage::Credit,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = sqlx::PgPool::connect("postgres://localhost/tollgate").await?;
/// let store = PostgresStore::open(pool).await?;
/// let account = AccountId::new("user-7")?;
/// let payment = Credit {
///     account: account.clone(),
///     amount: Money::from_nanos(5_000_000_000),
///     reference: "payment-1".to_owned(),
/// };
/// store.credit(payment).await?;
/// assert_eq!(store.balance(&account).await?.available().to_string(), "$5.0000");
/// store.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    maintenance: UnboundedSender<Request>,
}

/// The state that the store shares with its tasks.
struct Shared {
    pool: PgPool,
    settings: Settings,
    begin: Begin,
    gauge: Arc<Gauge>,
    lanes: Vec<UnboundedSender<Command>>,
    hasher: DefaultHashBuilder,
    instance: Mutex<Arc<Instance>>,
    tenure: Tenure,
    /// Holds whose settlement or extension is not written yet.
    settling: Settling,
    heartbeat: tokio::sync::Mutex<Heartbeat>,
    /// When this process's last committed heartbeat was created, in microseconds of the monotonic
    /// clock.
    beaten_at: AtomicU64,
    /// Serializes registration as a new instance.
    registering: tokio::sync::Mutex<()>,
    /// Uses of keys that are not stored yet; at most `queue_max`.
    touched: Mutex<HashMap<KeyId, Timestamp>>,
    turns: Turns,
    /// A position up to which the usage log is known to be final.
    log_final_up_to: AtomicI64,
    /// Audit events that are not written yet; at most `queue_max`.
    events: Mutex<Vec<AuditEvent>>,
    writing_events: tokio::sync::Mutex<()>,
    /// What the log has of batches that couldn't be written, of calls that wait for locked
    /// accounts, and of maintenance.
    unwritten_batches: RepeatsOfWriter,
    locked_calls: Repeats,
    failed_maintenance: Repeats,
    closed: AtomicBool,
    /// Wakes the listener task, the only one that waits for nothing else.
    closing: Notify,
    listeners: Listeners,
    listening: AtomicBool,
    /// The runtime of the store's tasks.
    runtime: Handle,
}

struct Settings {
    clock: Arc<dyn Clock>,
    calendar: Calendar,
    alerts: Alerts,
    usage_rows_max: i64,
    usage_age_max: Duration,
    audit_rows_max: i64,
    audit_age_max: Duration,
    recover_after: Duration,
    queue_max: usize,
    open_holds_max: usize,
    open_holds_per_account_max: usize,
    lanes: usize,
    deadline: Duration,
    schema: Schema,
}

fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the store is closed")
}

fn busy() -> StoreError {
    StoreError::new(StoreErrorKind::Busy, "too many calls are waiting")
}

/// The answer that comes through `reply`, or `Unavailable` after `deadline`. The request may be
/// carried out nevertheless.
async fn answered<T>(
    reply: oneshot::Receiver<Result<T, StoreError>>,
    deadline: Duration,
) -> Result<T, StoreError> {
    match timeout(deadline, reply).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(closed()),
        Err(_) => Err(Failure::slow().error),
    }
}

impl PostgresStore {
    /// Opens the store on these connections, with default settings.
    ///
    /// # Errors
    /// `Unavailable` when the database can't be reached, `Internal` when its tables can't be
    /// created, or have a version that this one doesn't work with.
    pub fn open(pool: PgPool) -> impl Future<Output = Result<Self, StoreError>> + Send {
        Self::builder(pool).open()
    }

    /// Creates or updates the tables and does nothing else: a deployment step, over connections of
    /// a role with the right to. If there is nothing to do it changes nothing, and of several
    /// concurrent runs only one does the work. Stores of the previous version keep running
    /// meanwhile. For a schema other than `tollgate` use [`PostgresStoreBuilder::migrate`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
        Self::builder(pool.clone()).migrate().await
    }

    /// A builder with custom settings for a store on these connections.
    pub fn builder(pool: PgPool) -> PostgresStoreBuilder {
        PostgresStoreBuilder::new(pool)
    }

    /// How much work is waiting: for gauges that warn before the store is
    /// [`Busy`](StoreErrorKind::Busy).
    #[must_use]
    pub fn statistics(&self) -> StoreStatistics {
        self.0.shared.gauge.statistics()
    }

    /// Writes what is queued, releases holds that are still open, and ends the tasks. Other clones
    /// fail with `Unavailable` from then on. The pool stays open.
    ///
    /// # Errors
    /// `Unavailable` when not everything could be written.
    pub async fn close(self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        // Fails if the store was already closed.
        let _ = self.0.maintenance.send(Request::Close(Some(reply)));
        answer.await.unwrap_or(Ok(()))
    }

    /// A read, or a change outside the books.
    fn ask<T, F>(&self, work: impl FnOnce(Work) -> F + Send + 'static) -> StoreFuture<T>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Send + 'static,
    {
        let shared = &self.0.shared;
        if shared.is_closed() {
            return StoreFuture::ready(Err(closed()));
        }
        let Some(permit) = Permit::take(&shared.gauge, |gauge| &gauge.requests, REQUESTS_MAX)
        else {
            return StoreFuture::ready(Err(busy()));
        };
        let work = shared.in_time(work);
        StoreFuture::new(async move {
            let answer = work.await;
            drop(permit);
            answer.map_err(|failure| failure.error)
        })
    }

    /// Sends a command; it is queued when this returns.
    fn send<T: Send + 'static>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> StoreFuture<T> {
        let shared = &self.0.shared;
        if shared.is_closed() || !shared.send(command) {
            return StoreFuture::ready(Err(closed()));
        }
        StoreFuture::new(answered(answer, shared.settings.deadline))
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.tenure.end();
        self.closing.notify_one();
    }

    fn take_touched(&self) -> HashMap<KeyId, Timestamp> {
        std::mem::take(&mut *self.touched())
    }

    fn touched(&self) -> std::sync::MutexGuard<'_, HashMap<KeyId, Timestamp>> {
        lock(&self.touched)
    }

    /// Sends it to the account's lane; `false` if that has ended.
    fn send(&self, command: Command) -> bool {
        let lane = command.account().and_then(|account| self.lane(account));
        lane.is_some_and(|lane| lane.send(command).is_ok())
    }

    fn lane(&self, account: &AccountId) -> Option<&UnboundedSender<Command>> {
        let lanes = u64::try_from(self.lanes.len()).ok()?;
        let lane = self.hasher.hash_one(account).checked_rem(lanes)?;
        self.lanes.get(usize::try_from(lane).ok()?)
    }

    fn instance(&self) -> Arc<Instance> {
        Arc::clone(&lock(&self.instance))
    }

    /// Records a committed heartbeat. A closing store still sends heartbeats, but its leases may no
    /// longer be spent.
    fn confirm(&self, instance: &Instance, elapsed: Duration, now: Timestamp) {
        let id = instance.id().cast_unsigned();
        self.tenure.confirm(id, elapsed, now);
        let elapsed = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.beaten_at.fetch_max(elapsed, Ordering::AcqRel);
        if self.closed.load(Ordering::SeqCst) {
            self.tenure.end();
        }
    }

    /// Continues as a new instance after `old` was declared dead.
    async fn reregister(
        &self,
        connection: &mut PgConnection,
        old: &Arc<Instance>,
    ) -> Result<(), Failure> {
        let _one = self.registering.lock().await;
        if !Arc::ptr_eq(&self.instance(), old) {
            return Ok(());
        }
        let new = Arc::new(Instance::new()?);
        heartbeat::register_anew(connection, &new, self).await?;
        *lock(&self.instance) = new;
        let lost = old.lose();
        if lost > 0 {
            tracing::warn!(
                target: "tollgate::postgres",
                holds = lost,
                "this process was declared dead: its open holds are being resolved"
            );
        }
        Ok(())
    }

    /// Waits for the owner's turn for at most half of the deadline; the rest is for the database.
    async fn key_turn(&self, owner: &str) -> Result<Taken<'_>, Failure> {
        let deadline = self.settings.deadline;
        let patience = deadline.checked_div(2).unwrap_or(deadline);
        self.turns.take(owner, patience).await
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // In the background; fails if the store is already closed.
        let _ = self.maintenance.send(Request::Close(None));
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

/// The queue of a lane.
type Queue = UnboundedReceiver<Command>;
