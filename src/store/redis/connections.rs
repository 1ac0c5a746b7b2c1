//! Several connections to one server, so that no single connection's queue becomes the bottleneck.

use std::{
    fmt, mem,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, ErrorKind, RedisError, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};
use tokio::time::timeout;

use super::client::Endpoint;
use crate::{
    store::{StoreError, StoreErrorKind},
    sync::lock,
};

/// How long connecting, or a liveness check, may take.
pub(super) const CONNECT_MAX: Duration = Duration::from_millis(500);
/// Commands that may wait to be written to one connection.
const PIPELINE_MAX: usize = 1_024;

const REPLICA: &str = "this Redis server is a replica: another one is the master";

/// The connections. A missing or broken one is re-established by whoever needs it, one attempt per
/// slot at a time; together with a breaker around it, this keeps a recovering server from being
/// flooded.
pub(super) struct Connections {
    endpoint: Endpoint,
    slots: Box<[Slot]>,
    next_slot: AtomicUsize,
    /// The current generation. When one connection breaks, either the server closed all of them or
    /// another one took over: connections of that generation are no longer used.
    generation: AtomicU64,
}

#[derive(Default)]
struct Slot {
    kept: Mutex<Option<Kept>>,
    connecting: tokio::sync::Mutex<()>,
    /// Failed attempts: a caller that waited for one doesn't start another.
    failures: AtomicU64,
    /// Attempts whose callers gave up.
    given_up: AtomicU64,
}

/// An attempt to connect, which is given up unless it is forgotten.
struct Attempt<'a>(&'a AtomicU64);

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// Who wants a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// A call, which soon gives up. If all that wait connected in turn, each would leave the server
    /// an attempt that nobody sees the end of.
    Caller,
    /// The task that waits until the server is back: others' impatience must not discourage it.
    Reviver,
}

impl Slot {
    fn ended(&self, for_whom: Who) -> u64 {
        let failures = self.failures.load(Ordering::Acquire);
        match for_whom {
            Who::Caller => failures.wrapping_add(self.given_up.load(Ordering::Acquire)),
            Who::Reviver => failures,
        }
    }
}

#[derive(Clone)]
struct Kept {
    connection: MultiplexedConnection,
    generation: u64,
}

/// A connection, for one call.
pub(super) struct Borrowed {
    pub(super) connection: MultiplexedConnection,
    slot: usize,
    generation: u64,
    is_retry: bool,
}

/// Whether a call may be resent when it is unknown whether it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resend {
    /// Receiving it twice has the same effect as once, or takes more but never less.
    Safe,
    /// As `Safe`, but only if the same server receives it again. A cluster client ensures that.
    SameServer,
    Never,
}

impl Connections {
    pub(super) fn new(endpoint: Endpoint, count: usize) -> Self {
        let slots = std::iter::repeat_with(Slot::default).take(count.max(1));
        Self {
            endpoint,
            slots: slots.collect(),
            next_slot: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
        }
    }

    /// The connection for a key with that digest.
    pub(super) async fn of(&self, digest: &[u8; 16]) -> Result<Borrowed, StoreError> {
        let [first, ..] = *digest;
        self.at(usize::from(first)).await
    }

    /// The next connection in turn.
    pub(super) async fn next(&self) -> Result<Borrowed, StoreError> {
        self.at(self.next_slot.fetch_add(1, Ordering::Relaxed))
            .await
    }

    async fn at(&self, number: usize) -> Result<Borrowed, StoreError> {
        let index = number.checked_rem(self.slots.len()).unwrap_or(0);
        match self.current(index) {
            Some(borrowed) => Ok(borrowed),
            None => self.renew(index, Who::Caller).await,
        }
    }

    fn current(&self, index: usize) -> Option<Borrowed> {
        let kept = lock(&self.slots.get(index)?.kept).clone()?;
        (kept.generation == self.generation.load(Ordering::Acquire)).then_some(Borrowed {
            connection: kept.connection,
            slot: index,
            generation: kept.generation,
            is_retry: false,
        })
    }

    /// After an error: a fresh connection for one more attempt, or the error to report. A server
    /// that answers on a fresh connection isn't `Unavailable`.
    pub(super) async fn for_retry(
        &self,
        borrowed: Borrowed,
        error: &RedisError,
        resend: Resend,
    ) -> Result<Borrowed, StoreError> {
        if !is_broken(error) {
            return Err(unavailable(error));
        }
        self.retire(borrowed.generation);
        if borrowed.is_retry {
            return Err(unavailable(error));
        }
        let fresh = self.at(borrowed.slot).await?;
        match resend {
            Resend::Safe => Ok(Borrowed {
                is_retry: true,
                ..fresh
            }),
            Resend::SameServer | Resend::Never => {
                let text = "the connection to Redis ended before the answer";
                Err(StoreError::internal(text))
            }
        }
    }

    /// Stops using connections of that generation; newer ones stay.
    fn retire(&self, generation: u64) {
        let next = generation.wrapping_add(1);
        let _ =
            self.generation
                .compare_exchange(generation, next, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Makes sure that every connection answers, one after the other; replaces those that are
    /// missing or don't.
    pub(super) async fn revive(&self) -> Result<(), StoreError> {
        for index in 0..self.slots.len() {
            if let Some(borrowed) = self.current(index) {
                if check_master(borrowed.connection).await.is_ok() {
                    continue;
                }
                // It may never answer: the other end may be gone for good and replaced by another
                // server.
                self.retire(borrowed.generation);
            }
            self.renew(index, Who::Reviver).await?;
        }
        Ok(())
    }

    async fn renew(&self, index: usize, who: Who) -> Result<Borrowed, StoreError> {
        let away = || StoreError::new(StoreErrorKind::Unavailable, "not connected to Redis");
        let slot = self.slots.get(index).ok_or_else(away)?;
        let ended = slot.ended(who);
        let _one = slot.connecting.lock().await;
        if let Some(borrowed) = self.current(index) {
            return Ok(borrowed);
        }
        if slot.ended(who) != ended {
            return Err(away());
        }
        let generation = self.generation.load(Ordering::Acquire);
        let attempt = Attempt(&slot.given_up);
        let connected = self.connect().await;
        mem::forget(attempt);
        let connected = connected.inspect_err(|_| {
            slot.failures.fetch_add(1, Ordering::AcqRel);
        });
        let connection = connected?;
        *lock(&slot.kept) = Some(Kept {
            connection: connection.clone(),
            generation,
        });
        Ok(Borrowed {
            connection,
            slot: index,
            generation,
            is_retry: false,
        })
    }

    async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE_MAX);
        self.endpoint.connect(&config).await
    }
}

/// Checks that a server answers and accepts writes. If it doesn't reveal its role, because the
/// application lacks the right to ask or because of a proxy, an answer is enough.
pub(super) async fn check_master(mut connection: MultiplexedConnection) -> Result<(), StoreError> {
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
        Err(_) => Err(no_answer()),
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

/// Whether a connection is dead, or leads to a server that has been replaced.
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

/// Whether one of these errors is in the text of another: before Redis 7, every error within a
/// script is an `ERR`.
pub(super) fn is_wrapped(error: &RedisError, codes: &[&str]) -> bool {
    let text = error.detail().unwrap_or_default();
    codes.iter().any(|code| text.contains(code))
}

fn no_answer() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "Redis doesn't answer")
}

pub(super) async fn within<T>(
    attempt: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, StoreError> {
    match timeout(CONNECT_MAX, attempt).await {
        Ok(outcome) => outcome.map_err(|error| unavailable(&error)),
        Err(_) => Err(no_answer()),
    }
}

/// Keeps only the kind and the code of an error, since its text may contain what was sent. Errors
/// that the server itself reports may be temporary; all others mean that the server is unreachable.
pub(super) fn unavailable(error: &RedisError) -> StoreError {
    if is_said_by_replica(error) {
        return StoreError::new(StoreErrorKind::Unavailable, REPLICA);
    }
    let code = error.code().unwrap_or("no code");
    if let Some(command) = forbidden_command(error) {
        let text = format!("Redis failed: {code}: its user may not run `{command}`");
        return StoreError::internal(&text);
    }
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

/// The command that the user of the connection may not run, if it is only a name: `this user has no
/// permissions to run the 'ping' command`.
fn forbidden_command(error: &RedisError) -> Option<&str> {
    if error.kind() != ErrorKind::Server(ServerErrorKind::NoPerm) {
        return None;
    }
    let (_, command) = error.detail()?.split_once(" run the '")?;
    let (command, _) = command.split_once('\'')?;
    let is_named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'|' | b'_' | b'-');
    (command.len() <= 32 && command.bytes().all(is_named)).then_some(command)
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may contain a password.
        f.debug_struct("Connections")
            .field("count", &self.slots.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(detail: &str) -> String {
        let kind = ErrorKind::Server(ServerErrorKind::NoPerm);
        unavailable(&RedisError::from((kind, "", detail.to_owned()))).to_string()
    }

    #[test]
    fn a_forbidden_command_is_named_and_nothing_else_is() {
        let told = refused("User app has no permissions to run the 'config|get' command");
        assert!(
            told.contains("`config|get`") && !told.contains("app"),
            "{told}"
        );
        for other in [
            "a key 'secret'",
            "to run the 'a key of somebody' command",
            "run the 'get",
        ] {
            let told = refused(other);
            assert!(told.contains("NOPERM") && !told.contains('`'), "{told}");
        }
    }
}
