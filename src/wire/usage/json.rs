//! Finds the `usage` object of a JSON text while it passes, without keeping the text.

use std::sync::Arc;

use super::counts::{Element, Kind, Usage};
use crate::domain::charge::{Tiers, is_ordinary_tier};

/// The longest key that matters, and the longest model name that is kept, in bytes.
const TEXT_MAX: usize = 128;

/// What the scanner is inside of. It only descends into the places that the providers' shapes have:
/// a client may choose the names of what an answer echoes deeper down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Section {
    #[default]
    Other,
    /// The whole text.
    Root,
    /// The whole text, if it is a list: Gemini's streams without events.
    List,
    /// A part of such a stream.
    Part,
    /// `response` (OpenAI's response events).
    Response,
    /// `message` (Anthropic's first event): its usage is what had been used by then.
    Message,
    /// `delta` (Cohere's last event has its usage there).
    Delta,
    /// `usage`.
    Usage,
    /// `usageMetadata` (Gemini).
    UsageMetadata,
    /// `prompt_tokens_details`, `input_tokens_details`.
    InputDetails,
    /// `completion_tokens_details`, `output_tokens_details`.
    OutputDetails,
    /// `cache_creation` (Anthropic).
    CacheCreation,
    /// `server_tool_use` (Anthropic).
    ServerTools,
    /// `billed_units` (Cohere).
    BilledUnits,
    /// A list of tokens by modality, and one of its elements (Gemini).
    Modalities(Side),
    Modality(Side),
    /// `cacheDetails`, and one of its elements (Bedrock).
    CacheDetails,
    CacheDetail,
    /// `candidates`, and one of them (Gemini).
    Candidates,
    Candidate,
    /// `promptFeedback` (Gemini).
    PromptFeedback,
    /// `serviceTier` (Bedrock).
    ServiceTier,
    /// `error`.
    Error,
}

/// Which tokens a list or details are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Input,
    /// Input of tools.
    Tool,
    Output,
}

impl Section {
    /// Where an answer's own fields are.
    fn has_answer(self) -> bool {
        matches!(self, Self::Root | Self::Part | Self::Response)
    }

    /// The section of an object in this one.
    fn object(self, key: &[u8]) -> Self {
        match (self, key) {
            (Self::List, _) => Self::Part,
            (Self::Root, b"response") => Self::Response,
            (Self::Root, b"message") => Self::Message,
            (Self::Root, b"delta") => Self::Delta,
            (Self::Root, b"serviceTier") => Self::ServiceTier,
            (Self::Root | Self::Response | Self::Message | Self::Delta, b"usage") => Self::Usage,
            (Self::Root | Self::Response | Self::Part, b"usageMetadata") => Self::UsageMetadata,
            (Self::Root | Self::Response | Self::Part, b"promptFeedback") => Self::PromptFeedback,
            (
                Self::Usage,
                b"prompt_tokens_details" | b"input_tokens_details" | b"input_token_details",
            ) => Self::InputDetails,
            (
                Self::Usage,
                b"completion_tokens_details" | b"output_tokens_details" | b"output_token_details",
            ) => Self::OutputDetails,
            (Self::Usage, b"cache_creation") => Self::CacheCreation,
            (Self::Usage, b"server_tool_use") => Self::ServerTools,
            (Self::Usage, b"billed_units") => Self::BilledUnits,
            (Self::Modalities(side), _) => Self::Modality(side),
            (Self::CacheDetails, _) => Self::CacheDetail,
            (Self::Candidates, _) => Self::Candidate,
            _ => Self::Other,
        }
    }

    /// The section of a list in this one.
    fn list(self, key: &[u8]) -> Self {
        match (self, key) {
            (Self::Root | Self::Response | Self::Part, b"candidates") => Self::Candidates,
            (Self::Usage, b"cacheDetails") => Self::CacheDetails,
            (Self::UsageMetadata, b"promptTokensDetails") => Self::Modalities(Side::Input),
            (Self::UsageMetadata, b"toolUsePromptTokensDetails") => Self::Modalities(Side::Tool),
            (Self::UsageMetadata, b"candidatesTokensDetails") => Self::Modalities(Side::Output),
            _ => Self::Other,
        }
    }
}

/// Nothing deeper than this matters.
const DEPTH: usize = 5;

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
    usage: Usage,
    is_final: bool,
    /// The current `usage` has had a count.
    counts: bool,
    /// There was an `error` in place of an answer, or of the rest of it.
    has_error: bool,
    model: Option<Arc<str>>,
    tiers: [Option<Arc<str>>; TIERS],
    /// It is Gemini's shape.
    is_gemini: bool,
    /// It is none of Gemini's, whatever comes.
    is_not_gemini: bool,
    /// It is none of Bedrock's: its own streams aren't events of text.
    is_not_bedrock: bool,
    /// The current part of Gemini's has counts, and has the end of the answer.
    part_counts: bool,
    part_ends: bool,
    element: Element,
    inside: Inside,
    depth: usize,
    sections: [Section; DEPTH],
    /// The last string read, as far as it can matter.
    text: Vec<u8>,
    /// `text` is the key of the current value.
    keyed: bool,
    key: Vec<u8>,
}

impl Scanner {
    /// For the events of a stream.
    pub(super) fn of_events() -> Self {
        Self {
            is_not_bedrock: true,
            ..Self::default()
        }
    }

    /// From here on only counts in other shapes than Gemini's are searched for.
    pub(super) fn rule_out_gemini(&mut self) {
        self.is_not_gemini = true;
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Whether there was a complete `usage` that covers the whole answer.
    pub(super) fn is_final(&self) -> bool {
        self.is_final && !self.usage.is_unreadable()
    }

    /// Whether it told of an error that ended the answer, without counts for the whole of it.
    pub(super) fn broke_off(&self) -> bool {
        self.has_error && !self.is_final
    }

    /// Whether it was an object, and no mark like `[DONE]`.
    pub(super) fn is_object(&self) -> bool {
        self.sections.first() == Some(&Section::Root)
    }

    pub(super) fn model(&self) -> Option<&Arc<str>> {
        self.model.as_ref()
    }

    /// The provider's tiers that served the call, of each key the last.
    pub(super) fn service_tiers(&self) -> Tiers<'_> {
        let [speed, tiers @ ..] = &self.tiers;
        // What isn't the ordinary speed costs more than its tier does; the ordinary one says nothing.
        let speed = speed.as_deref().filter(|speed| !is_ordinary_tier(speed));
        let [snake, camel, traffic] = tiers.each_ref().map(Option::as_deref);
        Tiers::from([speed, snake, camel, traffic])
    }

    /// Whether it is in Gemini's shape, of which every event counts what was used so far.
    pub(super) fn is_gemini(&self) -> bool {
        self.is_gemini
    }

    /// Whether it is a list of parts, whose end proves as little as that of a stream of events.
    pub(super) fn is_list(&self) -> bool {
        self.sections.first() == Some(&Section::List)
    }

    /// Forgets its position, and keeps what it has found.
    pub(super) fn begin_anew(&mut self) {
        self.end_number();
        self.inside = Inside::Structure;
        self.depth = 0;
        self.keyed = false;
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
                    self.end_text();
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
            b':' => {
                std::mem::swap(&mut self.key, &mut self.text);
                self.keyed = true;
            }
            b',' => self.keyed = false,
            b'{' | b'[' => self.open(byte == b'{'),
            b'}' | b']' => self.close(),
            b'-' => self.inside = Inside::Number(Number::Other),
            b'0'..=b'9' => self.inside = Inside::Number(Number::Whole(0).then(byte)),
            b't' | b'f' => self.note_unreadable(),
            _ => {}
        }
    }

    fn open(&mut self, is_object: bool) {
        self.note_unreadable();
        let key: &[u8] = if self.keyed { &self.key } else { b"" };
        let section = match (is_object, self.section()) {
            (true, _) if self.depth == 0 => Section::Root,
            (false, _) if self.depth == 0 => Section::List,
            (true, _) if self.is_error() => Section::Error,
            (true, outer) => outer.object(key),
            (false, outer) => outer.list(key),
        };
        let section = match section {
            Section::UsageMetadata if self.is_not_gemini => Section::Other,
            Section::CacheDetails if self.is_not_bedrock => Section::Other,
            section => section,
        };
        match section {
            Section::Other => {}
            Section::Usage => self.counts = false,
            Section::UsageMetadata => (self.counts, self.is_gemini) = (false, true),
            Section::Root | Section::Part => (self.part_counts, self.part_ends) = (false, false),
            Section::Modality(_) | Section::CacheDetail => self.element = Element::default(),
            list => self.usage.begin_list(list),
        }
        if let Some(place) = self.sections.get_mut(self.depth) {
            *place = section;
        }
        self.depth = self.depth.saturating_add(1);
        self.keyed = false;
    }

    fn close(&mut self) {
        let section = self.section();
        self.depth = self.depth.saturating_sub(1);
        self.keyed = false;
        match section {
            Section::Usage => self.is_final |= self.counts && self.section() != Section::Message,
            Section::UsageMetadata => self.part_counts |= self.counts,
            // Every part counts what was used so far; only the last one has a reason to end.
            Section::Root | Section::Part if self.part_counts => self.is_final = self.part_ends,
            Section::Modality(_) | Section::CacheDetail => self.usage.add(section, self.element),
            _ => {}
        }
    }

    fn section(&self) -> Section {
        let place = self.depth.checked_sub(1);
        let section = place.and_then(|place| self.sections.get(place));
        section.copied().unwrap_or_default()
    }

    fn end_number(&mut self) {
        let Inside::Number(number) = self.inside else {
            return;
        };
        self.inside = Inside::Structure;
        let Some(count) = number.count() else {
            self.note_unreadable();
            return;
        };
        if !self.keyed {
            return;
        }
        match (self.section(), self.key.as_slice()) {
            (section, key) if is_of_element(section, key) => self.element.count = count,
            (Section::Usage, key) if self.is_not_bedrock && key.ends_with(b"Tokens") => {}
            (section, key) => self.counts |= self.usage.set(section, key, count),
        }
    }

    /// The current value is neither a count nor `null`. At the place of a count, that makes the
    /// usage unreadable.
    fn note_unreadable(&mut self) {
        let (section, key) = (self.section(), self.key.as_slice());
        if !self.keyed
            || (section == Section::Usage && self.is_not_bedrock && key.ends_with(b"Tokens"))
        {
            return;
        }
        if is_of_element(section, key) || Usage::has(section, key) {
            self.usage.set_unreadable();
        }
    }

    /// Whether the text just read is an error, or the type of one (an event of OpenAI's responses).
    fn says_error(&self, says_something: bool) -> bool {
        let is_type = self.keyed && self.section() == Section::Root && self.key == b"type";
        (self.is_error() && says_something) || (is_type && self.text == b"error")
    }

    /// Whether the current value is the `error` of the whole answer (OpenAI's and Anthropic's
    /// answers and events, and those of OpenAI's responses). Neither `null` nor an empty one is any.
    fn is_error(&self) -> bool {
        let in_place = matches!(self.section(), Section::Root | Section::Response);
        self.keyed && in_place && self.key == b"error"
    }

    fn end_text(&mut self) {
        let says_something = !self.text.is_empty();
        self.has_error |= self.section() == Section::Error || self.says_error(says_something);
        if !self.keyed {
            return;
        }
        match (self.section(), self.key.as_slice()) {
            (Section::Root | Section::Response | Section::Message, b"model") => {
                keep_name(&mut self.model, &self.text);
            }
            (section, b"modelVersion") if section.has_answer() && !self.is_not_gemini => {
                self.is_gemini = true;
                keep_name(&mut self.model, &self.text);
            }
            (Section::Modality(_), b"modality") | (Section::CacheDetail, b"ttl") => {
                self.element.kind = Kind::named(&self.text);
            }
            (Section::Candidate, b"finishReason") | (Section::PromptFeedback, b"blockReason") => {
                self.part_ends |= says_something;
            }
            (section, key) => match place_of_tier(section, key) {
                Some(place) => {
                    if let Some(tier) = self.tiers.get_mut(place) {
                        keep_name(tier, &self.text);
                    }
                }
                None => self.note_unreadable(),
            },
        }
    }
}

/// How many keys name tiers.
const TIERS: usize = 4;

/// Each key that names a tier has a place of its own: of two that differ, the dearest counts.
fn place_of_tier(section: Section, key: &[u8]) -> Option<usize> {
    match (section, key) {
        // Anthropic's.
        (Section::Usage, b"speed") => Some(0),
        (Section::Root | Section::Response | Section::Usage, b"service_tier") => Some(1),
        (Section::UsageMetadata, b"serviceTier") | (Section::ServiceTier, b"type") => Some(2),
        (Section::UsageMetadata, b"trafficType") => Some(3),
        _ => None,
    }
}

/// Whether this is the count of a list's element.
fn is_of_element(section: Section, key: &[u8]) -> bool {
    matches!(
        (section, key),
        (Section::Modality(_), b"tokenCount") | (Section::CacheDetail, b"inputTokens")
    )
}

/// Keeps a name, if it is one.
fn keep_name(place: &mut Option<Arc<str>>, text: &[u8]) {
    let fits = (1..=TEXT_MAX).contains(&text.len());
    let known = place.as_deref().map(str::as_bytes) == Some(text);
    if fits
        && !known
        && let Ok(name) = std::str::from_utf8(text)
        && !name.contains(char::is_control)
    {
        *place = Some(Arc::from(name));
    }
}

fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-')
}
