//! How a gate limits requests.

use std::sync::Arc;

use super::{
    TollgateBuilder,
    settings::{PrincipalLimit, Setting},
};
use crate::{
    domain::quota::Quotas,
    guard::{Identified, Policy},
    rate_limit::{ConcurrencyLimitLayer, RateLimitLayer},
    store::RateStore,
};

/// Limits.
impl<A: Policy<Permit = Identified> + Clone> TollgateBuilder<A> {
    /// Limits requests per client address, before authentication.
    ///
    /// The server has to provide the peer's address, or every request is refused with 503: serve an
    /// axum router by `axum::serve(listener,
    /// app.into_make_service_with_connect_info::<SocketAddr>())`; tonic provides it by itself;
    /// other servers put a [`PeerAddress`](crate::PeerAddress) into the extensions of each request.
    pub fn per_client_ip(mut self, quotas: impl Into<Quotas>) -> Self {
        self.settings.per_client_ip = Some(quotas.into());
        self.given(Setting::PerClientIp)
    }

    /// Adds a limit before authentication, checked after [`per_client_ip`](Self::per_client_ip): a
    /// global one, or one of [failed attempts](RateLimitLayer::failed_attempts). It uses its own
    /// clock, and counts in its own store or, if it has none, in the gate's, under `name`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{AuthenticateLayer, RateLimitLayer, Tollgate, denial::{Denial, DenialKind}, quota::Quota};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let guesses = RateLimitLayer::global(Quota::per_hour(2)).failed_attempts();
    /// let gate = Tollgate::builder()
    ///     .add_outer_rate_limit("guesses", guesses.clone())
    ///     .authenticate(AuthenticateLayer::by_head(|_| Err(Denial::new(DenialKind::CredentialInvalid))))
    ///     .build()?;
    /// let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())));
    /// let service = gate.layer(hello);
    /// for status in [401, 401, 429] {
    ///     assert_eq!(service.clone().oneshot(http::Request::new(())).await?.status(), status);
    /// }
    ///
    /// let inside = Tollgate::builder()
    ///     .authenticate(AuthenticateLayer::by_head(|_| Ok(None)))
    ///     .add_rate_limit("guesses", guesses);
    /// let error = inside.build().unwrap_err();
    /// assert_eq!(error.to_string(), "add_rate_limit: the limit never counts there; `add_outer_rate_limit` puts it where it does");
    /// # Ok(()) }
    /// ```
    pub fn add_outer_rate_limit(mut self, name: &str, layer: RateLimitLayer) -> Self {
        self.settings.outer_limits.push((name.into(), layer));
        self.given(Setting::AddOuterRateLimit)
    }

    /// Limits requests per principal: each key together with all keys it was rotated into, or else
    /// each user. Two keys of one customer have the quotas twice;
    /// [`per_account`](Self::per_account) limits them together.
    pub fn per_principal(mut self, quotas: impl Into<Quotas>) -> Self {
        self.settings.per_principal = Some(PrincipalLimit::Quotas(quotas.into()));
        self.given(Setting::PerPrincipal)
    }

    /// Limits requests per account that pays: all keys of a customer together, beside
    /// [`per_principal`](Self::per_principal), and checked after it. Keys' own quotas have no
    /// effect on it. Answers say what is left of this limit, as the innermost.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{ApiKeyLayer, Tollgate, key::KeyFormat, keyring::{KeyResolver, Keyring, NewKey}};
    /// use tollgate::{quota::Quota, store::MemoryStore};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let (store, format) = (MemoryStore::new(), KeyFormat::builder("acme").build()?);
    /// let keys = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
    /// let ring = Keyring::new(store, format, keys.clone());
    /// let gate = Tollgate::builder()
    ///     .authenticate(ApiKeyLayer::new(keys))
    ///     .per_principal(Quota::per_minute(60))
    ///     .per_account(Quota::per_hour(2))
    ///     .build()?;
    /// let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())));
    /// let service = gate.layer(hello);
    /// for (owner, status) in [("ann", 200), ("ann", 200), ("ann", 429), ("bob", 200)] {
    ///     let (key, _) = ring.create(owner, NewKey::default()).await?;
    ///     let request = http::Request::get("/").header("x-api-key", key.expose()).body(())?;
    ///     assert_eq!(service.clone().oneshot(request).await?.status(), status);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn per_account(mut self, quotas: impl Into<Quotas>) -> Self {
        self.settings.per_account = Some(quotas.into());
        self.given(Setting::PerAccount)
    }

    /// Limits authenticated callers by `layer`: with plans, costs, tokens, or other header
    /// dialects. It uses its own clock, and counts in its own store or, if it has none, in the
    /// gate's, under `principal`. Replaces [`per_principal`](Self::per_principal).
    ///
    /// Its [`limits`](RateLimitLayer::limits) handle sees the gate's counts only if the layer was
    /// given its store itself.
    pub fn with_rate_limit(mut self, layer: RateLimitLayer) -> Self {
        self.settings.per_principal = Some(PrincipalLimit::Layer(layer));
        self.given(Setting::WithRateLimit)
    }

    /// Adds a limit on authenticated callers beside [`per_principal`](Self::per_principal): tokens
    /// beside requests, or some routes. It is checked after that one, which therefore counts what
    /// this one refuses, and before permissions and payment. It uses its own clock, and counts in
    /// its own store or, if it has none, in the gate's, under `name`. Beside a limit of requests, a
    /// limit of tokens is reported only in OpenAI's fields, unless its dialects were chosen
    /// explicitly. In a gate that [reads bodies](Self::build_reading_bodies), a limit of tokens
    /// stands inside of the reading.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{AuthenticateLayer, CredentialKind, Principal, RateLimitLayer, Tollgate, quota::Quota};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let ann = || Principal::builder("ann", CredentialKind::Token).build();
    /// let tokens = RateLimitLayer::per_principal(Quota::per_minute(90_000)).tokens(|_| 60_000);
    /// let gate = Tollgate::builder()
    ///     .authenticate(AuthenticateLayer::by_head(move |_| Ok(Some(ann()))))
    ///     .per_principal(Quota::per_minute(60))
    ///     .add_rate_limit("tokens", tokens)
    ///     .build()?;
    /// let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())));
    /// let service = gate.layer(hello);
    /// let answer = service.clone().oneshot(http::Request::new(())).await?;
    /// assert_eq!(answer.headers()["x-ratelimit-remaining-tokens"], "30000");
    /// assert_eq!(answer.headers()["ratelimit"], "\"minute\";r=59;t=1");
    /// assert_eq!(answer.headers()["x-ratelimit-remaining"], "59", "of requests, in both spellings");
    /// assert_eq!(service.oneshot(http::Request::new(())).await?.status(), 429);
    /// # Ok(()) }
    /// ```
    pub fn add_rate_limit(mut self, name: &str, layer: RateLimitLayer) -> Self {
        self.settings.further_limits.push((name.into(), layer));
        self.given(Setting::AddRateLimit)
    }

    /// Limits by `layer` how many requests authenticated callers have under way at once.
    pub fn concurrency(mut self, layer: ConcurrencyLimitLayer) -> Self {
        self.settings.concurrency = Some(layer);
        self.given(Setting::Concurrency)
    }

    /// Counts in `store`, so that several processes share the limits; in this process's memory by
    /// default. The limits are called `client-ip`, `principal` and `account` there, and the others
    /// as they were [added](Self::add_rate_limit). Gates that should count separately in one store
    /// need a [`rate_scope`](Self::rate_scope) each.
    pub fn with_rate_store(mut self, store: impl RateStore) -> Self {
        self.settings.rate_store = Some(Arc::new(store));
        self.given(Setting::WithRateStore)
    }

    /// Prefixes the names of this gate's limits in the store: `jobs/client-ip` and
    /// `jobs/principal`, for `jobs`. All gates with the same scope count together, in all
    /// processes. Refused without [`with_rate_store`](Self::with_rate_store), where there is
    /// nothing to share.
    pub fn rate_scope(mut self, scope: &str) -> Self {
        self.settings.rate_scope = Some(scope.into());
        self.given(Setting::RateScope)
    }
}
