//! Floor 5: the whole stack in the right order.

mod layer;
mod settings;

use std::{fmt, sync::Arc};

use ipnet::IpNet;

use crate::{
    audit::{AuditLayer, AuditSink},
    denials::DenialsLayer,
    domain::{
        clock::{Clock, SystemClock},
        quota::Quotas,
        role::{Requirement, RoleSet},
    },
    guard::{
        Authenticator, Gate, Identified, Policy,
        course::{Several, Then, Unless},
        is_preflight, on_paths,
    },
    rate_limit::{ConcurrencyLimitLayer, RateLimitLayer, RateLimitPolicy},
    rbac::RbacLayer,
    request_id::RequestIdLayer,
    spending_limit::{PriceTable, SpendingLimitLayer},
    store::{Ledger, RateStore},
    wire::{ClientAddress, DenialFormat, Denials, RequestHead},
};

pub use layer::{NoAuthentication, TollgateLayer};
pub use settings::TollgateError;
use settings::{Allowed, OF_ADDRESSES, OF_PRINCIPALS, PrincipalLimit, Setting, Settings};

/// The whole gate as one layer: [`Tollgate::builder`].
///
/// From the outside in: request id → audit → house style → allowed addresses → rate limit by address, and others of whoever comes →
/// authentication → requests under way → rate limit by principal → permission → spending. What isn't set isn't there.
///
/// A known caller's requests count whether or not they are permitted, and each answer tells what is left.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::{ApiKeyLayer, Price, PriceTable, Tollgate, key::KeyFormat, quota::Quota};
/// use tollgate::keyring::{KeyResolver, Keyring, NewKey};
/// use tollgate::store::MemoryStore;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let (store, format) = (MemoryStore::new(), KeyFormat::builder("acme").build()?);
/// let keys = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
/// let (key, _) = Keyring::new(store.clone(), format, keys.clone()).create("user-1", NewKey::default()).await?;
///
/// let gate = Tollgate::builder()
///     .authenticate(ApiKeyLayer::new(keys))
///     .per_principal([Quota::per_second(10), Quota::per_minute(60)])
///     .spending(store, PriceTable::new().route("GET", "/models", Price::free())?)
///     .build()?;
/// let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())));
/// let service = gate.layer(hello);
/// let known = http::Request::get("/models").header("x-api-key", key.expose()).body(())?;
/// assert_eq!(service.clone().oneshot(known).await?.status(), 200);
/// let stranger = http::Request::get("/models").body(())?;
/// assert_eq!(service.oneshot(stranger).await?.status(), 401);
///
/// let error = Tollgate::builder().per_principal(Quota::per_minute(60)).build().unwrap_err();
/// assert_eq!(error.to_string(), "per_principal: needs `authenticate`");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tollgate;

impl Tollgate {
    /// Begins a gate.
    pub fn builder() -> TollgateBuilder<NoAuthentication> {
        TollgateBuilder {
            authentication: None,
            settings: Settings {
                denials: DenialsLayer::new(DenialFormat::Problem),
                address: ClientAddress::peer(),
                audit: AuditLayer::off(),
                allowed: None,
                per_client_ip: None,
                per_principal: None,
                outer_limits: Vec::new(),
                further_limits: Vec::new(),
                concurrency: None,
                rate_store: None,
                rate_scope: None,
                requirement: None,
                spending: None,
                skips: Vec::new(),
                open: Vec::new(),
                shadow: false,
                clock: None,
            },
            given: Vec::new(),
        }
    }
}

/// Makes a [`TollgateLayer`]. A setting that is there once can be set once: which of two was meant, nobody can say.
#[must_use]
pub struct TollgateBuilder<A> {
    authentication: Option<Gate<A>>,
    settings: Settings,
    /// Which settings were given, in order.
    given: Vec<Setting>,
}

impl<A: Policy<Permit = Identified> + Clone> TollgateBuilder<A> {
    /// How refusals look, also those of handlers; problem details (RFC 9457) unless set.
    pub fn denials(mut self, denials: impl Into<Denials>) -> Self {
        self.settings.denials = self.settings.denials.with_style(denials);
        self.given(Setting::Denials)
    }

    /// Also dresses errors of the service that nobody dressed: a router's 404, an extractor's 400.
    pub fn cover_plain_errors(mut self) -> Self {
        self.settings.denials = self.settings.denials.cover_plain_errors();
        self
    }

    /// How a client's address is found; the peer's unless set. It goes for every part of the gate that counts or compares
    /// addresses, layers that were handed in too, but for those that trust proxies of their own.
    pub fn client_address(mut self, address: ClientAddress) -> Self {
        self.settings.address = address;
        self.given(Setting::ClientAddress)
    }

    /// Records authentications, refusals and acts.
    pub fn audit(mut self, sink: impl AuditSink) -> Self {
        self.settings.audit = AuditLayer::new(sink);
        self.given(Setting::Audit)
    }

    /// Admits only who comes from one of `networks`, and leaves the [`ClientIp`](crate::ClientIp) on requests.
    pub fn allow_addresses(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.settings.allowed = Some(Allowed::Networks(networks.into_iter().collect()));
        self.given(Setting::AllowAddresses)
    }

    /// Leaves the [`ClientIp`](crate::ClientIp) on requests, wherever they come from. Who has no address is refused.
    pub fn locate_clients(mut self) -> Self {
        self.settings.allowed = Some(Allowed::Everybody);
        self.given(Setting::LocateClients)
    }

    /// Limits each client address, before it is known who calls.
    ///
    /// The server has to tell the peer's address, or everybody is refused with 503: an axum router is served by
    /// `axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())`, tonic tells it by itself, and others put
    /// a [`PeerAddress`](crate::PeerAddress) into the extensions of each request.
    pub fn per_client_ip(mut self, quotas: impl Into<Quotas>) -> Self {
        self.settings.per_client_ip = Some(quotas.into());
        self.given(Setting::PerClientIp)
    }

    /// One more limit of whoever comes, beside [`per_client_ip`](Self::per_client_ip) and asked after it: of everybody together, or
    /// of [failed attempts](RateLimitLayer::failed_attempts). It goes by its own clock, and counts in its own store, or where it
    /// has none, in the gate's, as `name`.
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

    /// Finds out who calls.
    pub fn authenticate<B: Authenticator>(self, layer: B) -> TollgateBuilder<B::Policy> {
        let mut given = self.given;
        given.push(Setting::Authenticate);
        TollgateBuilder {
            authentication: Some(layer.into_gate()),
            settings: self.settings,
            given,
        }
    }

    /// Requires a permission of everybody, or any other [`Requirement`].
    pub fn require(mut self, roles: &RoleSet, requirement: impl Into<Requirement>) -> Self {
        self.settings.requirement = Some(RbacLayer::require(roles, requirement));
        self.given(Setting::Require)
    }

    /// Requires what `layer` requires: of each route its own, with [`RbacLayer::routes`].
    pub fn authorize(mut self, layer: RbacLayer) -> Self {
        self.settings.requirement = Some(layer);
        self.given(Setting::Authorize)
    }

    /// Limits each principal.
    pub fn per_principal(mut self, quotas: impl Into<Quotas>) -> Self {
        self.settings.per_principal = Some(PrincipalLimit::Quotas(quotas.into()));
        self.given(Setting::PerPrincipal)
    }

    /// Limits known callers as `layer` says: with plans, weights, in tokens, in other header dialects. It goes by its own clock, and
    /// counts in its own store, or where it has none, in the gate's, as `principal`. Instead of
    /// [`per_principal`](Self::per_principal).
    ///
    /// Its [`limits`](RateLimitLayer::limits) reach what the gate counts if it was given its store itself.
    pub fn with_rate_limit(mut self, layer: RateLimitLayer) -> Self {
        self.settings.per_principal = Some(PrincipalLimit::Layer(layer));
        self.given(Setting::WithRateLimit)
    }

    /// One more limit of known callers beside [`per_principal`](Self::per_principal), as `layer` says: tokens beside requests, or one of
    /// some routes. It is asked after that one, which has counted what this one refuses, and before anything is permitted or paid.
    /// It goes by its own clock, and counts in its own store, or where it has none, in the gate's, as `name`. Beside a limit of requests one
    /// of tokens is told in OpenAI's fields alone, unless its dialects were chosen by hand.
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

    /// Limits how many requests known callers have under way at once, as `layer` says.
    pub fn concurrency(mut self, layer: ConcurrencyLimitLayer) -> Self {
        self.settings.concurrency = Some(layer);
        self.given(Setting::Concurrency)
    }

    /// Counts in `store`, so that several processes act as one; in this process's memory unless set. The
    /// limits are called `client-ip` and `principal` there, and as they are [added](Self::add_rate_limit): gates that are to count apart in one store have each a
    /// [`rate_scope`](Self::rate_scope).
    pub fn with_rate_store(mut self, store: impl RateStore) -> Self {
        self.settings.rate_store = Some(Arc::new(store));
        self.given(Setting::WithRateStore)
    }

    /// What this gate's limits are called in the store: `jobs/client-ip` and `jobs/principal`, for `jobs`. All gates of one
    /// scope count together, in whatever process.
    pub fn rate_scope(mut self, scope: &str) -> Self {
        self.settings.rate_scope = Some(scope.into());
        self.given(Setting::RateScope)
    }

    /// Charges for each request.
    pub fn spending(mut self, ledger: impl Ledger, prices: PriceTable) -> Self {
        self.settings.spending = Some(SpendingLimitLayer::new(ledger, prices));
        self.given(Setting::Spending)
    }

    /// Charges as `layer` says.
    pub fn with_spending(mut self, layer: SpendingLimitLayer) -> Self {
        self.settings.spending = Some(layer);
        self.given(Setting::WithSpending)
    }

    /// Passes requests by for which `skip` says so: only their id and the style of errors are seen to.
    pub fn skip(mut self, skip: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.settings.skips.push(Arc::new(skip));
        self
    }

    /// Passes requests by whose full path is one of `paths`, letter by letter.
    pub fn skip_paths<'a>(mut self, paths: impl IntoIterator<Item = &'a str>) -> Self {
        self.settings.skips.push(on_paths(paths));
        self
    }

    /// Lets everybody make requests for which `is_open` says so: nobody is asked who they are, what they may or what they can
    /// pay. Their addresses are judged and counted like all others, which those that are [skipped](Self::skip) are spared: a health
    /// check that holds a stream open is open, and skipped where only the own network reaches it.
    pub fn open_to_strangers(
        mut self,
        is_open: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.open.push(Arc::new(is_open));
        self
    }

    /// Passes CORS preflight requests by, where what answers them stands inside. It belongs outside of the gate, and then none comes here: inside
    /// of it refusals go out without `access-control-allow-origin`, and a page can't read that it is a 401, a 402 or a 429.
    pub fn skip_preflight(self) -> Self {
        self.skip(is_preflight)
    }

    /// Decides, logs and counts, and lets everything through: a whole gate that is tried before it bites. A layer that
    /// was handed in can be tried alone, by its own `shadow`.
    ///
    /// Whoever would be admitted is, with all that follows: limits are used up, and **real money is held and settled** for
    /// whoever has it. Try prices on a ledger that is made for the trial.
    pub fn shadow(mut self) -> Self {
        self.settings.shadow = true;
        self
    }

    /// Another source of time, for limits, the audit log and prices.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.settings.clock = Some(clock);
        self.given(Setting::WithClock)
    }

    /// The gate.
    ///
    /// # Errors
    /// [`TollgateError`] names the setting that can't be.
    pub fn build(self) -> Result<TollgateLayer<A>, TollgateError> {
        let Self {
            authentication,
            settings,
            given,
        } = self;
        settings.check(&given, authentication.as_ref())?;
        let common = Common {
            address: settings.address,
            shadow: settings.shadow,
            rate_store: settings.rate_store,
            rate_scope: settings.rate_scope,
        };
        let clock = settings.clock.clone().unwrap_or_else(SystemClock::shared);
        let per_client_ip = settings.per_client_ip.map(|quotas| {
            let layer = RateLimitLayer::per_client_ip(quotas).with_clock(Arc::clone(&clock));
            common.limit(layer, OF_ADDRESSES)
        });
        let outer = common.limits(settings.outer_limits);
        let tells_requests = settings.per_principal.is_some();
        let per_principal = settings.per_principal;
        let per_principal =
            per_principal.map(|limit| common.limit(limit.into_layer(&clock), OF_PRINCIPALS));
        let further = settings.further_limits.into_iter();
        let further = common.limits(further.map(|(name, layer)| match tells_requests {
            true => (name, layer.beside_requests()),
            false => (name, layer),
        }));
        let spending = settings.spending.map(|layer| match settings.clock {
            Some(clock) => layer.with_clock(clock),
            None => layer,
        });
        let requirement = settings.requirement.map(RbacLayer::into_gate);
        let audit = settings.audit.client_address(common.address.clone());
        let concurrency = settings.concurrency.map(ConcurrencyLimitLayer::into_gate);
        let known = Then {
            outer: common.gate(authentication),
            inner: Then {
                outer: common.gate(concurrency),
                inner: Then {
                    outer: common.gate(per_principal),
                    inner: Then {
                        outer: further,
                        inner: Then {
                            outer: common.gate(requirement),
                            inner: common.gate(spending.map(SpendingLimitLayer::into_gate)),
                        },
                    },
                },
            },
        };
        let asked = Then {
            outer: common.gate(settings.allowed.map(Allowed::into_gate)),
            inner: Then {
                outer: common.gate(per_client_ip),
                inner: Then {
                    outer,
                    inner: Unless::new(settings.open, known),
                },
            },
        };
        let course = Then {
            outer: RequestIdLayer::new().into_gate(),
            inner: Then {
                outer: settings.denials.into_gate(),
                inner: Unless::new(settings.skips, asked),
            },
        };
        Ok(TollgateLayer::new(audit.with_clock(clock), course))
    }

    fn given(mut self, setting: Setting) -> Self {
        self.given.push(setting);
        self
    }
}

/// What goes for every gate of the stack.
struct Common {
    address: ClientAddress,
    shadow: bool,
    rate_store: Option<Arc<dyn RateStore>>,
    rate_scope: Option<Box<str>>,
}

impl Common {
    /// A limit that counts in the gate's store, if there is one, under its name in the gate's scope.
    fn limit(&self, layer: RateLimitLayer, name: &str) -> Gate<RateLimitPolicy> {
        let layer = match (&self.rate_store, &self.rate_scope) {
            (None, _) => layer,
            (Some(store), None) => layer.inherit_store(name, store),
            (Some(store), Some(scope)) => layer.inherit_store(&format!("{scope}/{name}"), store),
        };
        layer.into_gate()
    }

    /// Limits as they were added, by their names.
    fn limits(
        &self,
        limits: impl IntoIterator<Item = (Box<str>, RateLimitLayer)>,
    ) -> Several<RateLimitPolicy> {
        let limits = limits.into_iter();
        let gates = limits.map(|(name, layer)| self.limit(layer, &name));
        Several::new(gates.filter_map(|gate| self.gate(Some(gate))))
    }

    fn gate<P: Policy + Clone>(&self, gate: Option<Gate<P>>) -> Option<Gate<P>> {
        let gate = gate?.map_policy(|policy| policy.inherit_address(&self.address));
        Some(if self.shadow { gate.shadow() } else { gate })
    }
}

impl<A> fmt::Debug for TollgateBuilder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TollgateBuilder")
            .field("per_client_ip", &self.settings.per_client_ip)
            .field("per_principal", &self.settings.per_principal)
            .field("requirement", &self.settings.requirement)
            .field("spending", &self.settings.spending)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
