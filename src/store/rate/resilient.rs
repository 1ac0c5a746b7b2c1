//! A shared store that is never waited for: a deadline, a breaker, and an answer of this process's own.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    Correction, Degraded, RateDecision, RateKey, RateStore, Readings, SharedRateStatistics,
    WindowReading,
    alone::Alone,
    breaker::{Breaker, Failure},
    local::{Denied, Leases},
    statistics::{Counters, count},
};
use crate::{
    domain::{
        clock::Clock,
        quota::{Quotas, Rule},
    },
    store::{StoreError, StoreErrorKind, StoreFuture},
};

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

    /// Corrects what was taken, and says what is left then.
    fn correct_and_read(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        correction: Correction,
    ) -> StoreFuture<Readings>;

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
    alone: Alone,
    denied: Denied,
    leases: Leases,
    counters: Counters,
}

impl<R: RemoteRateStore> Resilient<R> {
    pub(crate) fn new(remote: R, manner: Manner) -> Self {
        let clock = Arc::clone(&manner.clock);
        let alone = Alone::new(manner.degraded, manner.capacity, clock);
        Self(Arc::new(Inner {
            remote,
            manner,
            breaker: Breaker::default(),
            alone,
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
        SharedRateStatistics {
            is_degraded: self.is_degraded(),
            local_keys: self.0.alone.keys(),
            ..self.0.counters.read()
        }
    }
}

impl<R: RemoteRateStore> RateStore for Resilient<R> {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        let inner = &self.0;
        let now = inner.manner.clock.elapsed();
        if let Some(refused) = inner.denied.find(key, quotas, cost, now) {
            count(&inner.counters.refused_from_memory);
            return StoreFuture::ready(Ok(inner.counters.counted(refused)));
        }
        let leasing = inner.manner.lease > 1 && is_leasable(quotas);
        if leasing && let Some(admitted) = inner.leases.of(key).take(quotas, cost, now) {
            count(&inner.counters.admitted_from_lease);
            return StoreFuture::ready(Ok(inner.counters.counted(admitted)));
        }
        if inner.breaker.is_open() {
            let decision = inner.degraded(key, quotas, cost);
            return StoreFuture::ready(decision.map(|decision| inner.counters.counted(decision)));
        }
        // Those that haven't found the store back admit their shares: until all have, nobody takes more than its own.
        let is_back_lately = inner.breaker.is_back_lately(now);
        if is_back_lately && let Some(refused) = inner.alone.refuses(key, quotas, cost) {
            count(&inner.counters.degraded);
            return StoreFuture::ready(Ok(inner.counters.counted(refused)));
        }
        let leasing = leasing && !is_back_lately;
        let (inner, key, quotas) = (Arc::clone(inner), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            let asked = if leasing {
                inner.ask(inner.take_ahead(&key, &quotas, cost)).await
            } else {
                inner.ask(inner.take_exactly(&key, &quotas, cost)).await
            };
            let decision = asked.or_else(|_| inner.degraded(&key, &quotas, cost))?;
            Ok(inner.counters.counted(decision))
        })
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()> {
        let inner = &self.0;
        inner.denied.forget(key);
        if correction.taken_at.is_local {
            inner.alone.correct(key, quotas, &correction);
            return StoreFuture::ready(Ok(()));
        }
        let units = correction.units;
        if inner.breaker.is_open() {
            inner.alone.miss(key, quotas, units);
            return StoreFuture::ready(Ok(()));
        }
        let (inner, key, quotas) = (Arc::clone(inner), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            let correct = inner.remote.correct_and_read(&key, &quotas, correction);
            match inner.ask(correct).await {
                Ok(left) => inner.hear(&key, &quotas, &left),
                Err(error) => {
                    inner.alone.miss(&key, &quotas, units);
                    return Err(error);
                }
            }
            Ok(())
        })
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        let inner = &self.0;
        if inner.breaker.is_open() {
            return StoreFuture::ready(inner.alone.peek(key, quotas));
        }
        let (inner, key, quotas) = (Arc::clone(inner), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            match inner.ask(inner.remote.peek(&key, &quotas)).await {
                Ok(left) => {
                    inner.hear(&key, &quotas, &left);
                    Ok(left)
                }
                Err(_) => inner.alone.peek(&key, &quotas),
            }
        })
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        let (inner, key) = (Arc::clone(&self.0), key.clone());
        StoreFuture::new(async move {
            inner.ask(inner.remote.reset(&key)).await?;
            inner.alone.reset(&key);
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
        self.note(key, quotas, cost, &decision);
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
        self.note(key, quotas, cost, &decision);
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

    fn note(&self, key: &RateKey, quotas: &Quotas, cost: u32, decision: &RateDecision) {
        self.hear(key, quotas, &decision.readings);
        let now = self.manner.clock.elapsed();
        self.denied.note(key, quotas, cost, decision, now);
    }

    /// Makes the share what its part is of what the store has left; not while the share itself is kept to.
    fn hear(&self, key: &RateKey, quotas: &Quotas, left: &Readings) {
        let now = self.manner.clock.elapsed();
        if !self.breaker.is_back_lately(now) {
            self.alone.adopt(key, quotas, left);
        }
    }

    fn degraded(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Result<RateDecision, StoreError> {
        count(&self.counters.degraded);
        self.alone.take(key, quotas, cost)
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
