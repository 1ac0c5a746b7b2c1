//! The counts of an answer's usage, in the words of its provider, and what they mean.

use super::section::{Section, Side};
use crate::domain::charge::{Missing, Tokens};

/// The usage that a response reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// All input (OpenAI's chat, Gemini).
    prompt: Option<u64>,
    /// All input (OpenAI's responses, which give details), or the input that was neither read from
    /// a cache nor written to one (Anthropic, Bedrock).
    input: Option<u64>,
    /// Without what the model thought, where a provider counts that in the total alone (xAI), or
    /// apart (Gemini).
    output: Option<u64>,
    /// The same in the words of OpenAI's chat.
    completion: Option<u64>,
    total: Option<u64>,
    /// The part of the input that came from a cache (OpenAI, DeepSeek, Gemini).
    cached: Option<u64>,
    /// Beside `input` (Anthropic, Bedrock), part of `prompt` (LiteLLM).
    cache_read: Option<u64>,
    /// Beside `input` (Anthropic, Bedrock), part of `prompt` (LiteLLM) or of an input with details
    /// (OpenAI).
    cache_written: Option<u64>,
    /// The same among the details.
    cache_written_detail: Option<u64>,
    /// Parts of `cache_written`, by how long they are kept.
    written_for_minutes: Option<u64>,
    written_for_an_hour: Option<u64>,
    /// What tools of the provider's put in, beside `prompt` (Gemini).
    tool_input: Option<u64>,
    /// What the model thought, beside `output` (Gemini).
    thoughts: Option<u64>,
    input_media: Media,
    tool_media: Media,
    output_media: Media,
    /// Billed input and output (Cohere), where others differ.
    billed: [Option<u64>; 2],
    searches: Option<u64>,
    /// There was something at the place of a count that is none. Then none of them is to be
    /// trusted: a count that is taken for nothing would make the rest look complete.
    is_unreadable: bool,
}

/// Tokens that weren't text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Media {
    audio: u64,
    image: u64,
}

/// An element of a list: what it counts, and how many. Either may come first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Element {
    pub(super) kind: Kind,
    pub(super) count: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text, or tokens that a cache keeps for minutes.
    #[default]
    Usual,
    Audio,
    /// Images, and what is seen like them: videos and documents.
    Image,
    ForAnHour,
}

impl Kind {
    /// The kind of a list's element by its `modality` (Gemini) or its `ttl` (Bedrock).
    pub(super) fn named(name: &[u8]) -> Self {
        match name {
            b"AUDIO" => Self::Audio,
            b"IMAGE" | b"VIDEO" | b"DOCUMENT" => Self::Image,
            b"1h" => Self::ForAnHour,
            _ => Self::Usual,
        }
    }
}

impl Usage {
    /// `None` if there was no count, or one that can't be read. A count of zero is a count. Where
    /// two names of the same differ, the larger counts.
    pub(super) fn tokens(&self) -> Option<Tokens> {
        let [billed_input, _] = self.billed;
        let named = self.input.max(billed_input);
        let named_output = self.named_output();
        let counts = [self.prompt, named, named_output, self.total];
        let others = [self.thoughts, self.tool_input];
        if self.is_unreadable || counts.iter().chain(&others).all(Option::is_none) {
            return None;
        }
        let by_total = || {
            let output = named_output.unwrap_or(0);
            self.total.map(|total| total.saturating_sub(output))
        };
        let for_an_hour = self.written_for_an_hour.unwrap_or(0);
        let parts = self.written_for_minutes.unwrap_or(0);
        let parts = parts.saturating_add(for_an_hour);
        let written = self.cache_written.max(self.cache_written_detail);
        let written = written.unwrap_or(0).max(parts);
        let cached = self.cached.max(self.cache_read).unwrap_or(0);
        let all = match self.prompt {
            Some(_) => self.prompt.max(named),
            None if self.cached.is_some() => named.or_else(by_total),
            None => None,
        };
        let input = match all {
            Some(all) => all_input(all, cached, written),
            None => named
                .or_else(by_total)
                .unwrap_or(0)
                .saturating_add(cached)
                .saturating_add(written),
        };
        let input = input.saturating_add(self.tool_input.unwrap_or(0));
        let input_media = self.input_media.and(self.tool_media);
        let counted = Tokens {
            input,
            input_is_unknown: self.prompt.or(named).or(self.total).is_none(),
            missing: self.missing(self.prompt.or(named).is_some()),
            cached,
            cache_written: written,
            written_for_an_hour: for_an_hour,
            input_audio: input_media.audio,
            input_image: input_media.image,
            output: self.all_output(input),
            output_audio: self.output_media.audio,
            output_image: self.output_media.image,
            searches: self.searches.unwrap_or(0),
        };
        Some(counted.with_whole_parts())
    }

    fn named_output(&self) -> Option<u64> {
        let [_, billed] = self.billed;
        self.output.max(self.completion).max(billed)
    }

    /// With a total, one of input and output tells the other.
    fn missing(&self, names_input: bool) -> Missing {
        let names_output = self.named_output().is_some();
        match self.total {
            Some(_) if names_input || names_output => Missing::Nothing,
            Some(_) => Missing::Division,
            None => Missing::unless(names_input, names_output),
        }
    }

    /// All output: what is neither input nor named as output costs the provider what output does.
    fn all_output(&self, input: u64) -> u64 {
        let named = self.named_output().unwrap_or(0);
        let thoughts = self.thoughts.unwrap_or(0);
        let apart = named.saturating_add(thoughts);
        let beside = self.total.map(|total| total.saturating_sub(input));
        match beside {
            // Some versions of Gemini count thoughts among the candidates' tokens, and the total
            // tells.
            Some(beside) if beside == named && named >= thoughts => named,
            Some(beside) => apart.max(beside),
            None => apart,
        }
    }

    /// Whether this is the place of a count.
    pub(super) fn has(section: Section, key: &[u8]) -> bool {
        Self::default().set(section, key, 0)
    }

    /// Whether it is one of the output, or of all.
    pub(super) fn is_of_output(section: Section, key: &[u8]) -> bool {
        match section {
            Section::Usage => matches!(
                key,
                b"completion_tokens"
                    | b"output_tokens"
                    | b"outputTokens"
                    | b"total_tokens"
                    | b"totalTokens"
            ),
            Section::UsageMetadata => matches!(
                key,
                b"candidatesTokenCount" | b"thoughtsTokenCount" | b"totalTokenCount"
            ),
            Section::BilledUnits => key == b"output_tokens",
            _ => false,
        }
    }

    pub(super) fn set_unreadable(&mut self) {
        self.is_unreadable = true;
    }

    pub(super) fn is_unreadable(&self) -> bool {
        self.is_unreadable
    }

    /// `false`: not a count that matters.
    pub(super) fn set(&mut self, section: Section, key: &[u8], count: u64) -> bool {
        let place = match section {
            Section::Usage => self.of_usage(key),
            Section::UsageMetadata => self.of_metadata(key),
            Section::InputDetails => return self.set_detail(Side::Input, key, count),
            Section::OutputDetails => return self.set_detail(Side::Output, key, count),
            Section::CacheCreation => match key {
                b"ephemeral_5m_input_tokens" => Some(&mut self.written_for_minutes),
                b"ephemeral_1h_input_tokens" => Some(&mut self.written_for_an_hour),
                _ => None,
            },
            Section::ServerTools if key == b"web_search_requests" => Some(&mut self.searches),
            Section::BilledUnits => {
                let [input, output] = &mut self.billed;
                match key {
                    b"input_tokens" => Some(input),
                    b"output_tokens" => Some(output),
                    _ => None,
                }
            }
            _ => None,
        };
        let is_count = place.is_some();
        if let Some(place) = place {
            *place = Some(count);
        }
        is_count
    }

    fn of_usage(&mut self, key: &[u8]) -> Option<&mut Option<u64>> {
        Some(match key {
            b"prompt_tokens" => &mut self.prompt,
            b"input_tokens" | b"inputTokens" => &mut self.input,
            b"completion_tokens" => &mut self.completion,
            b"output_tokens" | b"outputTokens" => &mut self.output,
            b"total_tokens" | b"totalTokens" => &mut self.total,
            b"prompt_cache_hit_tokens" => &mut self.cached,
            b"cache_read_input_tokens" | b"cacheReadInputTokens" => &mut self.cache_read,
            b"cache_creation_input_tokens" | b"cacheWriteInputTokens" => &mut self.cache_written,
            _ => return None,
        })
    }

    fn of_metadata(&mut self, key: &[u8]) -> Option<&mut Option<u64>> {
        Some(match key {
            b"promptTokenCount" => &mut self.prompt,
            b"candidatesTokenCount" => &mut self.output,
            b"thoughtsTokenCount" => &mut self.thoughts,
            b"totalTokenCount" => &mut self.total,
            b"cachedContentTokenCount" => &mut self.cached,
            b"toolUsePromptTokenCount" => &mut self.tool_input,
            _ => return None,
        })
    }

    fn set_detail(&mut self, side: Side, key: &[u8], count: u64) -> bool {
        match (side, key) {
            (Side::Input, b"cached_tokens") => self.cached = Some(count),
            (Side::Input, b"cache_write_tokens" | b"cache_creation_tokens") => {
                self.cache_written_detail = Some(count);
                // Details are parts of the input, even if they don't say what was read.
                self.cached.get_or_insert(0);
            }
            (side, b"audio_tokens") => self.media(side).audio = count,
            (side, b"image_tokens") => self.media(side).image = count,
            _ => return false,
        }
        true
    }

    fn media(&mut self, side: Side) -> &mut Media {
        match side {
            Side::Input => &mut self.input_media,
            Side::Tool => &mut self.tool_media,
            Side::Output => &mut self.output_media,
        }
    }

    /// A list begins, in place of the one that was counted before.
    pub(super) fn begin_list(&mut self, section: Section) {
        match section {
            Section::Modalities(side) => *self.media(side) = Media::default(),
            Section::CacheDetails => self.written_for_an_hour = None,
            _ => {}
        }
    }

    /// Counts an element of a list.
    pub(super) fn add(&mut self, section: Section, element: Element) {
        let add = |place: &mut u64| *place = place.saturating_add(element.count);
        match (section, element.kind) {
            (Section::Modality(side), Kind::Audio) => add(&mut self.media(side).audio),
            (Section::Modality(side), Kind::Image) => add(&mut self.media(side).image),
            (Section::CacheDetail, Kind::ForAnHour) => {
                add(self.written_for_an_hour.get_or_insert_default());
            }
            _ => {}
        }
    }
}

impl Media {
    fn and(self, other: Self) -> Self {
        Self {
            audio: self.audio.saturating_add(other.audio),
            image: self.image.saturating_add(other.image),
        }
    }
}

/// All input, if `named` is said to be that. A part that doesn't fit into it can't be in it, so it
/// is beside it: read like that, it costs the most.
fn all_input(named: u64, cached: u64, written: u64) -> u64 {
    let (mut all, mut fresh) = (named, named);
    for part in [cached, written] {
        match fresh.checked_sub(part) {
            Some(rest) => fresh = rest,
            None => all = all.saturating_add(part),
        }
    }
    all
}
