//! Taking units ahead. Units that the store has debited are kept here whatever happens to the
//! request: its client may hang up, and the answer may come after the deadline.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    RateDecision, RateKey, RemoteRateStore, WindowReading,
    fallback::Effect,
    leases::{LEASE_MAX, Lease, Turn},
    refusals::Asked,
    resilient::Inner,
    statistics::count,
};
use crate::{
    domain::quota::Quotas,
    store::{StoreError, StoreFuture},
};

/// One request for units.
pub(super) struct Refill<R> {
    inner: Arc<Inner<R>>,
    lease: Arc<Lease>,
    key: RateKey,
    quotas: Quotas,
    /// The cost of the request that triggered it.
    cost: u32,
    pending: StoreFuture<(RateDecision, u32)>,
    since: Asked,
    at: Duration,
}

type Reply = oneshot::Sender<Result<RateDecision, StoreError>>;

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
            since: inner.refusals.denials.asked(key),
            at: inner.settings.clock.elapsed(),
            pending: inner.remote.lease(key, quotas, cost, inner.settings.lease),
            inner,
            lease,
            key: key.clone(),
            quotas: quotas.clone(),
            cost,
        }
    }

    /// Continues in its own task, which holds the turn until the store has answered or the units
    /// would be too old.
    pub(super) async fn within(self, turn: Turn) -> Result<RateDecision, StoreError> {
        let (reply, answer) = oneshot::channel();
        tokio::spawn(async move {
            self.run(reply).await;
            drop(turn);
        });
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::internal("the runtime is shutting down")))
    }

    async fn run(mut self, reply: Reply) {
        let mut has_answered = false;
        let asked = async {
            let answer = (&mut self.pending).await;
            has_answered = true;
            answer
        };
        let asked = self
            .inner
            .ask(asked, |(_, taken)| Effect::of_taking(*taken));
        match asked.await {
            Ok(((decision, taken), effect)) => self.answer(reply, &decision, taken, effect),
            Err(error) => {
                let _ = reply.send(Err(error));
                if !has_answered {
                    self.keep_late_answer().await;
                }
            }
        }
    }

    /// Answers the request, and keeps the units it leaves: all of them if the request is gone.
    fn answer(&self, reply: Reply, decision: &RateDecision, taken: u32, effect: Effect) {
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
        if let Err(Ok(unheard)) = reply.send(Ok(answer)) {
            self.keep(taken.min(cost), &unheard);
        }
    }

    /// The request was answered without the store; waits for a late answer.
    async fn keep_late_answer(mut self) {
        let late = tokio::time::timeout(LEASE_MAX, &mut self.pending).await;
        if let Ok(Ok((decision, taken))) = late {
            self.keep(taken, &decision);
        }
    }

    /// Keeps `units`, and returns how many there are then.
    fn keep(&self, units: u32, decision: &RateDecision) -> u32 {
        if units == 0 {
            return 0;
        }
        self.lease.keep(&self.quotas, units, decision, self.at)
    }
}
