//! Connections: of the pool, for all that is done outside the lanes, and such as are nobody else's.
//!
//! A connection goes back to the pool only when what was done over it has come to an end. The pool asks each one that
//! it gets back whether it stands, and waits for the answer however long that takes: of a server that fell silent, all
//! places of the pool would soon wait like that. So whatever is cut off in the middle is closed, and counts no more.

use std::{
    fmt,
    future::Future,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnection, PgPoolOptions},
};
use tokio::time::timeout;

use super::{Shared, convert::Failure};

/// Something that is done outside the lanes, and what it works with.
pub(super) struct Work {
    shared: Arc<Shared>,
    used: Arc<Used>,
}

/// The connections with a transaction that wasn't committed, until it is known how the work ended.
struct Used {
    shared: Arc<Shared>,
    lines: Mutex<Vec<PoolConnection<Postgres>>>,
}

/// A connection in the middle of a transaction. Without a commit it is undone when the work has ended.
pub(super) struct Line {
    connection: Option<PoolConnection<Postgres>>,
    is_open: bool,
    used: Arc<Used>,
}

impl Shared {
    /// Does it within that time, or cuts it off.
    pub(super) fn within<T, F, W>(
        self: &Arc<Self>,
        patience: Duration,
        work: W,
    ) -> impl Future<Output = Result<T, Failure>> + use<T, F, W>
    where
        F: Future<Output = Result<T, Failure>>,
        W: FnOnce(Work) -> F,
    {
        let used = Arc::new(Used {
            shared: Arc::clone(self),
            lines: Mutex::default(),
        });
        let work = work(Work {
            shared: Arc::clone(self),
            used: Arc::clone(&used),
        });
        async move {
            let answer = timeout(patience, work).await;
            let answer = answer.unwrap_or_else(|_| Err(Failure::slow()));
            used.give_back(answer.as_ref().err());
            answer
        }
    }

    /// The same, with the time that any call has.
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
    /// A connection for changes outside the books.
    pub(super) async fn begin(&self) -> Result<Line, Failure> {
        self.line(&self.shared.begin.durably).await
    }

    /// A connection for reading: the server itself ends what takes too long.
    pub(super) async fn read(&self) -> Result<Line, Failure> {
        self.line(&self.shared.begin.to_read).await
    }

    async fn line(&self, begin: &Arc<str>) -> Result<Line, Failure> {
        let connection = self.shared.pool.acquire().await.map_err(Failure::away)?;
        let mut line = Line {
            connection: Some(connection),
            is_open: true,
            used: Arc::clone(&self.used),
        };
        let begin = AssertSqlSafe(Arc::clone(begin));
        sqlx::raw_sql(begin).execute(&mut *line).await?;
        Ok(line)
    }
}

impl Deref for Work {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Line {
    pub(super) async fn commit(mut self) -> Result<(), Failure> {
        sqlx::raw_sql("COMMIT").execute(&mut *self).await?;
        self.is_open = false;
        Ok(())
    }
}

impl Deref for Line {
    type Target = PgConnection;

    #[expect(clippy::expect_used, reason = "it is taken out when this is dropped")]
    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("until it is dropped")
    }
}

impl DerefMut for Line {
    #[expect(clippy::expect_used, reason = "it is taken out when this is dropped")]
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("until it is dropped")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        if self.is_open {
            self.used.lines().push(connection);
        } else {
            // Now, and not at the end of the work: what takes many steps takes no more connections than one.
            give_back(&self.used.shared, connection);
        }
    }
}

impl Used {
    fn lines(&self) -> MutexGuard<'_, Vec<PoolConnection<Postgres>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The work has ended. What it left undone is rolled back while nobody waits.
    fn give_back(&self, failure: Option<&Failure>) {
        if failure.is_some_and(|failure| !failure.is_sound) {
            // It is closed with this.
            return;
        }
        let deadline = self.shared.settings.deadline;
        for mut connection in self.lines().drain(..) {
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

impl Drop for Used {
    fn drop(&mut self) {
        if self.lines().is_empty() {
            return;
        }
        let _context = self.shared.runtime.enter();
        for connection in self.lines().drain(..) {
            discard(connection);
        }
    }
}

/// Gives a connection back to the pool in the background, as the pool does it itself, but for the patience: one that
/// doesn't say in time that it stands is closed.
pub(super) fn give_back(shared: &Shared, mut connection: PoolConnection<Postgres>) {
    let returned = timeout(shared.settings.deadline, connection.return_to_pool());
    shared.runtime.spawn(async move {
        let _ = returned.await;
    });
}

/// Closes a connection at once, and leaves its place in the pool.
pub(super) fn discard(connection: PoolConnection<Postgres>) {
    drop(connection.detach());
}

/// A connection beside the pool, made as the pool makes them; one of the pool's where the server has no more.
pub(super) async fn apart(pool: &PgPool, patience: Duration) -> Result<PgConnection, Failure> {
    let patience = patience.checked_div(2).unwrap_or(patience);
    if let Ok(connection) = one(pool, patience).acquire().await {
        return Ok(connection.detach());
    }
    let connection = pool.acquire().await.map_err(Failure::away)?;
    Ok(connection.detach())
}

/// A pool of one connection, which is made within that time.
pub(super) fn one(pool: &PgPool, patience: Duration) -> PgPool {
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
