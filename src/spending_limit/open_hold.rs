//! After the request was admitted: the hold, until it is settled, once, whatever happens.

use std::{fmt, sync::Arc, time::Duration};

use http::{Extensions, StatusCode};

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
            charged,
            outcome,
            status: self.status.map(|status| status.as_u16()),
            latency: self.clock.elapsed().saturating_sub(open.started),
            input_tokens: tokens.map(|(read, _)| read),
            output_tokens: tokens.map(|(_, written)| written),
        };
        Some(match reservation {
            Reservation::Free => self.ledger.record(open.call, settlement),
            Reservation::Held(hold) => self.ledger.settle(hold, settlement),
        })
    }

    /// What an answer below 400 costs, and nothing else does. A client that left before there was an
    /// answer pays what the handler had set or counted by then.
    fn cost(&self, outcome: Outcome, held: Money) -> Money {
        let counted = self.charge.cost().is_some() || self.charge.tokens().is_some();
        match (outcome, self.status) {
            (Outcome::Failed, _) => Money::ZERO,
            (_, Some(status)) if status.as_u16() >= 400 => Money::ZERO,
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
    fn end(mut self, how: BodyEnd) -> Option<StoreFuture<()>> {
        let failed = self.0.status.is_some_and(|status| status.is_server_error());
        self.0.settle(match how {
            BodyEnd::Complete if !failed => Outcome::Completed,
            _ => Outcome::Failed,
        })
    }
}
