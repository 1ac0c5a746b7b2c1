//! The proof that a request is paid for. It travels from the decision into the body of the answer.

use http::{Extensions, HeaderMap};

use super::{Charge, open_hold::OpenHold, terms::CostHeaders};
use crate::{
    domain::usage::Outcome,
    guard::{BodyEnd, Meter, Permit, ResponseMarks, Tail},
    store::StoreFuture,
};

/// The proof that a request is paid for; it settles when dropped. Boxed, because it is large and
/// moves from the decision into the response future and on into the body.
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
        // An outer spending layer or token limit may have added one already: what the handler
        // reports counts for all of them.
        self.0.charge = Some(extensions.get_or_insert_with(Charge::new).clone());
        if let Some(held) = self.0.held_use() {
            held.tell(extensions);
        }
    }

    fn mark_response(mut self, response: ResponseMarks<'_>) -> Tail<SpendingMeter> {
        self.0.note_head(response.status, response.headers);
        self.0.note_upgrade();
        if self.0.shared.terms.headers == CostHeaders::On {
            self.0.write_cost_headers(response.headers);
        }
        self.0.keep_head(response.status, response.headers);
        if self.0.seen.has_failed() {
            // It costs nothing, whatever its body says; an outer layer may rewrite the body.
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

/// Settles when the body has ended. If dropped earlier, it settles for a client that disconnected.
#[derive(Debug)]
pub struct SpendingMeter(Box<OpenHold>);

impl Meter for SpendingMeter {
    fn data(&mut self, piece: &[u8]) {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.0.seen.bytes = self.0.seen.bytes.saturating_add(length);
        if let Some(reader) = &mut self.0.seen.reader {
            reader.feed(piece);
        }
        self.0.seen.call.feed(piece);
        if let Some(recording) = &mut self.0.recording {
            recording.data(piece);
        }
        self.0.keep_alive();
    }

    /// These bytes are charged, but usage in them is not parsed, and an answer that can't be
    /// repeated isn't kept.
    fn unseen(&mut self, bytes: usize) {
        let length = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.0.seen.bytes = self.0.seen.bytes.saturating_add(length);
        if let Some(reader) = &mut self.0.seen.reader {
            reader.skip(bytes);
        }
        self.0.seen.call.skip(bytes);
        if let Some(recording) = &mut self.0.recording {
            recording.give_up();
        }
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        self.0.seen.call.trailers(trailers);
        if let Some(recording) = &mut self.0.recording {
            recording.trailers(trailers);
        }
    }

    fn end(mut self, how: BodyEnd) -> Option<StoreFuture<()>> {
        self.0.seen.error = self.0.told_error();
        let seen = &mut self.0.seen;
        seen.body_failed |= how == BodyEnd::Failed;
        let failed = seen.is_broken() || seen.has_failed() || seen.error.is_some();
        if seen.call.is_open()
            && let Some(recording) = &mut self.0.recording
        {
            // Its trailers were lost on the way here: not an answer to repeat.
            recording.give_up();
        }
        self.0.settle(if failed {
            Outcome::Failed
        } else {
            Outcome::Completed
        })
    }
}
