//! Why a token is refused, and why a verifier or an issuer can't be built.

use std::fmt;

use super::KeyError;

use crate::domain::{
    clock::Timestamp,
    credential::CredentialKind,
    denial::{Denial, DenialKind},
};

/// Why a token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenErrorKind {
    /// It isn't a token, or contains what no token may.
    Malformed,
    /// It wasn't signed with the key, or was changed afterwards.
    BadSignature,
    /// It names none of our keys, or no key although there are several.
    UnknownKey,
    /// Its keys are currently unavailable, so it can't be judged. 503, never 401.
    NoKeys,
    /// It lacks a claim that it must have.
    MissingClaim,
    /// It was issued longer ago than allowed.
    TooOld,
    /// It has expired.
    Expired {
        /// Its `exp`.
        at: Timestamp,
    },
    /// Its `nbf` or its `iat` lies in the future.
    NotYetValid,
    /// Another issuer issued it.
    WrongIssuer,
    /// It is meant for another audience.
    WrongAudience,
    /// It is a token of another kind: a refresh token instead of an access token, for example.
    WrongUse,
    /// Its header demands another algorithm than the key's, or something that isn't supported
    /// (`crit`, `zip`, `jku`, …).
    Unsupported,
}

/// A token was refused. The text is for operators, and contains nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenError {
    kind: TokenErrorKind,
    reason: &'static str,
}

impl TokenError {
    pub(super) const fn new(kind: TokenErrorKind, reason: &'static str) -> Self {
        Self { kind, reason }
    }

    pub(super) const fn malformed(reason: &'static str) -> Self {
        Self::new(TokenErrorKind::Malformed, reason)
    }

    /// Why.
    #[must_use]
    pub const fn kind(&self) -> TokenErrorKind {
        self.kind
    }

    pub(crate) const fn reason(&self) -> &'static str {
        self.reason
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}

impl std::error::Error for TokenError {}

/// 401, for an expired token with its `exp`; 503 if its keys are unavailable.
impl From<TokenError> for Denial {
    fn from(error: TokenError) -> Self {
        let denial = match error.kind {
            TokenErrorKind::Expired { at } => {
                Self::new(DenialKind::CredentialExpired).expired_at(at)
            }
            TokenErrorKind::NoKeys => Self::new(DenialKind::Unavailable),
            _ => Self::new(DenialKind::CredentialInvalid),
        };
        denial
            .of_credential(CredentialKind::Token)
            .because(error.reason)
    }
}

/// A token was refused, with details that stay inside this crate.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: TokenError,
    /// Whom it was issued to; `None` unless its signature was good, because otherwise its claims
    /// can't be trusted.
    pub(crate) holder: Option<Box<str>>,
    /// The generation of keys that it was judged by, if other keys may find it good.
    pub(super) undecided_by: Option<u64>,
    /// Whether it wasn't judged, because another verifier is to judge it.
    pub(crate) is_left: bool,
}

impl Refusal {
    /// A token that is left to the verifier of its issuer.
    pub(super) fn left() -> Self {
        let another = "the token is another issuer's";
        Self {
            is_left: true,
            ..TokenError::new(TokenErrorKind::WrongIssuer, another).into()
        }
    }

    /// A refusal of a token that was issued to `holder`.
    pub(super) fn of(error: TokenError, holder: &str) -> Self {
        Self {
            holder: Some(holder.into()),
            ..error.into()
        }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self {
            error,
            holder: None,
            undecided_by: None,
            is_left: false,
        }
    }
}

impl From<Refusal> for TokenError {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        let denial = Self::from(refusal.error);
        match &refusal.holder {
            Some(holder) => denial.held_by(holder, None),
            None => denial,
        }
    }
}

/// The settings of a [`TokenVerifier`](super::TokenVerifier) or a
/// [`TokenIssuer`](super::TokenIssuer) are invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenConfigError {
    /// The key can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A path to a claim is empty, or longer than 8 steps.
    #[error("claims: a path has 1 to 8 steps")]
    ClaimPath,
    /// A maximum age of zero would refuse everything.
    #[error("age_max: at least 1 second")]
    Age,
    /// The issuer is empty.
    #[error("issuer: may not be empty")]
    Issuer,
    /// A template of issuers has no placeholder, or not one alone, or not where a tenant may be.
    #[error("issuer template: an address with one {{…}}, a whole segment of its path, and a claim")]
    IssuerTemplate,
    /// A template's tenants are none, or one isn't a lower-case UUID.
    #[error("tenants: one or more lower-case UUIDs")]
    Tenants,
    /// Tokens of an issuer without tenants could name users of one that has them.
    #[error("issuer: either names or templates")]
    MixedIssuers,
    /// The attribute `tenant` is the one that issued the token, where there is a template.
    #[error("attributes: the template of an issuer already says what the tenant is")]
    TenantAttribute,
    /// The audience is empty.
    #[error("audience: may not be empty")]
    Audience,
    /// The `typ` is empty.
    #[error("typ: may not be empty")]
    Typ,
    /// The leeway is so large that expiry means little.
    #[error("leeway, leeway_ahead: at most 10 minutes")]
    Leeway,
    /// The lifetime is shorter than a second, the unit in tokens, or longer than ten years.
    #[error("lifetime: 1 second to 3,650 days")]
    Lifetime,
}

/// No token was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The system provided no randomness for the token's id.
    #[error("the system gave no randomness")]
    NoRandomness,
    /// The token would end beyond the year 9999.
    #[error("the token would end beyond the end of time")]
    OutOfTime,
    /// The crypto library refused to sign.
    #[error("the token could not be signed")]
    Signing,
    /// More than 64 roles, or more than a token of 16 KiB holds.
    #[error("the token would be longer than a verifier takes")]
    TooLong,
}
