//! Connections for everything outside the lanes: those of the pool, and dedicated ones.
//!
//! A connection returns to the pool only once the work on it has finished. The pool pings every
//! connection it gets back and waits for the answer without limit: if the server stopped
//! responding, all of the pool's slots would soon be waiting like that. So connections whose work
//! was cut off are closed instead, which frees their slots.

use std::{
    fmt,
    future::Future,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnection, PgPoolOptions},
};
use tokio::time::timeout;

use super::{Shared, convert::Failure};

use crate::sync::lock;

/// The context of a piece of work outside the lanes.
pub(super) struct Work {
    shared: Arc<Shared>,
    uncommitted: Arc<Uncommitted>,
}

/// Connections with an uncommitted transaction, kept until it is known how the work ended.
struct Uncommitted {
    shared: Arc<Shared>,
    connections: Mutex<Vec<PoolConnection<Postgres>>>,
}

/// A connection in the middle of a transaction. Without a commit it is rolled back when the work
/// has ended.
pub(super) struct OpenTransaction {
    connection: Option<PoolConnection<Postgres>>,
    is_open: bool,
    uncommitted: Arc<Uncommitted>,
}

impl Shared {
    /// Runs `work`, or cuts it off after `patience`.
    pub(super) fn within<T, F, W>(
        self: &Arc<Self>,
        patience: Duration,
        work: W,
    ) -> impl Future<Output = Result<T, Failure>> + use<T, F, W>
    where
        F: Future<Output = Result<T, Failure>>,
        W: FnOnce(Work) -> F,
    {
        let uncommitted = Arc::new(Uncommitted {
            shared: Arc::clone(self),
            connections: Mutex::default(),
        });
        let work = work(Work {
            shared: Arc::clone(self),
            uncommitted: Arc::clone(&uncommitted),
        });
        async move {
            let answer = timeout(patience, work).await;
            let answer = answer.unwrap_or_else(|_| Err(Failure::slow()));
            uncommitted.give_back(answer.as_ref().err());
            answer
        }
    }

    /// Like [`within`](Self::within), with the deadline of a call.
    pub(super) fn in_time<T, F, W>(
        self: &Arc<Self>,
        work: W,
    ) -> impl Future<Output = Result<T, Failure>> + use<T, F, W>
    where
        F: Future<Output = Result<T, Failure>>,
        W: FnOnce(Work) -> F,
    {
        self.within(self.settings.deadline, work)
    }
}

impl Work {
    /// A transaction for changes outside the books.
    pub(super) async fn begin(&self) -> Result<OpenTransaction, Failure> {
        self.transaction(&self.shared.begin.write_durably).await
    }

    /// A transaction for reading; the server itself ends what takes too long.
    pub(super) async fn read(&self) -> Result<OpenTransaction, Failure> {
        self.transaction(&self.shared.begin.read).await
    }

    async fn transaction(&self, begin: &Arc<str>) -> Result<OpenTransaction, Failure> {
        let connection = self
            .shared
            .pool
            .acquire()
            .await
            .map_err(Failure::no_connection)?;
        let mut transaction = OpenTransaction {
            connection: Some(connection),
            is_open: true,
            uncommitted: Arc::clone(&self.uncommitted),
        };
        let begin = AssertSqlSafe(Arc::clone(begin));
        sqlx::raw_sql(begin).execute(&mut *transaction).await?;
        Ok(transaction)
    }
}

impl Deref for Work {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl OpenTransaction {
    pub(super) async fn commit(mut self) -> Result<(), Failure> {
        sqlx::raw_sql("COMMIT").execute(&mut *self).await?;
        self.is_open = false;
        Ok(())
    }
}

impl Deref for OpenTransaction {
    type Target = PgConnection;

    #[expect(clippy::expect_used, reason = "it is taken out when this is dropped")]
    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("until it is dropped")
    }
}

impl DerefMut for OpenTransaction {
    #[expect(clippy::expect_used, reason = "it is taken out when this is dropped")]
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("until it is dropped")
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        if self.is_open {
            self.uncommitted.connections().push(connection);
        } else {
            // Right away rather than at the end of the work, so that work in many steps needs only
            // one connection.
            give_back(&self.uncommitted.shared, connection);
        }
    }
}

impl Uncommitted {
    fn connections(&self) -> MutexGuard<'_, Vec<PoolConnection<Postgres>>> {
        lock(&self.connections)
    }

    /// The work has ended: its uncommitted transactions are rolled back in the background.
    fn give_back(&self, failure: Option<&Failure>) {
        if failure.is_some_and(|failure| !failure.is_sound) {
            // The connections are closed when this is dropped.
            return;
        }
        let deadline = self.shared.settings.deadline;
        for mut connection in self.connections().drain(..) {
            self.shared.runtime.spawn(async move {
                let end = sqlx::raw_sql("ROLLBACK").execute(&mut *connection);
                if !matches!(timeout(deadline, end).await, Ok(Ok(_))) {
                    return discard(connection);
                }
                let _ = timeout(deadline, connection.return_to_pool()).await;
            });
        }
    }
}

impl Drop for Uncommitted {
    fn drop(&mut self) {
        if self.connections().is_empty() {
            return;
        }
        let _context = self.shared.runtime.enter();
        for connection in self.connections().drain(..) {
            discard(connection);
        }
    }
}

/// Returns a connection to the pool in the background, as the pool itself does, but with a time
/// limit: if it doesn't answer the ping in time, it is closed.
pub(super) fn give_back(shared: &Shared, mut connection: PoolConnection<Postgres>) {
    let returned = timeout(shared.settings.deadline, connection.return_to_pool());
    shared.runtime.spawn(async move {
        let _ = returned.await;
    });
}

/// Closes a connection immediately and frees its slot in the pool.
pub(super) fn discard(connection: PoolConnection<Postgres>) {
    drop(connection.detach());
}

/// A connection outside the pool, opened with the pool's options; one of the pool's if the server
/// accepts no more.
pub(super) async fn dedicated(pool: &PgPool, patience: Duration) -> Result<PgConnection, Failure> {
    let patience = patience.checked_div(2).unwrap_or(patience);
    if let Ok(connection) = pool_of_one(pool, patience).acquire().await {
        return Ok(connection.detach());
    }
    let connection = pool.acquire().await.map_err(Failure::no_connection)?;
    Ok(connection.detach())
}

/// A pool of one connection, which must be opened within `patience`.
pub(super) fn pool_of_one(pool: &PgPool, patience: Duration) -> PgPool {
    let options: PgPoolOptions = pool.options().clone();
    options
        .min_connections(0)
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(patience)
        .connect_lazy_with((*pool.connect_options()).clone())
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").finish_non_exhaustive()
    }
}
