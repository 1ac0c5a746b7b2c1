//! After the request was admitted: the hold, until it is settled, once, whatever happens.

use std::{fmt, sync::Arc, time::Duration};

use http::{Extensions, HeaderMap, StatusCode};

use super::{Charge, Price};
use crate::{
    domain::{
        BudgetId,
        clock::Clock,
        money::Money,
        usage::{Call, Hold, Outcome, Settlement},
    },
    guard::{BodyEnd, Meter, Permit, ResponseMarks, Tail},
    store::{Ledger, StoreFuture},
    wire::grpc_has_failed,
};

/// A call that is about to be made.
#[derive(Clone, Debug)]
pub(super) struct OpenCall {
    pub(super) call: Call,
    pub(super) budgets: Arc<[BudgetId]>,
    /// When it began, on the monotonic clock.
    pub(super) started: Duration,
}

/// What was set aside for it.
#[derive(Debug)]
pub(super) enum Reservation {
    /// The route is free, whatever the handler sets.
    Free,
    /// Money.
    Held(Hold),
}

/// A call under way. Dropped unsettled, it settles itself.
pub(super) struct OpenHold {
    open: Option<(OpenCall, Reservation)>,
    price: Price,
    charge: Charge,
    status: Option<StatusCode>,
    /// A gRPC call fails with HTTP status 200: its own status stands in the head or in the trailers.
    grpc_failed: bool,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
}

impl OpenHold {
    pub(super) fn new(
        open: OpenCall,
        reservation: Reservation,
        price: Price,
        charge: Charge,
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            open: Some((open, reservation)),
            price,
            charge,
            status: None,
            grpc_failed: false,
            ledger,
            clock,
        }
    }

    /// Settles, once. The settlement is on its way when this returns.
    fn settle(&mut self, outcome: Outcome) -> Option<StoreFuture<()>> {
        let (open, reservation) = self.open.take()?;
        let charged = match &reservation {
            Reservation::Free => Money::ZERO,
            Reservation::Held(hold) => self.cost(outcome, hold.amount),
        };
        let tokens = self.charge.tokens();
        let settlement = Settlement {
            status: self.status.map(|status| status.as_u16()),
            latency: self.clock.elapsed().saturating_sub(open.started),
            input_tokens: tokens.map(|(read, _)| read),
            output_tokens: tokens.map(|(_, written)| written),
            ..Settlement::new(charged, outcome)
        };
        Some(match reservation {
            Reservation::Free => self.ledger.record(open.call, settlement),
            Reservation::Held(hold) => self.ledger.settle(hold, settlement),
        })
    }

    /// Whether the answer is one that isn't charged: of a status from 400 on, or of one other than OK in gRPC.
    fn has_failed(&self) -> bool {
        self.grpc_failed || self.status.is_some_and(|status| status.as_u16() >= 400)
    }

    /// What an answer below 400 costs (in gRPC: one of status OK), and nothing else does. A client that left before there was an
    /// answer pays what the handler had set or counted by then.
    fn cost(&self, outcome: Outcome, held: Money) -> Money {
        let counted = self.charge.cost().is_some() || self.charge.tokens().is_some();
        match (outcome, self.status) {
            (Outcome::Failed, _) => Money::ZERO,
            _ if self.has_failed() => Money::ZERO,
            (_, Some(_)) => self.price.cost(&self.charge, held),
            (_, None) if counted => self.price.cost(&self.charge, held),
            (_, None) => Money::ZERO,
        }
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

/// The proof that a request is paid for. Dropped, it settles.
#[derive(Debug)]
pub struct SpendingPermit(OpenHold);

impl SpendingPermit {
    pub(super) fn new(open: OpenHold) -> Self {
        Self(open)
    }
}

impl Permit for SpendingPermit {
    type Meter = SpendingMeter;

    fn mark_request(&mut self, extensions: &mut Extensions) {
        extensions.insert(self.0.charge.clone());
    }

    fn mark_response(mut self, response: ResponseMarks<'_>) -> Tail<SpendingMeter> {
        self.0.status = Some(response.status);
        self.0.grpc_failed = grpc_has_failed(response.headers);
        if self.0.has_failed() {
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
pub struct SpendingMeter(OpenHold);

impl Meter for SpendingMeter {
    fn trailers(&mut self, trailers: &HeaderMap) {
        self.0.grpc_failed |= grpc_has_failed(trailers);
    }

    fn end(mut self, how: BodyEnd) -> Option<StoreFuture<()>> {
        self.0.settle(match how {
            BodyEnd::Complete if !self.0.has_failed() => Outcome::Completed,
            _ => Outcome::Failed,
        })
    }
}
