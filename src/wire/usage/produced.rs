//! How much a stream has shown of what a model wrote: the most tokens that it can be.
//!
//! A token of text is a byte of it at least, so its bytes bound them. Tokens without text (the end
//! of a turn, what frames a call) are bounded by what the provider sends with them: an event with
//! data counts as a token at least, and the names and ids of calls count. Reasoning that isn't
//! shown is bounded by nothing that is sent.
//!
//! To know this, all of a stream would have to be parsed. But nobody is charged for more output
//! than is held for: once so much was counted, more of it changes nothing, and the rest isn't
//! looked at.

use super::{
    lines::{Lines, Shown},
    text::{Text, Top},
};

/// So many bytes of an event's comments don't count, and so many of its fields other than data.
const COMMENTS: u64 = 32;
const FIELDS: u64 = 128;

/// Counts the output in a stream's events, or in a list of them, up to a number.
#[derive(Debug)]
pub(super) struct Produced {
    /// `None`: no events, but JSON.
    lines: Option<Lines>,
    most: u64,
    text: Text,
    event: Event,
    /// Part of it wasn't seen, or is no event, so it isn't known where in its text it is: all that
    /// follows counts.
    is_lost: bool,
}

/// What the current event has had.
#[derive(Clone, Copy, Debug)]
struct Event {
    /// A line of data.
    told: bool,
    /// The current line has had no data yet: a space there belongs to its field.
    begins: bool,
    comments: u64,
    fields: u64,
}

impl Produced {
    pub(super) const fn of_events(most: u64) -> Self {
        Self {
            lines: Some(Lines::new()),
            most,
            text: Text::new(Top::Event),
            event: Event::new(),
            is_lost: false,
        }
    }

    /// Of an object, rather than a list of parts, all counts: it is sent once all of it was
    /// written.
    pub(super) const fn of_json(most: u64) -> Self {
        Self {
            lines: None,
            most,
            text: Text::new(Top::Json),
            event: Event::new(),
            is_lost: false,
        }
    }

    /// How many output tokens there can have been in what was read.
    pub(super) fn tokens(&self) -> u64 {
        let lines = self.lines.as_ref().filter(|_| !self.is_lost);
        let unknown = lines.map_or(0, Lines::unknown);
        self.text.tokens().saturating_add(long(unknown))
    }

    /// No more than this matters.
    pub(super) const fn most(&self) -> u64 {
        self.most
    }

    /// Whether an event or a part of a list has just ended.
    pub(super) fn is_at_end(&self) -> bool {
        let is_at_end = || !self.is_blind() && self.text.is_at_end();
        self.lines
            .as_ref()
            .map_or_else(is_at_end, Lines::are_between)
    }

    /// Whether it isn't known where parts of a list end: some of it wasn't seen, or it is none.
    pub(super) const fn is_blind(&self) -> bool {
        self.lines.is_none() && (self.is_lost || self.text.is_broken())
    }

    /// This many bytes can't be seen.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.lose();
        self.text.add(long(bytes));
    }

    fn lose(&mut self) {
        if !std::mem::replace(&mut self.is_lost, true) {
            self.text.begin_anew(self.event.told);
        }
    }

    /// Reads to the end of the event or the part of a list, and returns what follows it.
    #[cold]
    #[inline(never)]
    pub(super) fn feed_event<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let Some(lines) = &mut self.lines else {
            if self.is_lost {
                self.text.add(long(piece.len()));
                return &[];
            }
            return self.text.read(piece);
        };
        if self.is_lost {
            let rest = lines.read_event(piece, |_| true);
            self.text.add(long(piece.len().saturating_sub(rest.len())));
            return rest;
        }
        let (text, event) = (&mut self.text, &mut self.event);
        let mut odd = None;
        let rest = lines.read_event(piece, |shown| {
            odd = event.note(shown, text);
            odd.is_none()
        });
        let is_over = lines.are_between();
        if let Some(read) = odd {
            self.lose();
            self.text.add(long(read));
        } else if is_over {
            self.text.begin_anew(self.event.told);
            self.event = Event::new();
        }
        rest
    }
}

impl Event {
    const fn new() -> Self {
        Self {
            told: false,
            begins: false,
            comments: COMMENTS,
            fields: FIELDS,
        }
    }

    /// Counts what is in a line; of one that is none of a stream of events, returns how much was
    /// read.
    fn note(&mut self, shown: Shown<'_>, text: &mut Text) -> Option<usize> {
        match shown {
            Shown::Begin => {
                if std::mem::replace(&mut self.told, true) {
                    let _ = text.read(b"\n");
                }
                self.begins = true;
            }
            Shown::Data(data) => {
                let begins = std::mem::take(&mut self.begins);
                let stripped = data.strip_prefix(b" ").filter(|_| begins);
                let _ = text.read(stripped.unwrap_or(data));
            }
            Shown::Comment(comment) => text.add(beyond(&mut self.comments, comment)),
            Shown::Field(value) => text.add(beyond(&mut self.fields, value)),
            Shown::Odd(read) => return Some(read),
        }
        None
    }
}

/// How many of these bytes are beyond what is left.
fn beyond(left: &mut u64, bytes: &[u8]) -> u64 {
    let all = long(bytes.len());
    let beyond = all.saturating_sub(*left);
    *left = left.saturating_sub(all);
    beyond
}

fn long(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
