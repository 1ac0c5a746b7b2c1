//! News of changes over Redis, for stores that can't push.
//!
//! One connection publishes and listens. Each time that it is made, everything is forgotten, so that nothing that was
//! told meanwhile can be missed; and whether it still stands is tried when it is silent.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisResult, Value, aio::MultiplexedConnection,
};
use tokio::{runtime::Handle, sync::Notify, time::sleep};

use super::connections::{CONNECT_MAX, look, within};
use crate::store::{
    Change, ChangeListener, Invalidations, StoreError, StoreErrorKind, changes::Listeners,
};

/// How long the channel may be silent before it is tried.
const SILENCE: Duration = Duration::from_secs(5);
/// How long it waits before it connects again: at first, and at most.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);
/// Changes that wait to be told. With more of them everything is to be forgotten, which is one.
const WAITING_MAX: usize = 10_000;
/// Changes that are told in one round trip.
const TOLD_AT_ONCE: usize = 100;

/// Tells other processes of changes, and hears of theirs, through Redis or Valkey (6.2 and later): for key stores that can't
/// do it themselves, such as a file, SQLite, or one of your own. A clone is a reference count.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tollgate::{key::KeyFormat, keyring::{KeyResolver, Keyring}, store::{FileKeyStore, RedisInvalidations}};
///
/// // What is told of is looked up at once: a store must not answer then from what it remembers itself.
/// let store = FileKeyStore::builder("/srv/keys.json").check_interval(Duration::ZERO).build();
/// let format = KeyFormat::builder("acme").build()?;
/// let news = RedisInvalidations::builder("redis://127.0.0.1/").build()?;
/// let keys = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
/// keys.follow(&news); // what other processes change
/// let ring = Keyring::new(store, format, keys).add_listener(news); // and what this one does
/// # Ok(()) }
/// ```
///
/// # What it keeps to
///
/// - A change is told in the background, a moment after it is made. While Redis is away it waits; 10,000 wait at most, and
///   beyond that everybody is told to forget everything.
/// - It makes a revocation quick, never sure: when Redis is away, or the process ends before it has told, the `ttl` of the
///   resolvers is what holds.
/// - What is told is the digest of a key, or the name of a login or user, and never a key. Whoever may write to the channel can
///   make processes ask their stores again, and no more than that.
///
/// It goes on for as long as there is a clone of it, or a resolver that follows it. TLS (`rediss://`) needs one of redis-rs's
/// TLS features, switched on by the application.
#[derive(Clone)]
pub struct RedisInvalidations(Arc<Owner>);

/// What ends with the last clone.
struct Owner(Arc<Shared>);

struct Shared {
    channel: String,
    listeners: Listeners,
    waiting: Mutex<Waiting>,
    /// There is something to tell, or nobody left to tell it for.
    wake: Notify,
    owned: AtomicBool,
    stands: AtomicBool,
}

/// Changes that wait to be told.
#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<Change>,
    /// How often all that waited became one: what was taken out before isn't in it any more.
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

    /// What is to be told next, and what [`told`](Self::told) must know.
    fn next(&self) -> (Vec<Change>, u64) {
        let next = self.changes.iter().take(TOLD_AT_ONCE).cloned();
        (next.collect(), self.overflows)
    }

    /// The first ones were told, unless all has become one meanwhile, which wasn't.
    fn told(&mut self, count: usize, overflows: u64) {
        if self.overflows == overflows {
            let count = count.min(self.changes.len());
            self.changes.drain(..count);
        }
    }
}

/// Settings of [`RedisInvalidations`].
#[must_use = "a builder does nothing until it is built"]
pub struct RedisInvalidationsBuilder {
    urls: Vec<String>,
    channel: String,
}

impl RedisInvalidations {
    /// Begins with the server at `url`: `redis://user:password@host:port`.
    pub fn builder(url: &str) -> RedisInvalidationsBuilder {
        Self::cluster([url])
    }

    /// Begins with a cluster, of which these are nodes: what one is told all of them tell, so it is connected to one, and to
    /// the next when that is gone.
    pub fn cluster<'a>(nodes: impl IntoIterator<Item = &'a str>) -> RedisInvalidationsBuilder {
        RedisInvalidationsBuilder {
            urls: nodes.into_iter().map(str::to_owned).collect(),
            channel: "tollgate".to_owned(),
        }
    }

    /// Whether the channel stands at the moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.0.stands.load(Ordering::Acquire)
    }
}

impl RedisInvalidationsBuilder {
    /// The channel, which all databases of a server have in common: one for each store. `tollgate` unless set.
    pub fn channel(mut self, channel: &str) -> Self {
        channel.clone_into(&mut self.channel);
        self
    }

    /// Connects in the background, now and whenever the connection ends.
    ///
    /// # Errors
    /// When an address can't be read, there is none, or there is no Tokio runtime here.
    pub fn build(self) -> Result<RedisInvalidations, StoreError> {
        let refused = |text| StoreError::new(StoreErrorKind::Refused, text);
        let clients: RedisResult<Vec<Client>> = self.urls.iter().map(|url| client(url)).collect();
        let clients = clients.ok().filter(|clients| !clients.is_empty());
        let clients = clients.ok_or_else(|| refused("no address of a Redis server"))?;
        let runtime = Handle::try_current().map_err(|_| refused("no Tokio runtime is here"))?;
        let shared = Arc::new(Shared {
            channel: self.channel,
            listeners: Listeners::default(),
            waiting: Mutex::default(),
            wake: Notify::new(),
            owned: AtomicBool::new(true),
            stands: AtomicBool::new(false),
        });
        runtime.spawn(stand(Arc::clone(&shared), clients));
        Ok(RedisInvalidations(Arc::new(Owner(shared))))
    }
}

impl Invalidations for RedisInvalidations {
    fn subscribe(&self, listener: Weak<dyn ChangeListener>) {
        let shared = &self.0.0;
        shared.listeners.add(Weak::clone(&listener));
        // The channel stands already, perhaps: then nobody else tells the newcomer so.
        if let Some(listener) = listener.upgrade() {
            listener.changed(&Change::Everything);
        }
    }
}

/// Tells every process that listens, this one too.
impl ChangeListener for RedisInvalidations {
    fn changed(&self, change: &Change) {
        let shared = &self.0.0;
        shared.waiting().push(change);
        shared.wake.notify_one();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.owned.store(false, Ordering::Release);
        self.0.wake.notify_one();
    }
}

impl Shared {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self) -> bool {
        self.owned.load(Ordering::Acquire) || self.listeners.are_there()
    }

    fn hear(&self, info: &PushInfo) {
        if info.kind != PushKind::Message {
            return;
        }
        let told = match info.data.as_slice() {
            [_, Value::BulkString(told)] => std::str::from_utf8(told).ok(),
            _ => None,
        };
        let change = told.map_or(Change::Everything, Change::from_text);
        self.listeners.tell(&change);
    }

    async fn connect(
        self: &Arc<Self>,
        client: &Client,
        ended: &Arc<Notify>,
    ) -> Result<MultiplexedConnection, StoreError> {
        let (shared, end) = (Arc::clone(self), Arc::clone(ended));
        let hear = move |info: PushInfo| {
            if info.kind == PushKind::Disconnection {
                end.notify_one();
            }
            shared.hear(&info);
            Ok::<(), ()>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(Some(CONNECT_MAX))
            .set_push_sender(hear);
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = within(connecting).await?;
        // What is told to a replica, its master doesn't hear.
        look(connection.clone()).await?;
        within(connection.subscribe(&self.channel)).await?;
        Ok(connection)
    }

    /// What can't be told waits on, in its order.
    async fn tell(&self, connection: &mut MultiplexedConnection) -> Result<(), StoreError> {
        loop {
            let (next, overflows) = self.waiting().next();
            if next.is_empty() {
                return Ok(());
            }
            let mut publish = redis::pipe();
            for change in &next {
                let command = publish.cmd("PUBLISH").arg(&self.channel);
                command.arg(change.to_text()).ignore();
            }
            within(publish.exec_async(connection)).await?;
            self.waiting().told(next.len(), overflows);
        }
    }
}

/// What is pushed comes between answers, which the older protocol doesn't know.
fn client(url: &str) -> RedisResult<Client> {
    let address = url.into_connection_info()?;
    let settings = address.redis_settings().clone();
    let settings = settings.set_protocol(ProtocolVersion::RESP3);
    Client::open(address.set_redis_settings(settings))
}

async fn stand(shared: Arc<Shared>, clients: Vec<Client>) {
    let mut patience = RETRY_AFTER;
    for client in clients.iter().cycle() {
        if !shared.is_wanted() {
            return;
        }
        let ended = listen(&shared, client, &mut patience).await;
        shared.stands.store(false, Ordering::Release);
        if let Err(error) = ended {
            tracing::warn!(target: "tollgate::redis", %error, "changes elsewhere are not heard of");
        }
        sleep(patience).await;
        patience = patience.saturating_mul(2).min(RETRY_AFTER_MAX);
    }
}

/// For as long as it can, or somebody wants it to.
async fn listen(
    shared: &Arc<Shared>,
    client: &Client,
    patience: &mut Duration,
) -> Result<(), StoreError> {
    let ended = Arc::new(Notify::new());
    let mut connection = shared.connect(client, &ended).await?;
    shared.stands.store(true, Ordering::Release);
    shared.listeners.tell(&Change::Everything);
    *patience = RETRY_AFTER;
    while shared.is_wanted() {
        shared.tell(&mut connection).await?;
        tokio::select! {
            () = shared.wake.notified() => {}
            () = ended.notified() => {
                let text = "the connection to Redis ended";
                return Err(StoreError::new(StoreErrorKind::Unavailable, text));
            }
            () = sleep(SILENCE) => look(connection.clone()).await?,
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

impl fmt::Debug for RedisInvalidationsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisInvalidationsBuilder")
            .field("channel", &self.channel)
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
        waiting.told(next.len(), overflows);
        let (next, overflows) = waiting.next();
        assert_eq!(
            next,
            [Change::Everything],
            "it came after the one that was told"
        );
        waiting.push(&Change::Everything);
        waiting.told(next.len(), overflows);
        assert_eq!(waiting.changes.len(), 1, "and so did this one");
    }
}
