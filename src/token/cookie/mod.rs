//! Verification of the session cookies of NextAuth.js 4 and Auth.js 5: claims in an encrypted JWT.

mod builder;
mod claims;
mod jwe;
mod keys;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde::de::DeserializeSeed;

pub use self::builder::SessionCookieVerifierBuilder;
use self::{
    claims::{CookieClaims, CookieClaimsSeed},
    keys::{CookieKeys, Scheme},
};
use super::{
    Refusal, TokenError, TokenErrorKind,
    memo::{Memo, TokenDigest},
};
use crate::domain::{
    clock::{Clock, Timestamp},
    credential::CredentialKind,
    principal::{EMAIL, NAME, Principal, SESSION_ID},
};

/// The longest cookie that is accepted, reassembled, in bytes.
const COOKIE_LENGTH_MAX: usize = 16 * 1_024;
const SUBJECT_LENGTH_MAX: usize = 255;
const SECRET_LENGTH_MIN: usize = 32;

/// Verifies the session cookies of NextAuth.js 4 and of Auth.js 5: a compact JWE under a key
/// derived from the application's secret. Cloning it increments a reference count; clones share the
/// cache.
///
/// | made by | encrypted with | key |
/// |---|---|---|
/// | NextAuth.js 4 ([`next_auth`](Self::next_auth)) | `dir`, `A256GCM` | the same for all cookies |
/// | Auth.js 5 ([`auth_js`](Self::auth_js)) | `dir`, `A256CBC-HS512` | another for each name of a cookie |
///
/// | refused | as |
/// |---|---|
/// | more than 16 KiB; not five segments; white space, padding, bits left over; a member twice; claims of the wrong type | `Malformed` |
/// | another `alg` or `enc`; `zip`, `crit` and what else we don't do | `Unsupported` |
/// | made with another secret, or changed since | `BadSignature` |
/// | `exp` now or before; none at all is `Malformed` | `Expired` |
/// | `nbf` or `iat` in the future, by more than the leeway | `NotYetValid` |
///
/// The [`Principal`]'s subject is the claim `sub`, or `email` if an application omits `sub`;
/// `email`, `name` and `jti` are its attributes. They describe a person and a session, and convey
/// no rights: keys that its user [makes](crate::keyring::Keyring::create_for) don't get them by
/// themselves, but get all other attributes. A good cookie is cached by the SHA-256 of its
/// text, and its time is checked on every use.
///
/// A cookie can't be revoked before it expires: there is no store behind it, just as with the
/// `jwt` sessions of NextAuth and Auth.js themselves. Sessions that they keep in a database have
/// cookies of another kind, which are refused as malformed.
#[derive(Clone)]
pub struct SessionCookieVerifier(Arc<Inner>);

struct Inner {
    keys: CookieKeys,
    roles: Vec<Box<str>>,
    claims: KeptClaims,
    leeway: Duration,
    leeway_ahead: Duration,
    clock: Arc<dyn Clock>,
    verified: Option<Memo<Remembered>>,
}

/// Which claims are kept besides those that NextAuth itself writes.
#[derive(Clone, Debug, Default)]
struct KeptClaims {
    roles: Option<Box<str>>,
    attributes: Vec<Box<str>>,
}

/// A cookie that was good when first seen.
struct Remembered {
    principal: Principal,
    /// The later of `nbf` and `iat`.
    begins_at: Option<Timestamp>,
    expires_at: Timestamp,
}

/// The settings of a [`SessionCookieVerifier`] are invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionCookieError {
    /// Anyone who has one cookie can brute-force a short secret offline.
    #[error("secret, add_secret: at least {SECRET_LENGTH_MIN} bytes")]
    SecretTooShort,
    /// The leeway is so large that expiry means little.
    #[error("leeway, leeway_ahead: at most 10 minutes")]
    Leeway,
    /// The key can't be derived from the secret.
    #[error("secret: no key can be derived from it")]
    Secret,
}

impl SessionCookieVerifier {
    /// Builds a verifier of the cookies that NextAuth.js 4 makes with `secret`, its
    /// `NEXTAUTH_SECRET`: at least 32 bytes.
    pub fn next_auth(secret: &[u8]) -> SessionCookieVerifierBuilder {
        SessionCookieVerifierBuilder::new(Scheme::NextAuth, secret)
    }

    /// Builds a verifier of the cookies that Auth.js 5 (`next-auth` 5, `@auth/core`) makes with
    /// `secret`, its `AUTH_SECRET`: at least 32 bytes.
    pub fn auth_js(secret: &[u8]) -> SessionCookieVerifierBuilder {
        SessionCookieVerifierBuilder::new(Scheme::AuthJs, secret)
    }

    /// Verifies a cookie's value, reassembled. Nothing is awaited. A cookie of Auth.js is taken for
    /// one of either of its usual names.
    ///
    /// # Errors
    /// [`TokenError`], whose [`kind`](TokenError::kind) says what is wrong; it contains nothing of
    /// the cookie.
    pub fn verify(&self, cookie: &str) -> Result<Principal, TokenError> {
        let [secure, plain] = self.cookie_names();
        match self.look(secure, cookie) {
            Err(refusal) if refusal.error.kind() == TokenErrorKind::BadSignature => {
                Ok(self.look(plain, cookie)?)
            }
            outcome => Ok(outcome?),
        }
    }

    /// Verifies the value of the cookie of this name. Auth.js encrypts the same session differently
    /// under another name.
    ///
    /// # Errors
    /// [`TokenError`], as of [`verify`](Self::verify).
    pub fn verify_named(&self, name: &str, cookie: &str) -> Result<Principal, TokenError> {
        Ok(self.look(name, cookie)?)
    }

    /// The names that the application's cookie has unless it sets another: the one for https first.
    #[must_use]
    pub fn cookie_names(&self) -> [&'static str; 2] {
        self.0.keys.scheme().cookie_names()
    }

    pub(crate) fn look(&self, name: &str, cookie: &str) -> Result<Principal, Refusal> {
        if cookie.len() > COOKIE_LENGTH_MAX {
            return Err(TokenError::malformed("the cookie is longer than 16 KiB").into());
        }
        let Some(memo) = &self.0.verified else {
            return self.0.judge(name, cookie).map(|good| good.principal);
        };
        let salt = self.0.keys.scheme().salt(name);
        let digest = TokenDigest::salted(salt, cookie.as_bytes());
        if let Some(known) = memo.recall(&digest) {
            return match self.0.judge_time(&known) {
                Ok(()) => Ok(known.principal.clone()),
                Err(error) => {
                    memo.forget(&digest);
                    Err(Refusal::of(error, known.principal.subject()))
                }
            };
        }
        let good = Arc::new(self.0.judge(name, cookie)?);
        memo.remember(digest, Arc::clone(&good));
        Ok(good.principal.clone())
    }
}

impl Inner {
    fn judge(&self, name: &str, cookie: &str) -> Result<Remembered, Refusal> {
        let json = self.keys.open(name, cookie)?;
        let mut deserializer = serde_json::Deserializer::from_slice(&json);
        let claims = CookieClaimsSeed(&self.claims)
            .deserialize(&mut deserializer)
            .and_then(|claims| deserializer.end().map(|()| claims))
            .map_err(|_| TokenError::malformed("the claims are not of the right form"))?;
        let good = self.remembered(claims)?;
        // Only the application can make cookies that decrypt, so the subject can be trusted.
        let in_time = self.judge_time(&good);
        in_time.map_err(|error| Refusal::of(error, good.principal.subject()))?;
        Ok(good)
    }

    fn remembered(&self, claims: CookieClaims<'_>) -> Result<Remembered, TokenError> {
        let expires_at = claims
            .expires_at
            .ok_or(TokenError::malformed("the cookie has no exp"))?;
        let subject = claims.subject.as_ref().or(claims.email.as_ref());
        let subject = subject
            .filter(|subject| !subject.is_empty() && subject.len() <= SUBJECT_LENGTH_MAX)
            .ok_or(TokenError::malformed(
                "the cookie has neither a sub nor an email of 1 to 255 bytes",
            ))?;
        let own = [
            (EMAIL, &claims.email),
            (NAME, &claims.name),
            (SESSION_ID, &claims.id),
        ];
        let own = own
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value.as_ref()?.to_string())));
        let attributes: BTreeMap<_, _> = own.chain(claims.kept).collect();
        let mut principal = Principal::builder(subject, CredentialKind::SessionCookie)
            .expires_at(expires_at)
            .attributes(attributes);
        for role in &self.roles {
            principal = principal.role(role);
        }
        for role in &claims.roles {
            principal = principal.role(role);
        }
        Ok(Remembered {
            principal: principal.build(),
            begins_at: claims.not_before.max(claims.issued_at),
            expires_at,
        })
    }

    fn judge_time(&self, cookie: &Remembered) -> Result<(), TokenError> {
        let now = self.clock.now();
        // Lazy: nearly all cookies pass without the leeway.
        let earliest = || now.saturating_sub(self.leeway).unwrap_or(Timestamp::MIN);
        let ahead = || now.saturating_add(self.leeway_ahead);
        let latest = || ahead().unwrap_or(Timestamp::MAX);
        let at = cookie.expires_at;
        if at <= now && at <= earliest() {
            let kind = TokenErrorKind::Expired { at };
            return Err(TokenError::new(kind, "the session has expired"));
        }
        let begins_at = cookie.begins_at.filter(|moment| *moment > now);
        if begins_at.is_some_and(|moment| moment > latest()) {
            let kind = TokenErrorKind::NotYetValid;
            return Err(TokenError::new(kind, "the session begins in the future"));
        }
        Ok(())
    }
}

impl fmt::Debug for SessionCookieVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCookieVerifier")
            .field("keys", &self.0.keys)
            .field("roles", &self.0.roles)
            .finish_non_exhaustive()
    }
}
