//! The lines of a `text/event-stream` (HTML, 9.2.6).

const DATA: &[u8] = b"data:";
const COMMENT: &[u8] = b":";
/// What a line begins with; no two with the same letter.
const FIELDS: [&[u8]; 5] = [DATA, b"event:", b"id:", b"retry:", COMMENT];
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

#[derive(Clone, Copy, Debug)]
enum Line {
    /// At the start of the stream, after this many bytes of a byte-order mark.
    Mark(usize),
    /// At its start.
    Start,
    /// After this many bytes of a field's name and colon.
    Name(&'static [u8], usize),
    /// After that.
    Value(&'static [u8]),
    /// In a line that is none of a stream of events.
    Odd,
}

/// What is in a stream's lines.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown<'a> {
    /// A line of data begins.
    Begin,
    /// Data. At its line's start it may have the space that belongs to the field.
    Data(&'a [u8]),
    /// Another field's value.
    Field(&'a [u8]),
    Comment(&'a [u8]),
    /// The line is none of a stream of events; so much of it has been read.
    Odd(usize),
}

/// Where in a stream its reader is.
#[derive(Debug)]
pub(super) struct Lines {
    line: Line,
    /// The last line ended with a CR: an LF that follows belongs to it.
    after_return: bool,
    /// At the start of an event: nothing before it matters any more.
    between: bool,
    /// The event has had a line of data.
    told: bool,
}

impl Lines {
    pub(super) const fn new() -> Self {
        Self {
            line: Line::Mark(0),
            after_return: false,
            between: true,
            told: false,
        }
    }

    /// Whether no event has begun.
    pub(super) const fn are_between(&self) -> bool {
        self.between
    }

    /// Whether there was a line of data since this was asked last.
    pub(super) const fn take_told(&mut self) -> bool {
        std::mem::replace(&mut self.told, false)
    }

    /// How much of a line has been read of which it isn't known what it is.
    pub(super) const fn unknown(&self) -> usize {
        match self.line {
            Line::Mark(read) | Line::Name(_, read) => read,
            Line::Start | Line::Value(_) | Line::Odd => 0,
        }
    }

    /// Reads to the end of the event, shows what is in it, and returns what follows it; or to where
    /// `show` returns `false`.
    pub(super) fn read_event<'a>(
        &mut self,
        mut rest: &'a [u8],
        mut show: impl FnMut(Shown<'_>) -> bool,
    ) -> &'a [u8] {
        while let Some((&byte, behind)) = rest.split_first() {
            if std::mem::take(&mut self.after_return) && byte == b'\n' {
                rest = behind;
                continue;
            }
            let is_end = matches!(byte, b'\n' | b'\r');
            match self.line {
                Line::Value(field) if !is_end => {
                    let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    let (text, behind) = rest.split_at(end);
                    rest = behind;
                    show(match field {
                        DATA => Shown::Data(text),
                        COMMENT => Shown::Comment(text),
                        _ => Shown::Field(text),
                    });
                }
                Line::Odd if !is_end => {
                    let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    (_, rest) = rest.split_at(end);
                }
                line @ (Line::Start | Line::Value(_) | Line::Odd) if is_end => {
                    self.after_return = byte == b'\r';
                    self.line = Line::Start;
                    rest = behind;
                    if let Line::Start = line {
                        self.between = true;
                        return rest;
                    }
                }
                line => match self.begin_line(line, byte) {
                    Begun::Stays => {}
                    Begun::Reads => rest = behind,
                    Begun::Data => {
                        rest = behind;
                        self.told = true;
                        show(Shown::Begin);
                    }
                    Begun::Odd(read) => {
                        self.line = Line::Odd;
                        if !show(Shown::Odd(read)) {
                            return rest;
                        }
                    }
                },
            }
        }
        rest
    }

    /// Reads a byte of what a line begins with.
    fn begin_line(&mut self, line: Line, byte: u8) -> Begun {
        let (field, matched) = match line {
            Line::Mark(matched) => match BYTE_ORDER_MARK.get(matched) {
                Some(&expected) if expected == byte => {
                    self.between = false;
                    self.line = Line::Mark(matched.saturating_add(1));
                    return Begun::Reads;
                }
                // All of the mark was there, or none of it.
                _ if matched == 0 || matched == BYTE_ORDER_MARK.len() => {
                    self.line = Line::Start;
                    return Begun::Stays;
                }
                _ => return Begun::Odd(matched),
            },
            Line::Name(field, matched) => (field, matched),
            Line::Start | Line::Value(_) | Line::Odd => {
                self.between = false;
                match FIELDS.iter().find(|field| field.first() == Some(&byte)) {
                    Some(field) => (*field, 0),
                    None => return Begun::Odd(0),
                }
            }
        };
        let read = matched.saturating_add(1);
        if field.get(matched) == Some(&byte) {
            self.line = match read == field.len() {
                true => Line::Value(field),
                false => Line::Name(field, read),
            };
            match self.line {
                Line::Value(DATA) => Begun::Data,
                _ => Begun::Reads,
            }
        } else if matches!(byte, b'\n' | b'\r') && read == field.len() {
            // A field may have no colon.
            self.line = Line::Value(field);
            Begun::Stays
        } else {
            Begun::Odd(matched)
        }
    }
}

/// What a byte at the beginning of a line was.
enum Begun {
    /// It isn't read yet.
    Stays,
    Reads,
    /// The last one before data.
    Data,
    /// Like so many before it, it is of no line that a stream of events has.
    Odd(usize),
}
