//! What the members of an answer's JSON tell, as they pass.

use std::sync::Arc;

use super::{
    counts::{Element, Kind, Usage},
    section::{Section, TIERS, is_of_element, place_of_tier},
};
use crate::domain::charge::{Tiers, Tokens, is_ordinary_tier};

/// The longest key that matters, and the longest model name that is kept, in bytes.
pub(super) const TEXT_MAX: usize = 128;

/// Nothing deeper than this matters.
const DEPTH: usize = 5;

/// What was found, and where in the text its reader is.
#[derive(Debug, Default)]
pub(super) struct Members {
    usage: Usage,
    is_final: bool,
    /// The current `usage` has had a count.
    counts: bool,
    /// The latest `usage` has one of its own of what was written.
    counts_output: bool,
    /// There was a `usage` in this text.
    has_usage: bool,
    /// It isn't over, and these were the tokens before it.
    is_in_usage: bool,
    before: Option<Tokens>,
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
    depth: usize,
    sections: [Section; DEPTH],
    /// `key` is that of the current value.
    keyed: bool,
    key: Vec<u8>,
}

impl Members {
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

    /// The tokens by the last whole `usage`: of one that isn't over, some counts may be those of an
    /// earlier one.
    pub(super) fn tokens(&self) -> Option<Tokens> {
        match self.is_in_usage {
            true => self.before,
            false => self.usage.tokens(),
        }
    }

    /// Whether these are the counts of all that was used by then, rather than only a part of them.
    pub(super) fn is_whole(&self, tokens: Option<Tokens>) -> bool {
        let has_both = |tokens: Tokens| tokens.tells_input() && tokens.output > 0;
        self.is_final() && tokens.is_some_and(has_both)
    }

    /// Whether the latest `usage` counts what was written, rather than leaves that to an earlier
    /// one.
    pub(super) fn counts_output(&self) -> bool {
        self.counts_output
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
        // What isn't the ordinary speed costs more than its tier does; the ordinary one says
        // nothing.
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

    /// A text begins, whatever came before. Whether there was a `usage` in that. One that hadn't
    /// ended never counts: it stays so until another has.
    pub(super) fn begin_anew(&mut self) -> bool {
        (self.depth, self.keyed) = (0, false);
        std::mem::take(&mut self.has_usage)
    }

    /// The text was a key. It is given in exchange for room.
    pub(super) fn name(&mut self, text: &mut Vec<u8>) {
        std::mem::swap(&mut self.key, text);
        self.keyed = true;
    }

    /// A value is over.
    pub(super) fn next(&mut self) {
        self.keyed = false;
    }

    /// An object or a list begins.
    pub(super) fn open(&mut self, is_object: bool) {
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
            Section::Usage => self.begin_usage(),
            Section::UsageMetadata => {
                self.begin_usage();
                self.is_gemini = true;
            }
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

    fn begin_usage(&mut self) {
        self.before = self.tokens();
        (self.is_in_usage, self.has_usage) = (true, true);
        (self.counts, self.counts_output) = (false, false);
    }

    /// It ends.
    pub(super) fn close(&mut self) {
        let section = self.section();
        self.is_in_usage &= !matches!(section, Section::Usage | Section::UsageMetadata);
        self.depth = self.depth.saturating_sub(1);
        self.keyed = false;
        match section {
            // What had been used when a message began covers nothing, whatever came before it.
            Section::Usage if self.counts => self.is_final = self.section() != Section::Message,
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

    /// A number; `None`: it can't be a count.
    pub(super) fn number(&mut self, count: Option<u64>) {
        let Some(count) = count else {
            self.note_unreadable();
            return;
        };
        if !self.keyed {
            return;
        }
        match (self.section(), self.key.as_slice()) {
            (section, key) if is_of_element(section, key) => self.element.count = count,
            (Section::Usage, key) if self.is_not_bedrock && key.ends_with(b"Tokens") => {}
            (section, key) => {
                self.counts |= self.usage.set(section, key, count);
                self.counts_output |= Usage::is_of_output(section, key);
            }
        }
    }

    /// The current value is neither a count nor `null`. At the place of a count, that makes the
    /// usage unreadable.
    pub(super) fn note_unreadable(&mut self) {
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
    fn says_error(&self, text: &[u8]) -> bool {
        let is_type = self.keyed && self.section() == Section::Root && self.key == b"type";
        (self.is_error() && !text.is_empty()) || (is_type && text == b"error")
    }

    /// Whether the current value is the `error` of the whole answer (OpenAI's and Anthropic's
    /// answers and events, and those of OpenAI's responses). Neither `null` nor an empty one is
    /// any.
    fn is_error(&self) -> bool {
        let in_place = matches!(self.section(), Section::Root | Section::Response);
        self.keyed && in_place && self.key == b"error"
    }

    /// A string. It may be a key, which only the colon after it tells.
    pub(super) fn text(&mut self, text: &[u8]) {
        let says_something = !text.is_empty();
        self.has_error |= self.section() == Section::Error || self.says_error(text);
        if !self.keyed {
            return;
        }
        match (self.section(), self.key.as_slice()) {
            (Section::Root | Section::Response | Section::Message, b"model") => {
                keep_name(&mut self.model, text);
            }
            (section, b"modelVersion") if section.has_answer() && !self.is_not_gemini => {
                self.is_gemini = true;
                keep_name(&mut self.model, text);
            }
            (Section::Modality(_), b"modality") | (Section::CacheDetail, b"ttl") => {
                self.element.kind = Kind::named(text);
            }
            (Section::Candidate, b"finishReason") | (Section::PromptFeedback, b"blockReason") => {
                self.part_ends |= says_something;
            }
            (section, key) => match place_of_tier(section, key) {
                Some(place) => {
                    if let Some(tier) = self.tiers.get_mut(place) {
                        keep_name(tier, text);
                    }
                }
                None => self.note_unreadable(),
            },
        }
    }
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
