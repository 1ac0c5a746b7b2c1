//! How much a stream has shown of what a model wrote: the most tokens that it can be.
//!
//! A token of text is a byte of it at least, so its bytes bound them. Tokens without text (the end of
//! a turn, what frames a call) are bounded by what the provider sends with them: an event with data
//! counts as a token at least, and the names and ids of calls count. Reasoning that isn't shown is
//! bounded by nothing that is sent.
//!
//! To know this, all of a stream would have to be parsed. But nobody is charged for more output than
//! is held for: once so much was counted, more of it changes nothing, and the rest isn't looked at.

use super::{
    envelope::{Place, Value, repeats},
    lines::Lines,
};

/// The longest name that matters.
const NAME_MAX: usize = 48;

/// Whatever is deeper counts with all its bytes.
const DEPTH: usize = 8;

/// Counts the output in a stream's events, or in a list of them, up to a number.
#[derive(Debug)]
pub(super) struct Produced {
    /// `None`: no events, but JSON.
    lines: Option<Lines>,
    most: u64,
    text: Text,
    /// Part of it wasn't seen, so it isn't known where in its text it is: all that follows counts.
    is_lost: bool,
}

impl Produced {
    pub(super) const fn of_events(most: u64) -> Self {
        Self {
            lines: Some(Lines::new()),
            most,
            text: Text::new(),
            is_lost: false,
        }
    }

    /// Of an object, rather than a list of parts, all counts: it is sent once all of it was written.
    pub(super) fn of_json(most: u64) -> Self {
        Self {
            lines: None,
            ..Self::of_events(most)
        }
    }

    /// How many output tokens there can have been.
    pub(super) fn tokens(&self) -> u64 {
        self.text.counted.max(self.text.whole).min(self.most)
    }

    #[inline]
    pub(super) fn feed(&mut self, piece: &[u8]) {
        if self.text.counted < self.most {
            self.look_at(piece);
        }
    }

    /// This many bytes can't be seen.
    pub(super) fn skip(&mut self, bytes: usize) {
        (self.is_lost, self.text.repeats) = (true, false);
        self.text.count(Value::Output, bytes);
    }

    #[cold]
    #[inline(never)]
    fn look_at(&mut self, piece: &[u8]) {
        if self.is_lost {
            self.text.count(Value::Output, piece.len());
            return;
        }
        let Some(lines) = &mut self.lines else {
            self.text.read(piece, Top::Json);
            return;
        };
        let mut rest = piece;
        while !rest.is_empty() && self.text.counted < self.most {
            rest = lines.read_event(rest, |data| self.text.read(data, Top::Event));
            if lines.are_between() {
                self.text.begin_anew(lines.take_told());
            }
        }
    }
}

/// What the whole text is.
#[derive(Clone, Copy, Debug)]
enum Top {
    Event,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    Structure,
    /// A name, or a string.
    Text(Value),
    Escape(Value),
    /// Before so many digits of an escaped letter.
    Digits(Value, u8),
    /// Something that leads nowhere, so many levels deep, and a string in it.
    Whole(Value, usize),
    WholeText(Value, usize),
    WholeEscape(Value, usize),
}

/// Counts in a JSON text, cut anywhere.
#[derive(Debug)]
struct Text {
    counted: u64,
    /// What the current event repeats of all output.
    whole: u64,
    /// What was counted before this event.
    before: u64,
    /// The event only repeats.
    repeats: bool,
    inside: Inside,
    places: [Place; DEPTH],
    depth: usize,
    /// The last name or string, as far as it can matter.
    name: Vec<u8>,
    /// `name` is that of the current value.
    keyed: bool,
    /// The current string is the type of an event.
    is_type: bool,
}

impl Text {
    const fn new() -> Self {
        Self {
            counted: 0,
            whole: 0,
            before: 0,
            repeats: false,
            inside: Inside::Structure,
            places: [Place::Event; DEPTH],
            depth: 0,
            name: Vec::new(),
            keyed: false,
            is_type: false,
        }
    }

    fn count(&mut self, value: Value, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        match value {
            Value::Output if !self.repeats => self.counted = self.counted.saturating_add(bytes),
            Value::Whole => self.whole = self.whole.saturating_add(bytes),
            Value::Output | Value::Wrapping => {}
        }
    }

    /// An event is over.
    fn begin_anew(&mut self, told: bool) {
        self.end_part(told);
        self.inside = Inside::Structure;
        (self.depth, self.keyed, self.repeats) = (0, false, false);
    }

    fn end_part(&mut self, told: bool) {
        let least = self.before.saturating_add(u64::from(told));
        self.counted = self.counted.max(self.whole).max(least);
        (self.before, self.whole) = (self.counted, 0);
    }

    fn read(&mut self, mut rest: &[u8], top: Top) {
        while let Some((&byte, behind)) = rest.split_first() {
            rest = match self.inside {
                Inside::Text(value) => self.read_string(rest, value),
                Inside::WholeText(value, depth) => self.read_whole_string(rest, value, depth),
                Inside::Escape(value) => {
                    self.count(value, if byte == b'u' { 3 } else { 1 });
                    self.inside = match byte {
                        b'u' => Inside::Digits(value, 4),
                        _ => Inside::Text(value),
                    };
                    behind
                }
                Inside::Digits(value, left) => match left.checked_sub(1) {
                    Some(left) if byte.is_ascii_hexdigit() => {
                        self.inside = Inside::Digits(value, left);
                        behind
                    }
                    _ => {
                        self.inside = Inside::Text(value);
                        rest
                    }
                },
                Inside::WholeEscape(value, depth) => {
                    self.count(value, 1);
                    self.inside = Inside::WholeText(value, depth);
                    behind
                }
                Inside::Whole(value, depth) => {
                    self.whole_structure(byte, value, depth);
                    behind
                }
                Inside::Structure => {
                    self.structure(byte, top);
                    behind
                }
            };
        }
    }

    /// Reads to the end of a string, or to a backslash.
    fn read_string<'a>(&mut self, rest: &'a [u8], value: Value) -> &'a [u8] {
        let end = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        let (text, behind) = rest.split_at(end);
        self.count(value, text.len());
        let room = NAME_MAX.saturating_add(1).saturating_sub(self.name.len());
        self.name.extend(text.iter().take(room));
        let Some((&byte, behind)) = behind.split_first() else {
            return &[];
        };
        if byte == b'"' {
            self.inside = Inside::Structure;
            self.end_string();
        } else {
            // No name that matters has one.
            self.name.resize(NAME_MAX.saturating_add(1), 0);
            self.inside = Inside::Escape(value);
        }
        behind
    }

    fn structure(&mut self, byte: u8, top: Top) {
        match byte {
            b'{' | b'[' => self.open(byte == b'{', top),
            b' ' | b'\t' | b'\n' | b'\r' => {}
            // It isn't JSON, or no object.
            _ if self.depth == 0 => {
                self.inside = Inside::Whole(Value::Output, usize::MAX);
                self.whole_structure(byte, Value::Output, usize::MAX);
            }
            b'"' => self.begin_string(),
            b':' => self.keyed = true,
            b',' => self.keyed = false,
            b'}' | b']' => self.close(),
            _ => {}
        }
    }

    fn begin_string(&mut self) {
        let place = self.place();
        let value = match self.keyed {
            true => place.string(&self.name),
            false if place.is_list() => Value::Output,
            false => Value::Wrapping,
        };
        self.is_type = self.keyed && place == Place::Event && self.name == b"type";
        self.name.clear();
        self.inside = Inside::Text(value);
    }

    fn end_string(&mut self) {
        if self.is_type {
            self.repeats = repeats(&self.name);
        }
    }

    fn open(&mut self, is_object: bool, top: Top) {
        let key: &[u8] = if self.keyed { &self.name } else { b"" };
        let place = match (top, is_object) {
            _ if self.depth > 0 => self.place().inner(key, is_object),
            (Top::Event, true) => Ok(Place::Event),
            (Top::Json, false) => Ok(Place::Events),
            _ => Err(Value::Output),
        };
        self.keyed = false;
        let value = match (place, self.places.get_mut(self.depth)) {
            (Ok(place), Some(here)) => {
                *here = place;
                self.depth = self.depth.saturating_add(1);
                return;
            }
            (Ok(_), None) => Value::Output,
            (Err(value), _) => value,
        };
        self.count(value, 1);
        self.inside = Inside::Whole(value, 1);
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.keyed = false;
        if self.depth == 1 && self.place() == Place::Events {
            self.end_part(true);
            self.repeats = false;
        }
    }

    fn place(&self) -> Place {
        let place = self.depth.checked_sub(1);
        let place = place.and_then(|place| self.places.get(place));
        place.copied().unwrap_or_default()
    }

    fn whole_structure(&mut self, byte: u8, value: Value, depth: usize) {
        self.count(value, 1);
        self.inside = match byte {
            b'"' => Inside::WholeText(value, depth),
            b'{' | b'[' => Inside::Whole(value, depth.saturating_add(1)),
            b'}' | b']' if depth == 1 => Inside::Structure,
            b'}' | b']' => Inside::Whole(value, depth.saturating_sub(1)),
            _ => self.inside,
        };
    }

    fn read_whole_string<'a>(&mut self, rest: &'a [u8], value: Value, depth: usize) -> &'a [u8] {
        let end = memchr::memchr2(b'"', b'\\', rest);
        let end = end.map_or(rest.len(), |end| end.saturating_add(1));
        let (text, behind) = rest.split_at(end);
        self.count(value, text.len());
        self.inside = match text.last() {
            Some(b'"') => Inside::Whole(value, depth),
            Some(b'\\') => Inside::WholeEscape(value, depth),
            _ => self.inside,
        };
        behind
    }
}
