//! The push channel: triggers in the database announce every change of keys, users and logins,
//! whoever makes it.
//!
//! One connection outside the pool listens from the first subscription on. Whenever it is
//! established, listeners forget everything they cached, so that changes announced in between can't
//! be missed. While it is silent it is probed.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use sqlx::postgres::PgListener;
use tokio::time::{sleep, timeout};

use super::{PostgresStore, Shared, connection, convert::Failure};
use crate::store::{Change, ChangeListener, Invalidations};

/// How long the channel may be silent before it is probed.
const SILENCE: Duration = Duration::from_secs(5);

/// The delay before reconnecting: the first one, and the maximum.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);

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
    let mut delay = RETRY_AFTER;
    while !shared.is_closed() {
        tokio::select! {
            () = shared.closing.notified() => return,
            failure = receive(&shared, &mut delay) => {
                let error = failure.error;
                tracing::warn!(target: "tollgate::postgres", %error, "the change notification channel is down");
            }
        }
        tokio::select! {
            () = shared.closing.notified() => return,
            () = sleep(delay) => delay = delay.saturating_mul(2).min(RETRY_AFTER_MAX),
        }
    }
}

/// Listens until it fails.
async fn receive(shared: &Shared, delay: &mut Duration) -> Failure {
    let mut listener = match connect(shared).await {
        Ok(listener) => listener,
        Err(failure) => return failure,
    };
    shared.listeners.tell(&Change::Everything);
    *delay = RETRY_AFTER;
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(message))) => shared.listeners.tell(&Change::from_text(message.payload())),
            Ok(Ok(None)) => return sqlx::Error::WorkerCrashed.into(),
            Ok(Err(error)) => return error.into(),
            Err(_) => {
                let probe = sqlx::query("SELECT 1").execute(&mut listener);
                match timeout(shared.settings.deadline, probe).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return error.into(),
                    Err(_) => return Failure::slow(),
                }
            }
        }
    }
}

async fn connect(shared: &Shared) -> Result<PgListener, Failure> {
    let work = async {
        // A separate pool of one, so that closing the connection delays nobody.
        let own = connection::pool_of_one(&shared.pool, shared.settings.deadline);
        let mut listener = PgListener::connect_with(&own).await?;
        listener.eager_reconnect(false);
        listener.listen(&shared.settings.schema.channel()).await?;
        Ok(listener)
    };
    timeout(shared.settings.deadline, work)
        .await
        .unwrap_or_else(|_| Err(Failure::slow()))
}
