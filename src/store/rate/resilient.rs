//! A shared store that is never waited for: a deadline, a breaker, and an answer of this process's
//! own.

use std::{fmt, pin::pin, sync::Arc, time::Duration};

use super::{
    Correction, Degraded, RateDecision, RateKey, RateStore, Readings, SharedRateStatistics,
    fallback::{Effect, LocalFallback},
    leases::Leases,
    refill::Refill,
    refusals::{Asked, Refusals},
    statistics::{Counters, count},
};
use crate::{
    domain::{
        clock::Clock,
        quota::{Quota, Quotas, Rule},
    },
    store::{
        StoreError, StoreFuture,
        remote::{self, Availability},
    },
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
pub(crate) struct RemoteSettings {
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

pub(super) struct Inner<R> {
    pub(super) remote: R,
    pub(super) settings: RemoteSettings,
    pub(super) availability: Availability,
    pub(super) fallback: LocalFallback,
    pub(super) refusals: Refusals,
    leases: Leases,
    pub(super) counters: Counters,
}

impl<R: RemoteRateStore> Resilient<R> {
    pub(crate) fn new(remote: R, settings: RemoteSettings) -> Self {
        let clock = Arc::clone(&settings.clock);
        let availability = Availability::new(settings.deadline, Arc::clone(&clock));
        let fallback = LocalFallback::new(settings.degraded, settings.capacity, clock);
        Self(Arc::new(Inner {
            remote,
            settings,
            availability,
            fallback,
            refusals: Refusals::new(),
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
        remote::connect(&self.0).await
    }

    pub(crate) fn is_degraded(&self) -> bool {
        self.0.availability.is_down()
    }

    pub(crate) fn statistics(&self) -> SharedRateStatistics {
        SharedRateStatistics {
            is_degraded: self.is_degraded(),
            local_keys: self.0.fallback.keys(),
            ..self.0.counters.read()
        }
    }
}

impl<R: RemoteRateStore> RateStore for Resilient<R> {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        let inner = &self.0;
        let now = inner.settings.clock.elapsed();
        if let Some(refused) = inner.refusals.denials.find(key, quotas, cost, now) {
            count(&inner.counters.refused_from_memory);
            return StoreFuture::ready(Ok(inner.counters.counted(refused)));
        }
        let leasing = inner.settings.lease > 1 && is_leasable(quotas);
        if leasing && let Some(admitted) = inner.leases.of(key, now).take(quotas, cost, now) {
            count(&inner.counters.admitted_from_lease);
            return StoreFuture::ready(Ok(inner.counters.counted(admitted)));
        }
        if inner.availability.is_down() {
            let decision = inner.degraded(key, quotas, cost);
            return StoreFuture::ready(decision.map(|decision| inner.counters.counted(decision)));
        }
        let is_back_lately = inner.availability.is_back_lately();
        let share = inner.take_of_share_lately(key, quotas, cost);
        if let Some(refused) = share.as_ref().filter(|share| !share.is_admitted()) {
            count(&inner.counters.degraded);
            return StoreFuture::ready(Ok(inner.counters.counted(refused.clone())));
        }
        let leasing = leasing && !is_back_lately;
        let (inner, key, quotas) = (Arc::clone(inner), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            let asked = if leasing {
                inner.take_of_lease(&key, &quotas, cost).await
            } else {
                inner.take_exactly(&key, &quotas, cost).await
            };
            let mut decision = asked.or_else(|_| inner.degraded(&key, &quotas, cost))?;
            if let Some(share) = &share {
                decision.readings.tell_fewer(&share.readings);
            }
            Ok(inner.counters.counted(decision))
        })
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()> {
        let inner = &self.0;
        inner.refusals.forget(key);
        // The store never heard of what was taken without it, so it has none of that to give back.
        let is_own = correction.taken_at.is_local && correction.units <= 0;
        if is_own || inner.availability.is_down() {
            inner.fallback.correct(key, quotas, &correction);
            return StoreFuture::ready(Ok(()));
        }
        let (inner, key, quotas) = (Arc::clone(inner), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            let _forgetting = inner.refusals.forgetting(&key);
            let corrected = inner.correct_remotely(&key, &quotas, &correction).await;
            if corrected.is_err() {
                inner.fallback.correct(&key, &quotas, &correction);
            }
            corrected
        })
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        let inner = &self.0;
        let now = inner.settings.clock.elapsed();
        // Whoever looks whether there is room before each attempt doesn't ask about each while
        // there is none.
        if let Some(left) = inner.refusals.seen(key, quotas, now) {
            return StoreFuture::ready(Ok(left));
        }
        if inner.availability.is_down() {
            return StoreFuture::ready(inner.fallback.peek(key, quotas));
        }
        let (inner, key, quotas) = (Arc::clone(inner), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            let since = inner.refusals.looked(&key);
            let left = inner.remote.peek(&key, &quotas);
            match inner.ask(left, |_| Effect::Nothing).await {
                Ok((left, effect)) => {
                    inner.hear(&key, &quotas, &left, effect);
                    let now = inner.settings.clock.elapsed();
                    let asked = (now, since);
                    let left = inner.refusals.note_look(&key, &quotas, left, asked);
                    Ok(inner.left_lately(&key, &quotas, left))
                }
                Err(_) => inner.fallback.peek(&key, &quotas),
            }
        })
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        let (inner, key) = (Arc::clone(&self.0), key.clone());
        StoreFuture::new(async move {
            let _forgetting = inner.refusals.forgetting(&key);
            let reset = inner.remote.reset(&key);
            inner.ask(reset, |()| Effect::Nothing).await?;
            inner.fallback.reset(&key);
            inner.leases.forget(&key);
            Ok(())
        })
    }
}

impl<R: RemoteRateStore> Inner<R> {
    /// Asks the store, for no longer than the deadline.
    pub(super) async fn ask<T>(
        self: &Arc<Self>,
        question: impl Future<Output = Result<T, StoreError>>,
        effect: impl FnOnce(&T) -> Effect,
    ) -> Result<(T, Effect), StoreError> {
        let answer = async {
            let answer = question.await?;
            let effect = effect(&answer);
            self.fallback.note(effect);
            Ok((answer, effect))
        };
        let answer = remote::wait_for(self, pin!(answer)).await;
        answer.inspect_err(|_| count(&self.counters.failures))
    }

    async fn take_exactly(
        self: &Arc<Self>,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Result<RateDecision, StoreError> {
        count(&self.counters.round_trips);
        let since = self.refusals.denials.asked(key);
        let taken = |decision: &RateDecision| {
            Effect::of_taking(if decision.is_admitted() { cost } else { 0 })
        };
        let asked = self.ask(self.remote.take(key, quotas, cost), taken);
        let (decision, effect) = asked.await?;
        self.note(key, quotas, cost, &decision, (effect, since));
        Ok(decision)
    }

    /// Takes units ahead, one caller at a time: the others find what was taken. The deadline is the
    /// store's, so it begins when that is asked.
    async fn take_of_lease(
        self: &Arc<Self>,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Result<RateDecision, StoreError> {
        let lease = self.leases.of(key, self.settings.clock.elapsed());
        let turn = lease.turn().await;
        let now = self.settings.clock.elapsed();
        if let Some(refused) = self.refusals.denials.find(key, quotas, cost, now) {
            count(&self.counters.refused_from_memory);
            return Ok(refused);
        }
        if let Some(admitted) = lease.take(quotas, cost, now) {
            count(&self.counters.admitted_from_lease);
            return Ok(admitted);
        }
        let Some(turn) = turn else {
            return self.take_exactly(key, quotas, cost).await;
        };
        Refill::begin(Arc::clone(self), lease, key, quotas, cost)
            .within(turn)
            .await
    }

    async fn correct_remotely(
        self: &Arc<Self>,
        key: &RateKey,
        quotas: &Quotas,
        correction: &Correction,
    ) -> Result<(), StoreError> {
        let mut correction = correction.clone();
        let effect = Effect::of_correcting(correction.units);
        if correction.taken_at.is_local {
            // By this process's clock, which tells the store nothing: it is used when the store
            // hears of it.
            correction.taken_at = Correction::used(0).taken_at;
        }
        let left = self.remote.correct_and_read(key, quotas, correction);
        let (left, effect) = self.ask(left, |_| effect).await?;
        self.hear(key, quotas, &left, effect);
        Ok(())
    }

    pub(super) fn note(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
        decision: &RateDecision,
        (effect, since): (Effect, Asked),
    ) {
        self.hear(key, quotas, &decision.readings, effect);
        let now = self.settings.clock.elapsed();
        self.refusals
            .denials
            .note(key, quotas, cost, decision, (now, since));
    }

    fn degraded(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Result<RateDecision, StoreError> {
        count(&self.counters.degraded);
        self.fallback.take(key, quotas, cost)
    }
}

/// Strict and calendar quotas count when something is used, so their units can't be taken ahead:
/// what was taken before midnight would be used after it.
fn is_leasable(quotas: &Quotas) -> bool {
    let mut rules = quotas.as_slice().iter().map(Quota::rule);
    rules.all(|rule| *rule == Rule::Rolling)
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
            .field("availability", &self.0.availability)
            .finish_non_exhaustive()
    }
}
