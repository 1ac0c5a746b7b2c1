//! Several connections to one server, so that no single one's queue is the narrow place.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, aio::MultiplexedConnection};

use crate::store::{StoreError, StoreErrorKind};

/// How long a connection may take to be made, or to say that it is alive.
pub(super) const CONNECT_MAX: Duration = Duration::from_millis(500);
/// Commands that wait to be written to one connection.
const PIPELINE_MAX: usize = 1_024;

/// The connections. They are made by [`revive`](Self::revive) alone, which one task at a time calls: a
/// server that comes back isn't met by a herd.
pub(super) struct Connections {
    client: Client,
    slots: Box<[Mutex<Option<MultiplexedConnection>>]>,
    turn: AtomicUsize,
}

impl Connections {
    pub(super) fn new(client: Client, count: usize) -> Self {
        let slots = std::iter::repeat_with(Mutex::default).take(count.max(1));
        Self {
            client,
            slots: slots.collect(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The connection for a key of that digest.
    pub(super) fn of(
        &self,
        digest: &[u8; 16],
    ) -> Result<(usize, MultiplexedConnection), StoreError> {
        let [first, ..] = *digest;
        self.at(usize::from(first))
    }

    /// The next connection in turn.
    pub(super) fn next(&self) -> Result<(usize, MultiplexedConnection), StoreError> {
        self.at(self.turn.fetch_add(1, Ordering::Relaxed))
    }

    fn at(&self, number: usize) -> Result<(usize, MultiplexedConnection), StoreError> {
        let slot = number.checked_rem(self.slots.len()).unwrap_or(0);
        let connection = self.slots.get(slot).and_then(|slot| lock(slot).clone());
        let connection = connection.ok_or_else(|| {
            StoreError::new(StoreErrorKind::Unavailable, "not connected to Redis")
        })?;
        Ok((slot, connection))
    }

    /// Takes note of an error: a connection that is broken is used no more.
    pub(super) fn failed(&self, slot: usize, error: &RedisError) -> StoreError {
        if error.is_unrecoverable_error() || error.is_io_error() {
            self.forget(slot);
        }
        unavailable(error)
    }

    fn forget(&self, slot: usize) {
        if let Some(slot) = self.slots.get(slot) {
            *lock(slot) = None;
        }
    }

    /// Sees to it that every connection answers, one after the other; makes those that are missing.
    pub(super) async fn revive(&self) -> Result<(), StoreError> {
        for index in 0..self.slots.len() {
            let connection = self.slots.get(index).and_then(|slot| lock(slot).clone());
            let alive = match connection {
                Some(connection) => ping(connection).await,
                None => self.connect(index).await,
            };
            if let Err(error) = alive {
                // A connection that doesn't answer may never again: the other end may be gone for good.
                self.forget(index);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn connect(&self, index: usize) -> Result<(), StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE_MAX);
        let connecting = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        let connection = within(connecting).await?;
        ping(connection.clone()).await?;
        if let Some(slot) = self.slots.get(index) {
            *lock(slot) = Some(connection);
        }
        Ok(())
    }
}

pub(super) async fn ping(mut connection: MultiplexedConnection) -> Result<(), StoreError> {
    let ping = redis::cmd("PING");
    within(ping.exec_async(&mut connection)).await
}

pub(super) async fn within<T>(
    attempt: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(CONNECT_MAX, attempt).await {
        Ok(outcome) => outcome.map_err(|error| unavailable(&error)),
        Err(_) => Err(StoreError::new(
            StoreErrorKind::Unavailable,
            "Redis doesn't answer",
        )),
    }
}

/// The kind and the code of an error: its text may hold what was sent. What the server itself said may
/// pass; all else means that there is nobody to ask.
pub(super) fn unavailable(error: &RedisError) -> StoreError {
    let code = error.code().unwrap_or("no code");
    match error.kind() {
        ErrorKind::Io => StoreError::new(StoreErrorKind::Unavailable, "Redis can't be reached"),
        kind @ (ErrorKind::Server(_) | ErrorKind::Extension) => {
            StoreError::internal(&format!("Redis failed: {kind:?}, {code}"))
        }
        kind => {
            let text = format!("Redis failed: {kind:?}, {code}");
            StoreError::new(StoreErrorKind::Unavailable, &text)
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may hold a password.
        f.debug_struct("Connections")
            .field("count", &self.slots.len())
            .finish_non_exhaustive()
    }
}
