//! Which members of an answer's JSON are read, by the objects that they are in.

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
    pub(super) fn has_answer(self) -> bool {
        matches!(self, Self::Root | Self::Part | Self::Response)
    }

    /// The section of an object in this one.
    pub(super) fn object(self, key: &[u8]) -> Self {
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
    pub(super) fn list(self, key: &[u8]) -> Self {
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

/// How many keys name tiers.
pub(super) const TIERS: usize = 4;

/// Each key that names a tier has a place of its own: of two that differ, the dearest counts.
pub(super) fn place_of_tier(section: Section, key: &[u8]) -> Option<usize> {
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
pub(super) fn is_of_element(section: Section, key: &[u8]) -> bool {
    matches!(
        (section, key),
        (Section::Modality(_), b"tokenCount") | (Section::CacheDetail, b"inputTokens")
    )
}
