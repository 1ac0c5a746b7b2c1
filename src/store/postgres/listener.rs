//! The push channel: what triggers in the database tell of keys, users and logins, whoever changes them.
//!
//! One connection, beside the pool, listens from the first subscription on. Each time that it is made, everything is forgotten, so
//! that nothing that was told meanwhile can be missed; and whether it still stands is tried when it is silent.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use sqlx::postgres::PgListener;
use tokio::time::{sleep, timeout};

use super::{PostgresStore, Shared, connection, convert::Failure};
use crate::store::{Change, ChangeListener, Invalidations};

/// How long the channel may be silent before it is tried.
const SILENCE: Duration = Duration::from_secs(5);

/// How long it waits before it connects again: at first, and at most.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);

impl Invalidations for PostgresStore {
    fn subscribe(&self, listener: Weak<dyn ChangeListener>) {
        let shared = &self.0.shared;
        shared.listeners.add(listener);
        if !shared.listening.swap(true, Ordering::AcqRel) {
            shared.runtime.spawn(listen(Arc::clone(shared)));
        } else {
            // The channel stands already, perhaps: then nobody else tells the newcomer so.
            shared.listeners.tell(&Change::Everything);
        }
    }
}

async fn listen(shared: Arc<Shared>) {
    let mut patience = RETRY_AFTER;
    while !shared.is_closed() {
        tokio::select! {
            () = shared.closing.notified() => return,
            failure = hear(&shared, &mut patience) => {
                let error = failure.error;
                tracing::warn!(target: "tollgate::postgres", %error, "changes elsewhere are not heard of");
            }
        }
        tokio::select! {
            () = shared.closing.notified() => return,
            () = sleep(patience) => patience = patience.saturating_mul(2).min(RETRY_AFTER_MAX),
        }
    }
}

/// Listens for as long as it can.
async fn hear(shared: &Shared, patience: &mut Duration) -> Failure {
    let mut listener = match connect(shared).await {
        Ok(listener) => listener,
        Err(failure) => return failure,
    };
    shared.listeners.tell(&Change::Everything);
    *patience = RETRY_AFTER;
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(told))) => shared.listeners.tell(&Change::from_text(told.payload())),
            Ok(Ok(None)) => return sqlx::Error::WorkerCrashed.into(),
            Ok(Err(error)) => return error.into(),
            Err(_) => {
                let stands = sqlx::query("SELECT 1").execute(&mut listener);
                match timeout(shared.settings.deadline, stands).await {
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
        // It is never given back to others: in a pool of its own nobody waits for its end.
        let own = connection::one(&shared.pool, shared.settings.deadline);
        let mut listener = PgListener::connect_with(&own).await?;
        listener.eager_reconnect(false);
        listener.listen(&shared.settings.schema.channel()).await?;
        Ok(listener)
    };
    timeout(shared.settings.deadline, work)
        .await
        .unwrap_or_else(|_| Err(Failure::slow()))
}
