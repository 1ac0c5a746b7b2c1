//! What a gRPC client can read of a refusal beyond code and message (google.rpc, AIP-193).

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::code;
use crate::domain::denial::{Denial, DenialKind};

/// The domain of the reasons.
const DOMAIN: &str = "tollgate";

/// A refusal as a status. `ErrorInfo` always gives the reason; `RetryInfo` says when to retry, and
/// `QuotaFailure` what was insufficient, if money was the reason.
pub(crate) fn status(denial: &Denial, message: &str) -> Status {
    let reason = denial.kind().as_str().to_ascii_uppercase();
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, facts(denial));
    if let Some(wait) = denial.wait() {
        details.set_retry_info(Some(wait));
    }
    if let Some(subject) = quota(denial.kind()) {
        details.add_quota_failure_violation(subject, message);
    }
    Status::with_error_details(Code::from(i32::from(code(denial))), message, details)
}

fn facts(denial: &Denial) -> HashMap<String, String> {
    let price = denial
        .priced_at()
        .map(|price| ("price_nanos", price.nanos().to_string()));
    let expiry = denial.expiry().map(|at| ("expired_at", at.to_string()));
    let facts = [price, expiry].into_iter().flatten();
    facts.map(|(name, fact)| (name.to_owned(), fact)).collect()
}

/// Someone else's status, with the name of its code as a reason.
pub(super) fn explained(status: &Status) -> Status {
    let details = ErrorDetails::with_error_info(name(status.code()), DOMAIN, HashMap::new());
    Status::with_error_details(status.code(), status.message(), details)
}

/// The name that the protocol uses (gRPC, "Status codes and their use").
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What was insufficient.
fn quota(kind: DenialKind) -> Option<&'static str> {
    match kind {
        DenialKind::InsufficientCredits => Some("balance"),
        DenialKind::SpendingLimitReached => Some("spending_limit"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::money::Money;

    #[test]
    fn a_rate_limit_says_when_to_come_again() {
        let denial = Denial::new(DenialKind::RateLimited).retry_after(Duration::from_millis(1_500));
        let status = status(&denial, "slow down");
        assert_eq!(
            (status.code(), status.message()),
            (Code::ResourceExhausted, "slow down")
        );
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("RATE_LIMITED", "tollgate")
        );
        let retry = details.retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(Duration::from_millis(1_500)));
        assert!(details.quota_failure().is_none());
    }

    #[test]
    fn money_says_what_was_not_enough() {
        let denial = Denial::new(DenialKind::InsufficientCredits).price(Money::from_nanos(7));
        let details = status(&denial, "broke").get_error_details();
        let [violation] = details.quota_failure().unwrap().violations.as_slice() else {
            panic!("one violation");
        };
        assert_eq!(
            (violation.subject.as_str(), violation.description.as_str()),
            ("balance", "broke")
        );
        assert_eq!(details.error_info().unwrap().metadata["price_nanos"], "7");
        assert!(
            details.retry_info().is_none(),
            "money doesn't come by waiting"
        );
    }

    #[test]
    fn money_that_is_only_held_says_when_to_come_again() {
        let denial = Denial::new(DenialKind::SpendingLimitReached).passing();
        let denial = denial.retry_after(Duration::from_secs(1));
        let details = status(&denial, "held").get_error_details();
        let retry = details.retry_info().unwrap().retry_delay;
        assert_eq!(retry, Some(Duration::from_secs(1)));
        let violations = &details.quota_failure().unwrap().violations;
        assert_eq!(violations[0].subject, "spending_limit");
    }

    #[test]
    fn every_reason_is_upper_snake_case_and_short() {
        let status = status(&Denial::new(DenialKind::CredentialMissing), "");
        let details = status.get_error_details();
        let reason = &details.error_info().unwrap().reason;
        assert_eq!(reason, "CREDENTIAL_MISSING");
        assert!(details.error_info().unwrap().metadata.is_empty());
    }

    #[test]
    fn the_operators_text_is_in_no_detail() {
        let denial = Denial::new(DenialKind::NotPermitted).because("key-1 lacks write");
        let status = status(&denial, "no");
        let text = String::from_utf8_lossy(status.details());
        assert!(!text.contains("lacks"), "{text}");
    }
}
