//! Finds the `usage` object of a JSON text while it passes, without keeping the text.

use std::sync::Arc;

use crate::domain::charge::Tokens;

/// The longest key that matters, and the longest model name that is kept, in bytes.
const TEXT_MAX: usize = 128;

/// The usage that a response reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// All input (OpenAI's chat).
    prompt: Option<u64>,
    /// All input (OpenAI's responses, which give details), or the input that was neither read from
    /// a cache nor written to one (Anthropic).
    input: Option<u64>,
    /// Without what the model thought, where a provider counts that in the total alone (xAI).
    output: Option<u64>,
    total: Option<u64>,
    /// The part of the input that came from a cache (OpenAI, DeepSeek).
    cached: Option<u64>,
    /// Beside `input` (Anthropic), part of `prompt` (LiteLLM).
    cache_read: Option<u64>,
    cache_written: Option<u64>,
    /// Parts of `cache_written`, by how long they are kept.
    written_for_minutes: Option<u64>,
    written_for_an_hour: Option<u64>,
}

impl Usage {
    /// `None` if there was no count. A count of zero is a count.
    pub(super) fn tokens(&self) -> Option<Tokens> {
        let by_total = || {
            let output = self.output.unwrap_or(0);
            self.total.map(|total| total.saturating_sub(output))
        };
        let counts = [self.prompt, self.input, self.output, self.total];
        if counts.iter().all(Option::is_none) {
            return None;
        }
        let beside = self.cache_read.unwrap_or(0);
        let for_an_hour = self.written_for_an_hour.unwrap_or(0);
        let parts = self.written_for_minutes.unwrap_or(0);
        let parts = parts.saturating_add(for_an_hour);
        let written = self.cache_written.unwrap_or(0).max(parts);
        let input = match (self.prompt, self.input) {
            (Some(all), _) => all,
            (None, Some(all)) if self.cached.is_some() => all,
            (None, fresh) => fresh
                .or_else(by_total)
                .unwrap_or(0)
                .saturating_add(beside)
                .saturating_add(written),
        };
        let cached = self.cached.unwrap_or(beside).min(input);
        let written = written.min(input.saturating_sub(cached));
        Some(Tokens {
            input,
            cached,
            cache_written: written,
            written_for_an_hour: for_an_hour.min(written),
            output: self.output_beside(input),
        })
    }

    /// All output: what is neither input nor named as output costs the provider what output does.
    fn output_beside(&self, input: u64) -> u64 {
        let output = self.output.unwrap_or(0);
        let beside = self.total.unwrap_or(0).saturating_sub(input);
        output.max(beside)
    }

    /// `false`: not a count that matters.
    fn set(&mut self, section: Section, key: &[u8], count: u64) -> bool {
        let place = match (section, key) {
            (Section::Usage, b"prompt_tokens") => &mut self.prompt,
            (Section::Usage, b"input_tokens") => &mut self.input,
            (Section::Usage, b"completion_tokens" | b"output_tokens") => &mut self.output,
            (Section::Usage, b"total_tokens") => &mut self.total,
            (Section::Usage, b"prompt_cache_hit_tokens") => &mut self.cached,
            (Section::Usage, b"cache_read_input_tokens") => &mut self.cache_read,
            (Section::Usage, b"cache_creation_input_tokens") => &mut self.cache_written,
            (Section::Details, b"cached_tokens") => &mut self.cached,
            (Section::CacheCreation, b"ephemeral_5m_input_tokens") => &mut self.written_for_minutes,
            (Section::CacheCreation, b"ephemeral_1h_input_tokens") => &mut self.written_for_an_hour,
            _ => return false,
        };
        *place = Some(count);
        true
    }
}

/// What the scanner is inside of. It only descends into the places that OpenAI's and Anthropic's
/// shapes have: a client may choose the names of what an answer echoes deeper down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Section {
    #[default]
    Other,
    /// The whole text.
    Root,
    /// `response` (OpenAI's response events).
    Response,
    /// `message` (Anthropic's first event): its usage is what had been used by then.
    Message,
    /// `usage`.
    Usage,
    /// `prompt_tokens_details`, `input_tokens_details`.
    Details,
    /// `cache_creation` (Anthropic).
    CacheCreation,
    /// `error`.
    Error,
}

/// Nothing deeper than this matters.
const DEPTH: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
enum Inside {
    #[default]
    Structure,
    Text,
    /// After a backslash.
    Escape,
    /// A number, or `None` if it can't be a count.
    Number(Option<u64>),
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
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Whether there was a complete `usage` that covers the whole answer.
    pub(super) fn is_final(&self) -> bool {
        self.is_final
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
                Inside::Number(count) if is_of_number(byte) => {
                    self.inside = Inside::Number(count.and_then(|count| append(count, byte)));
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
            b'-' => self.inside = Inside::Number(None),
            b'0'..=b'9' => self.inside = Inside::Number(append(0, byte)),
            _ => {}
        }
    }

    fn open(&mut self, is_object: bool) {
        let key: &[u8] = if self.keyed { &self.key } else { b"" };
        let section = match (is_object, self.section(), key) {
            (true, _, _) if self.depth == 0 => Section::Root,
            (true, _, _) if self.is_error() => Section::Error,
            (true, Section::Root, b"response") => Section::Response,
            (true, Section::Root, b"message") => Section::Message,
            (true, Section::Root | Section::Response | Section::Message, b"usage") => {
                Section::Usage
            }
            (true, Section::Usage, b"prompt_tokens_details" | b"input_tokens_details") => {
                Section::Details
            }
            (true, Section::Usage, b"cache_creation") => Section::CacheCreation,
            _ => Section::Other,
        };
        if section == Section::Usage {
            self.counts = false;
        }
        if let Some(place) = self.sections.get_mut(self.depth) {
            *place = section;
        }
        self.depth = self.depth.saturating_add(1);
        self.keyed = false;
    }

    fn close(&mut self) {
        let is_usage = self.section() == Section::Usage;
        self.depth = self.depth.saturating_sub(1);
        self.keyed = false;
        self.is_final |= is_usage && self.counts && self.section() != Section::Message;
    }

    fn section(&self) -> Section {
        let place = self.depth.checked_sub(1);
        let section = place.and_then(|place| self.sections.get(place));
        section.copied().unwrap_or_default()
    }

    fn end_number(&mut self) {
        if let Inside::Number(Some(count)) = self.inside
            && self.keyed
        {
            self.counts |= self.usage.set(self.section(), &self.key, count);
        }
        if let Inside::Number(_) = self.inside {
            self.inside = Inside::Structure;
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
        let in_place = matches!(
            self.section(),
            Section::Root | Section::Response | Section::Message
        );
        let fits = (1..=TEXT_MAX).contains(&self.text.len());
        if self.keyed && in_place && self.key == b"model" && fits {
            let known = self.model.as_deref().map(str::as_bytes) == Some(&self.text);
            if !known
                && let Ok(model) = std::str::from_utf8(&self.text)
                && !model.contains(char::is_control)
            {
                self.model = Some(Arc::from(model));
            }
        }
    }
}

fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-')
}

/// Appends a digit; `None` if it isn't a count, or too large.
fn append(count: u64, byte: u8) -> Option<u64> {
    let digit = byte.is_ascii_digit().then(|| byte.wrapping_sub(b'0'))?;
    count.checked_mul(10)?.checked_add(u64::from(digit))
}
