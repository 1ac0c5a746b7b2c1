//! Keys at an address.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    JwksError,
    fetch::{Allowances, Fetcher},
    source::{FRESH_MAX, FRESH_MIN, Handed, Place, Settings, Source, configuration_of},
};
use crate::{
    domain::clock::{Clock, SystemClock},
    token::{TokenAlgorithm, TokenKeys, key::DefaultAlgorithms, live},
};

const REFRESH: Duration = Duration::from_secs(600);
const COOLDOWN: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(5);

/// A JWK set at an `https` address, or where an OpenID provider says that it is. A clone is a reference count.
///
/// - Known keys don't wait: a refresh goes on beside them, and one that fails leaves them as they are. Where so few tokens
///   come that the keys are twice as old as they should be, the next token waits for it, if the last fetch did not fail, for a quarter
///   of a second at most: a key that was withdrawn at night is out with the first token of the morning.
/// - A token with an unknown `kid` waits for a fetch, if the last one was a cooldown ago or more; all who wait share it, and
///   it goes on when they hang up. A `kid` that it didn't bring is not fetched for in the next two cooldowns. So a flood of
///   made-up ones costs one fetch in a cooldown.
/// - Where the key or the token has no `kid`, nothing tells a key that was followed by another from a bad signature: one is
///   worth a fetch too, under the same cooldown.
/// - While there were never any keys, or a key can't be looked up because the source fails or too many (1,024) wait for it,
///   tokens are answered with 503, never 401.
/// - No redirect is followed, no proxy asked, nothing beyond 256 KiB read, no address of a private network connected to.
///
/// ```
/// use tollgate::token::{JwksUrl, TokenVerifier};
///
/// let keys = JwksUrl::discover("https://id.example.com").build()?;
/// let verifier = TokenVerifier::builder(keys).issuer("https://id.example.com").audience("api").build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct JwksUrl(Arc<Source>);

impl JwksUrl {
    /// Begins with the address of a JWK set.
    pub fn at(url: &str) -> JwksUrlBuilder {
        JwksUrlBuilder::new(Place::Keys(url.to_owned()))
    }

    /// Begins with an issuer whose configuration says where its keys are (OpenID Connect Discovery section 4).
    pub fn discover(issuer: &str) -> JwksUrlBuilder {
        JwksUrlBuilder::new(Place::Provider(issuer.to_owned()))
    }

    /// Fetches the keys now: at start, so that the first token doesn't wait, or that a wrong address is seen.
    ///
    /// # Errors
    /// [`JwksError`].
    pub async fn fetch(&self) -> Result<(), JwksError> {
        self.0.fetch().await
    }
}

impl From<JwksUrl> for TokenKeys {
    fn from(url: JwksUrl) -> Self {
        Self(live::Source::Live(Arc::new(Handed(url.0))))
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Makes a [`JwksUrl`].
#[must_use]
pub struct JwksUrlBuilder {
    place: Place,
    allowances: Allowances,
    algorithms: DefaultAlgorithms,
    refresh: Duration,
    cooldown: Duration,
    deadline: Duration,
    clock: Arc<dyn Clock>,
}

impl JwksUrlBuilder {
    fn new(place: Place) -> Self {
        Self {
            place,
            allowances: Allowances::default(),
            algorithms: DefaultAlgorithms::default(),
            refresh: REFRESH,
            cooldown: COOLDOWN,
            deadline: DEADLINE,
            clock: SystemClock::shared(),
        }
    }

    /// After how long at most keys are fetched again, while tokens come; 10 minutes unless set, 1 minute at least, 1 day at
    /// most. Cache headers that say less are obeyed down to a minute. No token is judged by keys of more than twice that age, but
    /// where the source fails or takes more than a quarter of a second, the line of those who wait is full, or nobody waits
    /// ([`TokenVerifier::verify`](crate::token::TokenVerifier::verify)).
    pub fn refresh(mut self, interval: Duration) -> Self {
        self.refresh = interval;
        self
    }

    /// How far apart fetches are at least, whatever tokens come; 30 seconds unless set, 1 second at least.
    pub fn cooldown(mut self, cooldown: Duration) -> Self {
        self.cooldown = cooldown;
        self
    }

    /// The algorithm of keys of its type that say none (`alg`): for a provider that signs with `PS256`, say, and publishes RSA keys without
    /// it. `RS256` for RSA unless set, and otherwise the one of the curve. To be set for each type by itself.
    pub fn default_algorithm(mut self, algorithm: TokenAlgorithm) -> Self {
        self.algorithms.add(algorithm);
        self
    }

    /// How long one answer may take, in all; 5 seconds unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Another source of time.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Takes keys over plain HTTP too: whoever is on the way can then sign tokens. For tests.
    pub fn dangerous_allow_http(mut self) -> Self {
        self.allowances.http = true;
        self
    }

    /// Connects to private and local addresses too: for providers on one's own network.
    pub fn dangerous_allow_private_addresses(mut self) -> Self {
        self.allowances.private_addresses = true;
        self
    }

    /// The source. Nothing is fetched yet.
    ///
    /// # Errors
    /// [`JwksError`], which names the setting.
    pub fn build(self) -> Result<JwksUrl, JwksError> {
        if self.cooldown < Duration::from_secs(1) {
            return Err(JwksError::Setting("cooldown: at least 1 second"));
        }
        if self.deadline.is_zero() {
            return Err(JwksError::Setting("deadline: some time"));
        }
        if !(FRESH_MIN..=FRESH_MAX).contains(&self.refresh) {
            return Err(JwksError::Setting("refresh: 1 minute to 1 day"));
        }
        let fetcher = Fetcher::new(self.deadline, self.allowances)?;
        match &self.place {
            Place::Keys(url) => fetcher.check(url)?,
            Place::Provider(issuer) => fetcher.check(&configuration_of(issuer))?,
        };
        Ok(JwksUrl(Arc::new(Source::new(Settings {
            place: self.place,
            fetcher,
            algorithms: self.algorithms,
            refresh: self.refresh,
            cooldown: self.cooldown,
            clock: self.clock,
        }))))
    }
}

impl fmt::Debug for JwksUrlBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksUrlBuilder").finish_non_exhaustive()
    }
}
