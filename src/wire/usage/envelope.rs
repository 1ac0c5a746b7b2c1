//! Which members of an event carry what a model wrote, and which only wrap it.
//!
//! A bound has to hold for shapes that nobody here knows. So it is the wrapping that is listed, and
//! whatever isn't counts with all its bytes.

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

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// A string that wraps.
    Text,
    /// A number or a literal that wraps.
    Scalar,
    /// An object or a list that wraps.
    Nested,
    /// What was written: strings count by their length, and the name doesn't.
    Written,
    /// All of it counts, with its name.
    Unknown,
    /// Likewise, unless the event's type says that `response` repeats the request.
    Undecided,
    /// It repeats all output so far.
    Whole,
}

/// Where bytes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Wrapping,
    Output,
    Undecided,
    Whole,
    /// A name, of which it is decided later.
    Name,
}

impl Member {
    /// What a string is, and whatever has no parts.
    pub(super) const fn string(self) -> Value {
        match self {
            Self::Text => Value::Wrapping,
            Self::Undecided => Value::Undecided,
            Self::Whole => Value::Whole,
            Self::Scalar | Self::Nested | Self::Written | Self::Unknown => Value::Output,
        }
    }

    /// What an object or a list is that leads nowhere.
    pub(super) const fn nested(self) -> Value {
        match self {
            Self::Nested => Value::Wrapping,
            Self::Text => Value::Output,
            _ => self.string(),
        }
    }

    /// Whether name, marks and literals count too.
    pub(super) const fn is_whole(self) -> bool {
        matches!(self, Self::Unknown | Self::Undecided)
    }
}

impl Place {
    pub(super) const fn is_list(self) -> bool {
        matches!(
            self,
            Self::Events | Self::Choices | Self::Calls | Self::Candidates | Self::Parts
        )
    }

    /// What the member of this name is. Names that no list has count.
    pub(super) fn member(self, key: &[u8]) -> Member {
        let lists: &[(Member, &[&str])] = match self {
            Self::Event => &EVENT,
            Self::Choice => &CHOICE,
            Self::Delta => &DELTA,
            Self::Call => &CALL,
            Self::Function => &FUNCTION,
            Self::Message => &MESSAGE,
            Self::Block => &BLOCK,
            Self::Item => &ITEM,
            Self::Part => &PART,
            Self::Response => &RESPONSE,
            Self::Candidate => &CANDIDATE,
            Self::Content => &CONTENT,
            Self::Piece => &PIECE,
            Self::Events | Self::Choices | Self::Calls | Self::Candidates | Self::Parts => &[],
        };
        let mut lists = lists.iter();
        let listed = lists.find(|(_, names)| names.iter().any(|name| name.as_bytes() == key));
        match listed {
            Some((member, _)) => *member,
            None if self == Self::Response => Member::Undecided,
            None => Member::Unknown,
        }
    }

    /// Where an object or a list here leads.
    pub(super) fn inner(self, key: &[u8], is_object: bool) -> Option<Self> {
        Some(match (self, key, is_object) {
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
            (Self::Event | Self::Response, b"candidates", false) => Self::Candidates,
            (Self::Candidates, _, true) => Self::Candidate,
            (Self::Candidate, b"content", true) => Self::Content,
            (Self::Content, b"parts", false) => Self::Parts,
            (Self::Parts, _, true) => Self::Piece,
            _ => return None,
        })
    }
}

type Lists<const N: usize> = [(Member, &'static [&'static str]); N];

const EVENT: Lists<4> = [
    (
        Member::Text,
        &[
            "id",
            "type",
            "object",
            "model",
            "provider",
            "system_fingerprint",
            "service_tier",
            "obfuscation",
            "item_id",
            "modelVersion",
            "responseId",
            "createTime",
        ],
    ),
    (
        Member::Scalar,
        &[
            "index",
            "created",
            "created_at",
            "sequence_number",
            "output_index",
            "content_index",
            "summary_index",
        ],
    ),
    (
        Member::Nested,
        &[
            "usage",
            "usageMetadata",
            "promptFeedback",
            "prompt_filter_results",
            "logprobs",
            "serviceTier",
        ],
    ),
    (
        Member::Written,
        &[
            "choices",
            "delta",
            "message",
            "content_block",
            "item",
            "part",
            "response",
            "candidates",
            "text",
            "arguments",
            "refusal",
        ],
    ),
];

const CHOICE: Lists<4> = [
    (Member::Text, &["finish_reason", "native_finish_reason"]),
    (Member::Scalar, &["index"]),
    (Member::Nested, &["logprobs", "content_filter_results"]),
    (
        Member::Written,
        &["delta", "text", "stop_reason", "token_ids"],
    ),
];

const DELTA: Lists<3> = [
    (
        Member::Text,
        &["role", "type", "stop_reason", "finish_reason"],
    ),
    (Member::Nested, &["usage"]),
    (
        Member::Written,
        &[
            "content",
            "reasoning",
            "reasoning_content",
            "reasoning_details",
            "refusal",
            "text",
            "thinking",
            "signature",
            "partial_json",
            "stop_sequence",
            "tool_calls",
            "tool_plan",
            "function_call",
            "message",
            "citations",
        ],
    ),
];

const CALL: Lists<3> = [
    (Member::Text, &["type"]),
    (Member::Scalar, &["index"]),
    (Member::Written, &["id", "name", "function"]),
];

const FUNCTION: Lists<1> = [(Member::Written, &["name", "arguments"])];

const MESSAGE: Lists<3> = [
    (Member::Text, &["id", "type", "role", "model"]),
    (Member::Nested, &["usage"]),
    (
        Member::Written,
        &["content", "stop_reason", "stop_sequence", "container"],
    ),
];

const BLOCK: Lists<2> = [
    (Member::Text, &["type"]),
    (
        Member::Written,
        &[
            "text",
            "thinking",
            "signature",
            "id",
            "name",
            "input",
            "data",
        ],
    ),
];

const ITEM: Lists<2> = [
    (Member::Text, &["id", "type", "role", "status"]),
    (
        Member::Written,
        &[
            "content",
            "summary",
            "encrypted_content",
            "call_id",
            "name",
            "arguments",
        ],
    ),
];

const PART: Lists<3> = [
    (Member::Text, &["type"]),
    (Member::Nested, &["logprobs"]),
    (Member::Written, &["text", "annotations", "refusal"]),
];

/// The rest of it is the request again in OpenAI's; Gemini's Code Assist has its parts there.
const RESPONSE: Lists<4> = [
    (Member::Text, &["modelVersion", "responseId", "createTime"]),
    (Member::Nested, &["usageMetadata", "promptFeedback"]),
    (Member::Written, &["candidates"]),
    (Member::Whole, &["output"]),
];

const CANDIDATE: Lists<4> = [
    (Member::Text, &["finishReason"]),
    (Member::Scalar, &["index"]),
    (Member::Nested, &["safetyRatings"]),
    (Member::Written, &["content"]),
];

const CONTENT: Lists<2> = [(Member::Text, &["role"]), (Member::Written, &["parts"])];

const PIECE: Lists<2> = [
    (Member::Scalar, &["thought"]),
    (
        Member::Written,
        &["text", "thoughtSignature", "functionCall"],
    ),
];

/// What its type tells of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing.
    Nothing,
    /// Its shape is known.
    Shape,
    /// Its `response` is the request and all output.
    Response,
    /// It repeats a text that came in pieces. Finished items count again: some come in no other
    /// event.
    Again,
}

impl Told {
    pub(super) fn by(kind: &[u8]) -> Self {
        match kind {
            b"response.created"
            | b"response.queued"
            | b"response.in_progress"
            | b"response.completed"
            | b"response.incomplete"
            | b"response.failed" => Self::Response,
            b"response.output_text.done"
            | b"response.refusal.done"
            | b"response.content_part.done"
            | b"response.function_call_arguments.done"
            | b"response.custom_tool_call_input.done"
            | b"response.mcp_call_arguments.done"
            | b"response.code_interpreter_call_code.done"
            | b"response.reasoning_text.done"
            | b"response.reasoning_summary_text.done"
            | b"response.reasoning_summary_part.done" => Self::Again,
            b"ping" | b"content_block_stop" | b"message_stop" => Self::Shape,
            _ if kind.starts_with(b"response.") => Self::Shape,
            _ => Self::Nothing,
        }
    }
}
