//! The engine in one SQLite file. Its guarantees are documented on [`SqliteStore`].
//!
//! One thread writes, in transactions shared by all waiting callers (group commit, write-ahead log,
//! `synchronous=FULL`); a few threads read. No books are kept from one transaction to the next, so
//! several processes may share a file.

mod accounts;
mod answers;
mod audit;
mod batch;
mod builder;
mod bundles;
mod calls;
mod command;
mod convert;
mod holds;
mod keys;
mod late;
mod leases;
mod ledger;
mod line;
mod listing;
mod logins;
mod maintenance;
mod once;
mod open;
mod payments;
mod people;
mod readers;
mod schema;
mod writer;

use std::{
    fmt,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, mpsc::Sender},
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use self::{
    answers::Answers,
    batch::UnitOfWork,
    command::{Booking, Change, Command, Reply},
    convert::Failure,
    readers::Readers,
    writer::Damage,
};
use super::{
    StoreError, StoreErrorKind, StoreFuture, Tenure,
    alerts::Alerts,
    gauge::{Gauge, StoreStatistics},
    settling::Settling,
};
use crate::{
    domain::{budget::Calendar, clock::Clock},
    sync::lock,
};

pub use builder::SqliteStoreBuilder;

/// Keys, users, logins and money in one SQLite file. A clone is a reference count.
///
/// Dropping the last clone waits until queued commands are written, and ends the threads;
/// [`SqliteStore::close`] does so without blocking.
///
/// ```
/// use tollgate::{
///     money::Money,
///     store::{AccountId, Ledger, SqliteStore},
///     usage::Credit,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("data/tollgate.db");
/// let store = SqliteStore::open(&path).await?;
/// let account = AccountId::new("user-7")?;
/// let payment = Credit {
///     account: account.clone(),
///     amount: Money::from_nanos(5_000_000_000),
///     reference: "payment-1".to_owned(),
/// };
/// store.credit(payment).await?;
/// store.close().await?;
///
/// let store = SqliteStore::open(&path).await?;
/// assert_eq!(store.balance(&account).await?.available().to_string(), "$5.0000");
/// # Ok(())
/// # }
/// ```
///
/// # Guarantees
///
/// - **Durability.** A write is answered once it is on disk (write-ahead log, `synchronous=FULL`),
///   in a transaction shared by all waiting callers: a crash loses nothing that was answered.
/// - **The file.** The `-wal` and `-shm` files beside it belong to it: back up an open file with
///   SQLite's own means (`VACUUM INTO`, `.backup`), not by copying. If this store created it, it is
///   readable for this user alone. Several processes of one machine may share it, and each change
///   is visible to all. Not for network file systems.
/// - **Bounds.** Waiting holds and changes, open holds, waiting reads and waiting audit events are
///   bounded, and the usage and audit logs by age and rows; see [`SqliteStoreBuilder`]. Beyond a
///   bound a call fails with `Busy`. A settlement is never refused: if the disk refuses it, it is
///   retried until it is written.
/// - **Damage.** A settlement that can't be written because part of the file can't be read keeps
///   its hold open, is reported through `tracing` and the gauge `tollgate_unwritten_settlements`
///   (feature `metrics`), and is retried every five seconds. While SQLite reports the file as
///   malformed, new holds and leases fail with `Unavailable`. What is still unwritten when the
///   process ends has been logged, and is lost.
/// - **Crashes.** Holds of a process that died are given back, uncharged, about 7 seconds after
///   another process has the file open ([`SqliteStoreBuilder::recover_after`]); their usage rows
///   say `abandoned`. If that process was only stopped, its calls are charged when it settles them,
///   within a day.
/// - **Versions.** Opening a file brings its tables up to date. A file of a newer version is
///   refused.
/// - **Precision.** Moments are kept to the microsecond, money to the nano-dollar.
/// - **Runtime.** Answers are awaited on a Tokio runtime with time enabled.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    settings: Arc<Settings>,
    writer: Sender<Command>,
    answers: Arc<Answers>,
    gauge: Arc<Gauge>,
    readers: Readers,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Settings {
    path: PathBuf,
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
    readers: usize,
    deadline: Duration,
    tenure: Tenure,
    /// Holds whose settlement or extension isn't written yet.
    settling: Settling,
    damage: Damage,
}

fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the store is closed")
}

fn busy() -> StoreError {
    StoreError::new(StoreErrorKind::Busy, "too many writes are waiting")
}

/// The answer received through `reply`, or `Unavailable` after `deadline`. The request may still be
/// carried out.
async fn answered<T>(
    reply: oneshot::Receiver<Result<T, StoreError>>,
    deadline: Duration,
) -> Result<T, StoreError> {
    match tokio::time::timeout(deadline, reply).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(closed()),
        Err(_) => {
            let text = "the database did not answer in time";
            Err(StoreError::new(StoreErrorKind::Unavailable, text))
        }
    }
}

impl SqliteStore {
    /// Opens the file with default settings. It and its folder are created if missing, readable for
    /// this user alone.
    ///
    /// # Errors
    /// `Unavailable` when the file can't be opened or written, `Internal` when it is no database of
    /// ours, or one of a newer version.
    pub fn open(path: impl Into<PathBuf>) -> impl Future<Output = Result<Self, StoreError>> + Send {
        Self::builder(path).open()
    }

    /// Custom settings for the file at `path`.
    pub fn builder(path: impl Into<PathBuf>) -> SqliteStoreBuilder {
        SqliteStoreBuilder::new(path.into())
    }

    /// Its current load: for gauges that warn before the store is [`Busy`](StoreErrorKind::Busy).
    #[must_use]
    pub fn statistics(&self) -> StoreStatistics {
        self.0.gauge.statistics()
    }

    /// Writes queued commands, gives back holds that are still open, folds the write-ahead log into
    /// the file and ends the threads. Other clones fail with `Unavailable` from then on.
    ///
    /// # Errors
    /// `Internal` when a thread of the store had died.
    pub async fn close(self) -> Result<(), StoreError> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || inner.end())
            .await
            .unwrap_or_else(|_| Err(StoreError::internal("a thread of the store had died")))
    }

    /// A change of keys, users or logins.
    fn change<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> StoreFuture<T> {
        self.submit(|reply| Command::Job(Box::new(Change::new(work, reply))))
    }

    /// A change in the books.
    fn book<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut UnitOfWork<'_>) -> Result<Result<T, StoreError>, Failure> + Send + 'static,
    ) -> StoreFuture<T> {
        self.submit(|reply| Command::Job(Box::new(Booking::new(work, reply))))
    }

    fn submit<T: Send + 'static>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> StoreFuture<T> {
        if !Gauge::enter(&self.0.gauge.queued, self.0.settings.queue_max) {
            return StoreFuture::ready(Err(busy()));
        }
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply), answer)
    }
}

impl Inner {
    /// Sends a command, which is in the queue when this returns.
    fn send<T: Send + 'static>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> StoreFuture<T> {
        match self.writer.send(command) {
            Ok(()) => StoreFuture::new(answered(answer, self.settings.deadline)),
            Err(_) => StoreFuture::ready(Err(closed())),
        }
    }

    /// The same for commands that are answered in groups: the caller helps to answer the others.
    fn send_and_help<T: Send + 'static>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> StoreFuture<T> {
        if self.writer.send(command).is_err() {
            return StoreFuture::ready(Err(closed()));
        }
        let (answers, deadline) = (Arc::clone(&self.answers), self.settings.deadline);
        StoreFuture::new(async move {
            let answer = answered(answer, deadline).await;
            answers.help();
            answer
        })
    }

    /// Ends the readers first: the last connection to close empties the write-ahead log.
    fn end(&self) -> Result<(), StoreError> {
        self.readers.end();
        // Fails if it was requested before.
        let _ = self.writer.send(Command::Close);
        let mut threads = lock(&self.threads);
        let mut outcome = Ok(());
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                outcome = Err(StoreError::internal("a thread of the store had died"));
            }
        }
        outcome
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(target: "tollgate::sqlite", %error, "closed badly");
        }
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.0.settings.path)
            .finish_non_exhaustive()
    }
}
