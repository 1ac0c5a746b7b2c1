//! A shared store that is never waited for: a deadline, a breaker, and an answer of this process's own.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    Correction, Degraded, RateDecision, RateKey, RateOutcome, RateStore, Readings,
    SharedRateStatistics,
    breaker::{Breaker, Failure},
    fallback::LocalFallback,
    local::{Asked, DenialCache, Leases},
    refill::Refill,
    statistics::{Counters, count},
};
use crate::{
    domain::{
        clock::Clock,
        quota::{Quota, Quotas, Rule},
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
    breaker: Breaker,
    fallback: LocalFallback,
    pub(super) denials: DenialCache,
    /// What was seen to be refused by who only looks. Nobody who takes goes by it: what is leased is still there to be taken.
    looks: DenialCache,
    leases: Leases,
    /// Something was counted here alone since the store last wrote: it may be one that answers and writes nothing.
    is_behind: AtomicBool,
    pub(super) counters: Counters,
}

/// What an answer shows of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It writes.
    Used,
    /// Something was given back, or had drained before.
    GivenBack,
    /// It can be read, also where its memory is full or its disk is.
    Nothing,
}

impl Effect {
    pub(super) fn of_taking(units: u32) -> Self {
        if units > 0 { Self::Used } else { Self::Nothing }
    }
}

impl<R: RemoteRateStore> Resilient<R> {
    pub(crate) fn new(remote: R, settings: RemoteSettings) -> Self {
        let clock = Arc::clone(&settings.clock);
        let fallback = LocalFallback::new(settings.degraded, settings.capacity, clock);
        Self(Arc::new(Inner {
            remote,
            settings,
            breaker: Breaker::default(),
            fallback,
            denials: DenialCache::new(),
            looks: DenialCache::new(),
            leases: Leases::new(),
            is_behind: AtomicBool::new(false),
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
            local_keys: self.0.fallback.keys(),
            ..self.0.counters.read()
        }
    }
}

impl<R: RemoteRateStore> RateStore for Resilient<R> {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        let inner = &self.0;
        let now = inner.settings.clock.elapsed();
        if let Some(refused) = inner.denials.find(key, quotas, cost, now) {
            count(&inner.counters.refused_from_memory);
            return StoreFuture::ready(Ok(inner.counters.counted(refused)));
        }
        let leasing = inner.settings.lease > 1 && is_leasable(quotas);
        if leasing && let Some(admitted) = inner.leases.of(key, now).take(quotas, cost, now) {
            count(&inner.counters.admitted_from_lease);
            return StoreFuture::ready(Ok(inner.counters.counted(admitted)));
        }
        if inner.breaker.is_open() {
            let decision = inner.degraded(key, quotas, cost);
            return StoreFuture::ready(decision.map(|decision| inner.counters.counted(decision)));
        }
        // Those that haven't found the store back admit their shares: until all have, nobody takes more than its own.
        let is_back_lately = inner.breaker.is_back_lately(now);
        if is_back_lately && let Some(refused) = inner.fallback.refuses(key, quotas, cost) {
            count(&inner.counters.degraded);
            return StoreFuture::ready(Ok(inner.counters.counted(refused)));
        }
        let leasing = leasing && !is_back_lately;
        let (inner, key, quotas) = (Arc::clone(inner), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            let asked = if leasing {
                inner.take_of_lease(&key, &quotas, cost).await
            } else {
                inner.take_exactly(&key, &quotas, cost).await
            };
            let decision = asked.or_else(|_| inner.degraded(&key, &quotas, cost))?;
            Ok(inner.counters.counted(decision))
        })
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()> {
        let inner = &self.0;
        inner.forget_refusals(key);
        // The store never heard of what was taken without it, so it has none of that to give back.
        let is_own = correction.taken_at.is_local && correction.units <= 0;
        if is_own || inner.breaker.is_open() {
            inner.correct_alone(key, quotas, &correction);
            return StoreFuture::ready(Ok(()));
        }
        let (inner, key, quotas) = (Arc::clone(inner), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            let _forgets = Forgets(&inner, &key);
            let corrected = inner.correct_remotely(&key, &quotas, &correction).await;
            if corrected.is_err() {
                inner.correct_alone(&key, &quotas, &correction);
            }
            corrected
        })
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        let inner = &self.0;
        let now = inner.settings.clock.elapsed();
        // Whoever looks whether there is room before each attempt doesn't ask about each while there is none.
        let seen = inner.looks.find(key, quotas, 1, now);
        if let Some(refused) = seen.or_else(|| inner.denials.find(key, quotas, 1, now)) {
            return StoreFuture::ready(Ok(refused.readings));
        }
        if inner.breaker.is_open() {
            return StoreFuture::ready(inner.fallback.peek(key, quotas));
        }
        let (inner, key, quotas) = (Arc::clone(inner), key.clone(), quotas.clone());
        StoreFuture::new(async move {
            let since = inner.looks.asked(&key);
            let left = inner.remote.peek(&key, &quotas);
            match inner.ask(left, |_| Effect::Nothing).await {
                Ok((left, effect)) => {
                    let foreseen = foreseen(&quotas, left);
                    inner.hear(&key, &quotas, &foreseen.readings, effect);
                    let now = inner.settings.clock.elapsed();
                    inner.looks.note(&key, &quotas, 1, &foreseen, (now, since));
                    Ok(foreseen.readings)
                }
                Err(_) => inner.fallback.peek(&key, &quotas),
            }
        })
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        let (inner, key) = (Arc::clone(&self.0), key.clone());
        StoreFuture::new(async move {
            let _forgets = Forgets(&inner, &key);
            let reset = inner.remote.reset(&key);
            inner.ask(reset, |()| Effect::Nothing).await?;
            inner.fallback.reset(&key);
            inner.leases.forget(&key);
            Ok(())
        })
    }
}

/// Forgets what a key was refused when the store has heard of a change, or may have: what was refused meanwhile was
/// before it.
struct Forgets<'a, R>(&'a Inner<R>, &'a RateKey);

impl<R> Drop for Forgets<'_, R> {
    fn drop(&mut self) {
        self.0.forget_refusals(self.1);
    }
}

impl<R> Inner<R> {
    fn forget_refusals(&self, key: &RateKey) {
        self.denials.forget(key);
        self.looks.forget(key);
    }
}

impl<R: RemoteRateStore> Inner<R> {
    /// Asks the store, for no longer than the deadline. What shows only that it can be read is no success where it was
    /// writing that failed.
    pub(super) async fn ask<T>(
        self: &Arc<Self>,
        question: impl Future<Output = Result<T, StoreError>>,
        effect: impl FnOnce(&T) -> Effect,
    ) -> Result<(T, Effect), StoreError> {
        let answer = tokio::time::timeout(self.settings.deadline, question).await;
        let (error, failure) = match answer {
            Ok(Ok(answer)) => {
                let effect = effect(&answer);
                if effect == Effect::Used {
                    self.is_behind.store(false, Ordering::Relaxed);
                }
                if !self.is_behind() {
                    self.breaker.succeeded();
                }
                return Ok((answer, effect));
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
        self: &Arc<Self>,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Result<RateDecision, StoreError> {
        count(&self.counters.round_trips);
        let since = self.denials.asked(key);
        let taken = |decision: &RateDecision| {
            Effect::of_taking(if decision.is_admitted() { cost } else { 0 })
        };
        let asked = self.ask(self.remote.take(key, quotas, cost), taken);
        let (decision, effect) = asked.await?;
        self.note(key, quotas, cost, &decision, (effect, since));
        Ok(decision)
    }

    /// Takes units ahead, one caller at a time: the others find what was taken. The deadline is the store's, so it
    /// begins when that is asked.
    async fn take_of_lease(
        self: &Arc<Self>,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Result<RateDecision, StoreError> {
        let lease = self.leases.of(key, self.settings.clock.elapsed());
        let turn = lease.turn().await;
        let now = self.settings.clock.elapsed();
        if let Some(refused) = self.denials.find(key, quotas, cost, now) {
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
        let effect = if correction.units > 0 {
            Effect::Used
        } else {
            Effect::GivenBack
        };
        if correction.taken_at.is_local {
            // By this process's clock, which tells the store nothing: it is used when the store hears of it.
            correction.taken_at = Correction::used(0).taken_at;
        }
        let left = self.remote.correct_and_read(key, quotas, correction);
        let (left, effect) = self.ask(left, |_| effect).await?;
        self.hear(key, quotas, &left, effect);
        Ok(())
    }

    /// Counts a correction that the store doesn't hear.
    fn correct_alone(&self, key: &RateKey, quotas: &Quotas, correction: &Correction) {
        if correction.units > 0 {
            self.is_behind.store(true, Ordering::Relaxed);
        }
        if correction.taken_at.is_local {
            self.fallback.correct(key, quotas, correction);
        } else {
            self.fallback.miss(key, quotas, correction.units);
        }
    }

    /// Hears what the store has left. One that wrote nothing may be one that can't, whose counts stand still while this
    /// process admits: what it says may be less than is known here, but no more. Nothing is heard while the share itself is
    /// kept to.
    fn hear(&self, key: &RateKey, quotas: &Quotas, left: &Readings, effect: Effect) {
        let now = self.settings.clock.elapsed();
        if self.breaker.is_back_lately(now) {
            return;
        }
        match effect {
            Effect::Used => self.fallback.adopt(key, quotas, left),
            Effect::GivenBack if !self.is_behind() => self.fallback.adopt(key, quotas, left),
            Effect::GivenBack | Effect::Nothing => self.fallback.adopt_less(key, quotas, left),
        }
    }

    fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
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
        self.denials.note(key, quotas, cost, decision, (now, since));
    }

    fn degraded(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Result<RateDecision, StoreError> {
        count(&self.counters.degraded);
        self.is_behind.store(true, Ordering::Relaxed);
        self.fallback.take(key, quotas, cost)
    }

    /// Looks whether the store is back until it is: one task for each time that the breaker opens. It
    /// ends with the limiter.
    fn look_after(self: &Arc<Self>) {
        let limiter = Arc::downgrade(self);
        let mut pauses = self.breaker.pauses(self.settings.clock.elapsed());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pauses.next()).await;
                let Some(inner) = limiter.upgrade() else {
                    return;
                };
                if inner.remote.revive().await.is_ok() {
                    inner.breaker.close(inner.settings.clock.elapsed());
                    tracing::info!(target: "tollgate", "shared rate limits: the store is back");
                    return;
                }
            }
        });
    }
}

/// What would be decided about one unit, for as long as that is sure to hold: a strict window doesn't tell when the first
/// of its units is there again, which is when one of its slices ends.
fn foreseen(quotas: &Quotas, left: Readings) -> RateDecision {
    let mut foreseen = RateDecision::foreseen(quotas, left);
    if let RateOutcome::Refused(wait) = &mut foreseen.outcome {
        let strict = quotas.as_slice().iter();
        let strict = strict.filter(|quota| *quota.rule() == Rule::Strict);
        let slice = strict.map(Quota::slice).min();
        *wait = slice.map_or(*wait, |slice| slice.min(*wait));
    }
    foreseen
}

/// Strict and calendar quotas count when something is used, so their units can't be taken ahead: what was taken before
/// midnight would be used after it.
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
            .field("breaker", &self.0.breaker)
            .finish_non_exhaustive()
    }
}
