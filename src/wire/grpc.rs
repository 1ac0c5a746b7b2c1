//! Refusals as gRPC reads them: HTTP 200, a status in the trailers, no body.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::domain::denial::{Denial, DenialKind};

/// What `grpc-message` must not carry as it is (gRPC over HTTP/2, "Percent-Encoded").
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// Whether the client speaks gRPC (not gRPC-Web, which wants its trailers in a body).
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
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
        DenialKind::NotFound => 5,
        DenialKind::MethodNotAllowed => 12, // UNIMPLEMENTED
        DenialKind::Conflict => 6,          // ALREADY_EXISTS
        DenialKind::Internal => 13,
        DenialKind::Unavailable => 14,
    }
}

/// A trailers-only answer: what would be trailers stands in the head.
pub(crate) fn respond(denial: &Denial, message: &str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(
        "grpc-status",
        HeaderValue::from(u16::from(code(denial.kind()))),
    );
    let escaped = utf8_percent_encode(message, ESCAPED).to_string();
    if let Ok(message) = HeaderValue::try_from(escaped) {
        headers.insert("grpc-message", message);
    }
    response
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
    fn a_message_is_percent_encoded() {
        let response = respond(&Denial::new(DenialKind::RateLimited), "é 100%\n");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "8");
        assert_eq!(response.headers()["grpc-message"], "%C3%A9 100%25%0A");
    }
}
