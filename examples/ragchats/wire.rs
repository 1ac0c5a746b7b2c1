//! The wire formats, as the service documents them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate::{
    DenialBody, DenialContext, RenderDenial,
    clock::Timestamp,
    denial::{Denial, DenialKind},
    key::{ApiKey, KeyRecord},
    login,
    user::{self, UserRecord},
};

/// Times are given to the second.
fn at(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment)
}

/// The longest name of an agent or a key, in bytes.
const NAME_BYTES_MAX: usize = 240;

/// The name of an agent or a key, bounded by the room for it in storage.
pub(crate) fn short_name(text: &str) -> Result<&str, Denial> {
    let name = user::short_name(text).filter(|text| text.len() <= NAME_BYTES_MAX);
    name.ok_or_else(|| {
        Denial::new(DenialKind::Unprocessable).with_message(format!(
            "name: 1 to 200 characters, of at most {NAME_BYTES_MAX} bytes in UTF-8"
        ))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Register {
    pub(crate) email: String,
    pub(crate) password: String,
    pub(crate) first_name: String,
    pub(crate) last_name: String,
}

#[derive(Deserialize)]
pub(crate) struct Login {
    pub(crate) email: String,
    pub(crate) password: String,
}

#[derive(Deserialize)]
pub(crate) struct Refresh {
    pub(crate) refresh: String,
}

#[derive(Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

#[derive(Deserialize)]
pub(crate) struct Query {
    pub(crate) message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    id: String,
    email: String,
    first_name: String,
    last_name: String,
}

impl From<&UserRecord> for User {
    fn from(user: &UserRecord) -> Self {
        let attribute = |name| user.attributes.get(name).cloned().unwrap_or_default();
        Self {
            id: user.id.to_string(),
            email: user.email.clone(),
            first_name: attribute("firstName"),
            last_name: attribute("lastName"),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct LoggedIn {
    access: String,
    refresh: String,
    user: User,
}

impl LoggedIn {
    pub(crate) fn of(login: &login::Login) -> Option<Self> {
        Some(Self {
            access: login.token.expose().to_owned(),
            refresh: login.refresh_token.as_ref()?.expose().to_owned(),
            user: User::from(&login.user),
        })
    }
}

#[derive(Serialize)]
pub(crate) struct Access {
    pub(crate) access: String,
}

#[derive(Serialize)]
pub(crate) struct Agent {
    pub(crate) id: String,
    name: String,
}

impl Agent {
    pub(crate) fn new(id: &str, name: &str) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct NewAgentKey {
    id: String,
    name: String,
    key: String,
}

impl NewAgentKey {
    pub(crate) fn of(key: &ApiKey, record: KeyRecord) -> Self {
        Self {
            id: record.id.to_string(),
            name: record.name,
            key: key.expose().to_owned(),
        }
    }
}

/// A key in lists.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AgentKey {
    id: String,
    name: String,
    preview: String,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
}

impl From<KeyRecord> for AgentKey {
    fn from(record: KeyRecord) -> Self {
        Self {
            id: record.id.to_string(),
            name: record.name,
            preview: record.preview,
            created_at: at(record.created_at),
            last_used_at: record.last_used_at.map(at),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Answer {
    agent: String,
    answer: String,
}

impl Answer {
    /// The demo agents repeat what they are told.
    pub(crate) fn echoing(agent: &str, message: &str) -> Self {
        Self {
            agent: agent.to_owned(),
            answer: format!("You said: {message}"),
        }
    }
}

#[derive(Serialize)]
struct Error<'a> {
    error: &'a str,
    message: &'a str,
    details: Value,
}

/// `{"error": CODE, "message": TEXT, "details": {…}}`
#[derive(Debug)]
pub(crate) struct Errors;

impl RenderDenial for Errors {
    fn render(&self, denial: &Denial, _: &DenialContext<'_>) -> DenialBody {
        let (code, text) = code_and_text(denial.kind());
        DenialBody::json(&Error {
            error: code,
            message: denial.message().unwrap_or(text),
            details: details(denial),
        })
    }
}

fn details(denial: &Denial) -> Value {
    match denial.kind() {
        DenialKind::CredentialExpired => match denial.expiry().map(at) {
            Some(expired_at) => json!({ "expired_at": expired_at.to_string() }),
            None => json!({}),
        },
        DenialKind::RateLimited => json!({ "retry_after": denial.wait_secs().unwrap_or(1) }),
        _ => json!({}),
    }
}

fn code_and_text(kind: DenialKind) -> (&'static str, &'static str) {
    match kind {
        DenialKind::CredentialMissing => ("token_missing", "No token was sent"),
        DenialKind::CredentialInvalid => ("token_invalid", "The token is not valid here"),
        DenialKind::CredentialAmbiguous => ("token_invalid", "Exactly one token is expected"),
        DenialKind::CredentialExpired => ("token_expired", "Access token has expired"),
        DenialKind::LoginFailed => ("invalid_credentials", "The email or the password is wrong"),
        DenialKind::NotPermitted | DenialKind::AddressRefused => (
            "permission_denied",
            "The token lacks permission for this resource",
        ),
        DenialKind::RateLimited => ("rate_limited", "Too many requests"),
        DenialKind::Malformed => ("bad_request", "The request could not be understood"),
        DenialKind::Unprocessable => ("validation_error", "The request cannot be processed"),
        DenialKind::NotFound => ("not_found", "There is nothing at this address"),
        DenialKind::MethodNotAllowed => ("method_not_allowed", "This method is not allowed here"),
        DenialKind::Conflict => ("conflict", "It exists already"),
        DenialKind::TooLarge => ("payload_too_large", "The request body is too large"),
        DenialKind::TooSlow => ("request_timeout", "The request body did not arrive in time"),
        DenialKind::Unavailable => ("unavailable", "Please try again later"),
        _ => (
            "internal_error",
            "The service failed to process the request",
        ),
    }
}
