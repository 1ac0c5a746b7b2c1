//! What all parts of the ledger share, and how they ask the server: with a deadline, and not at all while it is known
//! to be away.

use std::{
    hash::BuildHasher,
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
    time::{sleep, timeout},
};

#[cfg(feature = "redis-cluster")]
use super::super::cluster::Cluster;
use super::{
    codec::{is_hopeless, is_refusal},
    in_flight::InFlight,
    maintenance::Maintenance,
    names::Names,
    question::Question,
    registry::HoldRegistry,
};
use crate::{
    domain::{
        budget::{Calendar, Moment},
        clock::Clock,
        usage::{Hold, HoldId},
    },
    store::{
        StoreError, StoreErrorKind,
        alerts::Alerts,
        rate::{Breaker, Failure as Gravity},
        redis::{Servers, connections::is_broken},
    },
};

/// How often that is tried which the server says it can't do; a closing ledger tries everything so often.
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
    pub(super) servers: Servers,
    pub(super) breaker: Breaker,
    pub(super) names: Names,
    pub(super) settings: Settings,
    pub(super) hasher: DefaultHashBuilder,
    pub(super) registry: HoldRegistry,
    /// Whoever enters an account holds it for reading, whoever leaves some for writing.
    pub(super) gate: RwLock<()>,
    pub(super) in_flight: InFlight,
    /// Places for rows without a hold.
    pub(super) records: Arc<Semaphore>,
    pub(super) maintenance: Mutex<Maintenance>,
    pub(super) registering: Mutex<()>,
    /// The server was away, and may have lost what it was told last.
    pub(super) in_doubt: AtomicBool,
    pub(super) closed: AtomicBool,
    pub(super) has_left: AtomicBool,
    pub(super) closing: Notify,
    pub(super) runtime: Handle,
}

/// A question that has no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// The same may go well later.
    pub(super) is_passing: bool,
    /// It may have been done.
    pub(super) was_sent: bool,
}

impl From<StoreError> for Failure {
    /// An answer that can't be understood.
    fn from(error: StoreError) -> Self {
        Self {
            error,
            is_passing: false,
            was_sent: true,
        }
    }
}

impl Failure {
    fn unsent(text: &str) -> Self {
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, text),
            is_passing: true,
            was_sent: false,
        }
    }

    /// What a server said. `was_sent`: it may have been done.
    fn told(error: &RedisError, kept: StoreError, was_sent: bool) -> Self {
        Self {
            error: kept,
            is_passing: !is_hopeless(error),
            was_sent,
        }
    }

    pub(super) fn slow() -> Self {
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, "Redis doesn't answer in time"),
            is_passing: true,
            was_sent: true,
        }
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the ledger is closed")
}

/// A random number, by which an instance is told from all others.
pub(super) fn random() -> Result<u64, StoreError> {
    getrandom::u64().map_err(|_| StoreError::internal("no random numbers"))
}

impl Shared {
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether nothing of this instance is left on the server.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Acquire)
    }

    pub(super) fn note_left(&self) {
        self.has_left.store(true, Ordering::Release);
    }

    pub(super) fn take_doubt(&self) -> bool {
        self.in_doubt.swap(false, Ordering::AcqRel)
    }

    pub(super) fn put_doubt_back(&self) {
        self.in_doubt.store(true, Ordering::Release);
    }

    /// Who holds next enters first: the server may have forgotten that it did, or another one may be in its place.
    fn doubt(&self) {
        self.registry.doubt();
        self.put_doubt_back();
    }

    pub(super) fn moment(&self) -> Moment {
        self.settings.calendar.moment(self.settings.clock.now())
    }

    /// Which connection questions about a thing go over: always the same, so that they stay in their order.
    pub(super) fn way(&self, thing: &str) -> u8 {
        let [way, ..] = self.hasher.hash_one(thing).to_be_bytes();
        way
    }

    /// Asks the server, once.
    pub(super) async fn ask<T: FromRedisValue>(
        self: &Arc<Self>,
        way: u8,
        question: &Question,
    ) -> Result<T, Failure> {
        if self.breaker.is_open() {
            return Err(Failure::unsent("Redis is away"));
        }
        match timeout(self.settings.deadline, self.put(way, question)).await {
            Ok(Ok(answer)) => {
                self.breaker.succeeded();
                Ok(answer)
            }
            Ok(Err(failure)) => {
                if failure.error.kind() == StoreErrorKind::Unavailable {
                    self.lost(Gravity::Final);
                }
                Err(failure)
            }
            Err(_) => {
                self.lost(Gravity::Passing);
                Err(Failure::slow())
            }
        }
    }

    async fn put<T: FromRedisValue>(&self, way: u8, question: &Question) -> Result<T, Failure> {
        let away = |_| Failure::unsent("not connected to Redis");
        match &self.servers {
            Servers::One(connections) => {
                let mut line = connections.of(&[way; 16]).await.map_err(away)?;
                let mut was_sent = false;
                loop {
                    let error = match question.ask(&mut line.connection).await {
                        Ok(answer) => return Ok(answer),
                        Err(error) => error,
                    };
                    was_sent |= !is_refusal(&error);
                    if is_broken(&error) {
                        self.doubt();
                    }
                    let another = connections.another(line, &error, question.repeat).await;
                    line = another.map_err(|kept| Failure::told(&error, kept, was_sent))?;
                }
            }
            #[cfg(feature = "redis-cluster")]
            Servers::Cluster(cluster) => {
                let repeat = question.repeat;
                let mut connection = cluster.connection(repeat).map_err(away)?;
                let answer = question.ask(&mut connection).await;
                // Its client may have asked before, and another node.
                answer.map_err(|error| Failure::told(&error, Cluster::failed(&error, repeat), true))
            }
        }
    }

    /// Asks until there is an answer: what must be done and can be done twice. Returns whether it was asked again.
    pub(super) async fn insist<T: FromRedisValue>(
        self: &Arc<Self>,
        way: u8,
        question: impl Fn(bool) -> Question,
    ) -> Result<(T, bool), Failure> {
        let mut pauses = self.breaker.pauses(self.settings.clock.elapsed());
        let (mut again, mut attempts) = (false, ATTEMPTS);
        loop {
            let failure = match self.ask(way, &question(again)).await {
                Ok(answer) => return Ok((answer, again)),
                Err(failure) => failure,
            };
            again |= failure.was_sent;
            if !failure.is_passing || self.is_closed() {
                attempts = attempts.saturating_sub(1);
            }
            if attempts == 0 {
                return Err(failure);
            }
            sleep(pauses.next()).await;
        }
    }

    fn lost(self: &Arc<Self>, gravity: Gravity) {
        if self.breaker.failed(gravity) {
            tracing::error!(target: "tollgate::redis", "the ledger's server is away");
            self.look_after();
        }
    }

    /// Looks whether the server is back until it is: one task for each time that the breaker opens.
    pub(super) fn look_after(self: &Arc<Self>) {
        let ledger = Arc::downgrade(self);
        let mut pauses = self.breaker.pauses(self.settings.clock.elapsed());
        self.runtime.spawn(async move {
            loop {
                sleep(pauses.next()).await;
                let Some(shared) = ledger.upgrade() else {
                    return;
                };
                if shared.servers.revive().await.is_ok() {
                    shared.doubt();
                    shared.breaker.close(shared.settings.clock.elapsed());
                    tracing::info!(target: "tollgate::redis", "the ledger's server is back");
                    return;
                }
            }
        });
    }

    /// When a hold ends that lives so long from now on; `None`: not while this process lives.
    pub(super) fn end_after(&self, lifetime: Duration) -> Option<Duration> {
        Hold::end_after(lifetime, || self.settings.clock.elapsed())
    }

    /// How a hold is named in scripts.
    pub(super) fn number(id: HoldId) -> String {
        format!("{:x}", id.number)
    }
}
