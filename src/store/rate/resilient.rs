//! A shared store that is never waited for: a deadline, a breaker, and an answer of this process's own.

use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    Correction, RateDecision, RateKey, RateOutcome, RateStore, Readings, TakenAt, WindowReading,
    breaker::{Breaker, Failure},
    local::{Denied, Leases},
};
use crate::{
    domain::{
        clock::Clock,
        quota::{Quotas, Rule},
    },
    store::{MemoryRateLimiter, StoreError, StoreErrorKind, StoreFuture},
};

/// What a limiter says while its shared store can't be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Degraded(Mode);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Local(NonZeroU32),
    Open,
    Closed,
}

impl Degraded {
    /// Each process counts by itself against one of `parts` equal shares of every quota: as many parts
    /// as there are processes keep the sum. What a process had admitted before the loss counts.
    #[must_use]
    pub const fn local(parts: NonZeroU32) -> Self {
        Self(Mode::Local(parts))
    }

    /// Nothing is admitted: 503.
    #[must_use]
    pub const fn closed() -> Self {
        Self(Mode::Closed)
    }

    /// Everything is admitted: there is no limit while the store is away.
    #[must_use]
    pub const fn dangerous_open() -> Self {
        Self(Mode::Open)
    }
}

impl Default for Degraded {
    /// Half of every quota for each process: two are the fewest that share one.
    fn default() -> Self {
        Self::local(NonZeroU32::MIN.saturating_add(1))
    }
}

/// What a limiter that shares its counts has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedRateStatistics {
    /// Requests admitted, by the store or without it.
    pub admitted: u64,
    /// Requests refused, by the store or without it.
    pub refused: u64,
    /// Round trips to the store.
    pub round_trips: u64,
    /// Round trips that failed, or took too long.
    pub failures: u64,
    /// Requests refused by a refusal that still held.
    pub refused_from_memory: u64,
    /// Requests admitted by units that were taken ahead.
    pub admitted_from_lease: u64,
    /// Requests decided without the store, because it could not be asked.
    pub degraded: u64,
    /// How often the store was taken for gone.
    pub losses: u64,
    /// Whether it is taken for gone now: this process counts by itself.
    pub is_degraded: bool,
    /// Keys that this process keeps counts of, for when the store is gone.
    pub local_keys: usize,
}

/// A store over the network.
pub(crate) trait RemoteRateStore: RateStore {
    /// Takes `cost` units, or `units` instead where there is plenty, and says how many it took.
    fn lease(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
        units: u32,
    ) -> StoreFuture<(RateDecision, u32)>;

    /// Finds out whether the store is alive, and connects where that is missing.
    fn revive(&self) -> StoreFuture<()>;
}

/// How a store over the network is asked.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    pub(crate) deadline: Duration,
    pub(crate) degraded: Degraded,
    /// Units that are taken ahead; 0 and 1: none.
    pub(crate) lease: u32,
    /// Keys that this process counts by itself.
    pub(crate) capacity: usize,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A clone is a reference count.
pub(crate) struct Resilient<R>(Arc<Inner<R>>);

struct Inner<R> {
    remote: R,
    manner: Manner,
    breaker: Breaker,
    /// Counts along while the store is there, so that what was admitted counts when it is gone.
    local: MemoryRateLimiter,
    denied: Denied,
    leases: Leases,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    admitted: AtomicU64,
    refused: AtomicU64,
    losses: AtomicU64,
    round_trips: AtomicU64,
    failures: AtomicU64,
    refused_from_memory: AtomicU64,
    admitted_from_lease: AtomicU64,
    degraded: AtomicU64,
}

impl<R: RemoteRateStore> Resilient<R> {
    pub(crate) fn new(remote: R, manner: Manner) -> Self {
        let local = MemoryRateLimiter::new(manner.capacity, Arc::clone(&manner.clock));
        Self(Arc::new(Inner {
            remote,
            manner,
            breaker: Breaker::default(),
            local,
            denied: Denied::new(),
            leases: Leases::new(),
            counters: Counters::default(),
        }))
    }

    #[cfg(test)]
    pub(crate) fn remote(&self) -> &R {
        &self.0.remote
    }

    /// Connects, and tells whether that went well. If not, it is tried again in the background.
    pub(crate) async fn connect(&self) -> Result<(), StoreError> {
        let outcome = self.0.remote.revive().await;
        if outcome.is_err() && self.0.breaker.failed(Failure::Final) {
            count(&self.0.counters.losses);
            self.0.look_after();
        }
        outcome
    }

    pub(crate) fn is_degraded(&self) -> bool {
        self.0.breaker.is_open()
    }

    pub(crate) fn statistics(&self) -> SharedRateStatistics {
        let counters = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SharedRateStatistics {
            admitted: read(&counters.admitted),
            refused: read(&counters.refused),
            losses: read(&counters.losses),
            is_degraded: self.is_degraded(),
            local_keys: self.0.local.len(),
            round_trips: read(&counters.round_trips),
            failures: read(&counters.failures),
            refused_from_memory: read(&counters.refused_from_memory),
            admitted_from_lease: read(&counters.admitted_from_lease),
            degraded: read(&counters.degraded),
        }
    }
}

impl<R: RemoteRateStore> RateStore for Resilient<R> {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        let inner = &self.0;
        let now = inner.manner.clock.elapsed();
        if let Some(refused) = inner.denied.find(key, quotas, cost, now) {
            count(&inner.counters.refused_from_memory);
            return StoreFuture::ready(Ok(inner.counted(refused)));
        }
        let leasing = inner.manner.lease > 1 && is_leasable(quotas);
        if leasing && let Some(admitted) = inner.leases.of(key).take(quotas, cost, now) {
            count(&inner.counters.admitted_from_lease);
            return StoreFuture::ready(Ok(inner.counted(admitted)));
        }
        if inner.breaker.is_open() {
            let decision = inner.degraded(key, quotas, cost);
            return StoreFuture::ready(decision.map(|decision| inner.counted(decision)));
        }
        let (inner, key, quotas) = (Arc::clone(inner), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            let asked = if leasing {
                inner.ask(inner.take_ahead(&key, &quotas, cost)).await
            } else {
                inner.ask(inner.take_exactly(&key, &quotas, cost)).await
            };
            let decision = asked.or_else(|_| inner.degraded(&key, &quotas, cost))?;
            Ok(inner.counted(decision))
        })
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()> {
        let inner = &self.0;
        inner.denied.forget(key);
        inner.count_along(key, quotas, correction.units);
        if correction.taken_at.is_local || inner.breaker.is_open() {
            return StoreFuture::ready(Ok(()));
        }
        let (inner, key, quotas) = (Arc::clone(inner), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            let correct = inner.remote.correct(&key, &quotas, correction);
            inner.ask(correct).await
        })
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        let inner = &self.0;
        if inner.breaker.is_open() {
            return StoreFuture::ready(inner.peek_degraded(key, quotas));
        }
        let (inner, key, quotas) = (Arc::clone(inner), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            let peeked = inner.ask(inner.remote.peek(&key, &quotas)).await;
            peeked.or_else(|_| inner.peek_degraded(&key, &quotas))
        })
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        let (inner, key) = (Arc::clone(&self.0), key.clone());
        StoreFuture::new(async move {
            inner.ask(inner.remote.reset(&key)).await?;
            inner.local.reset(&key);
            inner.denied.forget(&key);
            inner.leases.forget(&key);
            Ok(())
        })
    }
}

impl<R: RemoteRateStore> Inner<R> {
    /// Asks the store, for no longer than the deadline.
    async fn ask<T>(
        self: &Arc<Self>,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let answer = tokio::time::timeout(self.manner.deadline, question).await;
        let (error, failure) = match answer {
            Ok(Ok(answer)) => {
                self.breaker.succeeded();
                return Ok(answer);
            }
            Ok(Err(error)) if error.kind() == StoreErrorKind::Unavailable => {
                (error, Failure::Final)
            }
            Ok(Err(error)) => (error, Failure::Passing),
            Err(_) => {
                let error = StoreError::new(StoreErrorKind::Unavailable, "no answer in time");
                (error, Failure::Passing)
            }
        };
        count(&self.counters.failures);
        if self.breaker.failed(failure) {
            count(&self.counters.losses);
            tracing::warn!(target: "tollgate", %error, "shared rate limits: the store is gone, this process counts by itself");
            self.look_after();
        }
        Err(error)
    }

    async fn take_exactly(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Result<RateDecision, StoreError> {
        count(&self.counters.round_trips);
        let decision = self.remote.take(key, quotas, cost).await?;
        self.note(key, quotas, cost, &decision, cost);
        Ok(decision)
    }

    /// Takes units ahead, one caller at a time: the others find what was taken.
    async fn take_ahead(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Result<RateDecision, StoreError> {
        let lease = self.leases.of(key);
        let _turn = lease.turn().await;
        let now = self.manner.clock.elapsed();
        if let Some(refused) = self.denied.find(key, quotas, cost, now) {
            count(&self.counters.refused_from_memory);
            return Ok(refused);
        }
        if let Some(admitted) = lease.take(quotas, cost, now) {
            count(&self.counters.admitted_from_lease);
            return Ok(admitted);
        }
        count(&self.counters.round_trips);
        let asked = self.remote.lease(key, quotas, cost, self.manner.lease);
        let (decision, taken) = asked.await?;
        self.note(key, quotas, cost, &decision, taken);
        let left = taken.saturating_sub(cost);
        lease.note(left);
        if left == 0 {
            return Ok(decision);
        }
        lease.keep(quotas, left, &decision, now);
        let more = |reading: &WindowReading| WindowReading {
            remaining: reading.remaining.saturating_add(left),
            ..*reading
        };
        Ok(RateDecision {
            readings: decision.readings.as_slice().iter().map(more).collect(),
            ..decision
        })
    }

    fn counted(&self, decision: RateDecision) -> RateDecision {
        count(if decision.is_admitted() {
            &self.counters.admitted
        } else {
            &self.counters.refused
        });
        decision
    }

    fn note(&self, key: &RateKey, quotas: &Quotas, cost: u32, decision: &RateDecision, taken: u32) {
        if decision.is_admitted() {
            self.count_along(key, quotas, i64::from(taken));
        } else {
            let now = self.manner.clock.elapsed();
            self.denied.note(key, quotas, cost, decision, now);
        }
    }

    /// Counts in this process what was counted in the store.
    fn count_along(&self, key: &RateKey, quotas: &Quotas, units: i64) {
        if let Degraded(Mode::Local(parts)) = self.manner.degraded {
            let correction = Correction {
                units,
                taken_at: self.local.now(),
            };
            self.local.correct(key, &quotas.share(parts), correction);
        }
    }

    fn degraded(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Result<RateDecision, StoreError> {
        count(&self.counters.degraded);
        let mut decision = match self.manner.degraded.0 {
            Mode::Local(parts) => self.local.take(key, &quotas.share(parts), cost),
            Mode::Open => RateDecision {
                outcome: RateOutcome::Admitted,
                readings: untouched(quotas),
                taken_at: TakenAt::default(),
            },
            Mode::Closed => return Err(gone()),
        };
        decision.taken_at.is_local = true;
        Ok(decision)
    }

    fn peek_degraded(&self, key: &RateKey, quotas: &Quotas) -> Result<Readings, StoreError> {
        match self.manner.degraded.0 {
            Mode::Local(parts) => Ok(self.local.peek(key, &quotas.share(parts))),
            Mode::Open => Ok(untouched(quotas)),
            Mode::Closed => Err(gone()),
        }
    }

    /// Looks whether the store is back until it is: one task for each time that the breaker opens. It
    /// ends with the limiter.
    fn look_after(self: &Arc<Self>) {
        let limiter = Arc::downgrade(self);
        let mut pauses = self.breaker.pauses(self.manner.clock.elapsed());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pauses.next()).await;
                let Some(inner) = limiter.upgrade() else {
                    return;
                };
                if inner.remote.revive().await.is_ok() {
                    inner.breaker.close(inner.manner.clock.elapsed());
                    tracing::info!(target: "tollgate", "shared rate limits: the store is back");
                    return;
                }
            }
        });
    }
}

/// A strict quota counts when something is used, so its units can't be taken ahead.
fn is_leasable(quotas: &Quotas) -> bool {
    let quotas = quotas.as_slice();
    !quotas.iter().any(|quota| *quota.rule() == Rule::Strict)
}

fn untouched(quotas: &Quotas) -> Readings {
    let full = |quota: &crate::domain::quota::Quota| WindowReading {
        remaining: quota.burst_size(),
        reset: Duration::ZERO,
    };
    quotas.as_slice().iter().map(full).collect()
}

fn gone() -> StoreError {
    StoreError::new(
        StoreErrorKind::Unavailable,
        "the shared rate limits can't be asked",
    )
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl<R> Clone for Resilient<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R: fmt::Debug> fmt::Debug for Resilient<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resilient")
            .field("remote", &self.0.remote)
            .field("breaker", &self.0.breaker)
            .finish_non_exhaustive()
    }
}
