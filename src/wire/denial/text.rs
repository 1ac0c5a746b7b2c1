//! The texts that clients read, unless the format or the refusal has its own.

use std::borrow::Cow;

use crate::domain::{
    credential::CredentialKind,
    denial::{Denial, DenialKind},
};

/// What happened, in two or three words.
pub(crate) fn title(denial: &Denial) -> &'static str {
    match denial.kind() {
        DenialKind::CredentialMissing => match denial.credential() {
            Some(CredentialKind::ApiKey) => "Missing API key",
            Some(CredentialKind::Token) => "Missing token",
            Some(CredentialKind::SessionCookie) => "Not signed in",
            _ => "Missing credentials",
        },
        DenialKind::CredentialInvalid | DenialKind::CredentialAmbiguous => {
            match denial.credential() {
                Some(CredentialKind::ApiKey) => "Invalid API key",
                Some(CredentialKind::Token) => "Invalid token",
                Some(CredentialKind::SessionCookie) => "Invalid session",
                _ => "Invalid credentials",
            }
        }
        DenialKind::CredentialExpired => match denial.credential() {
            Some(CredentialKind::ApiKey) => "API key expired",
            Some(CredentialKind::Token) => "Token expired",
            Some(CredentialKind::SessionCookie) => "Session expired",
            _ => "Credentials expired",
        },
        DenialKind::LoginFailed => "Invalid credentials",
        DenialKind::NotPermitted | DenialKind::AddressRefused => "Access denied",
        DenialKind::RateLimited => "Rate limit exceeded",
        DenialKind::InsufficientCredits => "Insufficient credits",
        DenialKind::SpendingLimitReached => "Spending limit exceeded",
        DenialKind::Malformed => "Bad request",
        DenialKind::Unprocessable => "Unprocessable request",
        DenialKind::NotFound => "Not found",
        DenialKind::MethodNotAllowed => "Method not allowed",
        DenialKind::Conflict => "Conflict",
        DenialKind::TooLarge => "Request too large",
        DenialKind::TooSlow => "Request timeout",
        DenialKind::Internal => "Internal error",
        DenialKind::Unavailable => "Service unavailable",
    }
}

/// What happened and what to do, in a sentence.
pub(crate) fn message(denial: &Denial) -> Cow<'static, str> {
    if let Some(sought) = denial.sought() {
        return sought.to_string().into();
    }
    Cow::Borrowed(match denial.kind() {
        DenialKind::CredentialMissing => match denial.credential() {
            Some(CredentialKind::ApiKey) => {
                "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key"
            }
            Some(CredentialKind::Token) => "Expected 'Authorization: Bearer' header with a token",
            Some(CredentialKind::SessionCookie) => "Please sign in",
            _ => "The request carries no credentials",
        },
        DenialKind::CredentialInvalid => match denial.credential() {
            Some(CredentialKind::ApiKey) => "The provided access key is not valid",
            Some(CredentialKind::Token) => "The provided token is not valid",
            Some(CredentialKind::SessionCookie) => {
                "The session is not valid. Please sign in again."
            }
            _ => "The provided credentials are not valid",
        },
        DenialKind::CredentialAmbiguous => "More than one credential was sent; send exactly one",
        DenialKind::CredentialExpired => match denial.credential() {
            Some(CredentialKind::ApiKey) => "This access key has expired",
            Some(CredentialKind::Token) => "This token has expired",
            Some(CredentialKind::SessionCookie) => "The session has expired. Please sign in again.",
            _ => "The provided credentials have expired",
        },
        DenialKind::LoginFailed => "The email or the password is wrong",
        DenialKind::NotPermitted | DenialKind::AddressRefused => {
            "You do not have permission to access this resource"
        }
        DenialKind::RateLimited => return rate_limited(denial),
        DenialKind::InsufficientCredits => return insufficient(denial),
        DenialKind::SpendingLimitReached
            if denial
                .credential()
                .is_some_and(|kind| kind != CredentialKind::ApiKey) =>
        {
            "The spending limit has been reached. Please adjust limits or top up credits."
        }
        DenialKind::SpendingLimitReached => {
            "This access key has reached its spending limit. Please adjust limits or top up credits."
        }
        DenialKind::Malformed => "The request could not be understood",
        DenialKind::Unprocessable => "The request is well-formed but cannot be processed",
        DenialKind::NotFound => "There is nothing at this address",
        DenialKind::MethodNotAllowed => "This method is not allowed here",
        DenialKind::Conflict => "It exists already",
        DenialKind::TooLarge => "The request body is too large",
        DenialKind::TooSlow => "The request body did not arrive in time",
        DenialKind::Internal => "The service failed to process the request",
        DenialKind::Unavailable => "The service can't answer right now. Please try again later.",
    })
}

fn rate_limited(denial: &Denial) -> Cow<'static, str> {
    match denial.wait_secs() {
        Some(1) => "Too many requests. Try again in 1 second.".into(),
        Some(seconds) => format!("Too many requests. Try again in {seconds} seconds.").into(),
        None => "Too many requests. Try again later.".into(),
    }
}

fn insufficient(denial: &Denial) -> Cow<'static, str> {
    match denial.priced_at() {
        Some(most) if denial.is_price_at_most() => format!(
            "This request may cost up to {most} but your balance is insufficient. Please top up your account."
        )
        .into(),
        Some(price) => format!(
            "This request costs {price} but your balance is insufficient. Please top up your account."
        )
        .into(),
        None => "Your balance is insufficient. Please top up your account.".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::denial::Neither;

    /// What is said of one credential is what a refusal that names several is made of.
    #[test]
    fn each_place_has_one_text() {
        let missing = || Denial::new(DenialKind::CredentialMissing);
        for kind in [
            Some(CredentialKind::ApiKey),
            Some(CredentialKind::Token),
            Some(CredentialKind::SessionCookie),
            None,
        ] {
            let one = kind.map_or(missing(), |kind| missing().of_credential(kind));
            let other = missing().with_message("Show a certificate");
            let either = Neither::default().denial(&one, other);
            let expected = format!("{}; or: Show a certificate", message(&one));
            assert_eq!(message(&either), expected);
        }
    }
}
