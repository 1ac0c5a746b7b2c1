//! After the request was admitted: the hold, until it is settled, once, whatever happens.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderMap, StatusCode};

use super::{
    Charge, CostSource, Price,
    costing::{Cost, Seen},
    idempotency::Recording,
    policy::Shared,
    price::RequestLength,
    renewal::HoldRenewal,
};
use crate::{
    domain::{
        money::Money,
        usage::{Call, Hold, Outcome, Settlement},
    },
    store::StoreFuture,
    wire::{GrpcWebStatus, ToldCost, UsageReader, grpc_has_failed},
};

/// What was set aside for a call.
#[derive(Debug)]
pub(super) enum Reservation {
    /// Nothing: the route is free, whatever the handler sets.
    Free(Call),
    /// Money.
    Held(Hold),
}

/// A call under way. Dropped unsettled, it settles itself.
pub(super) struct OpenHold {
    pub(super) open: Option<Reservation>,
    /// When the call began, on the monotonic clock.
    pub(super) started: Duration,
    pub(super) price: Price,
    /// As the request says, where the price asks for it.
    pub(super) request: RequestLength,
    /// Once the request is on its way.
    pub(super) charge: Option<Charge>,
    pub(super) seen: Seen,
    pub(super) recording: Option<Box<Recording>>,
    /// Where its hold ends by the clock.
    renewal: Option<Box<HoldRenewal>>,
    pub(super) shared: Arc<Shared>,
}

impl OpenHold {
    /// A call that begins now, for which nothing is set aside yet.
    pub(super) fn unreserved(price: Price, request: RequestLength, shared: Arc<Shared>) -> Self {
        let started = shared.clock.elapsed();
        Self {
            open: None,
            started,
            price,
            request,
            charge: None,
            seen: Seen::default(),
            recording: None,
            renewal: HoldRenewal::new(shared.terms.lifetime, started),
            shared,
        }
    }

    /// Settles, once. The settlement is on its way when this returns.
    pub(super) fn settle(&mut self, outcome: Outcome) -> Option<StoreFuture<()>> {
        let reservation = self.open.take()?;
        if let Some(reader) = &mut self.seen.reader {
            reader.catch_up();
        }
        let cost = match &reservation {
            Reservation::Free(_) => Cost::told(Money::ZERO),
            Reservation::Held(hold) => self.cost(outcome, hold.amount),
        };
        let charged = cost.charged;
        if let Reservation::Held(hold) = &reservation
            && cost.usage_is_missing
            && outcome == Outcome::Completed
        {
            let (source, is_read) = (self.price.source(), self.seen.reader.is_some());
            let route = &hold.call.route;
            self.shared.missed.note(route, source, is_read, charged);
        }
        let tokens = self.tokens();
        let all_tokens = tokens.filter(|_| self.counted_all(outcome));
        if let (Some(charge), Some(tokens)) = (&self.charge, all_tokens)
            && charge.tokens().is_none()
        {
            // An outer limit in tokens counts it too; an outer layer of money reads for itself, or goes by the handler.
            charge.note_read(tokens);
        }
        let now = self.shared.clock.elapsed();
        let settlement = Settlement {
            status: self.seen.status.map(|status| status.as_u16()),
            latency: now.saturating_sub(self.started),
            input_tokens: tokens.map(|tokens| tokens.input),
            cached_tokens: tokens.map(|tokens| tokens.cached),
            cache_write_tokens: tokens.map(|tokens| tokens.cache_written),
            output_tokens: all_tokens.map(|tokens| tokens.output),
            bytes: self.price.is_by_bytes().then_some(self.seen.bytes),
            model: self.model().cloned(),
            usage_is_missing: cost.usage_is_missing,
            ..Settlement::new(charged, outcome)
        };
        if let Some(recording) = self.recording.take()
            && outcome == Outcome::Completed
            && !charged.is_zero()
            && self.is_open(now)
        {
            recording.keep(now);
        }
        Some(match reservation {
            Reservation::Free(call) => self.shared.ledger.record(call, settlement),
            Reservation::Held(hold) => self.shared.ledger.settle(hold, settlement),
        })
    }

    /// Looks at the answer's head.
    pub(super) fn note_head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.seen.status = Some(status);
        self.seen.grpc_failed = grpc_has_failed(headers);
        self.seen.web = GrpcWebStatus::for_body(headers).map(Box::new);
        match self.price.source() {
            CostSource::Handler => {}
            CostSource::Body => self.seen.reader = UsageReader::for_body(headers).map(Box::new),
            CostSource::Header(name) => {
                let mut lines = headers.get_all(name).iter();
                let told = match (lines.next(), lines.next()) {
                    (Some(cost), None) => cost.to_str().ok().and_then(|text| text.parse().ok()),
                    _ => None,
                };
                self.seen.cost = told.filter(|cost: &Money| !cost.is_negative());
            }
        }
        if let Some(recording) = &mut self.recording {
            recording.head(status, headers);
        }
    }

    /// What goes over the connection from now on is no body.
    pub(super) fn note_upgrade(&self) {
        let told = &self.shared.upgrade_told;
        if self.price.is_by_use()
            && self.seen.status == Some(StatusCode::SWITCHING_PROTOCOLS)
            && !told.load(Ordering::Relaxed)
            && !told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                target: "tollgate",
                route = self.route(),
                "a route with a price by tokens or bytes upgrades its connection (101): what goes over it isn't counted"
            );
        }
    }

    fn route(&self) -> Option<&str> {
        Some(match self.open.as_ref()? {
            Reservation::Free(call) => &call.route,
            Reservation::Held(hold) => &hold.call.route,
        })
    }

    /// Tells the client what it pays, as far as that is known before the body.
    pub(super) fn tell_cost(&self, headers: &mut HeaderMap) {
        let Some(Reservation::Held(hold)) = &self.open else {
            return;
        };
        let cost = if self.seen.has_failed() {
            Some(Money::ZERO)
        } else if self.price.is_flat() {
            self.used(Outcome::Completed, hold.amount)
        } else {
            self.told(Charge::cost).or(self.seen.cost)
        };
        let told = ToldCost {
            held: hold.amount,
            cost,
            balance_left: hold.left.account,
            budget_left: hold.left.budgets,
        };
        told.write(headers);
    }

    /// A stream that goes on keeps its hold.
    pub(super) fn keep_alive(&mut self) {
        if let (Some(renewal), Some(Reservation::Held(hold))) = (&mut self.renewal, &self.open) {
            let extend = |lifetime| self.shared.ledger.extend(hold, lifetime);
            renewal.keep(self.shared.clock.elapsed(), extend);
        }
    }

    /// Whether its hold can't have been resolved by the clock.
    fn is_open(&self, now: Duration) -> bool {
        let renewal = self.renewal.as_ref();
        renewal.is_none_or(|renewal| renewal.is_open(now))
    }
}

impl Drop for OpenHold {
    fn drop(&mut self) {
        let outcome = if std::thread::panicking() {
            Outcome::Failed
        } else {
            Outcome::Disconnected
        };
        // Nobody can wait in a drop; the engine has the settlement when this returns.
        drop(self.settle(outcome));
    }
}

impl fmt::Debug for OpenHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenHold")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}
