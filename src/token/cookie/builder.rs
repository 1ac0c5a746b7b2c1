//! The settings of a [`SessionCookieVerifier`].

use std::{fmt, sync::Arc, time::Duration};

use zeroize::Zeroizing;

use super::{
    Inner, KeptClaims, SECRET_LENGTH_MIN, SessionCookieError, SessionCookieVerifier,
    keys::{CookieKeys, Scheme},
};
use crate::{
    domain::clock::{Clock, SystemClock},
    token::memo::Memo,
};

const LEEWAY_MAX: Duration = Duration::from_secs(600);
const CACHE_CAPACITY: usize = 10_000;

/// Builds a [`SessionCookieVerifier`].
#[must_use]
pub struct SessionCookieVerifierBuilder {
    scheme: Scheme,
    /// The newest first.
    secrets: Vec<Zeroizing<Vec<u8>>>,
    secret_length_min: usize,
    roles: Vec<Box<str>>,
    claims: KeptClaims,
    leeway: Duration,
    leeway_ahead: Option<Duration>,
    clock: Arc<dyn Clock>,
    cache_capacity: usize,
}

impl SessionCookieVerifierBuilder {
    pub(super) fn new(scheme: Scheme, secret: &[u8]) -> Self {
        Self {
            scheme,
            secrets: vec![Zeroizing::new(secret.to_vec())],
            secret_length_min: SECRET_LENGTH_MIN,
            roles: Vec::new(),
            claims: KeptClaims::default(),
            leeway: Duration::ZERO,
            leeway_ahead: None,
            clock: SystemClock::shared(),
            cache_capacity: CACHE_CAPACITY,
        }
    }

    /// Adds an older secret, whose cookies are accepted too, while the application's is being
    /// replaced: at least 32 bytes. Auth.js calls them `AUTH_SECRET_1` and so on.
    pub fn add_secret(mut self, secret: &[u8]) -> Self {
        self.secrets.push(Zeroizing::new(secret.to_vec()));
        self
    }

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

    /// Keeps a claim as an [attribute](crate::Principal::attribute), if it is a string; other
    /// claims are checked for their form and dropped.
    pub fn add_claim(mut self, name: &str) -> Self {
        self.claims.attributes.push(name.into());
        self
    }

    /// How much the application's clock may differ from ours, at most 10 minutes; 0 unless set.
    /// NextAuth and Auth.js themselves allow 15 s.
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
        let is_short = |secret: &Zeroizing<Vec<u8>>| secret.len() < self.secret_length_min;
        if self.secrets.iter().any(is_short) {
            return Err(SessionCookieError::SecretTooShort);
        }
        let leeway_ahead = self.leeway_ahead.unwrap_or(self.leeway);
        if self.leeway.max(leeway_ahead) > LEEWAY_MAX {
            return Err(SessionCookieError::Leeway);
        }
        let keys = CookieKeys::new(self.scheme, self.secrets);
        Ok(SessionCookieVerifier(Arc::new(Inner {
            keys: keys.ok_or(SessionCookieError::Secret)?,
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
            .field("scheme", &self.scheme)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}
