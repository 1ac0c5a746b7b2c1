//! What the latest count of a stream covers.
//!
//! A count covers what was written up to the end of its event. Most come last, and some in every
//! event; but one that comes early, with more written after it, isn't the count of the whole. One
//! that is only repeated, though more was written, covers nothing of that; nor does a usage that
//! leaves the output to an earlier one.

use super::members::Members;
use crate::domain::charge::Tokens;

/// So many tokens after a count are no more of the answer, but marks of its end: `[DONE]`, or an
/// event that says so.
pub(super) const MARKS: u64 = 16;

/// How much had been written when the tokens were last counted.
#[derive(Debug)]
pub(super) struct Covered {
    tokens: Option<Tokens>,
    is_whole: bool,
    written: u64,
    is_full: bool,
}

impl Covered {
    pub(super) const fn new() -> Self {
        Self {
            tokens: None,
            is_whole: false,
            written: 0,
            is_full: false,
        }
    }

    /// An event with a `usage` has ended, and so much was written by then.
    #[cold]
    pub(super) fn end_count(&mut self, found: &Members, written: u64) {
        let tokens = found.tokens();
        if tokens.is_some() && tokens != self.tokens {
            self.tokens = tokens;
            if found.counts_output() {
                self.written = written;
            }
        }
        self.is_whole = found.is_whole(tokens);
    }

    /// An event has ended, so much was written by then, and no more than so much matters.
    pub(super) fn end_event(&mut self, written: u64, most: u64) {
        let after = written.saturating_sub(self.written);
        let is_all = self.is_whole && after <= MARKS;
        let output = most_of(self.tokens, self.is_whole, after, written);
        // The next count may be lower, and say less.
        self.is_full = written >= most && output >= most && !is_all;
    }

    /// Whether nothing that is written changes what is charged, unless another count comes. That is
    /// only found at the end of an event, so that it doesn't depend on how the stream is cut.
    #[inline]
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    /// The most output tokens that there can have been: what was counted and what came after, or
    /// all that has passed where no count says much.
    pub(super) fn output_at_most(&self, found: &Members, is_in_order: bool, written: u64) -> u64 {
        // One that can't be read doesn't unsay what was counted before.
        let tokens = found.tokens().or(self.tokens);
        let after = self.written_after(found, is_in_order, written);
        most_of(tokens, found.is_whole(tokens), after, written)
    }

    /// Whether nothing of the answer came after the latest count.
    pub(super) fn is_all(&self, found: &Members, is_in_order: bool, written: u64) -> bool {
        self.written_after(found, is_in_order, written) <= MARKS
    }

    /// How much was written after these tokens were counted. Those of an event that hasn't ended
    /// cover what it has had.
    fn written_after(&self, found: &Members, is_in_order: bool, written: u64) -> u64 {
        let tokens = found.tokens();
        let is_newer = tokens.is_some() && tokens != self.tokens && found.counts_output();
        match is_in_order && is_newer {
            true => 0,
            false => written.saturating_sub(self.written),
        }
    }
}

fn most_of(tokens: Option<Tokens>, is_whole: bool, after: u64, written: u64) -> u64 {
    let Some(counted) = tokens else {
        return written;
    };
    let output = counted.output.saturating_add(after);
    match is_whole {
        true => output,
        false => output.max(written),
    }
}
