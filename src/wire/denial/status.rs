//! The kinds of refusals as statuses of HTTP.

use http::StatusCode;

use crate::domain::denial::DenialKind;

/// The HTTP status of each kind of refusal.
pub(crate) fn status(kind: DenialKind) -> StatusCode {
    match kind {
        DenialKind::CredentialMissing
        | DenialKind::CredentialInvalid
        | DenialKind::CredentialExpired
        | DenialKind::CredentialAmbiguous
        | DenialKind::LoginFailed => StatusCode::UNAUTHORIZED,
        DenialKind::NotPermitted | DenialKind::AddressRefused => StatusCode::FORBIDDEN,
        DenialKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        DenialKind::InsufficientCredits | DenialKind::SpendingLimitReached => {
            StatusCode::PAYMENT_REQUIRED
        }
        DenialKind::Malformed => StatusCode::BAD_REQUEST,
        DenialKind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        DenialKind::NotFound => StatusCode::NOT_FOUND,
        DenialKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        DenialKind::Conflict => StatusCode::CONFLICT,
        DenialKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        DenialKind::TooSlow => StatusCode::REQUEST_TIMEOUT,
        DenialKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        DenialKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The kind of refusal that another component's plain error status corresponds to, if any.
pub(crate) fn kind_of_status(status: StatusCode) -> Option<DenialKind> {
    Some(match status {
        StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE => DenialKind::Malformed,
        StatusCode::UNAUTHORIZED => DenialKind::CredentialInvalid,
        StatusCode::FORBIDDEN => DenialKind::NotPermitted,
        StatusCode::NOT_FOUND => DenialKind::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => DenialKind::MethodNotAllowed,
        StatusCode::CONFLICT => DenialKind::Conflict,
        StatusCode::PAYLOAD_TOO_LARGE => DenialKind::TooLarge,
        StatusCode::REQUEST_TIMEOUT => DenialKind::TooSlow,
        StatusCode::UNPROCESSABLE_ENTITY => DenialKind::Unprocessable,
        StatusCode::TOO_MANY_REQUESTS => DenialKind::RateLimited,
        StatusCode::SERVICE_UNAVAILABLE => DenialKind::Unavailable,
        StatusCode::INTERNAL_SERVER_ERROR => DenialKind::Internal,
        _ => return None,
    })
}
