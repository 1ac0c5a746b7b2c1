//! Refusals as gRPC reads them: HTTP 200, a status in the trailers, no body.
//!
//! With the feature `tonic` the status has details; without it, code and message alone.

#[cfg(feature = "tonic")]
mod details;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::domain::denial::{Denial, DenialKind};

#[cfg(feature = "tonic")]
pub(crate) use details::status;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What `grpc-message` must not carry as it is (gRPC over HTTP/2, "Percent-Encoded").
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// What a refusal is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Plain HTTP.
    #[default]
    Http,
    /// gRPC.
    Grpc,
    /// gRPC-Web, which nobody further out translates.
    Web,
    /// The same in Base64.
    WebText,
}

impl Dialect {
    /// By the media type. Answers of gRPC-Web may have the status in the head and no body, like gRPC's.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let media = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let Some(rest) = media.and_then(|media| media.strip_prefix(b"application/grpc")) else {
            return Self::Http;
        };
        let (dialect, rest) = match (rest.strip_prefix(b"-web-text"), rest.strip_prefix(b"-web")) {
            (Some(rest), _) => (Self::WebText, rest),
            (None, Some(rest)) => (Self::Web, rest),
            (None, None) => (Self::Grpc, rest),
        };
        match rest.first() {
            None | Some(b'+' | b';') => dialect,
            Some(_) => Self::Http,
        }
    }

    /// The media type of its answers; plain HTTP has one by the house style.
    const fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Http | Self::Grpc => "application/grpc",
            Self::Web => "application/grpc-web",
            Self::WebText => "application/grpc-web-text",
        })
    }
}

/// Whether the client speaks gRPC (not gRPC-Web, which wants its trailers in a body).
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    Dialect::of(headers) == Dialect::Grpc
}

/// The status codes of gRPC that refusals map to.
fn code(kind: DenialKind) -> u8 {
    match kind {
        DenialKind::CredentialMissing
        | DenialKind::CredentialInvalid
        | DenialKind::CredentialExpired
        | DenialKind::CredentialAmbiguous
        | DenialKind::LoginFailed => 16, // UNAUTHENTICATED
        DenialKind::NotPermitted | DenialKind::AddressRefused => 7, // PERMISSION_DENIED
        DenialKind::RateLimited
        | DenialKind::InsufficientCredits
        | DenialKind::SpendingLimitReached
        | DenialKind::TooLarge => 8, // RESOURCE_EXHAUSTED
        DenialKind::Malformed | DenialKind::Unprocessable => 3,     // INVALID_ARGUMENT
        // There is no such method: what gRPC makes of a 404 as well (http-grpc-status-mapping).
        DenialKind::NotFound | DenialKind::MethodNotAllowed => 12, // UNIMPLEMENTED
        DenialKind::TooSlow => 4,                                  // DEADLINE_EXCEEDED
        DenialKind::Conflict => 6,                                 // ALREADY_EXISTS
        DenialKind::Internal => 13,
        DenialKind::Unavailable => 14,
    }
}

/// A trailers-only answer: what would be trailers stands in the head.
pub(crate) fn respond(denial: &Denial, message: &str, dialect: Dialect) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, dialect.media_type());
    headers.insert(
        GRPC_STATUS,
        HeaderValue::from(u16::from(code(denial.kind()))),
    );
    let escaped = utf8_percent_encode(message, ESCAPED).to_string();
    if let Ok(message) = HeaderValue::try_from(escaped) {
        headers.insert(GRPC_MESSAGE, message);
    }
    #[cfg(feature = "tonic")]
    if let Some(details) = encoded_details(denial, message) {
        headers.insert(tonic::Status::GRPC_STATUS_DETAILS, details);
    }
    response
}

/// Base64 without padding (gRPC over HTTP/2, "Binary-Header").
#[cfg(feature = "tonic")]
fn encoded_details(denial: &Denial, message: &str) -> Option<HeaderValue> {
    use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

    let details = STANDARD_NO_PAD.encode(status(denial, message).details());
    HeaderValue::try_from(details).ok()
}

/// Whether an answer, by its head or its trailers, says that a gRPC call failed.
pub(crate) fn has_failed(headers: &HeaderMap) -> bool {
    headers
        .get(GRPC_STATUS)
        .is_some_and(|status| status.as_bytes() != b"0")
}

/// Whether an answer says by its head that it doesn't know who calls.
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
