//! Reads a JSON text while it passes, without keeping it.

use super::members::{Members, TEXT_MAX};

#[derive(Clone, Copy, Debug, Default)]
enum Inside {
    #[default]
    Structure,
    Text,
    /// After a backslash.
    Escape,
    Number(Number),
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Whole(u64),
    /// The same, and a point that only zeros follow.
    Point(u64),
    /// It can't be a count, or is too large.
    Other,
}

impl Number {
    fn then(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Whole(count), b'0'..=b'9') => {
                let digit = u64::from(byte.wrapping_sub(b'0'));
                let count = count.checked_mul(10);
                let count = count.and_then(|count| count.checked_add(digit));
                count.map_or(Self::Other, Self::Whole)
            }
            (Self::Whole(count), b'.') | (Self::Point(count), b'0') => Self::Point(count),
            _ => Self::Other,
        }
    }

    fn count(self) -> Option<u64> {
        match self {
            Self::Whole(count) | Self::Point(count) => Some(count),
            Self::Other => None,
        }
    }
}

/// Reads JSON in pieces, cut anywhere. In anything else it finds nothing, and it never keeps more
/// than a few hundred bytes.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    found: Members,
    inside: Inside,
    /// The last string read, as far as it can matter.
    text: Vec<u8>,
}

impl Scanner {
    /// For the events of a stream.
    pub(super) fn of_events() -> Self {
        Self {
            found: Members::of_events(),
            ..Self::default()
        }
    }

    pub(super) fn found(&self) -> &Members {
        &self.found
    }

    /// From here on only counts in other shapes than Gemini's are searched for.
    pub(super) fn rule_out_gemini(&mut self) {
        self.found.rule_out_gemini();
    }

    /// Forgets its position, and keeps what it has found. Whether there was a `usage` since this
    /// was done last.
    pub(super) fn begin_anew(&mut self) -> bool {
        self.end_number();
        self.inside = Inside::Structure;
        self.found.begin_anew()
    }

    pub(super) fn feed(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = match self.inside {
                Inside::Text => self.read_text(rest),
                Inside::Escape => {
                    self.forget_text();
                    self.inside = Inside::Text;
                    behind
                }
                Inside::Number(number) if is_of_number(byte) => {
                    self.inside = Inside::Number(number.then(byte));
                    behind
                }
                Inside::Number(_) => {
                    self.end_number();
                    rest
                }
                Inside::Structure => {
                    self.structure(byte);
                    behind
                }
            };
        }
    }

    /// Reads to the end of a string, or of the piece.
    fn read_text<'a>(&mut self, mut rest: &'a [u8]) -> &'a [u8] {
        loop {
            let Some(end) = memchr::memchr2(b'"', b'\\', rest) else {
                self.keep(rest);
                return &[];
            };
            let (text, behind) = rest.split_at(end);
            self.keep(text);
            match behind {
                [b'"', behind @ ..] => {
                    self.inside = Inside::Structure;
                    self.found.text(&self.text);
                    return behind;
                }
                [_, _, behind @ ..] => {
                    self.forget_text();
                    rest = behind;
                }
                _ => {
                    self.inside = Inside::Escape;
                    return &[];
                }
            }
        }
    }

    /// Keeps enough of a string to identify it, or to show that it is too long.
    fn keep(&mut self, text: &[u8]) {
        let room = TEXT_MAX.saturating_add(1).saturating_sub(self.text.len());
        if room > 0 {
            self.text
                .extend_from_slice(text.get(..room).unwrap_or(text));
        }
    }

    /// Forgets the string: a key or a name with an escape never matters.
    fn forget_text(&mut self) {
        self.text.resize(TEXT_MAX.saturating_add(1), 0);
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.text.clear();
                self.inside = Inside::Text;
            }
            b':' => self.found.name(&mut self.text),
            b',' => self.found.next(),
            b'{' | b'[' => self.found.open(byte == b'{'),
            b'}' | b']' => self.found.close(),
            b'-' => self.inside = Inside::Number(Number::Other),
            b'0'..=b'9' => self.inside = Inside::Number(Number::Whole(0).then(byte)),
            b't' | b'f' => self.found.note_unreadable(),
            _ => {}
        }
    }

    fn end_number(&mut self) {
        if let Inside::Number(number) = self.inside {
            self.inside = Inside::Structure;
            self.found.number(number.count());
        }
    }
}

fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-')
}
