//! The shapes of requests that are known.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use super::{
    RequestedUse,
    json::{count_prompts, malformed, read_members, read_number, read_text, wrong},
};
use crate::{domain::denial::Denial, wire::RequestHead};

/// The longest name of a model, in bytes.
const MODEL_BYTES_MAX: usize = 256;

/// Where a request's JSON body says what it asks for.
///
/// Only the members named here are read, at the top of the body unless stated. Null counts as not
/// stated, and so does a bound of 0, which some services take for none. If several members bound the
/// output, or count the choices, the highest counts.
///
/// Refused with 400 are a body that isn't a JSON object or is compressed, a member that is there
/// twice or in another case (`MAX_TOKENS`), a number that is negative, has a fraction or an exponent,
/// is a string, or needs more than 64 bits, and a model that is not a string or longer than 256
/// bytes; also a member whose text serde_json reads as JSON in place of the object. A client could
/// otherwise ask the service for more than is held, where the service's parser reads such a thing
/// differently.
///
/// **The service must apply the bound that its shape reads**, or pass it on to a provider that does:
/// a bound that the service ignores makes the hold too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestShape {
    /// OpenAI's chat completions: `model`; `max_completion_tokens` and `max_tokens`; `n` and
    /// `best_of`.
    OpenAiChat,
    /// OpenAI's completions: `model`; `max_tokens`; `n` and `best_of`, for each of the prompts in
    /// `prompt`.
    OpenAiCompletions,
    /// OpenAI's responses: `model`; `max_output_tokens`.
    OpenAiResponses,
    /// OpenAI's embeddings: `model`. There is no output.
    OpenAiEmbeddings,
    /// Anthropic's messages: `model`; `max_tokens`.
    AnthropicMessages,
    /// Gemini's `generateContent` and `streamGenerateContent`: `maxOutputTokens` and
    /// `candidateCount` in `generationConfig`, also with underscores. The model is what the last
    /// segment of the path has before its colon, so the pattern ends in `/{model}`; a `model` in the
    /// body must be the same.
    Gemini,
}

/// What a member of a body says.
#[derive(Clone, Copy, Debug)]
enum Role {
    Model,
    OutputMax,
    Choices,
    Prompts,
    /// An object with further members, those of [`GENERATION_CONFIG`].
    Config,
}

type Known = &'static [(&'static str, Role)];

const GENERATION_CONFIG: Known = &[
    ("maxOutputTokens", Role::OutputMax),
    ("max_output_tokens", Role::OutputMax),
    ("candidateCount", Role::Choices),
    ("candidate_count", Role::Choices),
];

impl RequestShape {
    const fn members(self) -> Known {
        match self {
            Self::OpenAiChat => &[
                ("model", Role::Model),
                ("max_completion_tokens", Role::OutputMax),
                ("max_tokens", Role::OutputMax),
                ("n", Role::Choices),
                ("best_of", Role::Choices),
            ],
            Self::OpenAiCompletions => &[
                ("model", Role::Model),
                ("max_tokens", Role::OutputMax),
                ("n", Role::Choices),
                ("best_of", Role::Choices),
                ("prompt", Role::Prompts),
            ],
            Self::OpenAiResponses => &[
                ("model", Role::Model),
                ("max_output_tokens", Role::OutputMax),
            ],
            Self::OpenAiEmbeddings => &[("model", Role::Model)],
            Self::AnthropicMessages => &[("model", Role::Model), ("max_tokens", Role::OutputMax)],
            Self::Gemini => &[
                ("model", Role::Model),
                ("generationConfig", Role::Config),
                ("generation_config", Role::Config),
            ],
        }
    }

    pub(super) fn read(self, head: &RequestHead<'_>, body: &[u8]) -> Result<RequestedUse, Denial> {
        let mut found = Found::default();
        read_members(body, self.members(), |name, role, value| {
            found.note(name, role, value)
        })?;
        let mut asked = RequestedUse {
            model: found.model.as_deref().map(Arc::from),
            output_max: found.output_max.filter(|_| !found.is_unbounded),
            choices: found.choices.max(1).saturating_mul(found.prompts.max(1)),
        };
        match self {
            Self::OpenAiEmbeddings => asked.output_max = Some(0),
            Self::Gemini => asked.model = gemini_model(head, found.model.as_deref())?,
            _ => {}
        }
        Ok(asked)
    }
}

/// What the members said.
#[derive(Default)]
struct Found {
    model: Option<String>,
    output_max: Option<u64>,
    /// A bound of 0 was stated.
    is_unbounded: bool,
    choices: u64,
    prompts: u64,
}

impl Found {
    fn note(&mut self, name: &'static str, role: Role, value: &RawValue) -> Result<(), Denial> {
        match role {
            Role::Model => self.model = read_text(name, value, MODEL_BYTES_MAX)?,
            Role::OutputMax => {
                let stated = read_number(name, value)?;
                self.is_unbounded |= stated == Some(0);
                self.output_max = self.output_max.max(stated);
            }
            Role::Choices => {
                let stated = read_number(name, value)?.unwrap_or_default();
                self.choices = self.choices.max(stated);
            }
            Role::Prompts => self.prompts = count_prompts(name, value)?,
            Role::Config if value.get() == "null" => {}
            Role::Config => {
                let inner = value.get().as_bytes();
                if !inner.starts_with(b"{") {
                    return Err(wrong(name, "be an object"));
                }
                read_members(inner, GENERATION_CONFIG, |name, role, value| {
                    self.note(name, role, value)
                })?;
            }
        }
        Ok(())
    }
}

/// The model that the path names: `/v1beta/models/gemini-2.5-pro:generateContent`.
fn gemini_model(head: &RequestHead<'_>, in_body: Option<&str>) -> Result<Option<Arc<str>>, Denial> {
    let (_, last) = head.path().rsplit_once('/').unwrap_or_default();
    let named = last.rsplit_once(':').map(|(model, _)| model);
    let named = named.map(|model| percent_decode_str(model).decode_utf8());
    let named = named.transpose().ok().flatten();
    let in_body = in_body.map(|model| model.strip_prefix("models/").unwrap_or(model));
    match (named, in_body) {
        (Some(named), Some(other)) if named != other => {
            Err(malformed("model: must be the one that the path names"))
        }
        (Some(named), _) => Ok(Some(Arc::from(named))),
        (None, other) => Ok(other.map(Arc::from)),
    }
}
