//! Finds `usage` in the events of a `text/event-stream` in passing (HTML, 9.2.6).
//!
//! Nearly all bytes of a stream are in events without usage. Those only pass a vectorised search, a
//! piece at a time, wherever it is cut; only events with a token count are parsed. So an event that
//! is cut by the end of a piece is kept until its end comes, since its counts may come later. One
//! that is too long for that is parsed as it comes.
//!
//! Gemini's counts are named differently, and are in every event. Its first event shows the shape,
//! and from then on all are parsed, so nobody else's streams are searched for two kinds of names.

use std::sync::LazyLock;

use memchr::{memchr_iter, memmem::Finder, memrchr_iter};

use super::{
    ToldError,
    end::End,
    json::Scanner,
    lines::{Lines, Shown},
    members::Members,
};

/// All counts end like this, and `"usage": null`, which may be in every event, doesn't. Quotation
/// marks within strings are escaped.
static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(NEEDLE));
const NEEDLE: &[u8] = b"_tokens\"";

/// The most that is kept of an event.
const KEPT_MAX: usize = 8_192;

/// One of this many events with data at the start of a stream names the model.
const NAMING_MAX: u8 = 8;

#[derive(Debug)]
pub(super) struct Events {
    scanner: Scanner,
    lines: Lines,
    /// The next piece is parsed, whatever it has: it continues what is parsed or may have a count,
    /// or no model is named yet.
    reads_on: bool,
    /// The start of an event that isn't parsed yet.
    kept: Vec<u8>,
    /// How many more events are parsed even without a count, until a model is named. In Gemini's
    /// shape there is no end to it.
    naming: u8,
    /// Set if errors are looked for.
    end: Option<End>,
    /// A reference at hand, for searching short pieces.
    needle: &'static Finder<'static>,
}

impl Events {
    pub(super) fn new() -> Self {
        Self {
            scanner: Scanner::of_events(),
            lines: Lines::new(),
            reads_on: true,
            kept: Vec::new(),
            naming: NAMING_MAX,
            end: None,
            needle: &FINDER,
        }
    }

    /// What was found. If the stream may have ended within an event, call
    /// [`catch_up`](Self::catch_up) first.
    pub(super) fn found(&self) -> &Members {
        self.scanner.found()
    }

    /// Whether nothing that has passed is still to be parsed, or its event isn't over.
    pub(super) fn are_read(&self) -> bool {
        self.kept.is_empty() && self.lines.are_between()
    }

    /// The error that the stream ended with, without counts for the whole of it. What was sent
    /// before says nothing about that, so only its end is kept, and parsed once it is over.
    pub(super) fn error(&self) -> Option<ToldError> {
        let end = self.end.as_ref().filter(|_| !self.found().is_final())?;
        let bytes = end.bytes();
        let begun_before = match end.is_cut() {
            true => end_of_kept(&[], &bytes).unwrap_or(bytes.len()),
            false => 0,
        };
        let (_, mut rest) = bytes.split_at(begun_before);
        let mut came_before = end.is_cut();
        let mut error = None;
        let mut events = Self::new();
        while !rest.is_empty() {
            events.scanner = Scanner::of_events();
            rest = events.read_event(rest);
            let told = events.lines.take_told();
            if events.found().broke_off() {
                error = Some(match came_before {
                    true => ToldError::AfterPart,
                    false => ToldError::NoAnswer,
                });
            } else if told && events.found().is_object() {
                (error, came_before) = (None, true);
            }
        }
        error
    }

    pub(super) fn look_for_errors(&mut self) {
        self.end = Some(End::new());
    }

    /// Whether anything was parsed, so that there may be another count.
    #[inline]
    pub(super) fn feed(&mut self, piece: &[u8]) -> bool {
        if let Some(end) = &mut self.end {
            end.keep(piece);
        }
        // This single search is nearly the whole cost of a stream.
        let tells = self.reads_on || self.needle.find(piece).is_some();
        let is_parsed = tells || !self.passes_by(piece);
        if is_parsed {
            self.look_at(piece);
        }
        is_parsed
    }

    /// Whole events change nothing; where each event is sent as it comes, nearly all pieces are
    /// such.
    fn passes_by(&mut self, piece: &[u8]) -> bool {
        (self.kept.is_empty() && piece.ends_with(b"\n\n")) || self.keep_cut(piece)
    }

    /// Keeps the start of the event that is cut by the end of a piece without a count; `false`: the
    /// piece needs a closer look.
    #[inline(never)]
    fn keep_cut(&mut self, piece: &[u8]) -> bool {
        if needle_is_across(&self.kept, piece) || blank_line_is_across(&self.kept, piece) {
            return false;
        }
        let end = end_of_events(piece);
        let (_, cut) = piece.split_at(end);
        let before = if end > 0 { 0 } else { self.kept.len() };
        if before.saturating_add(cut.len()) > KEPT_MAX {
            return false;
        }
        self.kept.truncate(before);
        self.kept.extend_from_slice(cut);
        true
    }

    #[inline(never)]
    fn look_at(&mut self, piece: &[u8]) {
        let mut rest = piece;
        if !self.lines.are_between() {
            rest = self.read_event(rest);
            if self.lines.are_between() {
                self.end_event();
            }
        }
        if !self.kept.is_empty() {
            rest = self.end_kept(rest);
        }
        if !rest.is_empty() {
            let (whole, cut) = rest.split_at(end_of_events(rest));
            self.look_through(whole);
            if cut.len() <= KEPT_MAX {
                self.kept.extend_from_slice(cut);
            } else {
                self.read(cut);
            }
        }
        let kept_tells = self.needle.find(&self.kept).is_some();
        self.reads_on = kept_tells || self.naming > 0 || !self.lines.are_between();
    }

    /// Parses what was kept.
    pub(super) fn catch_up(&mut self) {
        let mut kept = std::mem::take(&mut self.kept);
        self.read(&kept);
        kept.clear();
        self.kept = kept;
        self.reads_on = true;
    }

    /// The piece continues the kept event. Returns what follows that event.
    fn end_kept<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let end = end_of_kept(&self.kept, piece);
        let (more, behind) = piece.split_at(end.unwrap_or(piece.len()));
        if self.kept.len().saturating_add(more.len()) > KEPT_MAX {
            self.catch_up();
            self.read(more);
            return behind;
        }
        self.kept.extend_from_slice(more);
        if end.is_some() {
            let mut kept = std::mem::take(&mut self.kept);
            self.look_through(&kept);
            kept.clear();
            self.kept = kept;
        }
        behind
    }

    /// Parses those of the whole events that matter.
    fn look_through(&mut self, mut whole: &[u8]) {
        while self.naming > 0 && !whole.is_empty() {
            whole = self.read_event(whole);
            self.end_event();
        }
        while let Some(at) = self.needle.find(whole) {
            let (before, _) = whole.split_at(at);
            let (_, event) = whole.split_at(end_of_events(before));
            whole = self.read_event(event);
        }
    }

    /// After an event that was parsed: whether the next one is, whatever it has.
    fn end_event(&mut self) {
        let told = self.lines.take_told();
        self.naming = if self.found().is_gemini() {
            NAMING_MAX
        } else if self.found().model().is_some() {
            0
        } else {
            // Gateways keep a connection open with comments until the model answers.
            self.naming.saturating_sub(u8::from(told))
        };
        if self.naming == 0 {
            self.scanner.rule_out_gemini();
        }
    }

    fn read(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            rest = self.read_event(rest);
            if self.lines.are_between() {
                self.end_event();
            }
        }
    }

    /// Parses to the end of the event, and returns what follows it.
    fn read_event<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let rest = self.lines.read_event(rest, |shown| {
            if let Shown::Data(text) = shown {
                self.scanner.feed(text);
            }
            true
        });
        if self.lines.are_between() {
            self.scanner.begin_anew();
        }
        rest
    }
}

/// Whether the needle begins in `kept` and ends in `piece`.
fn needle_is_across(kept: &[u8], piece: &[u8]) -> bool {
    // Its only underscore is at its start.
    let mut backwards = kept.iter().rev().take(NEEDLE.len().saturating_sub(1));
    let Some(after) = backwards.position(|byte| *byte == b'_') else {
        return false;
    };
    let begun = after.saturating_add(1);
    NEEDLE
        .split_at_checked(begun)
        .is_some_and(|(begin, end)| kept.ends_with(begin) && piece.starts_with(end))
}

/// Whether a blank line starts at the end of `kept`, or in it, and ends in `piece`; neither
/// contains all of it.
fn blank_line_is_across(kept: &[u8], piece: &[u8]) -> bool {
    match piece {
        [b'\n', ..] => kept.ends_with(b"\n") || kept.ends_with(b"\n\r"),
        [b'\r', b'\n', ..] => kept.ends_with(b"\n"),
        _ => false,
    }
}

/// The end of the last whole event: after a blank line. Streams whose lines end in CR alone have
/// none that is found here, and are parsed byte by byte.
fn end_of_events(piece: &[u8]) -> usize {
    let is = |at: Option<usize>, byte| at.and_then(|at| piece.get(at)) == Some(&byte);
    for at in memrchr_iter(b'\n', piece) {
        let before = at.checked_sub(1);
        let blank = is(before, b'\n') || (is(before, b'\r') && is(at.checked_sub(2), b'\n'));
        if blank {
            return at.saturating_add(1);
        }
    }
    0
}

/// The end, in `piece`, of the event that starts with `kept`: after the first blank line.
fn end_of_kept(kept: &[u8], piece: &[u8]) -> Option<usize> {
    let is = |at: usize, back: usize, byte| {
        let found = match at.checked_sub(back) {
            Some(at) => piece.get(at),
            None => kept
                .iter()
                .rev()
                .nth(back.saturating_sub(at).saturating_sub(1)),
        };
        found == Some(&byte)
    };
    let is_blank = |at: &usize| is(*at, 1, b'\n') || (is(*at, 1, b'\r') && is(*at, 2, b'\n'));
    let end = memchr_iter(b'\n', piece).find(is_blank)?;
    Some(end.saturating_add(1))
}
