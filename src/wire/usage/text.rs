//! How much of an event's text is output that a model wrote.

use super::{
    envelope::{Member, Place, Told, Value},
    part::Part,
};

/// The longest name that matters.
const NAME_MAX: usize = 48;

/// Whatever is deeper counts with all its bytes.
const DEPTH: usize = 8;

/// The longest number that may be none of the output.
const NUMBER_MAX: usize = 24;

const NULL: &[u8] = b"null";

/// What the whole text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Top {
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
    /// A number or a literal.
    Scalar,
    /// Something that leads nowhere, so many levels deep, and a string in it.
    Whole(Value, usize),
    WholeText(Value, usize),
    WholeEscape(Value, usize),
    /// It isn't JSON.
    Broken,
}

/// What JSON has next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Name,
    Colon,
    Value,
    /// A comma, or the end of what this is in.
    Next,
}

/// Counts in a JSON text, cut anywhere.
#[derive(Debug)]
pub(super) struct Text {
    top: Top,
    /// What was counted before this event.
    before: u64,
    part: Part,
    /// There was an object in it.
    ended: bool,
    /// A part of a list has just ended.
    is_at_end: bool,
    inside: Inside,
    expects: Expects,
    places: [Place; DEPTH],
    depth: usize,
    /// The last name or string, as far as it can matter.
    name: Vec<u8>,
    /// What the current value is.
    member: Member,
    /// How much of a number or a literal was read, and whether it may be `null`.
    scalar: usize,
    is_null: bool,
    /// The current string is the type of an event.
    is_type: bool,
}

impl Text {
    pub(super) const fn new(top: Top) -> Self {
        Self {
            top,
            before: 0,
            part: Part::new(),
            ended: false,
            is_at_end: false,
            inside: Inside::Structure,
            expects: Expects::Value,
            places: [Place::Event; DEPTH],
            depth: 0,
            name: Vec::new(),
            member: Member::Written,
            scalar: 0,
            is_null: false,
            is_type: false,
        }
    }

    /// How many tokens there can have been.
    pub(super) fn tokens(&self) -> u64 {
        self.part.with(self.before)
    }

    /// Whether a part of a list of them has just ended.
    pub(super) const fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// Whether it isn't JSON.
    pub(super) const fn is_broken(&self) -> bool {
        self.part.is_broken
    }

    /// Adds what counts whatever comes.
    pub(super) const fn add(&mut self, bytes: u64) {
        self.before = self.before.saturating_add(bytes);
    }

    /// An event is over. One with data is a token at least.
    pub(super) fn begin_anew(&mut self, told: bool) {
        let ended = std::mem::take(&mut self.ended);
        self.end_part(told && !ended);
        (self.inside, self.expects) = (Inside::Structure, Expects::Value);
        self.depth = 0;
    }

    fn end_part(&mut self, told: bool) {
        let least = self.before.saturating_add(u64::from(told));
        self.before = self.tokens().max(least);
        self.part = Part::new();
    }

    fn count(&mut self, value: Value, bytes: usize) {
        self.part.count(value, long(bytes));
    }

    fn pass(&mut self, bytes: usize) {
        self.part.bytes = self.part.bytes.saturating_add(long(bytes));
    }

    /// Reads to the end of a part of a list, and returns what follows it; of what is no list, all.
    pub(super) fn read<'a>(&mut self, mut rest: &'a [u8]) -> &'a [u8] {
        self.is_at_end = false;
        while let Some((&byte, behind)) = rest.split_first() {
            if self.inside == Inside::Structure {
                self.pass(1);
                self.structure(byte);
                rest = behind;
                if self.is_at_end {
                    break;
                }
                continue;
            }
            let left = match self.inside {
                Inside::Text(value) => self.read_string(rest, value),
                Inside::Escape(_) | Inside::Digits(..) => self.read_escape(byte, rest, behind),
                Inside::Scalar => match self.read_scalar(byte) {
                    true => behind,
                    false => rest,
                },
                Inside::Whole(value, depth) => {
                    self.whole_structure(byte, value, depth);
                    behind
                }
                Inside::WholeText(value, depth) => self.read_whole_string(rest, value, depth),
                Inside::WholeEscape(value, depth) => {
                    self.count(value, 1);
                    self.inside = Inside::WholeText(value, depth);
                    behind
                }
                Inside::Structure | Inside::Broken => &[],
            };
            self.pass(rest.len().saturating_sub(left.len()));
            rest = left;
        }
        rest
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
            if self.is_type {
                self.part.told = Told::by(&self.name);
                self.part.is_known |= self.part.told != Told::Nothing;
            }
        } else {
            // No name that matters has one.
            self.name.resize(NAME_MAX.saturating_add(1), 0);
            self.inside = Inside::Escape(value);
        }
        behind
    }

    /// An escape is never longer than what it stands for.
    fn read_escape<'a>(&mut self, byte: u8, rest: &'a [u8], behind: &'a [u8]) -> &'a [u8] {
        match self.inside {
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
            _ => behind,
        }
    }

    fn structure(&mut self, byte: u8) {
        let has_values = self.depth > 0 && self.place() != Place::Events;
        let is_list = self.depth > 0 && self.place().is_list();
        match (byte, self.expects) {
            (b' ' | b'\t' | b'\n' | b'\r', _) if self.depth > 0 => {}
            (b' ' | b'\t' | b'\n' | b'\r', _) => self.count(Value::Output, 1),
            (b'{' | b'[', Expects::Value) => self.open(byte == b'{'),
            (b'"', Expects::Name) => {
                self.expects = Expects::Colon;
                self.begin_string(Value::Name);
            }
            (b'"', Expects::Value) if has_values => self.begin_value(),
            (b':', Expects::Colon) => self.end_name(),
            (b',', Expects::Next) => self.begin_member(is_list),
            (b'}', Expects::Name | Expects::Next) if !is_list => self.close(),
            (b']', Expects::Value | Expects::Next) if is_list => self.close(),
            (b'-' | b'0'..=b'9' | b't' | b'f' | b'n', Expects::Value) if has_values => {
                (self.scalar, self.is_null) = (0, true);
                (self.inside, self.expects) = (Inside::Scalar, Expects::Next);
                self.count_scalar(byte);
            }
            _ => self.break_off(),
        }
    }

    /// It isn't JSON: all of it counts.
    fn break_off(&mut self) {
        (self.inside, self.part.is_broken) = (Inside::Broken, true);
    }

    fn begin_member(&mut self, is_list: bool) {
        self.member = Member::Written;
        self.expects = match is_list {
            true => Expects::Value,
            false => Expects::Name,
        };
        if self.place() == Place::Events {
            self.part.bytes = 0;
        }
    }

    fn end_name(&mut self) {
        self.expects = Expects::Value;
        self.member = self.place().member(&self.name);
        // With its quotes, the colon, and a comma.
        let name = std::mem::take(&mut self.part.name).saturating_add(4);
        if self.member.is_whole() {
            let name = usize::try_from(name).unwrap_or(usize::MAX);
            self.count(self.member.string(), name);
        }
    }

    fn begin_value(&mut self) {
        self.expects = Expects::Next;
        let place = self.place();
        let is_keyed = !place.is_list();
        let is_type = is_keyed && place == Place::Event && self.name == b"type";
        if is_keyed && place == Place::Event && self.name == b"delta" {
            self.part.is_known = true;
        }
        let value = self.member.string();
        if self.member.is_whole() {
            self.count(value, 2);
        }
        self.begin_string(value);
        self.is_type = is_type;
    }

    fn begin_string(&mut self, value: Value) {
        self.is_type = false;
        self.name.clear();
        self.inside = Inside::Text(value);
    }

    /// Reads a byte of a number or a literal; `false`: it is over.
    fn read_scalar(&mut self, byte: u8) -> bool {
        let may_be = matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'E')
            || b"truefalsenull".contains(&byte);
        if may_be {
            self.count_scalar(byte);
            return true;
        }
        self.inside = Inside::Structure;
        if self.is_null && self.scalar != NULL.len() {
            self.break_off();
        }
        false
    }

    fn count_scalar(&mut self, byte: u8) {
        let read = self.scalar;
        self.scalar = read.saturating_add(1);
        let was_null = self.is_null;
        self.is_null &= NULL.get(read) == Some(&byte);
        let bytes = match self.member {
            Member::Scalar if read < NUMBER_MAX => 0,
            member if member.is_whole() => 1,
            _ if self.is_null => 0,
            // What seemed to be `null` isn't.
            _ if was_null => self.scalar,
            _ => 1,
        };
        let value = match self.member {
            Member::Text => Value::Output,
            member => member.string(),
        };
        self.count(value, bytes);
    }

    fn open(&mut self, is_object: bool) {
        let here = self.place();
        let inner = match (self.top, is_object) {
            _ if self.depth > 0 => here.inner(&self.name, is_object),
            (Top::Event, true) => Some(Place::Event),
            (Top::Json, false) => Some(Place::Events),
            _ => None,
        };
        if inner.is_none() && (self.depth == 0 || here == Place::Events) {
            return self.break_off();
        }
        self.part.is_known |= match inner {
            Some(Place::Candidates) => true,
            Some(place) => self.depth > 0 && here == Place::Event && place != Place::Response,
            None => false,
        };
        match (inner, self.places.get_mut(self.depth)) {
            (Some(place), Some(inner)) => {
                *inner = place;
                self.depth = self.depth.saturating_add(1);
                self.expects = match place.is_list() {
                    true => Expects::Value,
                    false => Expects::Name,
                };
                self.member = Member::Written;
            }
            _ => {
                let value = self.member.nested();
                self.count(value, 1);
                (self.inside, self.expects) = (Inside::Whole(value, 1), Expects::Next);
            }
        }
    }

    fn close(&mut self) {
        let closed = self.place();
        self.depth = self.depth.saturating_sub(1);
        self.expects = match self.depth {
            0 => Expects::Value,
            _ => Expects::Next,
        };
        match closed {
            Place::Event => {
                self.end_part(true);
                self.ended = true;
                self.is_at_end = self.top == Top::Json;
            }
            Place::Events => self.part.bytes = 0,
            _ => {}
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

fn long(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
