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

    /// Counts the output too, up to `most` tokens: see [`output_at_most`](Self::output_at_most).
    pub(crate) fn counting(mut self, most: u64) -> Self {
        self.produced = Some(match self.kind {
            Kind::Json(_) => Produced::of_json(most),
            Kind::Events(_) => Produced::of_events(most),
        });
        self
    }

    /// Finds out whether anything was written after a count, and counts no more than that takes.
    pub(crate) fn telling_what_follows(self) -> Self {
        self.counting(covered::MARKS.saturating_add(1))
    }

    /// Bytes pass that can't be seen.
    pub(crate) fn skip(&mut self, bytes: usize) {
        if let Some(produced) = &mut self.produced {
            produced.skip(bytes);
        }
    }

    /// The most output tokens that what has passed can be, whatever it says of its usage; no more
    /// than there was to count up to. `None` if it isn't counted.
    #[cfg(test)]
    pub(crate) fn produced(&self) -> Option<u64> {
        let produced = self.produced.as_ref()?;
        Some(produced.tokens().min(produced.most()))
    }

    /// The most output tokens that there can have been: what was counted and what came after, or
    /// all that has passed where no count says much; not all of it, if it is more than there was to
    /// count up to. `None` if it isn't counted.
    pub(crate) fn output_at_most(&self) -> Option<u64> {
        let produced = self.produced.as_ref()?;
        let (found, written) = (self.found(), produced.tokens());
        let is_in_order = self.is_in_order(produced);
        Some(self.covered.output_at_most(found, is_in_order, written))
    }

    pub(crate) fn feed(&mut self, piece: &[u8]) {
        if let Kind::Events(events) = &mut self.kind {
            events.keep_end(piece);
        }
        match &mut self.produced {
            Some(produced) => self.kind.feed_with(produced, &mut self.covered, piece),
            None => {
                self.kind.feed(piece);
            }
        }
    }

    /// The error that the answer is, or that it ended with, though its status was good. `None` if
    /// it counts what all of it used.
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
        self.found().tokens()
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
                let is_whole = || found.is_whole(found.tokens()) && self.is_covered();
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
        self.produced.as_ref().is_none_or(|produced| {
            let (found, is_in_order) = (self.found(), self.is_in_order(produced));
            self.covered.is_all(found, is_in_order, produced.tokens())
        })
    }

    /// Whether a count covers what came before it, as far as that is known. An object of JSON is
    /// written before any of it is sent.
    fn is_in_order(&self, produced: &Produced) -> bool {
        let is_object = matches!(self.kind, Kind::Json(_)) && !self.found().is_list();
        is_object || !produced.is_blind()
    }

    fn found(&self) -> &Members {
        self.kind.found()
    }
}

impl Kind {
    /// Whether there may have been a `usage` in what has ended.
    fn feed(&mut self, piece: &[u8]) -> bool {
        let events = match self {
            Self::Json(scanner) => {
                scanner.feed(piece);
                return true;
            }
            Self::Events(events) => events,
        };
        let (mut rest, mut has_counted) = (piece, false);
        while !rest.is_empty() {
            rest = events.feed(rest);
            has_counted |= events.has_counted();
        }
        has_counted
    }

    /// Event by event, so that it is known what came after a count. Once as much was written as
    /// there is to count up to, only counts are searched for, and after each it is counted again.
    fn feed_with(&mut self, produced: &mut Produced, covered: &mut Covered, piece: &[u8]) {
        let mut rest = piece;
        while !rest.is_empty() {
            let has_counted;
            if let Self::Events(events) = self
                && covered.is_full()
            {
                rest = events.feed(rest);
                has_counted = events.has_counted();
            } else {
                let behind = produced.feed_event(rest);
                let (event, _) = rest.split_at(rest.len().saturating_sub(behind.len()));
                has_counted = self.feed(event);
                rest = behind;
                if !produced.is_at_end() {
                    continue;
                }
            }
            if has_counted {
                covered.end_count(self.found(), produced.tokens());
            }
            covered.end_event(produced.tokens(), produced.most());
        }
    }

    fn found(&self) -> &Members {
        match self {
            Self::Json(scanner) => scanner.found(),
            Self::Events(events) => events.found(),
        }
    }
}

impl fmt::Debug for UsageReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UsageReader({:?})", self.tokens())
    }
}
