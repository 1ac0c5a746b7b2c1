//! Floor 2: JWTs, strictly verified and issued.
//!
//! What is refused:
//!
//! | refused | as |
//! |---|---|
//! | more than 16 KiB; not three segments; padding, white space, bits left over in base64url | `Malformed` |
//! | a member twice, anywhere; more than 16 levels or 256 members; a claim of the wrong type | `Malformed` |
//! | no `exp`, or one that is no finite number of seconds from 1970 to 9999; no `sub` | `Malformed` |
//! | an `alg` other than the key's own; `crit`, `b64`, `zip`, `enc`, `jwk`, `jku`, `x5u`, `x5c` | `Unsupported` |
//! | a `kid` of no key of ours; none where there are several keys | `UnknownKey` |
//! | an empty signature, or another key's | `BadSignature` |
//! | `exp` now or before | `Expired` |
//! | `nbf` or `iat` in the future, by more than the leeway | `NotYetValid` |
//! | another `iss`, or a tenant's that isn't the token's; an `aud` without us | `WrongIssuer`, `WrongAudience` |
//! | another `typ` or `token_use`; a claim `typ` of an ID, refresh or log-out token | `WrongUse` |
//! | without a claim that it must have; issued too long ago | `MissingClaim`, `TooOld` |
//!
//! A registered claim (`iss`, `sub`, `aud`, `exp`, `nbf`, `iat`, `jti`) that is null is of the
//! wrong type. For roles, scopes and claims that become attributes, null means none.
//!
//! No claim is read before the signature is checked, but for `iss` where several verifiers stand in
//! one chain ([`JwtLayer::or`](crate::JwtLayer::or)), to choose which of them judges. Errors
//! contain nothing of the token.
//!
//! A verified token is cached by the SHA-256 of its whole text, so that the next request needs no
//! signature check. Only the identity is cached, not the verdict: time is checked on every use, and
//! [`SessionResolver`](crate::login::SessionResolver) tells whether the login is still open. A
//! refused token is not cached.
//!
//! Time is the clock's wall time, as in the token. If the clock steps back, a token that had
//! expired is judged by the new time; one whose `nbf` or `iat` then lies in the future is refused.

mod claims;
mod cookie;
mod error;
mod header;
mod issuer;
mod issuers;
mod jose;
mod jwks;
mod key;
mod live;
mod mapping;
mod memo;
mod rules;
mod secret;
mod strict;
mod unverified;
mod verified;
mod verifier;

#[cfg(test)]
mod tests;

pub use cookie::{SessionCookieError, SessionCookieVerifier, SessionCookieVerifierBuilder};
pub(crate) use error::Refusal;
pub use error::{IssueError, TokenConfigError, TokenError, TokenErrorKind};
pub(crate) use issuer::{GENERATION, RefreshGrant};
pub use issuer::{IssuedToken, TokenIssuer, TokenIssuerBuilder};
pub use issuers::{IssuerTemplate, Issuers};
pub use jwks::{JwksError, JwksFile};
#[cfg(feature = "jwks")]
#[cfg_attr(docsrs, doc(cfg(feature = "jwks")))]
pub use jwks::{JwksUrl, JwksUrlBuilder};
pub use key::{KeyError, SigningKey, TokenAlgorithm, VerifyingKey, VerifyingKeys};
pub use live::TokenKeys;
pub(crate) use live::Wait;
pub use secret::{SigningSecret, SigningSecretError};
pub use verified::{TokenUse, VerifiedToken};
pub(crate) use verifier::Verification;
pub use verifier::{TokenVerifier, TokenVerifierBuilder};
