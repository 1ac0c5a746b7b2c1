//! After the request was admitted: the hold, until it is settled, once, whatever happens.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{Extensions, HeaderMap, StatusCode};

use super::{
    Charge, CostSource, Price,
    idempotency::Recording,
    policy::Shared,
    price::{Counts, RequestLength},
    renewal::HoldRenewal,
    terms::{Charging, CostHeaders, MissingUsage},
};
use crate::{
    domain::{
        charge::Tokens,
        money::Money,
        usage::{Call, Hold, Outcome, Settlement},
    },
    guard::{BodyEnd, Meter, Permit, ResponseMarks, Tail},
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
    request: RequestLength,
    /// Once the request is on its way.
    charge: Option<Charge>,
    seen: Seen,
    pub(super) recording: Option<Box<Recording>>,
    /// Where its hold ends by the clock.
    renewal: Option<Box<HoldRenewal>>,
    shared: Arc<Shared>,
}

/// What was seen of the answer.
#[derive(Debug, Default)]
struct Seen {
    status: Option<StatusCode>,
    /// A gRPC call fails with HTTP status 200: its own status stands in the head, or in the trailers where nothing went
    /// out before them.
    grpc_failed: bool,
    /// What a header said that it costs.
    cost: Option<Money>,
    reader: Option<Box<UsageReader>>,
    /// gRPC-Web has its status at the end of the body.
    web: Option<Box<GrpcWebStatus>>,
    bytes: u64,
    /// It ended with an error: of the body, or of gRPC in the trailers of messages that went out.
    broken: bool,
}

/// What a call costs.
#[derive(Clone, Copy, Debug)]
struct Cost {
    charged: Money,
    /// Nobody told what it used.
    usage_is_missing: bool,
}

impl Cost {
    fn told(charged: Money) -> Self {
        Self {
            charged,
            usage_is_missing: false,
        }
    }

    fn guessed(charged: Money) -> Self {
        Self {
            charged,
            usage_is_missing: true,
        }
    }
}

impl Seen {
    /// Whether the answer is one that isn't charged: of a status from 400 on, or of one other than OK in gRPC.
    fn has_failed(&self) -> bool {
        self.grpc_failed || self.status.is_some_and(|status| status.as_u16() >= 400)
    }

    /// A call of gRPC failed after its head. A client can bring that about itself, with a message that can't be read: what it has had
    /// isn't free by that.
    fn note_failure(&mut self, delivered: bool) {
        self.broken |= delivered;
        self.grpc_failed |= !delivered;
    }

    /// Reads on, where the body says how the call went.
    fn note_web(&mut self, piece: &[u8]) {
        let Some(web) = &mut self.web else { return };
        web.feed(piece);
        if web.has_failed() {
            let delivered = web.has_delivered();
            self.note_failure(delivered);
            self.web = None;
        }
    }
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
    fn settle(&mut self, outcome: Outcome) -> Option<StoreFuture<()>> {
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

    /// What the handler counted, or else what the answer said.
    fn tokens(&self) -> Option<Tokens> {
        let read = || self.seen.reader.as_ref().and_then(|reader| reader.tokens());
        self.told(Charge::tokens).or_else(read)
    }

    fn model(&self) -> Option<&Arc<str>> {
        let read = || self.seen.reader.as_ref().and_then(|reader| reader.model());
        let charge = self.charge.as_ref();
        charge.and_then(Charge::model).or_else(read)
    }

    /// What the handler said.
    fn told<T>(&self, of: impl FnOnce(&Charge) -> Option<T>) -> Option<T> {
        self.charge.as_ref().and_then(of)
    }

    /// What an answer below 400 costs (in gRPC: one of status OK), and nothing else does. A client that
    /// left before there was an answer pays what the handler had set or counted by then.
    fn cost(&self, outcome: Outcome, held: Money) -> Cost {
        if self.seen.has_failed() {
            return Cost::told(Money::ZERO);
        }
        let charging = match outcome {
            Outcome::Failed => self.failed(),
            Outcome::Disconnected => self.shared.terms.disconnected,
            _ => {
                let used = self.used(outcome, held).map(Cost::told);
                return used.unwrap_or_else(|| Cost::guessed(self.missing(held)));
            }
        };
        match charging {
            Charging::Nothing => Cost::told(Money::ZERO),
            Charging::Hold => Cost::told(held),
            Charging::Counted => match self.used(outcome, held) {
                Some(used) => Cost::told(used),
                None if self.is_answered() => {
                    Cost::guessed(self.price.produced(held, &self.counts()))
                }
                None => Cost::told(Money::ZERO),
            },
        }
    }

    fn failed(&self) -> Charging {
        let terms = &self.shared.terms;
        let delivered = self.seen.broken && self.seen.bytes > 0;
        let broken = terms.broken.filter(|_| delivered);
        broken.unwrap_or(terms.failed)
    }

    fn missing(&self, held: Money) -> Money {
        match self.shared.terms.missing {
            MissingUsage::ChargeHold => self.price.needed(held, &self.counts()),
            MissingUsage::ChargeNothing => Money::ZERO,
        }
    }

    fn is_answered(&self) -> bool {
        self.seen.status.is_some()
    }

    /// What was used, as far as it was told or counted; what the price says by itself counts once there is an
    /// answer. Where nobody told more than how it began, what went out counts too.
    fn used(&self, outcome: Outcome, held: Money) -> Option<Money> {
        if let Some(cost) = self.told(Charge::cost).or(self.seen.cost) {
            return Some(cost);
        }
        let counts = self.counts();
        match counts.tokens {
            None if !self.is_answered() => None,
            Some(_) if self.is_answered() && !self.counted_all(outcome) => {
                Some(self.price.produced(held, &counts))
            }
            _ => self.price.counted(&counts),
        }
    }

    fn counts(&self) -> Counts<'_> {
        Counts {
            tokens: self.tokens(),
            bytes: self.seen.bytes,
            model: self.model().map(AsRef::as_ref),
            request: self.request,
        }
    }

    /// Whether the tokens that were counted are all that there were.
    fn counted_all(&self, outcome: Outcome) -> bool {
        let is_over = outcome == Outcome::Completed;
        if let Some(charge) = &self.charge
            && charge.tokens().is_some()
        {
            return is_over || charge.tells_output();
        }
        let reader = self.seen.reader.as_ref();
        reader.is_some_and(|reader| reader.are_final(is_over))
    }

    /// Looks at the answer's head.
    fn note_head(&mut self, status: StatusCode, headers: &HeaderMap) {
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
    fn note_upgrade(&self) {
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
    fn tell_cost(&self, headers: &mut HeaderMap) {
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
    fn keep_alive(&mut self) {
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

/// The proof that a request is paid for. Dropped, it settles. In a box: it goes from the decision into the future of the
/// answer and on into the body, and is large.
#[derive(Debug)]
pub struct SpendingPermit(Box<OpenHold>);

impl SpendingPermit {
    pub(super) fn new(open: Box<OpenHold>) -> Self {
        Self(open)
    }
}

impl Permit for SpendingPermit {
    type Meter = SpendingMeter;

    fn mark_request(&mut self, extensions: &mut Extensions) {
        // An outer layer of money, or limit in tokens, may have left one already: what the handler says counts for both.
        self.0.charge = Some(extensions.get_or_insert_with(Charge::new).clone());
    }

    fn mark_response(mut self, response: ResponseMarks<'_>) -> Tail<SpendingMeter> {
        self.0.note_head(response.status, response.headers);
        self.0.note_upgrade();
        if self.0.shared.terms.headers == CostHeaders::On {
            self.0.tell_cost(response.headers);
        }
        if self.0.seen.has_failed() {
            // It costs nothing, whatever its body says; an outer layer may write the body anew.
            return match self.0.settle(Outcome::Failed) {
                Some(settling) => Tail::Settled(settling),
                None => Tail::Body,
            };
        }
        Tail::Metered(SpendingMeter(self.0))
    }

    fn inner_failed(mut self) {
        drop(self.0.settle(Outcome::Failed));
    }
}

/// Settles when the body has ended. Dropped before, it settles for a client that left.
#[derive(Debug)]
pub struct SpendingMeter(Box<OpenHold>);

impl Meter for SpendingMeter {
    fn data(&mut self, piece: &[u8]) {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.0.seen.bytes = self.0.seen.bytes.saturating_add(length);
        if let Some(reader) = &mut self.0.seen.reader {
            reader.feed(piece);
        }
        self.0.seen.note_web(piece);
        if let Some(recording) = &mut self.0.recording {
            recording.data(piece);
        }
        self.0.keep_alive();
    }

    /// They are paid for; what they say of usage is missing, and an answer that can't be repeated isn't kept.
    fn unseen(&mut self, bytes: usize) {
        let length = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.0.seen.bytes = self.0.seen.bytes.saturating_add(length);
        self.0.seen.web = None;
        if let Some(recording) = &mut self.0.recording {
            recording.give_up();
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if grpc_has_failed(trailers) {
            self.0.seen.note_failure(self.0.seen.bytes > 0);
        }
        if let Some(recording) = &mut self.0.recording {
            recording.give_up();
        }
    }

    fn end(mut self, how: BodyEnd) -> Option<StoreFuture<()>> {
        let seen = &mut self.0.seen;
        seen.broken |= how == BodyEnd::Failed;
        let failed = seen.broken || seen.has_failed();
        self.0.settle(if failed {
            Outcome::Failed
        } else {
            Outcome::Completed
        })
    }
}
