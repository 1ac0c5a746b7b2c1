//! Taking units ahead. What the store has debited is kept here whatever becomes of the request that asked: its client may
//! hang up, and the answer may come after the deadline.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    RateDecision, RateKey, RemoteRateStore, WindowReading,
    local::{Asked, LEASE_MAX, Lease, Turn},
    resilient::{Effect, Inner},
    statistics::count,
};
use crate::{
    domain::quota::Quotas,
    store::{StoreError, StoreFuture},
};

/// One call for units.
pub(super) struct Refill<R> {
    inner: Arc<Inner<R>>,
    lease: Arc<Lease>,
    key: RateKey,
    quotas: Quotas,
    /// Of the request that asks.
    cost: u32,
    asked: StoreFuture<(RateDecision, u32)>,
    since: Asked,
    at: Duration,
}

type Told = oneshot::Sender<Result<RateDecision, StoreError>>;

impl<R: RemoteRateStore> Refill<R> {
    pub(super) fn begin(
        inner: Arc<Inner<R>>,
        lease: Arc<Lease>,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Self {
        count(&inner.counters.round_trips);
        Self {
            since: inner.denials.asked(key),
            at: inner.settings.clock.elapsed(),
            asked: inner.remote.lease(key, quotas, cost, inner.settings.lease),
            inner,
            lease,
            key: key.clone(),
            quotas: quotas.clone(),
            cost,
        }
    }

    /// Goes on in a task of its own, which has the turn until the store has answered or the units would be too old.
    pub(super) async fn within(self, turn: Turn) -> Result<RateDecision, StoreError> {
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            self.run(tell).await;
            drop(turn);
        });
        told.await
            .unwrap_or_else(|_| Err(StoreError::internal("the runtime ends")))
    }

    async fn run(mut self, tell: Told) {
        let mut is_over = false;
        let asked = async {
            let answer = (&mut self.asked).await;
            is_over = true;
            answer
        };
        let asked = self
            .inner
            .ask(asked, |(_, taken)| Effect::of_taking(*taken));
        match asked.await {
            Ok(((decision, taken), effect)) => self.answer(tell, &decision, taken, effect),
            Err(error) => {
                let _ = tell.send(Err(error));
                if !is_over {
                    self.wait_on().await;
                }
            }
        }
    }

    /// Tells the request, and keeps what it leaves: all of it where the request is there no more.
    fn answer(&self, tell: Told, decision: &RateDecision, taken: u32, effect: Effect) {
        let (key, quotas, cost) = (&self.key, &self.quotas, self.cost);
        self.inner
            .note(key, quotas, cost, decision, (effect, self.since));
        let left = taken.saturating_sub(cost);
        self.lease.note(left);
        let held = self.keep(left, decision);
        let more = |reading: &WindowReading| WindowReading {
            remaining: reading.remaining.saturating_add(held),
            ..*reading
        };
        let answer = RateDecision {
            readings: decision.readings.as_slice().iter().map(more).collect(),
            outcome: decision.outcome,
            taken_at: decision.taken_at,
        };
        if let Err(Ok(unheard)) = tell.send(Ok(answer)) {
            self.keep(taken.min(cost), &unheard);
        }
    }

    /// The request was answered without the store.
    async fn wait_on(mut self) {
        let late = tokio::time::timeout(LEASE_MAX, &mut self.asked).await;
        if let Ok(Ok((decision, taken))) = late {
            self.keep(taken, &decision);
        }
    }

    /// Keeps so many units, and says how many there are then.
    fn keep(&self, units: u32, decision: &RateDecision) -> u32 {
        if units == 0 {
            return 0;
        }
        self.lease.keep(&self.quotas, units, decision, self.at)
    }
}
