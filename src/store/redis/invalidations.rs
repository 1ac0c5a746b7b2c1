//! Change notifications over Redis, for stores that can't push.
//!
//! One connection publishes and listens. Whenever it is established, listeners forget everything
//! they cached, so that changes announced in between can't be missed. Every few seconds it is
//! probed.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    RedisClient,
    client::Endpoint,
    connections::{CONNECT_MAX, check_master, within},
};
use crate::{
    domain::clock::{Clock, SystemClock},
    repeats::{LogLine, Repeats},
    store::{
        Change, ChangeListener, Invalidations, StoreError, StoreErrorKind, changes::Listeners,
    },
    sync::lock,
};

/// How often the server is asked whether it is there, and still the master.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// The delay before reconnecting: the first one, and the maximum.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);
/// Changes that may wait to be published. Beyond that they are replaced by a single "forget
/// everything".
const WAITING_MAX: usize = 10_000;
/// Changes published in one round trip.
const PUBLISHED_AT_ONCE: usize = 100;

/// Announces changes to other processes, and receives theirs, through Redis or Valkey (6.2 and
/// later): for key stores that can't do so themselves, such as a file, SQLite, or one of your own.
/// A clone is a reference count.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tollgate::{key::KeyFormat, keyring::{KeyResolver, Keyring}, store::{FileKeyStore, RedisInvalidations}};
///
/// // Announced keys are looked up at once, so the store must not answer from a cache of its own.
/// let store = FileKeyStore::builder("/srv/keys.json").check_interval(Duration::ZERO).build();
/// let format = KeyFormat::builder("acme").build()?;
/// let news = RedisInvalidations::builder("redis://127.0.0.1/").build()?;
/// let keys = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
/// keys.follow(&news); // what other processes change
/// let ring = Keyring::new(store, format, keys).add_listener(news); // and what this one does
/// # Ok(()) }
/// ```
///
/// # Guarantees
///
/// - A change is published in the background, a moment after it is made. While Redis is unavailable
///   it waits; at most 10,000 wait, and beyond that all processes are told to forget everything.
/// - It makes revocation fast, but not certain: when Redis is unavailable, or the process ends
///   before publishing, the resolvers' `ttl` is what bounds the delay.
/// - A message contains the digest of a key, or the name of a login or user, but never a key.
///   Anyone who can write to the channel can make processes query their stores again, and nothing
///   more.
///
/// It runs for as long as there is a clone of it, or a resolver that follows it. Nodes of a cluster
/// forward messages to each other, so it connects to one, and to the next when that one is down.
#[derive(Clone)]
pub struct RedisInvalidations(Arc<Owner>);

/// Stops the task when the last clone is dropped.
struct Owner(Arc<Shared>);

struct Shared {
    channel: String,
    listeners: Listeners,
    waiting: Mutex<Waiting>,
    /// There is something to publish, or the last clone is gone.
    wake: Notify,
    is_owned: AtomicBool,
    is_connected: AtomicBool,
}

/// Changes that wait to be published.
#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<Change>,
    /// How often the queue was replaced by a single entry: what was read before then is no longer
    /// in it.
    overflows: u64,
}

impl Waiting {
    fn push(&mut self, change: &Change) {
        if self.changes.len() < WAITING_MAX {
            self.changes.push_back(change.clone());
            return;
        }
        self.overflows = self.overflows.wrapping_add(1);
        self.changes.clear();
        self.changes.push_back(Change::Everything);
    }

    /// The next changes to publish, and the token that [`published`](Self::published) needs.
    fn next(&self) -> (Vec<Change>, u64) {
        let next = self.changes.iter().take(PUBLISHED_AT_ONCE).cloned();
        (next.collect(), self.overflows)
    }

    /// Removes the first changes after they were published, unless the queue was replaced
    /// meanwhile.
    fn published(&mut self, count: usize, overflows: u64) {
        if self.overflows == overflows {
            let count = count.min(self.changes.len());
            self.changes.drain(..count);
        }
    }
}

/// Settings of [`RedisInvalidations`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct RedisInvalidationsBuilder {
    client: RedisClient,
    channel: String,
}

impl RedisInvalidations {
    /// A builder for notifications over the Redis that this client, or address, leads to.
    pub fn builder(client: impl Into<RedisClient>) -> RedisInvalidationsBuilder {
        RedisInvalidationsBuilder {
            client: client.into(),
            channel: "tollgate".to_owned(),
        }
    }

    /// Whether the channel is currently connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.0.is_connected.load(Ordering::Acquire)
    }
}

impl RedisInvalidationsBuilder {
    /// The name of the channel: one per store, since all databases of a server share their
    /// channels. `tollgate` unless set; the client's prefix isn't put before it.
    pub fn channel(mut self, channel: &str) -> Self {
        channel.clone_into(&mut self.channel);
        self
    }

    /// Connects in the background, now and whenever the connection ends.
    ///
    /// # Errors
    /// When the client's address can't be parsed, there is none, its settings contradict each
    /// other, or this is not called on a Tokio runtime.
    pub fn build(self) -> Result<RedisInvalidations, StoreError> {
        let refused = |text| StoreError::new(StoreErrorKind::Refused, text);
        let endpoints = self.client.news()?;
        let runtime = Handle::try_current()
            .map_err(|_| refused("change notifications need a Tokio runtime"))?;
        let shared = Arc::new(Shared {
            channel: self.channel,
            listeners: Listeners::default(),
            waiting: Mutex::default(),
            wake: Notify::new(),
            is_owned: AtomicBool::new(true),
            is_connected: AtomicBool::new(false),
        });
        runtime.spawn(run(Arc::clone(&shared), endpoints));
        Ok(RedisInvalidations(Arc::new(Owner(shared))))
    }
}

impl Invalidations for RedisInvalidations {
    fn subscribe(&self, listener: Weak<dyn ChangeListener>) {
        let shared = &self.0.0;
        shared.listeners.add(Weak::clone(&listener));
        // The channel may already be up, in which case nothing else would tell the new listener to
        // start fresh.
        if let Some(listener) = listener.upgrade() {
            listener.changed(&Change::Everything);
        }
    }
}

/// Publishes to every process that listens, including this one.
impl ChangeListener for RedisInvalidations {
    fn changed(&self, change: &Change) {
        let shared = &self.0.0;
        shared.waiting().push(change);
        shared.wake.notify_one();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.is_owned.store(false, Ordering::Release);
        self.0.wake.notify_one();
    }
}

impl Shared {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    fn is_needed(&self) -> bool {
        self.is_owned.load(Ordering::Acquire) || self.listeners.has_any()
    }

    fn receive(&self, info: &PushInfo) {
        if info.kind != PushKind::Message {
            return;
        }
        let text = match info.data.as_slice() {
            [_, Value::BulkString(text)] => std::str::from_utf8(text).ok(),
            _ => None,
        };
        let change = text.map_or(Change::Everything, Change::from_text);
        self.listeners.tell(&change);
    }

    async fn connect(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        ended: &Arc<Notify>,
    ) -> Result<MultiplexedConnection, StoreError> {
        let (shared, end) = (Arc::clone(self), Arc::clone(ended));
        let receive = move |info: PushInfo| {
            if info.kind == PushKind::Disconnection {
                end.notify_one();
            }
            shared.receive(&info);
            Ok::<(), ()>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(Some(CONNECT_MAX))
            .set_push_sender(receive);
        // Messages published on a replica don't reach its master.
        let mut connection = endpoint.connect(&config).await?;
        within(connection.subscribe(&self.channel)).await?;
        Ok(connection)
    }

    /// Publishes what is waiting; what can't be published stays queued, in order.
    async fn publish(&self, connection: &mut MultiplexedConnection) -> Result<(), StoreError> {
        loop {
            let (next, overflows) = self.waiting().next();
            if next.is_empty() {
                return Ok(());
            }
            let mut messages = redis::pipe();
            for change in &next {
                let command = messages.cmd("PUBLISH").arg(&self.channel);
                command.arg(change.to_text()).ignore();
            }
            within(messages.exec_async(connection)).await?;
            self.waiting().published(next.len(), overflows);
        }
    }
}

async fn run(shared: Arc<Shared>, endpoints: Vec<Endpoint>) {
    let (mut delay, failures) = (RETRY_AFTER, Repeats::new());
    for endpoint in endpoints.iter().cycle() {
        if !shared.is_needed() {
            return;
        }
        let ended = listen(&shared, endpoint, &mut delay, &failures).await;
        shared.is_connected.store(false, Ordering::Release);
        if let Err(error) = ended
            && let Some(LogLine { left_out }) = failures.failed(&error, SystemClock.elapsed())
        {
            tracing::warn!(target: "tollgate::redis", %error, left_out, "the change notification channel is down");
        }
        sleep(delay).await;
        delay = delay.saturating_mul(2).min(RETRY_AFTER_MAX);
    }
}

/// Listens until it fails, or nobody needs it any more.
async fn listen(
    shared: &Arc<Shared>,
    endpoint: &Endpoint,
    delay: &mut Duration,
    failures: &Repeats,
) -> Result<(), StoreError> {
    let ended = Arc::new(Notify::new());
    let mut connection = shared.connect(endpoint, &ended).await?;
    shared.is_connected.store(true, Ordering::Release);
    shared.listeners.tell(&Change::Everything);
    *delay = RETRY_AFTER;
    if let Some(LogLine { left_out }) = failures.succeeded() {
        tracing::info!(target: "tollgate::redis", left_out, "the change notification channel is up again");
    }
    // Whatever is published meanwhile: a replica takes that too, and its master never hears of it.
    let mut probes = interval(PROBE_EVERY);
    probes.reset();
    probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shared.is_needed() {
        shared.publish(&mut connection).await?;
        tokio::select! {
            () = shared.wake.notified() => {}
            () = ended.notified() => {
                let text = "the connection to Redis ended";
                return Err(StoreError::new(StoreErrorKind::Unavailable, text));
            }
            _ = probes.tick() => {
                check_master(connection.clone()).await.inspect_err(|_| {
                    // What was published of late may have reached nobody.
                    shared.waiting().push(&Change::Everything);
                })?;
            }
        }
    }
    Ok(())
}

impl fmt::Debug for RedisInvalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisInvalidations")
            .field("channel", &self.0.0.channel)
            .field("is_connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overflow(waiting: &mut Waiting) {
        let before = waiting.overflows;
        while waiting.overflows == before {
            waiting.push(&Change::Everything);
        }
    }

    #[test]
    fn what_overflows_while_it_is_told_is_told_too() {
        let mut waiting = Waiting::default();
        overflow(&mut waiting);
        let (next, overflows) = waiting.next();
        assert_eq!(next, [Change::Everything]);
        overflow(&mut waiting);
        waiting.published(next.len(), overflows);
        let (next, overflows) = waiting.next();
        assert_eq!(
            next,
            [Change::Everything],
            "it came after the one that was published"
        );
        waiting.push(&Change::Everything);
        waiting.published(next.len(), overflows);
        assert_eq!(waiting.changes.len(), 1, "and so did this one");
    }
}
