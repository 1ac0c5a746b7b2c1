//! The refusals of this service, word by word.

use http::StatusCode;
use serde_json::Value;

use super::Answer;

impl Answer {
    /// Refused with one of these, in the shape of this service.
    #[track_caller]
    pub(crate) fn refused(self, among: &[u16]) -> Self {
        let body = self.refusal(among);
        for member in ["error", "message"] {
            assert!(
                body.get(member).is_some_and(Value::is_string),
                "no text `{member}`: {body}"
            );
        }
        self
    }

    /// Refused with exactly these words.
    #[track_caller]
    pub(crate) fn refused_as(self, status: u16, error: &str, message: &str) -> Self {
        let body = self.refusal(&[status]);
        assert_eq!(
            body,
            serde_json::json!({"error": error, "message": message})
        );
        self
    }

    #[track_caller]
    pub(crate) fn missing_key(self) -> Self {
        self.refused_as(
            401,
            "Missing API key",
            "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key",
        )
    }

    #[track_caller]
    pub(crate) fn invalid_key(self) -> Self {
        self.refused_as(
            401,
            "Invalid API key",
            "The provided access key is not valid",
        )
    }

    #[track_caller]
    pub(crate) fn expired_key(self) -> Self {
        self.refused_as(401, "API key expired", "This access key has expired")
    }

    #[track_caller]
    pub(crate) fn access_denied(self) -> Self {
        self.refused_as(
            403,
            "Access denied",
            "You do not have permission to access this resource",
        )
    }

    #[track_caller]
    pub(crate) fn insufficient(self, price: &str) -> Self {
        let message = format!(
            "This request costs {price} but your balance is insufficient. \
             Please top up your account."
        );
        self.refused_as(402, "Insufficient credits", &message)
    }

    #[track_caller]
    pub(crate) fn limit_exceeded(self) -> Self {
        self.refused_as(
            402,
            "Spending limit exceeded",
            "This access key has reached its spending limit. \
             Please adjust limits or top up credits.",
        )
    }

    /// Refused in the shape that OpenAI's clients read.
    #[track_caller]
    pub(crate) fn refused_openai(self, among: &[u16]) -> Self {
        let body = self.refusal(among);
        let error = body
            .get("error")
            .unwrap_or_else(|| panic!("no `error`: {body}"));
        for member in ["message", "type"] {
            assert!(
                error.get(member).is_some_and(Value::is_string),
                "no text `{member}`: {body}"
            );
        }
        for member in ["param", "code"] {
            let present = error.get(member);
            assert!(
                present.is_some_and(|value| value.is_null() || value.is_string()),
                "`{member}` is neither text nor null: {body}"
            );
        }
        if self.status == StatusCode::PAYMENT_REQUIRED {
            // What only calls under way hold is there again in a moment; the rest is gone.
            let is_only_held = self.headers.contains_key("retry-after");
            let advice = if is_only_held { "true" } else { "false" };
            assert_eq!(self.header("x-should-retry"), advice);
        }
        self
    }
}
