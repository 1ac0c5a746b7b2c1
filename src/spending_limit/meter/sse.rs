//! Finds `usage` in the events of a `text/event-stream` while they pass (HTML, 9.2.6).
//!
//! Nearly all bytes of a stream are in events that tell no usage. Those that lie whole in one piece are
//! looked at by a vectorised search alone; only what holds a token count, or is cut by the end of a piece, is read.

use std::sync::LazyLock;

use memchr::{memmem::Finder, memrchr_iter};

use super::json::Scanner;

/// All counts end so, and `"usage": null`, which may stand in every event, doesn't. A quotation mark
/// within a string is escaped.
static NEEDLE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("_tokens\""));

const DATA: &[u8] = b"data:";

#[derive(Clone, Copy, Debug)]
enum Line {
    /// So many bytes of `data:` were there.
    Name(usize),
    /// Behind `data:`.
    Data,
    /// Another field, or a comment.
    Other,
}

#[derive(Debug)]
pub(super) struct Events {
    scanner: Scanner,
    line: Line,
    /// The last line's end was a CR: an LF that follows belongs to it.
    after_return: bool,
    /// At the start of an event: what was before can't matter any more.
    between: bool,
}

impl Events {
    pub(super) fn new() -> Self {
        Self {
            scanner: Scanner::default(),
            line: Line::Name(0),
            after_return: false,
            between: true,
        }
    }

    pub(super) fn scanner(&self) -> &Scanner {
        &self.scanner
    }

    pub(super) fn feed(&mut self, piece: &[u8]) {
        let mut rest = piece;
        if !self.between {
            rest = self.read_event(rest);
        }
        if !self.between {
            return;
        }
        let (whole, tail) = rest.split_at(end_of_events(rest));
        let mut whole = whole;
        while let Some(at) = NEEDLE.find(whole) {
            let (before, _) = whole.split_at(at);
            let (_, event) = whole.split_at(end_of_events(before));
            whole = self.read_event(event);
        }
        let mut tail = tail;
        while !tail.is_empty() {
            tail = self.read_event(tail);
        }
    }

    /// Reads to the end of the event, and returns what is behind it.
    fn read_event<'a>(&mut self, mut rest: &'a [u8]) -> &'a [u8] {
        while let Some((&byte, behind)) = rest.split_first() {
            if std::mem::take(&mut self.after_return) && byte == b'\n' {
                rest = behind;
                continue;
            }
            match (byte, self.line) {
                (b'\n' | b'\r', line) => {
                    self.after_return = byte == b'\r';
                    self.line = Line::Name(0);
                    rest = behind;
                    if let Line::Name(0) = line {
                        self.between = true;
                        self.scanner.begin_anew();
                        return rest;
                    }
                }
                (_, Line::Name(matched)) => {
                    self.between = false;
                    self.line = match DATA.get(matched) {
                        Some(&expected) if expected == byte => {
                            let matched = matched.saturating_add(1);
                            if matched == DATA.len() {
                                Line::Data
                            } else {
                                Line::Name(matched)
                            }
                        }
                        _ => Line::Other,
                    };
                    rest = behind;
                }
                (_, line) => {
                    let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    let (text, behind) = rest.split_at(end);
                    if let Line::Data = line {
                        self.scanner.feed(text);
                    }
                    rest = behind;
                }
            }
        }
        rest
    }
}

/// Where the last event that is whole ends: behind a blank line. Streams whose lines end in CR alone
/// have none that is found here, and are read byte by byte.
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
