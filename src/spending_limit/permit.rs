//! The proof that a request is paid for, on its way from the decision into the body of the answer.

use http::{Extensions, HeaderMap};

use super::{Charge, open_hold::OpenHold, terms::CostHeaders};
use crate::{
    domain::usage::Outcome,
    guard::{BodyEnd, Meter, Permit, ResponseMarks, Tail},
    store::StoreFuture,
    wire::grpc_has_failed,
};

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

    fn trailers(&mut self, trailers: &mut HeaderMap) {
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
