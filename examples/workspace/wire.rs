//! The wire formats, as the service documents them.

use serde::{Deserialize, Serialize};
use tollgate::{
    DenialBody, DenialContext, DenialFormat, RenderDenial,
    clock::Timestamp,
    denial::{Denial, DenialKind},
    key::{ApiKey, KeyRecord},
    store::KeyId,
};

/// Times are given to the second.
fn at(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment)
}

/// `{"error"}`, in the documentation's words.
#[derive(Debug)]
pub(crate) struct Texts;

impl RenderDenial for Texts {
    fn render(&self, denial: &Denial, context: &DenialContext<'_>) -> DenialBody {
        let text = match denial.kind() {
            kind if kind.is_authentication() => "Invalid API key",
            DenialKind::AddressRefused => "Access denied from this IP address",
            DenialKind::RateLimited => "Rate limit exceeded",
            _ => match denial.message() {
                Some(text) => text,
                None => return DenialFormat::Error.render(denial, context),
            },
        };
        DenialBody::json(&serde_json::json!({ "error": text }))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Question {
    workspace_id: String,
    question: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    workspace_id: String,
    answer: String,
}

impl Answer {
    pub(crate) fn to(question: Question) -> Self {
        let words = question.question.split_whitespace().count();
        Self {
            workspace_id: question.workspace_id,
            answer: format!("A question of {words} words."),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Stats {
    pub(crate) questions: u64,
}

#[derive(Deserialize)]
pub(crate) struct CreateKey {
    pub(crate) name: String,
}

#[derive(Serialize)]
pub(crate) struct Key {
    id: KeyId,
    name: String,
    preview: String,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
}

impl From<KeyRecord> for Key {
    fn from(record: KeyRecord) -> Self {
        Self {
            id: record.id,
            name: record.name,
            preview: record.preview,
            created_at: at(record.created_at),
            last_used_at: record.last_used_at.map(at),
        }
    }
}

/// A key with its clear text, which is shown only once.
#[derive(Serialize)]
pub(crate) struct Created {
    id: KeyId,
    name: String,
    key: String,
    preview: String,
    created_at: Timestamp,
}

impl Created {
    pub(crate) fn of(key: &ApiKey, record: KeyRecord) -> Self {
        Self {
            id: record.id,
            name: record.name,
            key: key.expose().to_owned(),
            preview: record.preview,
            created_at: at(record.created_at),
        }
    }
}
