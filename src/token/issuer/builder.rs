//! Settings of an issuer.

use std::{fmt, sync::Arc, time::Duration};

use super::{Inner, TokenIssuer};
use crate::{
    domain::clock::{Clock, SystemClock, Timestamp},
    token::{KeyError, SigningKey, TokenConfigError, VerifyingKey, live::Signing},
};

const LIFETIME: Duration = Duration::from_secs(24 * 3_600);
const LIFETIME_MAX: Duration = Duration::from_secs(3_650 * 86_400);

/// Builds a [`TokenIssuer`].
#[must_use]
pub struct TokenIssuerBuilder {
    key: Result<SigningKey, KeyError>,
    retired: Vec<(VerifyingKey, Timestamp)>,
    issuer: Option<Box<str>>,
    audience: Option<Box<str>>,
    lifetime: Duration,
    clock: Arc<dyn Clock>,
}

impl TokenIssuerBuilder {
    pub(super) fn new(key: Result<SigningKey, KeyError>) -> Self {
        Self {
            key,
            retired: Vec::new(),
            issuer: None,
            audience: None,
            lifetime: LIFETIME,
            clock: SystemClock::shared(),
        }
    }

    /// Adds a key that signed before this process started: its tokens are valid and it is published
    /// until `until`. It must have the name that its tokens contain; a secret may be unnamed, if no
    /// other key is.
    ///
    /// ```
    /// use tollgate::token::{SigningKey, TokenAlgorithm, TokenIssuer, VerifyingKey};
    ///
    /// let (old, new) = (b"the secret of before, without name", b"the secret of today, which has one");
    /// let key = SigningKey::from_secret(TokenAlgorithm::Hs256, new)?.kid("2026-02")?;
    /// let issuer = TokenIssuer::with_key(key)
    ///     .add_retired(VerifyingKey::from_secret(TokenAlgorithm::Hs256, old)?, "2026-02-08T00:00:00Z".parse()?)
    ///     .build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_retired(mut self, key: VerifyingKey, until: Timestamp) -> Self {
        self.retired.push((key, until));
        self
    }

    /// The tokens' `iss`; none unless set.
    pub fn issuer(mut self, issuer: &str) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// The tokens' `aud`; none unless set.
    pub fn audience(mut self, audience: &str) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// How long tokens are valid, in whole seconds (fractions are cut off), 1 second to 3,650 days;
    /// 24 hours unless set. It counts from the second in which a token is issued (`exp` − `iat`),
    /// so up to one of them has passed by then.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Another source of time.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The issuer.
    ///
    /// # Errors
    /// [`TokenConfigError`], which names the setting.
    pub fn build(self) -> Result<TokenIssuer, TokenConfigError> {
        let key = self.key?;
        if self.issuer.as_deref() == Some("") {
            return Err(TokenConfigError::Issuer);
        }
        if self.audience.as_deref() == Some("") {
            return Err(TokenConfigError::Audience);
        }
        let lifetime = Duration::from_secs(self.lifetime.as_secs());
        if lifetime.is_zero() || lifetime > LIFETIME_MAX {
            return Err(TokenConfigError::Lifetime);
        }
        // Public keys are found by name in the published set.
        let has_a_name = |key: &VerifyingKey| key.name().is_some();
        let nameless_fit = |key: &VerifyingKey| has_a_name(key) || key.algorithm().is_symmetric();
        if !self.retired.iter().all(|(key, _)| nameless_fit(key)) {
            return Err(KeyError::NoKid.into());
        }
        let keys = Signing::new(key, self.retired, self.clock.now())?;
        Ok(TokenIssuer(Arc::new(Inner {
            keys: Arc::new(keys),
            issuer: self.issuer,
            audience: self.audience,
            lifetime,
            clock: self.clock,
        })))
    }
}

impl fmt::Debug for TokenIssuerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuerBuilder")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}
