//! Keys at an address.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    JwksError,
    fetch::{Allowances, Fetcher, ODD_ROOTS},
    source::{FRESH_MAX, FRESH_MIN, Location, Settings, SharedSource, Source, configuration_of},
};
use crate::{
    domain::clock::{Clock, SystemClock},
    token::{IssuerTemplate, TokenAlgorithm, TokenKeys, key::DefaultAlgorithms, live},
};

const REFRESH: Duration = Duration::from_secs(600);
const COOLDOWN: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(5);

/// A JWK set at an `https` address, or at the one that an OpenID provider publishes. Cloning it
/// increments a reference count.
///
/// - Tokens with known keys don't wait: a refresh runs in the background, and if it fails the keys
///   stay. If so few tokens come that the keys are twice as old as they should be, the next token
///   waits for the refresh, for at most a quarter of a second, unless the last fetch failed: so a
///   key that was withdrawn overnight is refused from the first token in the morning.
/// - A token with an unknown `kid` waits for a fetch, if the last one was at least a cooldown ago;
///   all waiting tokens share it, and it continues if they disconnect. A `kid` that it didn't bring
///   causes no fetch for the next two cooldowns. So a flood of made-up ones costs one fetch per
///   cooldown.
/// - If the key or the token has no `kid`, a bad signature can't be told from a replaced key: it
///   also causes a fetch, under the same cooldown.
/// - Until the first keys are loaded, or if a key can't be looked up because the source fails or
///   too many tokens (1,024) wait for it, the answer is 503, never 401.
/// - It follows no redirect, uses no proxy, reads at most 256 KiB, and connects to no address of a
///   private network.
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
    /// Builds a source of the JWK set at an address.
    pub fn at(url: &str) -> JwksUrlBuilder {
        JwksUrlBuilder::new(Location::Keys(url.to_owned()))
    }

    /// Builds a source of the keys of an issuer whose configuration has their address (OpenID
    /// Connect Discovery section 4).
    pub fn discover(issuer: &str) -> JwksUrlBuilder {
        JwksUrlBuilder::new(Location::Provider {
            authority: issuer.to_owned(),
            issuer: issuer.to_owned(),
        })
    }

    /// Builds a source of the keys of an issuer with tenants, whose configuration is found where
    /// `place` stands for the tenant, and must name the template as its issuer, to the letter. For
    /// Microsoft Entra, `place` is `organizations`, or `common` with personal accounts too. It only
    /// chooses where keys are asked for: whose tokens count, the template says, and
    /// [`of_any_tenant`](IssuerTemplate::of_any_tenant) includes the tenant of personal accounts if
    /// a key of the set signs for it.
    pub fn discover_template(template: &IssuerTemplate, place: &str) -> JwksUrlBuilder {
        JwksUrlBuilder::new(Location::Provider {
            // Without one, there is no address, which `build` refuses.
            authority: template.with(place).unwrap_or_default(),
            issuer: template.text().to_owned(),
        })
    }

    /// Fetches the keys now: at startup, so that the first token doesn't wait, or to detect a wrong
    /// address.
    ///
    /// # Errors
    /// [`JwksError`].
    pub async fn fetch(&self) -> Result<(), JwksError> {
        self.0.fetch().await
    }
}

impl From<JwksUrl> for TokenKeys {
    fn from(url: JwksUrl) -> Self {
        Self(live::Source::Live(Arc::new(SharedSource(url.0))))
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Builds a [`JwksUrl`].
#[must_use]
pub struct JwksUrlBuilder {
    place: Location,
    allowances: Allowances,
    roots: Option<Vec<u8>>,
    algorithms: DefaultAlgorithms,
    refresh: Duration,
    cooldown: Duration,
    deadline: Duration,
    clock: Arc<dyn Clock>,
}

impl JwksUrlBuilder {
    fn new(place: Location) -> Self {
        Self {
            place,
            allowances: Allowances::default(),
            roots: None,
            algorithms: DefaultAlgorithms::default(),
            refresh: REFRESH,
            cooldown: COOLDOWN,
            deadline: DEADLINE,
            clock: SystemClock::shared(),
        }
    }

    /// How long until keys are fetched again, as long as tokens come; 10 minutes unless set,
    /// between 1 minute and 1 day. Shorter times in cache headers are respected, down to a minute.
    /// No token is judged by keys of more than twice that age unless the source fails or takes more
    /// than a quarter of a second, too many tokens are waiting, or the caller doesn't wait
    /// ([`TokenVerifier::verify`](crate::token::TokenVerifier::verify)).
    pub fn refresh(mut self, interval: Duration) -> Self {
        self.refresh = interval;
        self
    }

    /// The minimum interval between fetches, whatever tokens come; 30 seconds unless set, at least
    /// 1 second. While fetches fail and there are no keys at all, the next may begin after 1
    /// second, then 2, 4 and so on, up to this.
    pub fn cooldown(mut self, cooldown: Duration) -> Self {
        self.cooldown = cooldown;
        self
    }

    /// The algorithm of keys of its type that don't declare one (`alg`): for a provider that signs
    /// with `PS256`, for example, and publishes RSA keys without it. Unless set, `RS256` for RSA,
    /// and otherwise that of the curve. Set it separately for each type.
    pub fn default_algorithm(mut self, algorithm: TokenAlgorithm) -> Self {
        self.algorithms.add(algorithm);
        self
    }

    /// How long one response may take in total; 5 seconds unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Trusts these authorities (one or several certificates in PEM) instead of those that the
    /// system trusts: for a provider whose certificate is of a company's own authority. Instead and
    /// not besides, so that nobody whom that authority doesn't know can publish keys.
    pub fn root_certificate(mut self, pem: &[u8]) -> Self {
        self.roots = Some(pem.to_vec());
        self
    }

    /// Another source of time.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Also accepts keys over plain HTTP: anyone between us and the server can then sign tokens.
    /// For tests.
    pub fn dangerous_allow_http(mut self) -> Self {
        self.allowances.http = true;
        self
    }

    /// Also connects to private and local addresses: for providers on your own network.
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
        // None by mistake, from an empty file, mustn't be everybody.
        if self.roots.as_ref().is_some_and(Vec::is_empty) {
            return Err(ODD_ROOTS);
        }
        let roots = self.roots.as_deref().unwrap_or_default();
        let fetcher = Fetcher::new(self.deadline, self.allowances, roots)?;
        match &self.place {
            Location::Keys(url) => fetcher.check(url)?,
            Location::Provider { authority, .. } => fetcher.check(&configuration_of(authority))?,
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
