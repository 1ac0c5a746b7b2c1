//! Counts of tokens, and what they don't tell.

/// Token counts, as they are billed. No part is more than its whole; what was read from a cache or
/// written to one may overlap with audio and images, and nobody says how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// All input tokens.
    pub(crate) input: u64,
    /// Nothing named the input, which differs from zero: it may have been any.
    pub(crate) input_is_unknown: bool,
    /// What nothing named at all. It is stricter than `input_is_unknown`, by which a handler's
    /// counts and a total are complete as they are.
    pub(crate) missing: Missing,
    /// Input tokens that were read from a cache.
    pub(crate) cached: u64,
    /// Input tokens that were written to a cache.
    pub(crate) cache_written: u64,
    /// Of `cache_written`: those kept for an hour.
    pub(crate) written_for_an_hour: u64,
    /// Input tokens that were audio.
    pub(crate) input_audio: u64,
    /// Input tokens that were images.
    pub(crate) input_image: u64,
    /// All output tokens.
    pub(crate) output: u64,
    /// Output tokens that were audio.
    pub(crate) output_audio: u64,
    /// Output tokens that were images.
    pub(crate) output_image: u64,
    /// Web searches of the provider's, which aren't tokens.
    pub(crate) searches: u64,
}

impl Tokens {
    /// Whether there is input, and it is known.
    pub(crate) fn tells_input(&self) -> bool {
        self.input > 0 && !self.input_is_unknown
    }

    /// The same with parts that someone else counted: of each kind the larger count, and all
    /// searches together.
    pub(crate) fn with_parts_of(self, other: Self) -> Self {
        let parts = Self {
            cached: self.cached.max(other.cached),
            cache_written: self.cache_written.max(other.cache_written),
            written_for_an_hour: self.written_for_an_hour.max(other.written_for_an_hour),
            input_audio: self.input_audio.max(other.input_audio),
            input_image: self.input_image.max(other.input_image),
            output_audio: self.output_audio.max(other.output_audio),
            output_image: self.output_image.max(other.output_image),
            searches: self.searches.saturating_add(other.searches),
            ..self
        };
        parts.with_whole_parts()
    }

    /// Raises the wholes to their parts. A count that contradicts another is not taken for less
    /// than it says.
    pub(crate) fn with_whole_parts(self) -> Self {
        let cached = self.cached.saturating_add(self.cache_written);
        let input_media = self.input_audio.saturating_add(self.input_image);
        let output_media = self.output_audio.saturating_add(self.output_image);
        Self {
            input: self.input.max(cached).max(input_media),
            written_for_an_hour: self.written_for_an_hour.min(self.cache_written),
            output: self.output.max(output_media),
            ..self
        }
    }

    /// The same with what is missing taken from `read`, which is complete if it `is_final`.
    pub(crate) fn completed_by(self, read: Self, is_final: bool) -> Self {
        let both = read.with_parts_of(self);
        let completed = match (self.missing, read.missing) {
            (Missing::Input, Missing::Nothing | Missing::Output) => Self {
                output: self.output,
                output_audio: self.output_audio,
                output_image: self.output_image,
                searches: self.searches,
                ..both
            },
            (Missing::Output, Missing::Nothing | Missing::Input) => Self {
                output: both.output,
                output_audio: both.output_audio,
                output_image: both.output_image,
                ..self
            },
            _ => return self,
        };
        let missing = if is_final {
            Missing::Nothing
        } else {
            self.missing
        };
        Self {
            missing,
            ..completed.with_whole_parts()
        }
    }
}

/// Which whole was named by nobody, so that its count is a lower bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Missing {
    #[default]
    Nothing,
    Input,
    Output,
    Both,
    /// Their sum was named, and is counted as input.
    Division,
}

impl Missing {
    pub(crate) const fn unless(names_input: bool, names_output: bool) -> Self {
        match (names_input, names_output) {
            (true, true) => Self::Nothing,
            (false, true) => Self::Input,
            (true, false) => Self::Output,
            (false, false) => Self::Both,
        }
    }
}
