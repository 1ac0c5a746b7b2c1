//! The shapes of requests that are known.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use super::{
    RequestedUse,
    json::{count_prompts, malformed, read_members, read_number, read_text, refuse_encoded, wrong},
    media::admit_json,
};
use crate::{domain::denial::Denial, wire::RequestHead};

/// The longest name of a model, in bytes.
const MODEL_BYTES_MAX: usize = 256;

/// Where a request's JSON body says what it asks for.
///
/// Only the members named here are read, at the top of the body unless stated. Null counts as not
/// stated. So does a bound of 0, which some services take for none: the price's own
/// [bound](crate::TokenPrice::output_bound) applies. If several members bound the output, or count
/// the choices, the highest counts; 0 beside another bound is refused.
///
/// Refused with 400 are a body that isn't a JSON object or is compressed, a member that is there
/// twice or in another case (`MAX_TOKENS`), a number that is negative, has a fraction or an
/// exponent, is a string, or needs more than 64 bits, and a model that is not a string or longer
/// than 256 bytes; also a member whose text serde_json reads as JSON in place of the object. So is
/// a `content-type` that isn't `application/json` or ends in `+json`, is there twice, or has a
/// charset other than UTF-8; without one the body is read. A client could otherwise ask the service
/// for more than is held, where the service's parser reads such a thing differently.
///
/// **The service must apply what its shape reads**, or pass it on to a provider that does: all of
/// it is the client's word, the model and the choices no less than the bound. A bound that the
/// service ignores makes the hold too small, and so does a model that something else chooses. Where
/// the path chooses it (Azure's deployments, Vertex AI), or a gateway maps names or falls back to
/// others, read the route with [`read_use_by`](crate::BodyDigestLayer::read_use_by), which gets the
/// request's head. The shapes of OpenAI refuse `models` and `fallbacks`, by which OpenRouter and
/// LiteLLM answer with models other than the one that `model` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestShape {
    /// OpenAI's chat completions: `model`; `max_completion_tokens`, `max_tokens`, and llama.cpp's
    /// `n_predict`; `n` and `best_of`.
    OpenAiChat,
    /// OpenAI's completions: `model`; `max_tokens` and `n_predict`; `n` and `best_of`, for each of
    /// the prompts in `prompt`.
    OpenAiCompletions,
    /// OpenAI's responses: `model`; `max_output_tokens` and `n_predict`.
    OpenAiResponses,
    /// OpenAI's embeddings: `model`. There is no output.
    OpenAiEmbeddings,
    /// Anthropic's messages: `model`; `max_tokens`.
    AnthropicMessages,
    /// Gemini's `generateContent` and `streamGenerateContent`: `maxOutputTokens` and
    /// `candidateCount` in `generationConfig`, also with underscores. The model is what the last
    /// segment of the path, decoded, has before `:generateContent` or `:streamGenerateContent`, so
    /// the pattern ends in `/{model}`; other paths are refused with 400. A `model` in the body must
    /// be the same.
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
    /// It makes other models answer than the one that is named.
    OtherModels,
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
                ("n_predict", Role::OutputMax),
                ("n", Role::Choices),
                ("best_of", Role::Choices),
                ("models", Role::OtherModels),
                ("fallbacks", Role::OtherModels),
            ],
            Self::OpenAiCompletions => &[
                ("model", Role::Model),
                ("max_tokens", Role::OutputMax),
                ("n_predict", Role::OutputMax),
                ("n", Role::Choices),
                ("best_of", Role::Choices),
                ("prompt", Role::Prompts),
                ("models", Role::OtherModels),
                ("fallbacks", Role::OtherModels),
            ],
            Self::OpenAiResponses => &[
                ("model", Role::Model),
                ("max_output_tokens", Role::OutputMax),
                ("n_predict", Role::OutputMax),
                ("models", Role::OtherModels),
                ("fallbacks", Role::OtherModels),
            ],
            Self::OpenAiEmbeddings => &[
                ("model", Role::Model),
                ("models", Role::OtherModels),
                ("fallbacks", Role::OtherModels),
            ],
            Self::AnthropicMessages => &[("model", Role::Model), ("max_tokens", Role::OutputMax)],
            Self::Gemini => &[
                ("model", Role::Model),
                ("generationConfig", Role::Config),
                ("generation_config", Role::Config),
            ],
        }
    }

    /// Reads a whole body: for a reader of your own
    /// ([`read_use_by`](crate::BodyDigestLayer::read_use_by)) that allows each caller some models,
    /// or maps their names.
    ///
    /// ```
    /// use tollgate::{BodyDigestLayer, Principal, RequestShape, denial::{Denial, DenialKind}};
    ///
    /// let layer = BodyDigestLayer::new().read_use_by("POST", "/v1/chat/completions", |head, body| {
    ///     let asked = RequestShape::OpenAiChat.read(head, body)?;
    ///     let caller = head.extensions.get::<Principal>();
    ///     let allowed = caller.and_then(|caller| caller.attribute("models")).unwrap_or_default();
    ///     let is_allowed = |model| allowed.split(',').any(|allowed| allowed == model);
    ///     if asked.model.as_deref().is_some_and(is_allowed) {
    ///         return Ok(asked);
    ///     }
    ///     Err(Denial::new(DenialKind::NotPermitted).with_message("model: not with this key"))
    /// })?;
    /// # let _ = layer;
    /// # Ok::<(), tollgate::spending_limit::InvalidRoute>(())
    /// ```
    ///
    /// # Errors
    /// A [`Denial`] (400) of what the shape doesn't allow.
    pub fn read(self, head: &RequestHead<'_>, body: &[u8]) -> Result<RequestedUse, Denial> {
        refuse_encoded(head.headers)?;
        admit_json(head.headers)?;
        let mut found = Found::default();
        read_members(body, self.members(), |name, role, value| {
            found.note(name, role, value)
        })?;
        let mut asked = RequestedUse {
            model: found.model.as_deref().map(Arc::from),
            output_max: found.output_max()?,
            choices: found.choices.max(1).saturating_mul(found.prompts.max(1)),
        };
        match self {
            Self::OpenAiEmbeddings => asked.output_max = Some(0),
            Self::Gemini => asked.model = Some(gemini_model(head, found.model.as_deref())?),
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
    /// The member that states a bound of 0.
    of_zero: Option<&'static str>,
    choices: u64,
    prompts: u64,
}

impl Found {
    fn note(&mut self, name: &'static str, role: Role, value: &RawValue) -> Result<(), Denial> {
        match role {
            Role::Model => self.model = read_text(name, value, MODEL_BYTES_MAX)?,
            Role::OutputMax => {
                let stated = read_number(name, value)?;
                if stated == Some(0) {
                    self.of_zero = Some(name);
                } else {
                    self.output_max = self.output_max.max(stated);
                }
            }
            Role::Choices => {
                let stated = read_number(name, value)?.unwrap_or_default();
                self.choices = self.choices.max(stated);
            }
            Role::Prompts => self.prompts = count_prompts(name, value)?,
            Role::Config | Role::OtherModels if value.get() == "null" => {}
            Role::OtherModels => return Err(wrong(name, "not be there")),
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

    /// The highest bound.
    ///
    /// # Errors
    /// If another is 0: what a service makes of the two depends on which it looks at first.
    fn output_max(&self) -> Result<Option<u64>, Denial> {
        match (self.of_zero, self.output_max) {
            (Some(name), Some(_)) => Err(wrong(name, "not be 0 beside another bound")),
            (_, bound) => Ok(bound),
        }
    }
}

/// The model that the path names: `/v1beta/models/gemini-2.5-pro:generateContent`. The body never
/// chooses it, even where its path names none: the service would go by the path all the same.
fn gemini_model(head: &RequestHead<'_>, in_body: Option<&str>) -> Result<Arc<str>, Denial> {
    let (_, last) = head.path().rsplit_once('/').unwrap_or_default();
    // A colon may be encoded; services decode the segment before they split it.
    let last = percent_decode_str(last).decode_utf8().ok();
    let split = last.as_deref().and_then(|last| last.rsplit_once(':'));
    let named = match split {
        Some((model, "generateContent" | "streamGenerateContent")) => model,
        _ => "",
    };
    // What is still encoded, or has further parts, is another model to whoever decodes it again.
    if named.is_empty() || named.len() > MODEL_BYTES_MAX || named.contains(['/', ':', '%']) {
        let must = "The path must end in a model and :generateContent or :streamGenerateContent";
        return Err(malformed(must));
    }
    let in_body = in_body.map(|model| model.strip_prefix("models/").unwrap_or(model));
    if in_body.is_some_and(|other| other != named) {
        return Err(malformed("model: must be the one that the path names"));
    }
    Ok(Arc::from(named))
}
