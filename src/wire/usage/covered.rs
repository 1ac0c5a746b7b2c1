//! What the latest count of a stream covers.
//!
//! A count covers what was written up to the end of its event. Most come last, and some in every
//! event; but one that comes early, with more written after it, isn't the count of the whole.

use crate::domain::charge::Tokens;

/// So many tokens after a count are no more of the answer, but marks of its end: `[DONE]`, or an
/// event that says so.
const MARKS: u64 = 16;

/// How much had been written when the tokens were last counted.
#[derive(Debug)]
pub(super) struct Covered {
    tokens: Option<Tokens>,
    written: u64,
    /// What had been written at the end of the last event, and whether it had been read for counts
    /// by then; and what had been when that was so.
    ended: u64,
    is_level: bool,
    level: u64,
}

impl Covered {
    pub(super) const fn new() -> Self {
        Self {
            tokens: None,
            written: 0,
            ended: 0,
            is_level: true,
            level: 0,
        }
    }

    /// An event has ended, and so much was written by then. `is_level`: it was read to its end.
    pub(super) fn end_event(&mut self, tokens: Option<Tokens>, written: u64, is_level: bool) {
        if tokens != self.tokens {
            // Of a count that is found late it isn't known which event it came in, unless nothing was
            // written since the last: the LF of a CRLF belongs to it.
            let is_in_time = self.is_level || written == self.ended;
            self.written = if is_in_time { written } else { self.level };
            self.tokens = tokens;
        }
        (self.ended, self.is_level) = (written, is_level);
        if is_level {
            self.level = written;
        }
    }

    /// No more is counted of what is written.
    pub(super) fn end_stream(&mut self, tokens: Option<Tokens>) {
        if tokens != self.tokens {
            (self.tokens, self.written) = (tokens, u64::MAX);
        }
    }

    /// How much was written after these tokens were counted. Those of an event that hasn't ended
    /// cover what it has had.
    pub(super) fn written_after(&self, tokens: Option<Tokens>, written: u64) -> u64 {
        let covered = match tokens == self.tokens {
            true => self.written,
            false if self.is_level => written,
            false => self.level,
        };
        written.saturating_sub(covered)
    }

    /// Whether nothing of the answer came after them.
    pub(super) fn is_all(&self, tokens: Option<Tokens>, written: u64) -> bool {
        self.written_after(tokens, written) <= MARKS
    }
}
