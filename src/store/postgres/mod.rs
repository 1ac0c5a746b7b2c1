//! The engine in a PostgreSQL database (12 or later): many processes, one set of books.
//!
//! It works on a [`PgPool`](sqlx::PgPool) that it is handed, so the connection's options, TLS among them, are the
//! application's. Everything is in the schema `tollgate`, unless [another](PostgresStoreBuilder::schema) is set, which is made at the
//! first opening. Stores in several schemas of one database have nothing to do with each other.
//!
//! Changes of the books go through a few lanes, each account always through the same. A lane writes what waits in
//! one transaction (group commit): it locks the accounts in one order, applies the rules in memory, and writes
//! accounts, budgets, holds and the log with one statement. A call is answered when it is committed, with
//! `synchronous_commit` on at least. Nothing of the books is kept from one transaction to the next.
//!
//! - **Bounds.** Waiting holds and changes, open holds, waiting reads, waiting audit events, and the usage and
//!   audit logs by age and rows; see [`PostgresStoreBuilder`]. Beyond them a call fails with `Busy`. A settlement is never refused:
//!   if the database is away, it is tried again until it is written.
//! - **Deadlines.** Whatever the database does, a call ends within [`PostgresStoreBuilder::deadline`].
//! - **Crashes.** Holds of a process that died are given back, uncharged, about 7 seconds after it fell silent,
//!   by another one ([`PostgresStoreBuilder::recover_after`]); their usage rows say `abandoned`.
//! - **Updates.** Each version brings the tables up to date when a store is opened, or, where the server's role may not
//!   ([`Migrations::Separate`]), by [`PostgresStore::migrate`] before. The new tables say from which version on programs work with them,
//!   so that instances of the version before may be started beside them, or are told in so many words that they can't be.
//! - **Push.** Triggers tell of every change of keys, users and logins (`LISTEN`/`NOTIFY`), whoever makes it; resolvers
//!   [follow](crate::store::Invalidations) them. Not through a pooler that shares sessions between clients, such
//!   as PgBouncer in its transaction mode: there a resolver's time to live is what counts.
//! - **Connections.** Of the pool: one for each lane, and one for all that is done at intervals; keys, users and lists
//!   use what is left of it. With less than five they wait for each other. Besides the pool's: one by which a process says
//!   that it lives, and one that listens once a resolver follows. One over which an answer is overdue is closed.
//! - **Precision.** Moments are kept to the microsecond, money to the nano-dollar. A text with a NUL is refused.

mod attempt;
mod audit;
mod batch;
mod begin;
mod builder;
mod command;
mod connection;
mod convert;
mod heartbeat;
mod instance;
mod keys;
mod lane;
mod leases;
mod ledger;
mod listener;
mod listing;
mod logins;
mod maintenance;
mod once;
mod people;
mod schema;
mod statements;
mod turns;
mod write;

use std::{
    fmt,
    future::Future,
    hash::BuildHasher,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
    gauge::{Gauge, Place, StoreStatistics},
    settling::Settling,
};
use crate::domain::{
    AccountId, KeyId,
    audit::AuditEvent,
    budget::Calendar,
    clock::{Clock, Timestamp},
};

pub use builder::{Migrations, PostgresStoreBuilder};

/// Reads and changes outside the books that wait or are under way.
const ASKED_MAX: usize = 4_096;

/// Keys, users, logins and money in a PostgreSQL database. A clone is a reference count.
///
/// [`PostgresStore::close`] writes what was queued and takes leave in order. When the last clone is dropped
/// instead, that is done in the background, as long as the runtime goes on; otherwise another process gives
/// back what this one held.
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

/// What the store and its tasks work with.
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
    /// When this process last said that it lives, as far as that is written down: in microseconds of the clock.
    beaten_at: AtomicU64,
    /// One at a time finds out that it was taken for dead.
    registering: tokio::sync::Mutex<()>,
    /// Uses of keys that are not written down yet; at most as many as the queue is long.
    touched: Mutex<HashMap<KeyId, Timestamp>>,
    turns: Turns,
    /// Audit events that are not written yet; at most as many as the queue is long.
    events: Mutex<Vec<AuditEvent>>,
    writing_events: tokio::sync::Mutex<()>,
    closed: AtomicBool,
    /// Wakes the one task that waits for nothing else.
    closing: Notify,
    listeners: Listeners,
    listening: AtomicBool,
    /// Where the store's tasks run.
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

/// The answer that comes through `reply`, or `Unavailable` after `deadline`. What was asked for may
/// nevertheless be done.
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
    /// `Unavailable` when the database can't be reached, `Internal` when its tables can't be made, or are of a
    /// version that this one doesn't work with.
    pub fn open(pool: PgPool) -> impl Future<Output = Result<Self, StoreError>> + Send {
        Self::builder(pool).open()
    }

    /// Makes the tables, or brings them up to date, and nothing else: a step of a deployment, over connections of a role that may.
    /// Where there is nothing to do it changes nothing, and of several at once one does it. Stores of the version before go
    /// on meanwhile. In another schema than `tollgate`: [`PostgresStoreBuilder::migrate`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
        Self::builder(pool.clone()).migrate().await
    }

    /// Settings of one's own for a store on these connections.
    pub fn builder(pool: PgPool) -> PostgresStoreBuilder {
        PostgresStoreBuilder::new(pool)
    }

    /// How much it has to do: for gauges that warn before the store is [`Busy`](StoreErrorKind::Busy).
    #[must_use]
    pub fn statistics(&self) -> StoreStatistics {
        self.0.shared.gauge.statistics()
    }

    /// Writes what was queued, gives back holds that are still open, and ends the tasks. Other clones fail with
    /// `Unavailable` from then on. The pool stays open.
    ///
    /// # Errors
    /// `Unavailable` when not everything could be written.
    pub async fn close(self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        // Fails when it was asked for before.
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
        let Some(place) = Place::take(&shared.gauge, |gauge| &gauge.asked, ASKED_MAX) else {
            return StoreFuture::ready(Err(busy()));
        };
        let work = shared.in_time(work);
        StoreFuture::new(async move {
            let answer = work.await;
            drop(place);
            answer.map_err(|failure| failure.error)
        })
    }

    /// Hands a command over; it is on its way when this returns.
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
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To the account's lane; `false` when it has ended.
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
        let instance = self.instance.lock();
        Arc::clone(&instance.unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes a sign of life that is written down; one who takes leave still gives them, and spends no more.
    fn confirm(&self, instance: &Instance, elapsed: Duration, now: Timestamp) {
        let id = instance.id().cast_unsigned();
        self.tenure.confirm(id, elapsed, now);
        let elapsed = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.beaten_at.fetch_max(elapsed, Ordering::AcqRel);
        if self.closed.load(Ordering::SeqCst) {
            self.tenure.end();
        }
    }

    /// Goes on as another instance than `old`, which is not known any more.
    async fn register_anew(
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
        *self.instance.lock().unwrap_or_else(PoisonError::into_inner) = new;
        let lost = old.lose();
        if lost > 0 {
            tracing::warn!(
                target: "tollgate::postgres",
                holds = lost,
                "this process was taken for dead: its open holds are resolved"
            );
        }
        Ok(())
    }

    /// The turn of whoever makes a key; what is left of the deadline is the database's.
    async fn key_turn(&self, owner: &str) -> Result<Taken<'_>, Failure> {
        let deadline = self.settings.deadline;
        let patience = deadline.checked_div(2).unwrap_or(deadline);
        self.turns.take(owner, patience).await
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // In the background; fails when it is closed already.
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
