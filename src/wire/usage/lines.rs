//! The lines of a `text/event-stream` (HTML, 9.2.6).

const DATA: &[u8] = b"data:";
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

#[derive(Clone, Copy, Debug)]
enum Line {
    /// At the start of the stream, after this many bytes of a byte-order mark.
    Mark(usize),
    /// After this many bytes of `data:`.
    Name(usize),
    /// After `data:`.
    Data,
    /// Another field, or a comment.
    Other,
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

    /// Reads to the end of the event, shows its data, and returns what follows it.
    pub(super) fn read_event<'a>(
        &mut self,
        mut rest: &'a [u8],
        mut show: impl FnMut(&[u8]),
    ) -> &'a [u8] {
        while let Some((&byte, behind)) = rest.split_first() {
            if std::mem::take(&mut self.after_return) && byte == b'\n' {
                rest = behind;
                continue;
            }
            match (byte, self.line) {
                (_, Line::Mark(matched)) => {
                    self.line = match BYTE_ORDER_MARK.get(matched) {
                        Some(&expected) if expected == byte => {
                            self.between = false;
                            rest = behind;
                            Line::Mark(matched.saturating_add(1))
                        }
                        // All of the mark was there, or none of it.
                        _ if matched == 0 || matched == BYTE_ORDER_MARK.len() => Line::Name(0),
                        _ => Line::Other,
                    };
                }
                (b'\n' | b'\r', line) => {
                    self.after_return = byte == b'\r';
                    self.line = Line::Name(0);
                    rest = behind;
                    if let Line::Name(0) = line {
                        self.between = true;
                        return rest;
                    }
                }
                (_, Line::Name(matched)) => {
                    self.between = false;
                    self.line = match DATA.get(matched) {
                        Some(&expected) if expected == byte => {
                            let matched = matched.saturating_add(1);
                            if matched == DATA.len() {
                                self.told = true;
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
                        show(text);
                    }
                    rest = behind;
                }
            }
        }
        rest
    }
}
