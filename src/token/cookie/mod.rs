//! Verification of the session cookies of NextAuth.js (Auth.js) version 4: claims in an encrypted
//! JWT.

mod claims;
mod jwe;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde::de::DeserializeSeed;

use self::{
    claims::{CookieClaims, CookieClaimsSeed},
    jwe::CookieKey,
};
use super::{
    Refusal, TokenError, TokenErrorKind,
    memo::{Memo, TokenDigest},
};
use crate::domain::{
    clock::{Clock, SystemClock, Timestamp},
    credential::CredentialKind,
    principal::Principal,
};

/// The longest cookie that is accepted, reassembled, in bytes.
const COOKIE_LENGTH_MAX: usize = 16 * 1_024;
const SUBJECT_LENGTH_MAX: usize = 255;
const SECRET_LENGTH_MIN: usize = 32;
const LEEWAY_MAX: Duration = Duration::from_secs(600);
const CACHE_CAPACITY: usize = 10_000;

/// Verifies the session cookies of NextAuth.js version 4: a compact JWE (`dir`, `A256GCM`) under a
/// key derived from the application's secret. Cloning it increments a reference count; clones share
/// the cache.
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
/// `email`, `name` and `jti` are its attributes. A good cookie is cached by the SHA-256 of its
/// text, and its time is checked on every use.
///
/// A cookie can't be revoked before it expires: there is no store behind it, just as with
/// NextAuth's own `jwt` sessions.
#[derive(Clone)]
pub struct SessionCookieVerifier(Arc<Inner>);

struct Inner {
    key: CookieKey,
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
    #[error("secret: at least {SECRET_LENGTH_MIN} bytes")]
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
        SessionCookieVerifierBuilder {
            key: CookieKey::next_auth(secret),
            secret_length: secret.len(),
            secret_length_min: SECRET_LENGTH_MIN,
            roles: Vec::new(),
            claims: KeptClaims::default(),
            leeway: Duration::ZERO,
            leeway_ahead: None,
            clock: SystemClock::shared(),
            cache_capacity: CACHE_CAPACITY,
        }
    }

    /// Verifies a cookie's value, reassembled. Nothing is awaited.
    ///
    /// # Errors
    /// [`TokenError`], whose [`kind`](TokenError::kind) says what is wrong; it contains nothing of
    /// the cookie.
    pub fn verify(&self, cookie: &str) -> Result<Principal, TokenError> {
        Ok(self.look(cookie)?)
    }

    pub(crate) fn look(&self, cookie: &str) -> Result<Principal, Refusal> {
        if cookie.len() > COOKIE_LENGTH_MAX {
            return Err(TokenError::malformed("the cookie is longer than 16 KiB").into());
        }
        let Some(memo) = &self.0.verified else {
            return self.0.judge(cookie).map(|good| good.principal);
        };
        let digest = TokenDigest::of(cookie.as_bytes());
        if let Some(known) = memo.recall(&digest) {
            return match self.0.judge_time(&known) {
                Ok(()) => Ok(known.principal.clone()),
                Err(error) => {
                    memo.forget(&digest);
                    Err(Refusal::of(error, known.principal.subject()))
                }
            };
        }
        let good = Arc::new(self.0.judge(cookie)?);
        memo.remember(digest, Arc::clone(&good));
        Ok(good.principal.clone())
    }
}

impl Inner {
    fn judge(&self, cookie: &str) -> Result<Remembered, Refusal> {
        let json = self.key.open(cookie)?;
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
            ("email", &claims.email),
            ("name", &claims.name),
            ("jti", &claims.id),
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
            .field("roles", &self.0.roles)
            .finish_non_exhaustive()
    }
}

/// Builds a [`SessionCookieVerifier`].
#[must_use]
pub struct SessionCookieVerifierBuilder {
    key: Option<CookieKey>,
    secret_length: usize,
    secret_length_min: usize,
    roles: Vec<Box<str>>,
    claims: KeptClaims,
    leeway: Duration,
    leeway_ahead: Option<Duration>,
    clock: Arc<dyn Clock>,
    cache_capacity: usize,
}

impl SessionCookieVerifierBuilder {
    /// Adds a role that every user with a session has.
    pub fn add_role(mut self, role: &str) -> Self {
        self.roles.push(role.into());
        self
    }

    /// The claim with the user's roles: a string or an array of strings. None is read unless set.
    pub fn roles_claim(mut self, name: &str) -> Self {
        self.claims.roles = Some(name.into());
        self
    }

    /// Keeps a claim as an [attribute](Principal::attribute), if it is a string; other claims are
    /// checked for their form and dropped.
    pub fn add_claim(mut self, name: &str) -> Self {
        self.claims.attributes.push(name.into());
        self
    }

    /// How much the application's clock may differ from ours, at most 10 minutes; 0 unless set.
    /// NextAuth itself allows 15 s.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// How much the application's clock may be ahead of ours, that is how far in the future an
    /// `nbf` or an `iat` may lie, at most 10 minutes; equal to [`leeway`](Self::leeway) unless set.
    /// Set alone, it accepts a session that has just begun, but none that has expired.
    pub fn leeway_ahead(mut self, leeway: Duration) -> Self {
        self.leeway_ahead = Some(leeway);
        self
    }

    /// Accepts a secret of less than 32 bytes, for an application that has already issued cookies.
    /// Anyone who has seen one cookie can find such a secret by brute force, and then make cookies.
    pub fn dangerous_short_secret(mut self) -> Self {
        self.secret_length_min = 1;
        self
    }

    /// How many good cookies are cached (a few hundred bytes each); 10,000 unless set, 0 for none,
    /// otherwise at least 2.
    pub fn cache_capacity(mut self, cookies: usize) -> Self {
        self.cache_capacity = cookies;
        self
    }

    /// Another source of time.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The verifier.
    ///
    /// # Errors
    /// [`SessionCookieError`], which names the setting.
    pub fn build(self) -> Result<SessionCookieVerifier, SessionCookieError> {
        if self.secret_length < self.secret_length_min {
            return Err(SessionCookieError::SecretTooShort);
        }
        let leeway_ahead = self.leeway_ahead.unwrap_or(self.leeway);
        if self.leeway.max(leeway_ahead) > LEEWAY_MAX {
            return Err(SessionCookieError::Leeway);
        }
        Ok(SessionCookieVerifier(Arc::new(Inner {
            key: self.key.ok_or(SessionCookieError::Secret)?,
            roles: self.roles,
            claims: self.claims,
            leeway: self.leeway,
            leeway_ahead,
            clock: self.clock,
            verified: (self.cache_capacity > 0).then(|| Memo::new(self.cache_capacity)),
        })))
    }
}

impl fmt::Debug for SessionCookieVerifierBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCookieVerifierBuilder")
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}
