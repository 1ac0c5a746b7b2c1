//! Which members of an event carry what a model wrote, and which only wrap it.
//!
//! A bound has to hold for shapes that nobody here knows. So it is the wrapping that is listed, and
//! whatever isn't counts: a string by its length, an object or a list by all its bytes.

/// What the counter is inside of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// An event's object.
    #[default]
    Event,
    /// A list of such objects: Gemini's streams without events.
    Events,
    /// `choices`, and one of them (OpenAI's chat).
    Choices,
    Choice,
    /// `delta` (OpenAI's chat, Anthropic, Cohere), and what Cohere has in it.
    Delta,
    /// `tool_calls`, one of them, and its `function`. Its id and name count, in place of the tokens
    /// that frame a call.
    Calls,
    Call,
    Function,
    /// `message` (Anthropic's first event).
    Message,
    /// `content_block` (Anthropic). As with a call, its id and name count.
    Block,
    /// `item` and `part` (OpenAI's responses).
    Item,
    Part,
    /// `response` (OpenAI's responses). It repeats the request and all output.
    Response,
    /// `candidates`, one of them, its `content` and the list of that (Gemini).
    Candidates,
    Candidate,
    Content,
    Parts,
    /// One of these parts.
    Piece,
}

/// What a value is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Value {
    /// It wraps, or tells of something else.
    Wrapping,
    /// It may be output.
    #[default]
    Output,
    /// It repeats all output so far.
    Whole,
}

impl Place {
    pub(super) const fn is_list(self) -> bool {
        matches!(
            self,
            Self::Events | Self::Choices | Self::Calls | Self::Candidates | Self::Parts
        )
    }

    /// What a string here is. Anything else that isn't made of parts, a number, is no output.
    pub(super) fn string(self, key: &[u8]) -> Value {
        let wraps = match self {
            Self::Event => matches!(
                key,
                b"id"
                    | b"type"
                    | b"object"
                    | b"model"
                    | b"provider"
                    | b"system_fingerprint"
                    | b"service_tier"
                    | b"obfuscation"
                    | b"item_id"
                    | b"modelVersion"
                    | b"responseId"
            ),
            Self::Choice => matches!(key, b"finish_reason" | b"native_finish_reason"),
            Self::Delta => matches!(key, b"role" | b"type" | b"stop_reason"),
            Self::Message => matches!(key, b"id" | b"type" | b"role" | b"model"),
            Self::Item => matches!(key, b"id" | b"type" | b"role" | b"status"),
            Self::Call | Self::Block | Self::Part => key == b"type",
            Self::Candidate => key == b"finishReason",
            Self::Content => key == b"role",
            Self::Response => true,
            _ => false,
        };
        if wraps {
            Value::Wrapping
        } else {
            Value::Output
        }
    }

    /// Where an object or a list here leads.
    ///
    /// # Errors
    /// If it leads nowhere, what all of it is.
    pub(super) fn inner(self, key: &[u8], is_object: bool) -> Result<Self, Value> {
        Ok(match (self, key, is_object) {
            (Self::Events, _, true) => Self::Event,
            (Self::Event, b"choices", false) => Self::Choices,
            (Self::Choices, _, true) => Self::Choice,
            (Self::Event | Self::Choice, b"delta", true)
            | (Self::Delta, b"message" | b"content", true) => Self::Delta,
            (Self::Delta, b"tool_calls", false) => Self::Calls,
            (Self::Calls, _, true) | (Self::Delta, b"tool_calls", true) => Self::Call,
            (Self::Call, b"function", true) => Self::Function,
            (Self::Event, b"message", true) => Self::Message,
            (Self::Event, b"content_block", true) => Self::Block,
            (Self::Event, b"item", true) => Self::Item,
            (Self::Event, b"part", true) => Self::Part,
            (Self::Event, b"response", true) => Self::Response,
            (Self::Event, b"candidates", false) => Self::Candidates,
            (Self::Candidates, _, true) => Self::Candidate,
            (Self::Candidate, b"content", true) => Self::Content,
            (Self::Content, b"parts", false) => Self::Parts,
            (Self::Parts, _, true) => Self::Piece,
            (Self::Response, b"output", _) => return Err(Value::Whole),
            (Self::Response, ..)
            | (Self::Event, b"usage" | b"usageMetadata" | b"promptFeedback" | b"error", _)
            | (Self::Event, b"logprobs" | b"prompt_filter_results", _)
            | (Self::Choice, b"logprobs" | b"content_filter_results", _)
            | (Self::Message, b"usage", _)
            | (Self::Part, b"logprobs", _)
            | (Self::Candidate, b"safetyRatings", _) => return Err(Value::Wrapping),
            _ => return Err(Value::Output),
        })
    }
}

/// Whether an event of this type repeats what others had: OpenAI's responses end each text with all
/// of it. The items themselves count again, since some of them come in no other event.
pub(super) fn repeats(kind: &[u8]) -> bool {
    kind.starts_with(b"response.")
        && kind.ends_with(b".done")
        && kind != b"response.output_item.done"
}
