//! The hold of an admitted request, until it is settled: exactly once, whatever happens.

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
    price::{Demand, RequestLength},
    renewal::HoldRenewal,
    requested_use::{HeldUse, RequestedUse},
    terms::CostHeaders,
};
use crate::{
    domain::{
        BudgetId,
        money::Money,
        usage::{Call, Hold, Outcome, Settlement, Tags, UsageDetails},
    },
    store::StoreFuture,
    wire::{CostFigures, GrpcCallStatus, UsageReader, is_encoded, remove_what_was_left},
};

/// What was set aside for a call.
#[derive(Debug)]
pub(super) enum Reservation {
    /// Nothing: the route is free, whatever cost the handler sets.
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
    /// The length that the request declares, if the price depends on it.
    length: RequestLength,
    /// What the request asks for, if the price depends on it and it was read.
    asked: Option<Box<RequestedUse>>,
    /// Set once the request has been passed on.
    pub(super) charge: Option<Charge>,
    pub(super) seen: Seen,
    pub(super) recording: Option<Box<Recording>>,
    /// Set if the hold has a limited lifetime.
    renewal: Option<Box<HoldRenewal>>,
    /// What the application noted of the request.
    pub(super) tags: Tags,
    /// Whether it counts in budgets besides its key's.
    pub(super) budgets: Noted,
    pub(super) shared: Arc<Shared>,
}

/// Whether its usage row names the budgets of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// There is none but its key's.
    No,
    Yes,
}

impl OpenHold {
    /// A call that starts now, with nothing set aside yet.
    pub(super) fn unreserved(price: Price, demand: Demand<'_>, shared: Arc<Shared>) -> Self {
        let started = shared.clock.elapsed();
        Self {
            open: None,
            started,
            price,
            length: demand.length,
            asked: demand.asked.cloned().map(Box::new),
            charge: None,
            seen: Seen::default(),
            recording: None,
            renewal: HoldRenewal::new(shared.terms.lifetime, started),
            tags: Tags::new(),
            budgets: Noted::No,
            shared,
        }
    }

    pub(super) fn demand(&self) -> Demand<'_> {
        Demand {
            length: self.length,
            asked: self.asked.as_deref(),
        }
    }

    /// What a handler may know of the hold, if it is known what the request asks for.
    pub(super) fn held_use(&self) -> Option<HeldUse> {
        match (&self.asked, &self.open) {
            (Some(_), Some(Reservation::Held(hold))) => Some(HeldUse {
                amount: hold.amount,
                output_max: self.price.output_held(&self.demand()),
            }),
            _ => None,
        }
    }

    /// Settles, once. The settlement has been handed to the ledger when this returns.
    pub(super) fn settle(&mut self, outcome: Outcome) -> Option<StoreFuture<()>> {
        let reservation = self.open.take()?;
        if let Some(reader) = &mut self.seen.reader {
            reader.catch_up();
        }
        let cost = match &reservation {
            Reservation::Free(_) => Cost::reported(Money::ZERO),
            Reservation::Held(hold) => self.cost(outcome, hold.amount),
        };
        let charged = cost.charged;
        let now = self.shared.clock.elapsed();
        if let Reservation::Held(hold) = &reservation {
            self.log(hold, cost, outcome, now);
        }
        let tokens = self.tokens();
        let all_tokens = tokens.filter(|_| self.counted_all(outcome));
        if let (Some(charge), Some(tokens)) = (&self.charge, all_tokens)
            && !charge.counts_tokens()
        {
            // An outer token limit counts these tokens too; an outer spending layer reads them
            // itself, or goes by the handler.
            charge.note_read(tokens);
        }
        let details = UsageDetails::of(tokens.as_ref(), self.service_tiers().special());
        let details = UsageDetails::with_notes(details, self.all_tags(), self.noted(&reservation));
        let settlement = Settlement {
            status: self.seen.status.map(|status| status.as_u16()),
            latency: now.saturating_sub(self.started),
            input_tokens: tokens
                .filter(|tokens| !tokens.input_is_unknown)
                .map(|tokens| tokens.input),
            cached_tokens: tokens.map(|tokens| tokens.cached),
            cache_write_tokens: tokens.map(|tokens| tokens.cache_written),
            output_tokens: all_tokens.map(|tokens| tokens.output),
            bytes: self.price.is_by_bytes().then_some(self.seen.bytes),
            model: self.model().cloned(),
            usage_is_missing: cost.usage_is_missing,
            details,
            ..Settlement::new(charged, outcome)
        };
        if let Some(mut recording) = self.recording.take()
            && outcome == Outcome::Completed
            && !charged.is_zero()
            && self.is_open(now)
        {
            if self.shared.terms.headers == CostHeaders::On {
                recording.cost(charged);
            }
            recording.keep(now);
        }
        Some(match reservation {
            Reservation::Free(call) => self.shared.ledger.record(call, settlement),
            Reservation::Held(hold) => self.shared.ledger.settle(hold, settlement),
        })
    }

    /// Logs what an operator should know of a call's cost.
    fn log(&self, hold: &Hold, cost: Cost, outcome: Outcome, now: Duration) {
        let (shared, route, charged) = (&self.shared, &hold.call.route, cost.charged);
        if cost.usage_is_missing && outcome == Outcome::Completed {
            let (source, is_read) = (self.price.source(), self.seen.reader.is_some());
            shared.missing_log.note(route, source, is_read, charged);
        }
        if charged > hold.amount {
            shared.overrun_log.note(route, hold.amount, charged, now);
        }
        if !charged.is_zero() && self.reported_cost().is_none() {
            for what in self.price.unpriced(&self.counts()).into_iter().flatten() {
                shared.missing_log.note_unpriced(route, what);
            }
        }
    }

    /// The handler's tags, and as many of the request's besides as there is room for: a client may
    /// have a say in those, and must not push out what the handler knows.
    fn all_tags(&mut self) -> Tags {
        let of_request = std::mem::take(&mut self.tags);
        let Some(charge) = &self.charge else {
            return of_request;
        };
        let mut tags = charge.tags();
        if tags.is_empty() {
            return of_request;
        }
        for (name, value) in of_request.iter() {
            if tags.get(name).is_none() {
                tags.note(name, value);
            }
        }
        tags
    }

    fn noted<'a>(&self, reservation: &'a Reservation) -> &'a [BudgetId] {
        match (self.budgets, reservation) {
            (Noted::Yes, Reservation::Held(hold)) => &hold.budgets,
            _ => &[],
        }
    }

    /// Inspects the answer's head.
    pub(super) fn note_head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.seen.status = Some(status);
        self.seen.call = GrpcCallStatus::of_head(headers);
        match self.price.source() {
            CostSource::Handler => {}
            CostSource::Body => {
                let most = self.price.uncounted_max(&self.demand());
                let reader = UsageReader::for_body(headers);
                let reader = reader.map(|reader| reader.with_errors().counting(most));
                self.seen.reader = reader.map(Box::new);
            }
            CostSource::Header(name) => {
                let mut lines = headers.get_all(name).iter();
                let reported = match (lines.next(), lines.next()) {
                    (Some(cost), None) => cost.to_str().ok().and_then(|text| text.parse().ok()),
                    _ => None,
                };
                self.seen.cost = reported.filter(|cost: &Money| !cost.is_negative());
            }
        }
        if self.seen.reader.is_none() && self.price.is_by_use() {
            self.seen.is_encoded = is_encoded(headers);
        }
    }

    /// Keeps the answer's head for retries, once the cost headers are in it.
    pub(super) fn keep_head(&mut self, status: StatusCode, headers: &HeaderMap) {
        let has_cost_headers = self.shared.terms.headers == CostHeaders::On;
        if let Some(recording) = &mut self.recording {
            let mut kept = headers.clone();
            if has_cost_headers {
                remove_what_was_left(&mut kept);
            }
            recording.head(status, kept);
        }
    }

    /// After an upgrade, what goes over the connection is not a body.
    pub(super) fn note_upgrade(&self) {
        let warned = &self.shared.upgrade_warned;
        if self.price.is_by_use()
            && self.seen.status == Some(StatusCode::SWITCHING_PROTOCOLS)
            && !warned.load(Ordering::Relaxed)
            && !warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                target: "tollgate",
                route = self.route(),
                "a route priced by tokens or bytes upgrades its connection (101); traffic over it isn't counted"
            );
        }
    }

    fn route(&self) -> Option<&str> {
        Some(match self.open.as_ref()? {
            Reservation::Free(call) => &call.route,
            Reservation::Held(hold) => &hold.call.route,
        })
    }

    /// Writes the cost headers, as far as the cost is known before the body.
    pub(super) fn write_cost_headers(&self, headers: &mut HeaderMap) {
        let Some(Reservation::Held(hold)) = &self.open else {
            return;
        };
        let cost = if self.seen.has_failed() {
            Some(Money::ZERO)
        } else if self.price.is_flat() {
            self.used(Outcome::Completed, hold.amount)
        } else {
            self.reported(Charge::cost).or(self.seen.cost)
        };
        let figures = CostFigures {
            held: hold.amount,
            cost,
            balance_left: hold.left.account,
            budget_left: hold.left.budgets,
        };
        figures.write(headers);
    }

    /// Renews the hold of a stream that is still sending.
    pub(super) fn keep_alive(&mut self) {
        if let (Some(renewal), Some(Reservation::Held(hold))) = (&mut self.renewal, &self.open) {
            let extend = |lifetime| self.shared.ledger.extend(hold, lifetime);
            renewal.keep(self.shared.clock.elapsed(), extend);
        }
    }

    /// Whether the hold can't have expired yet.
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
        // A drop can't wait; the engine already has the settlement when `settle` returns.
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
