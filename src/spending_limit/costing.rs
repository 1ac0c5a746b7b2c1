//! What a call costs, based on its answer and on what its handler reported.

use std::sync::Arc;

use http::StatusCode;

use super::{
    Charge,
    open_hold::OpenHold,
    price::Counts,
    terms::{Charging, MissingUsage},
};
use crate::{
    domain::{
        charge::{Tiers, Tokens},
        money::Money,
        usage::Outcome,
    },
    wire::{GrpcCallStatus, ToldError, UsageReader},
};

/// What was observed of the answer.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) status: Option<StatusCode>,
    /// A gRPC call can fail with HTTP status 200.
    pub(super) call: GrpcCallStatus,
    /// The cost that a header reported.
    pub(super) cost: Option<Money>,
    pub(super) reader: Option<Box<UsageReader>>,
    pub(super) bytes: u64,
    /// The body is compressed.
    pub(super) is_encoded: bool,
    /// The body ended with an error.
    pub(super) body_failed: bool,
    /// The body told of an error.
    pub(super) error: Option<ToldError>,
}

/// What a call costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) charged: Money,
    /// The usage was not reported; `charged` is an upper bound or a default.
    pub(super) usage_is_missing: bool,
}

impl Cost {
    pub(super) fn reported(charged: Money) -> Self {
        Self {
            charged,
            usage_is_missing: false,
        }
    }

    fn estimated(charged: Money) -> Self {
        Self {
            charged,
            usage_is_missing: true,
        }
    }
}

impl Seen {
    /// Whether the answer is not charged: a status of 400 or above, or a gRPC status other than OK.
    pub(super) fn has_failed(&self) -> bool {
        self.call.has_failed() || self.status.is_some_and(|status| status.as_u16() >= 400)
    }

    /// The most output tokens that can have been sent: what was counted, and beyond that a token is
    /// at least a byte, of what isn't known to wrap the output where that can be told. Of
    /// compressed bytes there is no telling.
    fn produced(&self) -> u64 {
        if self.is_encoded {
            return u64::MAX;
        }
        let reader = self.reader.as_ref();
        let read = reader.and_then(|reader| reader.output_at_most());
        read.unwrap_or(self.bytes)
    }

    /// Whether it ended with an error, of the body or of the call. That must not make free what the
    /// client has already received.
    pub(super) fn is_broken(&self) -> bool {
        self.body_failed || self.call.broke_off()
    }
}

impl OpenHold {
    /// What the handler counted, or else what the answer reported.
    pub(super) fn tokens(&self) -> Option<Tokens> {
        let charge = self.charge.as_ref();
        if let Some(charge) = charge.filter(|charge| charge.counts_tokens()) {
            return charge.tokens();
        }
        let read = self.seen.reader.as_ref().and_then(|reader| reader.tokens());
        match charge {
            Some(charge) => charge.tokens_beside(read),
            None => read,
        }
    }

    pub(super) fn model(&self) -> Option<&Arc<str>> {
        let read = || self.seen.reader.as_ref().and_then(|reader| reader.model());
        let charge = self.charge.as_ref();
        charge.and_then(Charge::model).or_else(read)
    }

    /// The provider's tier that the handler names, or else those that the answer does.
    pub(super) fn service_tiers(&self) -> Tiers<'_> {
        let charge = self.charge.as_ref();
        if let Some(reported) = charge.and_then(Charge::service_tier) {
            return Tiers::from(Some(reported.as_ref()));
        }
        let reader = self.seen.reader.as_ref();
        reader.map_or_else(Tiers::default, |reader| reader.service_tiers())
    }

    /// The error that is told instead of an answer, or of the rest of it, if nobody has counted
    /// what all of it used. Providers that have begun to answer with 200 can report a failure in no
    /// other way.
    pub(super) fn told_error(&mut self) -> Option<ToldError> {
        let is_reported = |charge: &Charge| charge.cost().is_some() || charge.counts_tokens();
        if self.seen.cost.is_some() || self.charge.as_ref().is_some_and(is_reported) {
            return None;
        }
        let reader = self.seen.reader.as_mut()?;
        reader.catch_up();
        reader.error()
    }

    /// What the handler reported.
    pub(super) fn reported<T>(&self, of: impl FnOnce(&Charge) -> Option<T>) -> Option<T> {
        self.charge.as_ref().and_then(of)
    }

    /// The cost of the call. Only answers below 400 (in gRPC: with status OK) cost anything. A
    /// client that left before there was an answer pays what the handler had set or counted by
    /// then.
    pub(super) fn cost(&self, outcome: Outcome, held: Money) -> Cost {
        if self.seen.has_failed() {
            return Cost::reported(Money::ZERO);
        }
        let charging = match outcome {
            Outcome::Failed => self.failed(),
            Outcome::Disconnected => self.left(),
            _ => {
                let used = self.used(outcome, held).map(Cost::reported);
                return used.unwrap_or_else(|| Cost::estimated(self.missing(held)));
            }
        };
        match charging {
            Charging::Nothing => Cost::reported(Money::ZERO),
            Charging::Hold => Cost::reported(held),
            Charging::Counted => match self.used(outcome, held) {
                Some(used) => Cost::reported(used),
                None if self.is_answered() => {
                    Cost::estimated(self.price.cost_at_most(held, &self.counts()))
                }
                None => Cost::reported(Money::ZERO),
            },
        }
    }

    fn left(&self) -> Charging {
        let terms = &self.shared.terms;
        let unanswered = terms.unanswered.filter(|_| !self.is_answered());
        unanswered.unwrap_or(terms.disconnected)
    }

    fn failed(&self) -> Charging {
        let terms = &self.shared.terms;
        match self.seen.error {
            Some(ToldError::NoAnswer) => return terms.failed,
            // A client may be able to bring that about.
            Some(ToldError::AfterPart) => return terms.broken.unwrap_or(Charging::Counted),
            None => {}
        }
        let delivered = self.seen.is_broken() && self.seen.bytes > 0;
        let broken = terms.broken.filter(|_| delivered);
        broken.unwrap_or(terms.failed)
    }

    fn missing(&self, held: Money) -> Money {
        match self.shared.terms.missing {
            MissingUsage::ChargeHold => self.price.sufficient_hold(held, &self.counts()),
            MissingUsage::ChargeNothing => Money::ZERO,
        }
    }

    fn is_answered(&self) -> bool {
        self.seen.status.is_some()
    }

    /// The cost that the handler or a header reported.
    pub(super) fn reported_cost(&self) -> Option<Money> {
        self.reported(Charge::cost).or(self.seen.cost)
    }

    /// The cost of what was reported or counted. A price that needs no count applies once there is
    /// an answer. If only the beginning was counted, what was sent counts too.
    pub(super) fn used(&self, outcome: Outcome, held: Money) -> Option<Money> {
        if let Some(cost) = self.reported_cost() {
            return Some(cost);
        }
        let counts = self.counts();
        match counts.tokens {
            None if !self.is_answered() => None,
            Some(_) if self.is_answered() && !self.counted_all(outcome) => {
                Some(self.price.cost_at_most(held, &counts))
            }
            _ => self.price.counted(&counts),
        }
    }

    pub(super) fn counts(&self) -> Counts<'_> {
        Counts {
            tokens: self.tokens(),
            bytes: self.seen.bytes,
            produced: self.seen.produced(),
            model: self.model().map(AsRef::as_ref),
            tier: self.service_tiers(),
            request: self.demand(),
        }
    }

    /// Whether the counted tokens are complete.
    pub(super) fn counted_all(&self, outcome: Outcome) -> bool {
        let is_over = outcome == Outcome::Completed;
        let charge = self.charge.as_ref();
        if let Some(charge) = charge.filter(|charge| charge.counts_tokens()) {
            return is_over || charge.reports_output();
        }
        let reader = self.seen.reader.as_ref();
        match reader.filter(|reader| reader.tokens().is_some()) {
            Some(reader) => reader.are_final(is_over),
            None => is_over && self.tokens().is_some_and(|parts| !parts.input_is_unknown),
        }
    }
}
