//! Refusals in gRPC's form: HTTP 200, a status in the trailers, no body.
//!
//! With the feature `tonic` the status has details; otherwise only code and message.

mod call;
#[cfg(feature = "tonic")]
mod details;
mod web;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::domain::denial::{Denial, DenialKind};

pub(crate) use call::CallStatus;
#[cfg(feature = "tonic")]
pub(crate) use details::status;
use web::WebStatus;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// What clients that retry by a service config obey; they don't read `RetryInfo` (gRFC A6).
const GRPC_RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The longest wait that a client is asked to wait by itself.
const PUSHBACK_MAX: Duration = Duration::from_secs(60);

/// What must be escaped in `grpc-message` (gRPC over HTTP/2, "Percent-Encoded").
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// The protocol that a refusal is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Plain HTTP.
    #[default]
    Http,
    /// gRPC.
    Grpc,
    /// gRPC-Web, which nothing further out translates.
    Web,
    /// The same in Base64.
    WebText,
}

impl Dialect {
    /// By the media type. Answers of gRPC-Web may have the status in the head and no body, as in
    /// gRPC.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let media = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let Some(rest) = media.and_then(|media| without(media, b"application/grpc")) else {
            return Self::Http;
        };
        let (dialect, rest) = match (without(rest, b"-web-text"), without(rest, b"-web")) {
            (Some(rest), _) => (Self::WebText, rest),
            (None, Some(rest)) => (Self::Web, rest),
            (None, None) => (Self::Grpc, rest),
        };
        match rest.first() {
            None | Some(b'+' | b';') => dialect,
            Some(_) => Self::Http,
        }
    }

    /// The media type of its answers; plain HTTP takes the one of the house style.
    const fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Http | Self::Grpc => "application/grpc",
            Self::Web => "application/grpc-web",
            Self::WebText => "application/grpc-web-text",
        })
    }
}

/// What follows a prefix, in upper or lower case (RFC 9110, 8.3.1). Most differ in their last byte.
fn without<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    let same = |byte: Option<&u8>| byte.map(u8::to_ascii_lowercase);
    let fits = same(start.last()) == same(prefix.last()) && start.eq_ignore_ascii_case(prefix);
    fits.then_some(rest)
}

/// Whether the client speaks gRPC (not gRPC-Web, which expects its trailers in a body).
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    Dialect::of(headers) == Dialect::Grpc
}

/// The gRPC status codes that refusals map to.
fn code(denial: &Denial) -> u8 {
    match denial.kind() {
        // Another try at a higher level may succeed.
        DenialKind::Conflict if denial.is_passing() == Some(true) => 10, // ABORTED
        DenialKind::CredentialMissing
        | DenialKind::CredentialInvalid
        | DenialKind::CredentialExpired
        | DenialKind::CredentialAmbiguous
        | DenialKind::LoginFailed => 16, // UNAUTHENTICATED
        DenialKind::NotPermitted | DenialKind::AddressRefused => 7,      // PERMISSION_DENIED
        DenialKind::RateLimited
        | DenialKind::InsufficientCredits
        | DenialKind::SpendingLimitReached
        | DenialKind::TooLarge => 8, // RESOURCE_EXHAUSTED
        DenialKind::Malformed | DenialKind::Unprocessable => 3,          // INVALID_ARGUMENT
        // No such method; gRPC maps a 404 to the same code (http-grpc-status-mapping).
        DenialKind::NotFound | DenialKind::MethodNotAllowed => 12, // UNIMPLEMENTED
        DenialKind::TooSlow => 4,                                  // DEADLINE_EXCEEDED
        DenialKind::Conflict => 6,                                 // ALREADY_EXISTS
        DenialKind::Internal => 13,
        DenialKind::Unavailable => 14,
    }
}

/// A trailers-only answer: the trailers are in the head.
pub(crate) fn respond(denial: &Denial, message: &str, dialect: Dialect) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, dialect.media_type());
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code(denial))));
    let escaped = utf8_percent_encode(message, ESCAPED).to_string();
    if let Ok(message) = HeaderValue::try_from(escaped) {
        headers.insert(GRPC_MESSAGE, message);
    }
    #[cfg(feature = "tonic")]
    if let Some(details) = encoded(&status(denial, message)) {
        headers.insert(GRPC_STATUS_DETAILS, details);
    }
    if let Some(pushback) = pushback(denial) {
        headers.insert(GRPC_RETRY_PUSHBACK, pushback);
    }
    response
}

/// How many milliseconds a client is to wait before it tries again by itself, or that it must not:
/// a client obeys however long the wait is, so its user would hear nothing until its deadline.
fn pushback(denial: &Denial) -> Option<HeaderValue> {
    const NEVER: HeaderValue = HeaderValue::from_static("-1");
    match denial.wait() {
        Some(wait) if wait > PUSHBACK_MAX => Some(NEVER),
        Some(wait) => {
            let ms = wait.as_nanos().div_ceil(1_000_000).max(1);
            Some(u64::try_from(ms).map_or(NEVER, HeaderValue::from))
        }
        None => denial.kind().is_payment().then_some(NEVER),
    }
}

/// Removes the call's status from an answer that is rewritten for a client that speaks plain HTTP.
pub(crate) fn forget_status(headers: &mut HeaderMap) {
    for name in [
        GRPC_STATUS,
        GRPC_MESSAGE,
        GRPC_STATUS_DETAILS,
        GRPC_RETRY_PUSHBACK,
    ] {
        headers.remove(name);
    }
}

/// Base64 without padding (gRPC over HTTP/2, "Binary-Header").
#[cfg(feature = "tonic")]
fn encoded(status: &tonic::Status) -> Option<HeaderValue> {
    use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

    HeaderValue::try_from(STANDARD_NO_PAD.encode(status.details())).ok()
}

/// Adds a reason to a failure, in the head or the trailers of an answer, that has no details: the
/// name of its code. Without the feature `tonic` it does nothing.
pub(crate) fn explain(headers: &mut HeaderMap) {
    #[cfg(feature = "tonic")]
    if has_failed(headers)
        && !headers.contains_key(GRPC_STATUS_DETAILS)
        && let Some(status) = tonic::Status::from_header_map(headers)
        && let Some(details) = encoded(&details::explained(&status))
    {
        headers.insert(GRPC_STATUS_DETAILS, details);
    }
    #[cfg(not(feature = "tonic"))]
    let _ = headers;
}

/// How long the client waits: at most eight digits and a unit (gRPC over HTTP/2, "Timeout"). `None`
/// if it is written otherwise.
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let is_written = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number = digits.parse::<u32>().ok().filter(|_| is_written)?;
    let one = match unit {
        "H" => Duration::from_secs(3_600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    one.checked_mul(number)
}

/// Whether an answer's head or trailers say that a gRPC call failed.
pub(crate) fn has_failed(headers: &HeaderMap) -> bool {
    headers
        .get(GRPC_STATUS)
        .is_some_and(|status| status.as_bytes() != b"0")
}

/// The refusal that corresponds to a trailers-only answer from elsewhere.
pub(crate) fn kind_of_answer(headers: &HeaderMap) -> Option<DenialKind> {
    let status = headers.get(GRPC_STATUS)?.to_str().ok()?;
    Some(match status {
        "0" => return None,
        "16" => DenialKind::CredentialInvalid,
        "7" => DenialKind::NotPermitted,
        "8" => DenialKind::RateLimited,
        "5" | "12" => DenialKind::NotFound,
        "4" => DenialKind::TooSlow,
        "6" | "10" => DenialKind::Conflict,
        "14" => DenialKind::Unavailable,
        "2" | "13" | "15" => DenialKind::Internal,
        _ => DenialKind::Malformed,
    })
}

/// Whether an answer's head says that the caller isn't authenticated.
pub(crate) fn is_unauthenticated(headers: &HeaderMap) -> bool {
    headers
        .get(GRPC_STATUS)
        .is_some_and(|status| status.as_bytes() == b"16")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grpc_is_grpc() {
        let speaks = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
            is_grpc(&headers)
        };
        assert!(
            speaks("application/grpc")
                && speaks("application/grpc+proto")
                && speaks("application/grpc;x=y")
                && speaks("APPLICATION/gRPC")
        );
        assert!(
            !speaks("application/grpc-web")
                && !speaks("application/json")
                && !speaks("text/application/grpc")
        );
    }

    #[test]
    fn grpc_web_is_told_by_its_media_type() {
        let dialect = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
            Dialect::of(&headers)
        };
        for (value, expected) in [
            ("application/grpc-web", Dialect::Web),
            ("Application/GRPC-Web", Dialect::Web),
            ("application/json+grpc", Dialect::Http),
            ("", Dialect::Http),
            ("application/grpc-web+proto", Dialect::Web),
            ("application/grpc-web-text", Dialect::WebText),
            ("application/grpc-web-text+proto", Dialect::WebText),
            ("application/grpc-web-textual", Dialect::Http),
            ("application/grpc-webs", Dialect::Http),
            ("application/grpc", Dialect::Grpc),
            ("application/grpcs", Dialect::Http),
        ] {
            assert_eq!(dialect(value), expected, "{value}");
        }
    }

    #[test]
    fn a_message_is_percent_encoded() {
        let denial = Denial::new(DenialKind::RateLimited);
        let response = respond(&denial, "é 100%\n", Dialect::Grpc);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "8");
        assert_eq!(response.headers()["grpc-message"], "%C3%A9 100%25%0A");
        let detailed = response.headers().contains_key("grpc-status-details-bin");
        assert_eq!(detailed, cfg!(feature = "tonic"));
    }

    #[test]
    fn a_client_that_retries_by_itself_is_told_when_or_not_to() {
        let pushback = |denial: Denial| {
            let response = respond(&denial, "no", Dialect::Grpc);
            let pushback = response.headers().get("grpc-retry-pushback-ms").cloned();
            pushback.map(|value| value.to_str().unwrap().to_owned())
        };
        let limited = |wait| Denial::new(DenialKind::RateLimited).retry_after(wait);
        let ms = |wait| pushback(limited(wait));
        assert_eq!(ms(Duration::from_micros(20_001)).as_deref(), Some("21"));
        assert_eq!(ms(Duration::ZERO).as_deref(), Some("1"));
        assert_eq!(ms(Duration::from_secs(60)).as_deref(), Some("60000"));
        assert_eq!(ms(Duration::from_secs(3_600)).as_deref(), Some("-1"));
        assert_eq!(ms(Duration::MAX).as_deref(), Some("-1"));
        let empty = Denial::new(DenialKind::InsufficientCredits);
        assert_eq!(pushback(empty).as_deref(), Some("-1"));
        assert_eq!(pushback(Denial::new(DenialKind::NotPermitted)), None);
    }

    #[test]
    fn a_status_other_than_ok_is_a_failure() {
        let failed = |status: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_STATUS, HeaderValue::from_static(status));
            has_failed(&headers)
        };
        assert!(failed("7") && failed("13") && !failed("0"));
        assert!(!has_failed(&HeaderMap::new()), "plain HTTP");
    }
}
