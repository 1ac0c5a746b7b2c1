//! The built-in formats of refusals.

use http::{HeaderName, HeaderValue};
use serde::Serialize;

use super::{DenialBody, DenialContext, RenderDenial, message, title};
use crate::domain::denial::{Denial, DenialKind};

const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// The built-in formats of refusals. All are `application/json` except [`DenialFormat::Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialFormat {
    /// `{"type", "title", "status", "detail", "code"}`: problem details (RFC 9457),
    /// `application/problem+json`. An exceeded rate limit has the type `quota-exceeded` and names
    /// the `violated-policies` (draft-ietf-httpapi-ratelimit-headers).
    Problem,
    /// `{"detail"}`.
    Detail,
    /// `{"error"}`.
    Error,
    /// `{"error", "message"}`.
    ErrorMessage,
    /// `{"error": {"message", "type", "param", "code"}}`, with `retry-after-ms` and
    /// `x-should-retry`, which OpenAI's clients obey: a 402 says `false`, unless the money is only
    /// held by calls under way.
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}}`, with the same `x-should-retry`, which
    /// Anthropic's clients obey. The types are those of its API: `authentication_error`,
    /// `rate_limit_error`, `billing_error` and so on.
    Anthropic,
}

impl RenderDenial for DenialFormat {
    fn render(&self, denial: &Denial, context: &DenialContext<'_>) -> DenialBody {
        let title = title(denial);
        let text = denial.message().map_or_else(|| message(denial), Into::into);
        match self {
            Self::Problem => problem(denial, context, title, &text),
            Self::Detail => DenialBody::json(&Detail { detail: &text }),
            Self::Error => DenialBody::json(&Error {
                error: title,
                message: None,
            }),
            Self::ErrorMessage => DenialBody::json(&Error {
                error: title,
                message: Some(&text),
            }),
            Self::OpenAi => open_ai(denial, &text),
            Self::Anthropic => anthropic(denial, &text),
        }
    }
}

// Members are serialized in their documented order.

#[derive(Serialize)]
struct Detail<'a> {
    detail: &'a str,
}

#[derive(Serialize)]
struct Error<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(rename = "violated-policies", skip_serializing_if = "Vec::is_empty")]
    violated: Vec<&'a str>,
}

#[derive(Serialize)]
struct OpenAi<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

#[derive(Serialize)]
struct Anthropic<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: AnthropicError<'a>,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    message: &'a str,
}

fn problem(denial: &Denial, context: &DenialContext<'_>, title: &str, text: &str) -> DenialBody {
    let violated: Vec<&str> = denial.violated_policies().collect();
    let body = DenialBody::json(&Problem {
        kind: if violated.is_empty() {
            "about:blank"
        } else {
            QUOTA_EXCEEDED
        },
        title,
        status: context.status.as_u16(),
        detail: text,
        code: denial.kind().as_str(),
        violated,
    });
    DenialBody {
        content_type: HeaderValue::from_static("application/problem+json"),
        ..body
    }
}

fn open_ai(denial: &Denial, text: &str) -> DenialBody {
    let (kind, code) = match denial.kind() {
        DenialKind::CredentialMissing
        | DenialKind::CredentialInvalid
        | DenialKind::CredentialExpired
        | DenialKind::CredentialAmbiguous
        | DenialKind::LoginFailed => ("invalid_request_error", Some("invalid_api_key")),
        DenialKind::NotPermitted | DenialKind::AddressRefused => ("permission_error", None),
        DenialKind::RateLimited => ("rate_limit_error", Some("rate_limit_exceeded")),
        DenialKind::InsufficientCredits => ("insufficient_quota", Some("insufficient_quota")),
        DenialKind::SpendingLimitReached => {
            ("insufficient_quota", Some("billing_hard_limit_reached"))
        }
        DenialKind::Internal | DenialKind::Unavailable => ("server_error", None),
        _ => ("invalid_request_error", None),
    };
    let mut body = DenialBody::json(&OpenAi {
        error: OpenAiError {
            message: text,
            kind,
            param: denial.parameter(),
            code: denial.code().or(code),
        },
    });
    if let Some(wait) = denial.wait() {
        let ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000))
            .unwrap_or(u64::MAX)
            .max(1);
        body.headers.push((
            HeaderName::from_static("retry-after-ms"),
            HeaderValue::from(ms),
        ));
    }
    body.headers.extend(should_retry(denial));
    body
}

fn anthropic(denial: &Denial, text: &str) -> DenialBody {
    let kind = match denial.kind() {
        DenialKind::CredentialMissing
        | DenialKind::CredentialInvalid
        | DenialKind::CredentialExpired
        | DenialKind::CredentialAmbiguous
        | DenialKind::LoginFailed => "authentication_error",
        DenialKind::NotPermitted | DenialKind::AddressRefused => "permission_error",
        DenialKind::RateLimited => "rate_limit_error",
        DenialKind::InsufficientCredits | DenialKind::SpendingLimitReached => "billing_error",
        DenialKind::NotFound => "not_found_error",
        DenialKind::TooLarge => "request_too_large",
        DenialKind::TooSlow => "timeout_error",
        DenialKind::Internal => "api_error",
        DenialKind::Unavailable => "overloaded_error",
        _ => "invalid_request_error",
    };
    let mut body = DenialBody::json(&Anthropic {
        kind: "error",
        error: AnthropicError {
            kind,
            message: text,
        },
    });
    body.headers.extend(should_retry(denial));
    body
}

/// Of themselves OpenAI's SDKs retry any 409, and no 402. A 402 is worth it if the money is there,
/// but held; a 409 isn't if only another request would do.
fn should_retry(denial: &Denial) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_static("x-should-retry");
    let is_told = denial.kind().is_payment() || denial.kind() == DenialKind::Conflict;
    let advice = match denial.is_passing().filter(|_| is_told)? {
        true => "true",
        false => "false",
    };
    Some((name, HeaderValue::from_static(advice)))
}
