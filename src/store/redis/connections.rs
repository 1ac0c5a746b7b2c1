//! Several connections to one server, so that no single one's queue is the narrow place.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};
use tokio::time::timeout;

use crate::store::{StoreError, StoreErrorKind};

/// How long a connection may take to be made, or to say that it is alive.
pub(super) const CONNECT_MAX: Duration = Duration::from_millis(500);
/// Commands that wait to be written to one connection.
const PIPELINE_MAX: usize = 1_024;

const REPLICA: &str = "Redis is a replica: another server is in its place";

/// The connections. One that is missing or broken is made anew by whoever needs it, one attempt at a time for each;
/// with a breaker around all of it, a server that comes back isn't met by a herd.
pub(super) struct Connections {
    client: Client,
    slots: Box<[Slot]>,
    turn: AtomicUsize,
    /// When one connection breaks, the server has ended all of them, or another one has taken over: none of its age
    /// is used any more.
    age: AtomicU64,
}

#[derive(Default)]
struct Slot {
    kept: Mutex<Option<Kept>>,
    making: tokio::sync::Mutex<()>,
    /// Attempts that failed: whoever waited for one makes no other.
    failures: AtomicU64,
}

#[derive(Clone)]
struct Kept {
    connection: MultiplexedConnection,
    age: u64,
}

/// A connection, for one question.
pub(super) struct Line {
    pub(super) connection: MultiplexedConnection,
    slot: usize,
    age: u64,
    is_second: bool,
}

/// Whether a question may be put again of which nobody knows whether it was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Heard twice, it does what it does heard once, or takes more and never less.
    Safe,
    /// The same, where it is the same store that hears it. A cluster's client sees to that.
    SameServer,
    Never,
}

impl Connections {
    pub(super) fn new(client: Client, count: usize) -> Self {
        let slots = std::iter::repeat_with(Slot::default).take(count.max(1));
        Self {
            client,
            slots: slots.collect(),
            turn: AtomicUsize::new(0),
            age: AtomicU64::new(0),
        }
    }

    /// The connection for a key of that digest.
    pub(super) async fn of(&self, digest: &[u8; 16]) -> Result<Line, StoreError> {
        let [first, ..] = *digest;
        self.at(usize::from(first)).await
    }

    /// The next connection in turn.
    pub(super) async fn next(&self) -> Result<Line, StoreError> {
        self.at(self.turn.fetch_add(1, Ordering::Relaxed)).await
    }

    async fn at(&self, number: usize) -> Result<Line, StoreError> {
        let index = number.checked_rem(self.slots.len()).unwrap_or(0);
        match self.standing(index) {
            Some(line) => Ok(line),
            None => self.renew(index).await,
        }
    }

    fn standing(&self, index: usize) -> Option<Line> {
        let kept = lock(&self.slots.get(index)?.kept).clone()?;
        (kept.age == self.age.load(Ordering::Acquire)).then_some(Line {
            connection: kept.connection,
            slot: index,
            age: kept.age,
            is_second: false,
        })
    }

    /// After an error: a fresh connection to put the question to once more, or what to say. A server that answers on
    /// a fresh one isn't `Unavailable`.
    pub(super) async fn another(
        &self,
        line: Line,
        error: &RedisError,
        repeat: Repeat,
    ) -> Result<Line, StoreError> {
        if !is_broken(error) {
            return Err(unavailable(error));
        }
        self.retire(line.age);
        if line.is_second {
            return Err(unavailable(error));
        }
        let fresh = self.at(line.slot).await?;
        match repeat {
            Repeat::Safe => Ok(Line {
                is_second: true,
                ..fresh
            }),
            Repeat::SameServer | Repeat::Never => {
                let text = "the connection to Redis ended before the answer";
                Err(StoreError::internal(text))
            }
        }
    }

    /// Uses those of that age no more; those that were made since stay.
    fn retire(&self, age: u64) {
        let next = age.wrapping_add(1);
        let _ = self
            .age
            .compare_exchange(age, next, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Sees to it that every connection answers, one after the other; makes those that are missing or don't.
    pub(super) async fn revive(&self) -> Result<(), StoreError> {
        for index in 0..self.slots.len() {
            if let Some(line) = self.standing(index) {
                if look(line.connection).await.is_ok() {
                    continue;
                }
                // It may never answer again: the other end may be gone for good, and another one in its place.
                self.retire(line.age);
            }
            self.renew(index).await?;
        }
        Ok(())
    }

    async fn renew(&self, index: usize) -> Result<Line, StoreError> {
        let away = || StoreError::new(StoreErrorKind::Unavailable, "not connected to Redis");
        let slot = self.slots.get(index).ok_or_else(away)?;
        let failures = slot.failures.load(Ordering::Acquire);
        let _one = slot.making.lock().await;
        if let Some(line) = self.standing(index) {
            return Ok(line);
        }
        if slot.failures.load(Ordering::Acquire) != failures {
            return Err(away());
        }
        let age = self.age.load(Ordering::Acquire);
        let made = self.connect().await.inspect_err(|_| {
            slot.failures.fetch_add(1, Ordering::AcqRel);
        });
        let connection = made?;
        *lock(&slot.kept) = Some(Kept {
            connection: connection.clone(),
            age,
        });
        Ok(Line {
            connection,
            slot: index,
            age,
            is_second: false,
        })
    }

    async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE_MAX);
        let connecting = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        let connection = within(connecting).await?;
        look(connection.clone()).await?;
        Ok(connection)
    }
}

/// Whether a server answers, and is the one that is written to. Where it doesn't say what it is, because the
/// application may not ask or something stands between, its answering is enough.
pub(super) async fn look(mut connection: MultiplexedConnection) -> Result<(), StoreError> {
    let role = redis::cmd("ROLE");
    let asked = role.query_async::<Value>(&mut connection);
    match timeout(CONNECT_MAX, asked).await {
        Ok(Ok(role)) if is_replica(&role) => {
            Err(StoreError::new(StoreErrorKind::Unavailable, REPLICA))
        }
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => {
            let ping = redis::cmd("PING");
            within(ping.exec_async(&mut connection)).await
        }
        Ok(Err(error)) => Err(unavailable(&error)),
        Err(_) => Err(silent()),
    }
}

fn is_replica(role: &Value) -> bool {
    let Value::Array(parts) = role else {
        return false;
    };
    match parts.first() {
        Some(Value::BulkString(name)) => name == b"slave",
        Some(Value::SimpleString(name)) => name == "slave",
        _ => false,
    }
}

/// Whether a connection leads nowhere any more, or to a server that others have taken the place of.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.is_io_error() || is_said_by_replica(error)
}

fn is_said_by_replica(error: &RedisError) -> bool {
    let replica = [ServerErrorKind::ReadOnly, ServerErrorKind::MasterDown];
    replica
        .iter()
        .any(|it| error.kind() == ErrorKind::Server(*it))
        || is_wrapped(error, &["-READONLY", "-MASTERDOWN"])
}

/// Whether one of these errors is in the text of another: before Redis 7, all that went wrong within a script is an
/// `ERR`.
pub(super) fn is_wrapped(error: &RedisError, codes: &[&str]) -> bool {
    let text = error.detail().unwrap_or_default();
    codes.iter().any(|code| text.contains(code))
}

fn silent() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "Redis doesn't answer")
}

pub(super) async fn within<T>(
    attempt: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, StoreError> {
    match timeout(CONNECT_MAX, attempt).await {
        Ok(outcome) => outcome.map_err(|error| unavailable(&error)),
        Err(_) => Err(silent()),
    }
}

/// The kind and the code of an error: its text may hold what was sent. What the server itself said may
/// pass; all else means that there is nobody to ask.
pub(super) fn unavailable(error: &RedisError) -> StoreError {
    if is_said_by_replica(error) {
        return StoreError::new(StoreErrorKind::Unavailable, REPLICA);
    }
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
