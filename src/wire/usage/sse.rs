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

use memchr::{memchr2_iter, memmem::Finder, memrchr2_iter};

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
    /// What was fed last ended with an event that has a `usage`.
    has_counted: bool,
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
            has_counted: false,
        }
    }

    /// What was found. If the stream may have ended within an event, call
    /// [`catch_up`](Self::catch_up) first.
    pub(super) fn found(&self) -> &Members {
        self.scanner.found()
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

    /// Keeps what may be the end of the stream.
    #[inline]
    pub(super) fn keep_end(&mut self, piece: &[u8]) {
        if let Some(end) = &mut self.end {
            end.keep(piece);
        }
    }

    /// Reads to the end of the next event with a `usage`, and returns what follows it.
    #[inline]
    pub(super) fn feed<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        self.has_counted = false;
        // This single search is nearly the whole cost of a stream.
        let tells = self.reads_on || self.needle.find(piece).is_some();
        if tells || !self.passes_by(piece) {
            return self.look_at(piece);
        }
        &[]
    }

    /// Whether what was fed last ended with an event that has a `usage`.
    pub(super) const fn has_counted(&self) -> bool {
        self.has_counted
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
        if needle_is_across(&self.kept, piece) || is_blank(self.kept.last(), piece.first()) {
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
    fn look_at<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let mut rest = piece;
        if !self.lines.are_between() {
            rest = self.read_event(rest);
            if self.lines.are_between() {
                self.end_event();
            }
        }
        if !self.kept.is_empty() && !self.has_counted {
            rest = self.end_kept(rest);
        }
        while !rest.is_empty() && !self.has_counted {
            rest = self.look_on(rest);
        }
        self.reads_on =
            self.naming > 0 || !self.lines.are_between() || self.needle.find(&self.kept).is_some();
        rest
    }

    fn keep_or_read(&mut self, cut: &[u8]) {
        if cut.len() <= KEPT_MAX {
            self.kept.extend_from_slice(cut);
        } else {
            self.read(cut);
        }
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
            if self.naming > 0 || self.needle.find(&kept).is_some() {
                self.read(&kept);
            }
            kept.clear();
            self.kept = kept;
        }
        behind
    }

    /// Parses the next event that matters, and returns what follows it. What is behind that isn't
    /// looked at, so that a piece full of counts takes no longer than it is.
    fn look_on<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let counts = match self.naming > 0 {
            true => Some(0),
            false => self.needle.find(piece),
        };
        let (before, _) = piece.split_at(counts.unwrap_or(piece.len()));
        let (_, event) = piece.split_at(end_of_events(before));
        match counts.and_then(|_| end_of_kept(&[], event)) {
            Some(end) => {
                let (event, behind) = event.split_at(end);
                self.read(event);
                behind
            }
            None => {
                self.keep_or_read(event);
                &[]
            }
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
            self.has_counted |= self.scanner.begin_anew();
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

/// Whether a line that ended with `kept` is followed by a blank one, which ends with this byte. The
/// LF of a CRLF ends no other line.
fn is_blank(before: Option<&u8>, byte: Option<&u8>) -> bool {
    match byte {
        Some(b'\n') => before == Some(&b'\n'),
        Some(b'\r') => matches!(before, Some(b'\n' | b'\r')),
        _ => false,
    }
}

/// The end of the last whole event: after a blank line, and its LF if that is there.
fn end_of_events(piece: &[u8]) -> usize {
    let byte_at = |at: Option<usize>| at.and_then(|at| piece.get(at));
    for at in memrchr2_iter(b'\n', b'\r', piece) {
        let (before, byte) = (byte_at(at.checked_sub(1)), piece.get(at));
        let ends_pair = byte == Some(&b'\n') && before == Some(&b'\r');
        let blank = match ends_pair {
            true => is_blank(byte_at(at.checked_sub(2)), before),
            false => is_blank(before, byte),
        };
        if blank {
            return at.saturating_add(1);
        }
    }
    0
}

/// The end, in `piece`, of the event that starts with `kept`: after the first blank line.
fn end_of_kept(kept: &[u8], piece: &[u8]) -> Option<usize> {
    let end = memchr2_iter(b'\n', b'\r', piece).find(|at| {
        let before = match at.checked_sub(1) {
            Some(before) => piece.get(before),
            None => kept.last(),
        };
        is_blank(before, piece.get(*at))
    })?;
    let (_, last) = piece.split_at(end);
    let length = if last.starts_with(b"\r\n") { 2 } else { 1 };
    Some(end.saturating_add(length))
}
