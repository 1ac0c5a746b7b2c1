//! Requests under way that several processes count together, through Redis or Valkey (6.2 and
//! later).

mod held;
mod upkeep;

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use held::{Excess, Held};
use redis::Cmd;
use tokio::{sync::Notify, task::JoinHandle};
use upkeep::CHUNK;

use super::{RedisClient, connections::Resend, servers::Servers};
use crate::{
    domain::clock::SystemClock,
    store::{
        ConcurrencyStore, Degraded, RateKey, Slot, StoreError, StoreErrorKind, StoreFuture,
        remote::{self, Availability, RemoteServer},
    },
    sync::lock,
};

/// Short enough to be sent with each call.
const CODE: &str = include_str!("concurrency/slots.lua");

const DEADLINE: Duration = Duration::from_millis(25);
const LIFETIME: Duration = Duration::from_secs(15);
const LIFETIME_MIN: Duration = Duration::from_secs(1);
const LIFETIME_MAX: Duration = Duration::from_secs(86_400);
const SLOTS_MAX: usize = 65_536;

/// Counts requests under way in Redis, so that several processes act as one. A clone is a reference
/// count.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::{rate_limit::ConcurrencyLimitLayer, store::RedisConcurrency};
///
/// let under_way = RedisConcurrency::builder("redis://127.0.0.1/").build()?;
/// under_way.connect().await?;
/// let layer = ConcurrencyLimitLayer::per_principal(10).with_store("callers", under_way);
/// # Ok(()) }
/// ```
///
/// # Guarantees
///
/// - While Redis answers, all processes together have no more than the limit under way. Each
///   request is one round trip of one script, by the server's clock; a process that has the limit
///   under way by itself refuses without one.
/// - A slot is free for its own process as soon as its request is over: the next request of that
///   key tells Redis in the same call. Other processes see it when a task of this store has told
///   Redis, in the background: a round trip later, and after a failure about a second later.
/// - A request under way is renewed, three times in a
///   [`lifetime`](RedisConcurrencyBuilder::lifetime) (15 s), before anything that waits to be
///   freed. Slots of a process that was killed come free within that time, and so do those whose
///   release got lost. One that stops calls [`close`](Self::close).
/// - A process that was silent for that long (suspended, or cut off) is taken for dead. When it
///   comes back, what it still has under way counts again, beside what was admitted meanwhile:
///   until some of it ends there is more under way than the limit. The same is true if renewing
///   everything takes that long; from a third of it on there are warnings.
/// - The server's wall clock counts. Set forward, it ends slots early, until they are renewed; set
///   back, slots that nobody frees last for as much longer.
/// - A call to Redis takes at most 25 ms, unless [set](RedisConcurrencyBuilder::deadline), and half
///   as long again if this process was too busy to look in time. After three failures in a row, of
///   calls one after the other, only one task keeps trying, until Redis is back. While it is away,
///   each process admits as many as its share of the limit leaves beside what it has under way, or
///   all, or none (503): see [`Degraded`]. Shares are rounded up: three processes with a third of a
///   limit of 10 have four each. What they admit then counts in Redis when that is back.
/// - A Redis that lost its memory hears within a third of the lifetime what each process has under
///   way; those that find it again at once, at once. For two seconds after it came back a process
///   has no more than its share.
/// - Redis must not evict (`maxmemory-policy noeviction`): a key that is evicted is a limit with
///   nothing under way until the next renewal.
/// - Memory is bounded: beyond [`slots_max`](RedisConcurrencyBuilder::slots_max) requests under way
///   in one process, more are refused with 503.
#[derive(Clone)]
pub struct RedisConcurrency {
    shared: Arc<Shared>,
    _open: Arc<Open>,
}

/// Settings of a [`RedisConcurrency`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct RedisConcurrencyBuilder {
    client: RedisClient,
    deadline: Duration,
    degraded: Degraded,
    lifetime: Duration,
    slots_max: usize,
}

/// What the store shares with its task and its slots.
struct Shared {
    servers: Arc<Servers>,
    availability: Availability,
    prefix: String,
    degraded: Degraded,
    lifetime: Duration,
    slots_max: usize,
    held: Mutex<Held>,
    /// Something is to be freed.
    wake: Notify,
    /// Redis is back: everything is to be renewed.
    back: Notify,
    is_closed: AtomicBool,
    upkeep: Mutex<Option<JoinHandle<()>>>,
    /// A random number of this process, and its next slot.
    process: u64,
    next: AtomicU64,
}

/// Ends the task when the last clone of the store is dropped, and nothing is under way.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.is_closed.store(true, Ordering::Release);
        self.0.wake.notify_one();
    }
}

impl RedisConcurrency {
    /// A builder for a store in the Redis that this client, or address, leads to.
    pub fn builder(client: impl Into<RedisClient>) -> RedisConcurrencyBuilder {
        RedisConcurrencyBuilder {
            client: client.into(),
            deadline: DEADLINE,
            degraded: Degraded::default(),
            lifetime: LIFETIME,
            slots_max: SLOTS_MAX,
        }
    }

    /// Connects. The store is usable whether or not that succeeds: it keeps trying in the
    /// background, and until then each process counts by itself.
    ///
    /// # Errors
    /// When the server can't be reached now.
    pub async fn connect(&self) -> Result<(), StoreError> {
        remote::connect(&self.shared).await
    }

    /// Frees in Redis what is over in this process: for a process that stops, since its task ends
    /// with its runtime. It takes two seconds at most. What is still under way keeps its slots, and
    /// new requests are admitted: end your servers before.
    ///
    /// ```no_run
    /// # async fn stop(under_way: tollgate::store::RedisConcurrency) {
    /// // After the servers have ended:
    /// if let Err(error) = under_way.close().await {
    ///     eprintln!("some slots come free by themselves: {error}");
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// When Redis didn't hear of all of it: the rest comes free within a lifetime.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.shared.flush().await
    }

    /// Whether this process currently counts by itself.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.shared.availability.is_down()
    }

    /// How many requests this process has under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        lock(&self.shared.held).len()
    }
}

impl RedisConcurrencyBuilder {
    /// How long Redis may take to answer before this process decides by itself; 25 ms unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How requests are decided while Redis is unavailable; half of each limit for this process
    /// unless set.
    pub fn degraded(mut self, degraded: Degraded) -> Self {
        self.degraded = degraded;
        self
    }

    /// How long a slot lasts that nobody renews or frees, as when its process was killed; 15
    /// seconds unless set, at least one and at most a day. All processes should have the same.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime.clamp(LIFETIME_MIN, LIFETIME_MAX);
        self
    }

    /// How many requests this process may have under way at most, over all keys; 65,536 unless set.
    pub fn slots_max(mut self, slots: usize) -> Self {
        self.slots_max = slots;
        self
    }

    /// The store, not connected yet: see [`RedisConcurrency::connect`].
    ///
    /// # Errors
    /// When the client's address can't be parsed, its settings contradict each other, or the system
    /// has no random numbers.
    pub fn build(self) -> Result<RedisConcurrency, StoreError> {
        let no_numbers = |_| StoreError::internal("the system has no random numbers");
        let shared = Arc::new(Shared {
            servers: self.client.servers(self.deadline)?,
            availability: Availability::new(self.deadline, SystemClock::shared()),
            prefix: self.client.key_prefix(),
            degraded: self.degraded,
            lifetime: self.lifetime,
            slots_max: self.slots_max,
            held: Mutex::default(),
            wake: Notify::new(),
            back: Notify::new(),
            is_closed: AtomicBool::new(false),
            upkeep: Mutex::default(),
            process: getrandom::u64().map_err(no_numbers)?,
            next: AtomicU64::new(0),
        });
        Ok(RedisConcurrency {
            _open: Arc::new(Open(Arc::clone(&shared))),
            shared,
        })
    }
}

impl ConcurrencyStore for RedisConcurrency {
    fn acquire(&self, key: &RateKey, most: u32) -> StoreFuture<Option<Slot>> {
        let shared = &self.shared;
        let is_down = shared.availability.is_down();
        let share = shared.degraded.share_of(most);
        let here = match share {
            None if is_down => return StoreFuture::ready(Err(gone())),
            Some(share) if is_down => share,
            // Others may not know yet that it is back, and admit their shares.
            Some(share) if shared.availability.is_back_lately() => share.min(most),
            _ => most,
        };
        let mut place = match shared.begin(key, here) {
            Ok(place) => place,
            Err(Excess::OfKey) => return StoreFuture::ready(Ok(None)),
            Err(Excess::OfAll) => return StoreFuture::ready(Err(full())),
        };
        shared.keep_up();
        if is_down {
            place.hold(false);
            return StoreFuture::ready(Ok(Some(Slot::new(place))));
        }
        StoreFuture::new(async move {
            let is_admitted = place.ask(most, share).await?;
            Ok(is_admitted.then(|| Slot::new(place)))
        })
    }
}

/// One more under way in this process, until this is dropped.
struct Place {
    shared: Arc<Shared>,
    key: RateKey,
    slot: u64,
    /// Redis was asked for it, and has not refused.
    may_be_known: bool,
}

impl Place {
    /// Whether it is admitted: by Redis, or by this process if Redis doesn't answer.
    async fn ask(&mut self, most: u32, share: Option<u32>) -> Result<bool, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.may_be_known = true;
        // What this process has freed already doesn't count against it.
        let mut slots = vec![self.slot];
        slots.extend(lock(&shared.held).to_free(&self.key, CHUNK));
        let answer = {
            let take = shared.command("take", &self.key, most, &slots);
            let asked = shared
                .servers
                .order::<i64>(self.key.digest(), &take, Resend::Safe);
            remote::wait_for(&shared, pin!(asked)).await
        };
        match answer {
            Ok(taken) => {
                self.may_be_known = taken != 0;
                if let [_, freed @ ..] = &*slots
                    && !freed.is_empty()
                {
                    lock(&shared.held).freed(&self.key, freed);
                }
            }
            Err(_) => {
                let share = share.ok_or_else(gone)?;
                if lock(&shared.held).under_way(&self.key) > share {
                    return Ok(false);
                }
            }
        }
        if self.may_be_known {
            self.hold(true);
        }
        Ok(self.may_be_known)
    }

    /// It was admitted: from here on it is renewed. `is_known`: Redis may know it before that.
    fn hold(&self, is_known: bool) {
        lock(&self.shared.held).hold(&self.key, self.slot, is_known);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Shared {
            held, slots_max, ..
        } = &*self.shared;
        let frees = lock(held).end(&self.key, self.slot, self.may_be_known, *slots_max);
        if frees {
            self.shared.wake.notify_one();
        }
    }
}

impl Shared {
    fn begin(self: &Arc<Self>, key: &RateKey, most: u32) -> Result<Place, Excess> {
        lock(&self.held).begin(key, most, self.slots_max)?;
        Ok(Place {
            shared: Arc::clone(self),
            key: key.clone(),
            slot: self.next.fetch_add(1, Ordering::Relaxed),
            may_be_known: false,
        })
    }

    fn command(&self, operation: &str, key: &RateKey, most: u32, slots: &[u64]) -> Cmd {
        let digest = u128::from_be_bytes(*key.digest());
        let name = format!("{}:slots:{{{}:{digest:032x}}}", self.prefix, key.scope());
        let lifetime = u64::try_from(self.lifetime.as_millis()).unwrap_or(u64::MAX);
        let mut command = redis::cmd("EVAL");
        command.arg(CODE).arg(1).arg(name);
        command.arg(operation).arg(lifetime).arg(most);
        for slot in slots {
            command.arg(format!("{:016x}-{slot:x}", self.process));
        }
        command
    }
}

impl RemoteServer for Shared {
    fn availability(&self) -> &Availability {
        &self.availability
    }

    async fn revive(&self) -> Result<(), StoreError> {
        self.servers.revive().await
    }

    fn is_lost(&self, error: &StoreError) {
        tracing::warn!(target: "tollgate::redis", %error, "requests under way are counted by this process alone");
    }

    fn is_back(&self) {
        tracing::info!(target: "tollgate::redis", "requests under way are counted together again");
    }

    fn is_called_again(&self) {
        self.back.notify_one();
    }
}

fn gone() -> StoreError {
    let text = "the shared count of requests under way is unavailable";
    StoreError::new(StoreErrorKind::Unavailable, text)
}

fn full() -> StoreError {
    let text = "this process has too many requests under way";
    StoreError::new(StoreErrorKind::Busy, text)
}

impl fmt::Debug for RedisConcurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConcurrency")
            .field("under_way", &self.under_way())
            .field("is_degraded", &self.is_degraded())
            .finish_non_exhaustive()
    }
}
