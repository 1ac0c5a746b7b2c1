//! What a call costs, by what was seen of its answer and what its handler said.

use std::sync::Arc;

use http::StatusCode;

use super::{
    Charge,
    open_hold::OpenHold,
    price::Counts,
    terms::{Charging, MissingUsage},
};
use crate::{
    domain::{charge::Tokens, money::Money, usage::Outcome},
    wire::{GrpcWebStatus, UsageReader},
};

/// What was seen of the answer.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) status: Option<StatusCode>,
    /// A gRPC call fails with HTTP status 200: its own status stands in the head, or in the trailers where nothing went
    /// out before them.
    pub(super) grpc_failed: bool,
    /// What a header said that it costs.
    pub(super) cost: Option<Money>,
    pub(super) reader: Option<Box<UsageReader>>,
    /// gRPC-Web has its status at the end of the body.
    pub(super) web: Option<Box<GrpcWebStatus>>,
    pub(super) bytes: u64,
    /// It ended with an error: of the body, or of gRPC in the trailers of messages that went out.
    pub(super) broken: bool,
}

/// What a call costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) charged: Money,
    /// Nobody told what it used.
    pub(super) usage_is_missing: bool,
}

impl Cost {
    pub(super) fn told(charged: Money) -> Self {
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
    pub(super) fn has_failed(&self) -> bool {
        self.grpc_failed || self.status.is_some_and(|status| status.as_u16() >= 400)
    }

    /// A call of gRPC failed after its head. A client can bring that about itself, with a message that can't be read: what it has had
    /// isn't free by that.
    pub(super) fn note_failure(&mut self, delivered: bool) {
        self.broken |= delivered;
        self.grpc_failed |= !delivered;
    }

    /// Reads on, where the body says how the call went.
    pub(super) fn note_web(&mut self, piece: &[u8]) {
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
    /// What the handler counted, or else what the answer said.
    pub(super) fn tokens(&self) -> Option<Tokens> {
        let read = || self.seen.reader.as_ref().and_then(|reader| reader.tokens());
        self.told(Charge::tokens).or_else(read)
    }

    pub(super) fn model(&self) -> Option<&Arc<str>> {
        let read = || self.seen.reader.as_ref().and_then(|reader| reader.model());
        let charge = self.charge.as_ref();
        charge.and_then(Charge::model).or_else(read)
    }

    /// What the handler said.
    pub(super) fn told<T>(&self, of: impl FnOnce(&Charge) -> Option<T>) -> Option<T> {
        self.charge.as_ref().and_then(of)
    }

    /// What an answer below 400 costs (in gRPC: one of status OK), and nothing else does. A client that
    /// left before there was an answer pays what the handler had set or counted by then.
    pub(super) fn cost(&self, outcome: Outcome, held: Money) -> Cost {
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
    pub(super) fn used(&self, outcome: Outcome, held: Money) -> Option<Money> {
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
    pub(super) fn counted_all(&self, outcome: Outcome) -> bool {
        let is_over = outcome == Outcome::Completed;
        if let Some(charge) = &self.charge
            && charge.tokens().is_some()
        {
            return is_over || charge.tells_output();
        }
        let reader = self.seen.reader.as_ref();
        reader.is_some_and(|reader| reader.are_final(is_over))
    }
}
