//! The push channel: triggers in the database announce every change of keys, users and logins,
//! whoever makes it.
//!
//! One connection outside the pool listens from the first subscription on. Whenever it is
//! established, listeners forget everything they cached, so that changes announced in between can't
//! be missed. While it is silent it is probed.
//!
//! A pooler that shares sessions between its clients (PgBouncer in transaction mode) would listen
//! in a session of others, and hand them announcements in the middle of their answers, which ends
//! their connections. So nothing is listened for unless this connection has its session to itself.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use sqlx::{Executor, Postgres, postgres::PgListener};
use tokio::time::{sleep, timeout};

use super::{PostgresStore, Shared, connection, convert::Failure};
use crate::{
    repeats::{LogLine, Repeats},
    store::{Change, ChangeListener, Invalidations, StoreError, StoreErrorKind},
};

/// How long the channel may be silent before it is probed.
const SILENCE: Duration = Duration::from_secs(5);

/// The delay before reconnecting: the first one, and the maximum.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);

/// How often two connections are compared before it is believed that they share no session. A
/// pooler gives out the session that was used last, unless others take it meanwhile.
const COMPARISONS: usize = 3;
/// The delay before looking again whether sessions are shared.
const SHARED_RETRY_AFTER: Duration = Duration::from_secs(60);

impl Invalidations for PostgresStore {
    fn subscribe(&self, listener: Weak<dyn ChangeListener>) {
        let shared = &self.0.shared;
        shared.listeners.add(listener);
        if !shared.listening.swap(true, Ordering::AcqRel) {
            shared.runtime.spawn(listen(Arc::clone(shared)));
        } else {
            // The channel may already be up, in which case nothing else would tell the new listener
            // to start fresh.
            shared.listeners.tell(&Change::Everything);
        }
    }
}

async fn listen(shared: Arc<Shared>) {
    let (mut delay, failures) = (RETRY_AFTER, Repeats::new());
    while !shared.is_closed() {
        tokio::select! {
            () = shared.closing.notified() => return,
            failure = receive(&shared, &mut delay, &failures) => {
                let (error, now) = (failure.error, shared.settings.clock.elapsed());
                if let Some(LogLine { left_out }) = failures.failed(&error, now) {
                    tracing::warn!(target: "tollgate::postgres", %error, left_out, "the change notification channel is down");
                }
            }
        }
        tokio::select! {
            () = shared.closing.notified() => return,
            () = sleep(delay) => delay = delay.saturating_mul(2).min(RETRY_AFTER_MAX),
        }
    }
}

/// Listens until it fails.
async fn receive(shared: &Arc<Shared>, delay: &mut Duration, failures: &Repeats) -> Failure {
    let deadline = shared.settings.deadline;
    let connected = timeout(deadline, connect(shared)).await;
    let (mut listener, session) = match connected.unwrap_or_else(|_| Err(Failure::slow().into())) {
        Ok(connected) => connected,
        Err(Unheard::Failed(failure)) => return failure,
        Err(Unheard::Shared) => {
            *delay = SHARED_RETRY_AFTER;
            return shares_sessions();
        }
    };
    shared.listeners.tell(&Change::Everything);
    *delay = RETRY_AFTER;
    if let Some(LogLine { left_out }) = failures.succeeded() {
        tracing::info!(target: "tollgate::postgres", left_out, "the change notification channel is up again");
    }
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(message))) => shared.listeners.tell(&Change::from_text(message.payload())),
            Ok(Ok(None)) => return sqlx::Error::WorkerCrashed.into(),
            Ok(Err(error)) => return error.into(),
            Err(_) => match timeout(deadline, session_of(&mut listener)).await {
                Ok(Ok(same)) if same == session => {}
                Ok(Ok(_)) => {
                    *delay = SHARED_RETRY_AFTER;
                    return shares_sessions();
                }
                Ok(Err(failure)) => return failure,
                Err(_) => return Failure::slow(),
            },
        }
    }
}

/// Why nothing can be heard.
enum Unheard {
    Failed(Failure),
    /// The sessions belong to a pooler, which gives them to others too.
    Shared,
}

impl<E: Into<Failure>> From<E> for Unheard {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn shares_sessions() -> Failure {
    let text = "a pooler shares sessions between its clients, so changes are not pushed: cached \
        entries are used for their time to live";
    StoreError::new(StoreErrorKind::Unavailable, text).into()
}

/// A connection that listens, and its session.
async fn connect(shared: &Arc<Shared>) -> Result<(PgListener, i32), Unheard> {
    // A separate pool of one, so that closing the connection delays nobody.
    let own = connection::pool_of_one(&shared.pool, shared.settings.deadline);
    let mut listener = PgListener::connect_with(&own).await?;
    listener.eager_reconnect(false);
    let session = session_of(&mut listener).await?;
    for _ in 0..COMPARISONS {
        let other = shared.in_time(async |work| {
            let mut transaction = work.read().await?;
            let session = session_of(&mut *transaction).await?;
            transaction.commit().await?;
            Ok::<_, Failure>(session)
        });
        if other.await? == session || session_of(&mut listener).await? != session {
            return Err(Unheard::Shared);
        }
    }
    listener.listen(&shared.settings.schema.channel()).await?;
    Ok((listener, session))
}

/// The process of the server that answers.
async fn session_of(connection: impl Executor<'_, Database = Postgres>) -> Result<i32, Failure> {
    let process = sqlx::query_scalar("SELECT pg_backend_pid()");
    Ok(process.fetch_one(connection).await?)
}
