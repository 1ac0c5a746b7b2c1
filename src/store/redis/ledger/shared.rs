//! What all parts of the ledger share, and how they call the server.

use std::{
    hash::BuildHasher,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hashbrown::DefaultHashBuilder;
use redis::{FromRedisValue, RedisError};
use tokio::{
    runtime::Handle,
    sync::{Mutex, Notify, RwLock, Semaphore},
    time::sleep,
};

#[cfg(feature = "redis-cluster")]
use super::super::cluster::Cluster;
use super::{
    codec::{is_permanent, is_refusal},
    in_flight::InFlight,
    maintenance::Maintenance,
    names::Names,
    redis_call::RedisCall,
    registry::HoldRegistry,
};
use crate::{
    domain::{
        budget::{Calendar, Moment},
        clock::Clock,
        usage::{Hold, HoldId},
    },
    repeats::Repeats,
    store::{
        StoreError, StoreErrorKind,
        alerts::Alerts,
        redis::{connections::is_broken, servers::Servers},
        remote::{self, Availability, CallError, Failure as Severity, RemoteServer},
    },
};

/// Attempts before giving up on a command that the server rejects; also the limit for every command
/// while closing.
const ATTEMPTS: u32 = 30;

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) calendar: Calendar,
    pub(super) alerts: Alerts,
    pub(super) usage_rows_max: u64,
    pub(super) recover_after: Duration,
    pub(super) open_holds_max: usize,
    pub(super) open_holds_per_account_max: usize,
    pub(super) deadline: Duration,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) servers: Arc<Servers>,
    pub(super) availability: Availability,
    pub(super) names: Names,
    pub(super) settings: Settings,
    pub(super) hasher: DefaultHashBuilder,
    pub(super) registry: HoldRegistry,
    /// Held for reading while registering for an account, for writing while leaving some.
    pub(super) gate: RwLock<()>,
    pub(super) in_flight: InFlight,
    /// Permits for rows without a hold.
    pub(super) records: Arc<Semaphore>,
    pub(super) maintenance: Mutex<Maintenance>,
    pub(super) registering: Mutex<()>,
    /// What the log has of holds that could not be given back.
    pub(super) unreturned: Repeats,
    /// The server was unreachable, and may have lost its latest writes.
    pub(super) needs_reregistration: AtomicBool,
    pub(super) closed: AtomicBool,
    pub(super) has_shut_down: AtomicBool,
    pub(super) closing: Notify,
    pub(super) runtime: Handle,
}

/// A call to the server that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// A retry may succeed later.
    pub(super) is_transient: bool,
    /// It may have been carried out.
    pub(super) was_sent: bool,
}

impl From<StoreError> for Failure {
    /// For an answer that can't be understood.
    fn from(error: StoreError) -> Self {
        Self {
            error,
            is_transient: false,
            was_sent: true,
        }
    }
}

impl Failure {
    fn unsent(text: &str) -> Self {
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, text),
            is_transient: true,
            was_sent: false,
        }
    }

    /// An error from the server. `was_sent`: the command may have been carried out.
    fn from_server(error: &RedisError, kept: StoreError, was_sent: bool) -> Self {
        Self {
            error: kept,
            is_transient: !is_permanent(error),
            was_sent,
        }
    }

    pub(super) fn slow() -> Self {
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, "Redis did not answer in time"),
            is_transient: true,
            was_sent: true,
        }
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the ledger is closed")
}

/// A random number that identifies an instance.
pub(super) fn random() -> Result<u64, StoreError> {
    getrandom::u64().map_err(|_| StoreError::internal("no random numbers"))
}

impl CallError for Failure {
    fn down() -> Self {
        Self::unsent("Redis is unavailable")
    }

    fn late() -> Self {
        Self::slow()
    }

    fn error(&self) -> &StoreError {
        &self.error
    }

    /// A command that the server refuses may be refused for its own sake.
    fn severity(&self) -> Option<Severity> {
        let is_unreachable = self.error.kind() == StoreErrorKind::Unavailable;
        is_unreachable.then_some(Severity::Final)
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
        tracing::error!(target: "tollgate::redis", %error, "the ledger's server is unavailable");
    }

    fn is_back(&self) {
        self.expect_lost_registration();
        tracing::info!(target: "tollgate::redis", "the ledger's server is available again");
    }

    /// The ledger's own: an account may be left from any thread.
    fn runtime(&self) -> Handle {
        self.runtime.clone()
    }
}

impl Shared {
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether nothing of this instance is left on the server.
    pub(super) fn has_shut_down(&self) -> bool {
        self.has_shut_down.load(Ordering::Acquire)
    }

    pub(super) fn note_shut_down(&self) {
        self.has_shut_down.store(true, Ordering::Release);
    }

    pub(super) fn take_reregistration_request(&self) -> bool {
        self.needs_reregistration.swap(false, Ordering::AcqRel)
    }

    pub(super) fn request_reregistration(&self) {
        self.needs_reregistration.store(true, Ordering::Release);
    }

    /// Makes the next hold register its account first: the server may have lost that, or been
    /// replaced by another.
    fn expect_lost_registration(&self) {
        self.registry.forget_entered();
        self.request_reregistration();
    }

    pub(super) fn moment(&self) -> Moment {
        self.settings.calendar.moment(self.settings.clock.now())
    }

    /// The connection for calls about `thing`: always the same one, so that they stay in order.
    pub(super) fn shard(&self, thing: &str) -> u8 {
        let [shard, ..] = self.hasher.hash_one(thing).to_be_bytes();
        shard
    }

    /// Calls the server, once.
    pub(super) async fn ask<T: FromRedisValue>(
        self: &Arc<Self>,
        shard: u8,
        command: &RedisCall,
    ) -> Result<T, Failure> {
        remote::ask(self, pin!(self.send(shard, command))).await
    }

    async fn send<T: FromRedisValue>(&self, shard: u8, command: &RedisCall) -> Result<T, Failure> {
        let away = |_| Failure::unsent("not connected to Redis");
        match &*self.servers {
            Servers::One(connections) => {
                let mut borrowed = connections.of(&[shard; 16]).await.map_err(away)?;
                let mut was_sent = false;
                loop {
                    let error = match command.ask(&mut borrowed.connection).await {
                        Ok(answer) => return Ok(answer),
                        Err(error) => error,
                    };
                    was_sent |= !is_refusal(&error);
                    if is_broken(&error) {
                        self.expect_lost_registration();
                    }
                    let another = connections
                        .for_retry(borrowed, &error, command.resend)
                        .await;
                    borrowed =
                        another.map_err(|kept| Failure::from_server(&error, kept, was_sent))?;
                }
            }
            #[cfg(feature = "redis-cluster")]
            Servers::Cluster(cluster) => {
                let resend = command.resend;
                let mut connection = cluster.connection(resend).map_err(away)?;
                let answer = command.ask(&mut connection).await;
                // The cluster client may have sent it before, to another node.
                answer.map_err(|error| {
                    Failure::from_server(&error, Cluster::failed(&error, resend), true)
                })
            }
        }
    }

    /// Calls the server until it answers: for calls that must be made and may be made twice.
    /// Returns whether it was resent.
    pub(super) async fn call_until_answered<T: FromRedisValue>(
        self: &Arc<Self>,
        shard: u8,
        command: impl Fn(bool) -> RedisCall,
    ) -> Result<(T, bool), Failure> {
        let mut pauses = self.availability.pauses();
        let (mut again, mut attempts) = (false, ATTEMPTS);
        loop {
            let failure = match self.ask(shard, &command(again)).await {
                Ok(answer) => return Ok((answer, again)),
                Err(failure) => failure,
            };
            again |= failure.was_sent;
            if !failure.is_transient || self.is_closed() {
                attempts = attempts.saturating_sub(1);
            }
            if attempts == 0 {
                return Err(failure);
            }
            sleep(pauses.next()).await;
        }
    }

    /// When a hold with this lifetime expires, counted from now; `None` if not while this process
    /// lives.
    pub(super) fn end_after(&self, lifetime: Duration) -> Option<Duration> {
        Hold::end_after(lifetime, || self.settings.clock.elapsed())
    }

    /// The name of a hold in scripts.
    pub(super) fn number(id: HoldId) -> String {
        format!("{:x}", id.number)
    }
}
