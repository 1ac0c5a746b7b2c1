//! State that several processes share through Redis or Valkey (6.2 and later), on a server or a
//! cluster: rate limits here; money, logins and change notifications in submodules.
//!
//! - One script decides about all windows of a key in one round trip, by the server's clock, in
//!   integers; a refusal writes nothing. A key is one hash with an expiry and a hash tag, so that a
//!   cluster keeps it in one slot.
//! - A call to Redis takes at most 25 ms, and half as long again if this process was too busy to
//!   look in time. After three failures in a row, of calls one after the other, only one task keeps
//!   trying, until Redis is back; meanwhile each process counts by itself
//!   ([`Degraded`](crate::store::Degraded)).

mod client;
#[cfg(feature = "redis-cluster")]
mod cluster;
mod concurrency;
mod connections;
mod invalidations;
mod ledger;
mod link;
mod script;
mod servers;
mod sessions;

use std::{sync::Arc, time::Duration};

pub use client::{RedisClient, RedisCredentials, RedisProtocol};
pub use concurrency::{RedisConcurrency, RedisConcurrencyBuilder};
pub use invalidations::{RedisInvalidations, RedisInvalidationsBuilder};
pub use ledger::{RedisLedger, RedisLedgerBuilder};
pub use sessions::{RedisSessions, RedisSessionsBuilder};

use script::{Answer, Invocation, Operation};
use servers::Servers;

use super::{
    Correction, Degraded, RateDecision, RateKey, RateStore, Readings, SharedRateStatistics,
    StoreError, StoreFuture,
    rate::{RemoteRateStore, RemoteSettings, Resilient},
};
use crate::domain::{
    clock::{Clock, SystemClock},
    quota::Quotas,
};

const DEADLINE: Duration = Duration::from_millis(25);
const CAPACITY: usize = 1_000_000;

/// Counts requests in Redis, so that several processes act as one. A clone is a reference count.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use std::num::NonZeroU32;
/// use tollgate::{RateLimitLayer, quota::Quota, store::{Degraded, RedisRateLimiter}};
///
/// let three = NonZeroU32::new(3).ok_or("zero")?;
/// let limiter = RedisRateLimiter::builder("redis://127.0.0.1/")
///     .degraded(Degraded::local(three)) // while Redis is away, each of three processes admits a third
///     .build()?;
/// limiter.connect().await?;
/// let layer = RateLimitLayer::per_principal(Quota::per_minute(60)).with_store("callers", limiter);
/// # Ok(()) }
/// ```
///
/// # Guarantees
///
/// - Redis or Valkey, 6.2 and later. One script decides about all windows of a key in one round
///   trip, by the server's clock, in integers; a refusal writes nothing.
/// - A call to Redis takes at most 25 ms, unless [set](RedisRateLimiterBuilder::deadline), and half
///   as long again if this process was too busy to look in time. After three failures in a row, of
///   calls one after the other, only one task keeps trying, until Redis is back.
/// - While Redis answers, all processes together admit what one would: GCRA with the whole quota.
/// - While it doesn't, each process admits its share of each quota, starting with its part of what
///   Redis had left: see [`Degraded::local`]. Processes that recently saw a key have no more
///   together than Redis had, except that shares are rounded up; a process that had not seen it has
///   at most its share. Requests of the last 25 ms may be counted in both places.
/// - When Redis comes back, its counts apply; what processes admitted by themselves isn't added to
///   them. A server that lost its memory starts from zero.
/// - A key that Redis evicts starts from zero too, so it should have room, or not evict
///   (`maxmemory-policy noeviction`: each process then counts by itself while it is full).
///
/// How the server, a cluster or sentinels are reached: see [`RedisClient`].
#[derive(Clone, Debug)]
pub struct RedisRateLimiter(Resilient<Remote>);

/// Settings of a [`RedisRateLimiter`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct RedisRateLimiterBuilder {
    client: RedisClient,
    settings: RemoteSettings,
}

impl RedisRateLimiter {
    /// A builder for a limiter in the Redis that this client, or address, leads to.
    pub fn builder(client: impl Into<RedisClient>) -> RedisRateLimiterBuilder {
        RedisRateLimiterBuilder {
            client: client.into(),
            settings: RemoteSettings {
                deadline: DEADLINE,
                degraded: Degraded::default(),
                lease: 0,
                capacity: CAPACITY,
                clock: SystemClock::shared(),
            },
        }
    }

    /// Connects. The limiter is usable whether or not that succeeds: it keeps trying in the
    /// background, and until then each process counts by itself.
    ///
    /// # Errors
    /// When the server can't be reached now.
    pub async fn connect(&self) -> Result<(), StoreError> {
        self.0.connect().await
    }

    /// Whether this process currently counts by itself.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.0.is_degraded()
    }

    /// Counters since its creation.
    #[must_use]
    pub fn statistics(&self) -> SharedRateStatistics {
        self.0.statistics()
    }
}

impl RedisRateLimiterBuilder {
    /// How long Redis may take to answer before this process decides by itself; 25 ms unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// How requests are decided while Redis is unavailable; half of each quota for this process
    /// unless set.
    pub fn degraded(mut self, degraded: Degraded) -> Self {
        self.settings.degraded = degraded;
        self
    }

    /// Takes this many units at once and serves them from memory for up to a second, which saves
    /// that many round trips. Units are counted when they are taken, so the sum never exceeds the
    /// limit; units not used in time are lost. Near the limit every request is counted
    /// individually, and so is everything under a strict or a calendar quota. No units are taken
    /// ahead unless set.
    pub fn lease(mut self, units: u32) -> Self {
        self.settings.lease = units;
        self
    }

    /// How many keys this process counts by itself at most; a million unless set.
    pub fn capacity(mut self, keys: usize) -> Self {
        self.settings.capacity = keys;
        self
    }

    /// The source of the time for what this process counts by itself. Redis uses its own.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.settings.clock = clock;
        self
    }

    /// The limiter, not connected yet: see [`RedisRateLimiter::connect`].
    ///
    /// # Errors
    /// When the client's address can't be parsed, or its settings contradict each other.
    pub fn build(self) -> Result<RedisRateLimiter, StoreError> {
        let remote = Remote(Arc::new(Inner {
            servers: self.client.servers(self.settings.deadline)?,
            prefix: self.client.key_prefix(),
            clock: Arc::clone(&self.settings.clock),
        }));
        Ok(RedisRateLimiter(Resilient::new(remote, self.settings)))
    }
}

impl RateStore for RedisRateLimiter {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        self.0.take(key, quotas, cost)
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()> {
        self.0.correct(key, quotas, correction)
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        self.0.peek(key, quotas)
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        self.0.reset(key)
    }
}

/// The server itself, without deadline or fallback.
#[derive(Clone, Debug)]
struct Remote(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    servers: Arc<Servers>,
    prefix: String,
    clock: Arc<dyn Clock>,
}

impl Remote {
    fn name(&self, key: &RateKey) -> String {
        let digest = u128::from_be_bytes(*key.digest());
        format!("{}:{{{}:{digest:032x}}}", self.0.prefix, key.scope())
    }

    async fn ask(
        self,
        key: RateKey,
        quotas: Quotas,
        operation: Operation,
    ) -> Result<Answer, StoreError> {
        let invocation = Invocation {
            name: self.name(&key),
            quotas,
            operation,
            now: self.0.clock.now(),
        };
        let answer = self.0.servers.call(key.digest(), &invocation).await?;
        Invocation::read(&answer)
    }

    fn start(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        operation: Operation,
    ) -> impl Future<Output = Result<Answer, StoreError>> + Send + 'static {
        self.clone().ask(key.clone(), quotas.clone(), operation)
    }
}

impl RateStore for Remote {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        let answer = self.start(key, quotas, Operation::Take(cost));
        StoreFuture::new(async { Ok(answer.await?.decision) })
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()> {
        let corrected = self.correct_and_read(key, quotas, correction);
        StoreFuture::new(async { corrected.await.map(drop) })
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        let answer = self.start(key, quotas, Operation::Peek);
        StoreFuture::new(async { Ok(answer.await?.decision.readings) })
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        let (remote, name, digest) = (self.clone(), self.name(key), *key.digest());
        StoreFuture::new(async move { remote.0.servers.forget(&digest, &name).await })
    }
}

impl RemoteRateStore for Remote {
    fn lease(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
        units: u32,
    ) -> StoreFuture<(RateDecision, u32)> {
        let answer = self.start(key, quotas, Operation::Lease { cost, units });
        StoreFuture::new(async {
            let answer = answer.await?;
            Ok((answer.decision, answer.taken))
        })
    }

    fn correct_and_read(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        correction: Correction,
    ) -> StoreFuture<Readings> {
        let answer = self.start(key, quotas, Operation::Correct(correction));
        StoreFuture::new(async { Ok(answer.await?.decision.readings) })
    }

    fn revive(&self) -> StoreFuture<()> {
        let remote = self.clone();
        StoreFuture::new(async move { remote.0.servers.revive().await })
    }
}

#[cfg(test)]
#[allow(dead_code, reason = "each test uses a part of it")]
#[path = "../../../tests/support/redis.rs"]
mod test_server;
#[cfg(test)]
mod tests;
