//! Reads the usage that an answer reports, in passing: nothing is delayed, and little is kept.

mod counts;
mod covered;
mod end;
mod envelope;
mod json;
mod lines;
mod members;
mod part;
mod produced;
mod section;
mod sse;
#[cfg(test)]
mod tests;
mod text;

use std::{fmt, sync::Arc};

use http::{HeaderMap, header::CONTENT_TYPE};

use self::{covered::Covered, json::Scanner, members::Members, produced::Produced, sse::Events};
use super::encoding::is_encoded;
use crate::domain::charge::{Tiers, Tokens};

/// What came before an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToldError {
    /// Nothing.
    NoAnswer,
    /// Part of the answer.
    AfterPart,
}

/// Reads one body.
pub(crate) struct UsageReader {
    kind: Kind,
    /// Set if the output is counted that no usage counts.
    produced: Option<Produced>,
    covered: Covered,
}

enum Kind {
    Json(Scanner),
    Events(Events),
}

impl UsageReader {
    const fn of(kind: Kind) -> Self {
        Self {
            kind,
            produced: None,
            covered: Covered::new(),
        }
    }

    /// The reader for a body with these headers; `None`: nothing can be read in it.
    pub(crate) fn for_body(headers: &HeaderMap) -> Option<Self> {
        if is_encoded(headers) {
            return None;
        }
        let media_type = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let suffix = essence.rsplit_once('+').map(|(_, suffix)| suffix);
        if is("text/event-stream") {
            Some(Self::of(Kind::Events(Events::new())))
        } else if is("application/json")
            || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("json"))
        {
            Some(Self::of(Kind::Json(Scanner::default())))
        } else {
            None
        }
    }

    /// Finds [errors](Self::error) too, for which the end of a stream is kept.
    pub(crate) fn with_errors(mut self) -> Self {
        if let Kind::Events(events) = &mut self.kind {
            events.look_for_errors();
        }
        self
    }

    /// Counts the output too, up to `most` tokens: see [`produced`](Self::produced).
    pub(crate) fn counting(mut self, most: u64) -> Self {
        self.produced = Some(match self.kind {
            Kind::Json(_) => Produced::of_json(most),
            Kind::Events(_) => Produced::of_events(most),
        });
        self
    }

    /// Bytes pass that can't be seen.
    pub(crate) fn skip(&mut self, bytes: usize) {
        if let Some(produced) = &mut self.produced {
            produced.skip(bytes);
        }
    }

    /// The most output tokens that what has passed can be, whatever it says of its usage; no more
    /// than there was to count up to. `None` if it isn't counted.
    pub(crate) fn produced(&self) -> Option<u64> {
        self.produced.as_ref().map(Produced::tokens)
    }

    /// The most output tokens that there can have been: what was counted and what came after, or
    /// all that has passed where no count says much.
    pub(crate) fn output_at_most(&self) -> Option<u64> {
        let written = self.produced()?;
        let tokens = self.tokens();
        let Some(counted) = tokens else {
            return Some(written);
        };
        let after = self.covered.written_after(tokens, written);
        let output = counted.output.saturating_add(after);
        Some(match self.found().is_final() && has_both(counted) {
            true => output,
            false => output.max(written),
        })
    }

    pub(crate) fn feed(&mut self, piece: &[u8]) {
        match &mut self.kind {
            Kind::Json(scanner) => {
                if let Some(produced) = &mut self.produced {
                    produced.feed(piece);
                }
                scanner.feed(piece);
            }
            Kind::Events(events) => match &mut self.produced {
                None => {
                    events.feed(piece);
                }
                Some(produced) => feed_both(events, produced, &mut self.covered, piece),
            },
        }
    }

    /// The error that the answer is, or that it ended with, though its status was good. `None` if it
    /// counts what all of it used.
    pub(crate) fn error(&self) -> Option<ToldError> {
        match &self.kind {
            Kind::Json(scanner) => scanner.found().broke_off().then_some(ToldError::NoAnswer),
            Kind::Events(events) => events.error(),
        }
    }

    /// Reads what was kept of an incomplete event, since no more may come.
    pub(crate) fn catch_up(&mut self) {
        if let Kind::Events(events) = &mut self.kind {
            events.catch_up();
        }
    }

    /// The tokens of the last `usage` seen; counts that it doesn't name are those of the one
    /// before.
    pub(crate) fn tokens(&self) -> Option<Tokens> {
        self.found().usage().tokens()
    }

    /// Whether these cover the whole answer, and not only what had been used when a stream began.
    /// The end of a stream proves nothing: it may have been cut further in. Nor does a count
    /// without input or output in a stream that was left early: some providers write zeros into
    /// every event but the last.
    pub(crate) fn are_final(&self, is_over: bool) -> bool {
        let found = self.found();
        match &self.kind {
            Kind::Json(_) if !found.is_list() => found.is_final() || is_over,
            Kind::Json(_) | Kind::Events(_) => {
                let is_whole = || self.tokens().is_some_and(has_both) && self.is_covered();
                found.is_final() && (is_over || is_whole())
            }
        }
    }

    /// The model that the answer names.
    pub(crate) fn model(&self) -> Option<&Arc<str>> {
        self.found().model()
    }

    /// The provider's tiers that the answer names.
    pub(crate) fn service_tiers(&self) -> Tiers<'_> {
        self.found().service_tiers()
    }

    /// Whether nothing was written after the latest count, as far as that is known.
    fn is_covered(&self) -> bool {
        let written = self.produced();
        written.is_none_or(|written| self.covered.is_all(self.tokens(), written))
    }

    fn found(&self) -> &Members {
        match &self.kind {
            Kind::Json(scanner) => scanner.found(),
            Kind::Events(events) => events.found(),
        }
    }
}

fn has_both(tokens: Tokens) -> bool {
    tokens.tells_input() && tokens.output > 0
}

/// Event by event, so that it is known what came after a count. Once as much was written as there
/// is to count up to, the rest is one piece.
fn feed_both(events: &mut Events, produced: &mut Produced, covered: &mut Covered, piece: &[u8]) {
    let mut rest = piece;
    while !rest.is_empty() {
        if produced.is_full() {
            if events.feed(rest) {
                covered.end_stream(events.found().usage().tokens());
            }
            return;
        }
        // It may belong to the CR that ended the last event.
        let is_feed = rest.starts_with(b"\n") && produced.is_at_end();
        let (event, _) = rest.split_at(if is_feed { 1 } else { rest.len() });
        let read = event.len().saturating_sub(produced.feed_event(event).len());
        let (event, behind) = rest.split_at(read);
        events.feed(event);
        if produced.is_at_end() {
            let tokens = events.found().usage().tokens();
            covered.end_event(tokens, produced.tokens(), events.are_read());
        }
        rest = behind;
    }
}

impl fmt::Debug for UsageReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UsageReader({:?})", self.tokens())
    }
}
