//! Floor 5: the whole stack in the right order.

mod layer;

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
    guard::{Authenticator, Gate, Identified, Policy, Skip, Then, Unless, is_preflight, on_paths},
    ip_allow::IpAllowLayer,
    rate_limit::{ConcurrencyLimitLayer, RateLimitLayer},
    rbac::RbacLayer,
    request_id::RequestIdLayer,
    spending_limit::{PriceTable, SpendingLimitLayer},
    store::{Ledger, RateStore},
    wire::{ClientAddress, DenialFormat, Denials, RequestHead},
};

pub use layer::{NoAuthentication, TollgateLayer};

/// The whole gate as one layer: [`Tollgate::builder`].
///
/// From the outside in: request id → audit → house style → allowed addresses → rate limit by address →
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
            denials: DenialsLayer::new(DenialFormat::Problem),
            address: ClientAddress::peer(),
            audit: AuditLayer::off(),
            allowed: None,
            per_client_ip: None,
            per_principal: None,
            concurrency: None,
            rate_store: None,
            requirement: None,
            authorization: None,
            spending: None,
            skips: Vec::new(),
            shadow: false,
            clock: None,
        }
    }
}

/// A setting contradicts another, or is missing: which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TollgateError {
    /// The setting speaks of a principal, and nobody is authenticated.
    #[error("{setting}: needs `authenticate`")]
    NeedsAuthentication {
        /// The setting.
        setting: &'static str,
    },
    /// Two settings say different things of the same.
    #[error("{setting}: contradicts `{other}`")]
    Contradiction {
        /// The setting.
        setting: &'static str,
        /// The other one.
        other: &'static str,
    },
    /// The list of addresses is empty, so that nobody could come in.
    #[error("allow_addresses: allows nobody")]
    AllowsNobody,
    /// Every address is trusted to tell for whom it speaks, so that anybody can be anybody.
    #[error("client_address: trusts every address")]
    TrustsEveryAddress,
}

/// By what known callers are limited.
#[derive(Debug)]
enum PrincipalLimit {
    Quotas(Quotas),
    Layer(RateLimitLayer),
}

/// Makes a [`TollgateLayer`].
#[must_use]
pub struct TollgateBuilder<A> {
    authentication: Option<Gate<A>>,
    denials: DenialsLayer,
    address: ClientAddress,
    audit: AuditLayer,
    allowed: Option<Vec<IpNet>>,
    per_client_ip: Option<Quotas>,
    per_principal: Option<PrincipalLimit>,
    concurrency: Option<ConcurrencyLimitLayer>,
    rate_store: Option<Arc<dyn RateStore>>,
    requirement: Option<RbacLayer>,
    authorization: Option<RbacLayer>,
    spending: Option<SpendingLimitLayer>,
    skips: Vec<Skip>,
    shadow: bool,
    /// `None`: the machine's own time, but a layer that was handed in keeps its own.
    clock: Option<Arc<dyn Clock>>,
}

impl<A: Policy<Permit = Identified> + Clone> TollgateBuilder<A> {
    /// How refusals look, also those of handlers; problem details (RFC 9457) unless set.
    pub fn denials(mut self, denials: impl Into<Denials>) -> Self {
        self.denials = self.denials.with_style(denials);
        self
    }

    /// Also dresses errors of the service that nobody dressed: a router's 404, an extractor's 400.
    pub fn cover_plain_errors(mut self) -> Self {
        self.denials = self.denials.cover_plain_errors();
        self
    }

    /// How a client's address is found; the peer's unless set. It goes for every part of the gate that counts or compares
    /// addresses, layers that were handed in too, but for those that trust proxies of their own.
    pub fn client_address(mut self, address: ClientAddress) -> Self {
        self.address = address;
        self
    }

    /// Records authentications, refusals and acts.
    pub fn audit(mut self, sink: impl AuditSink) -> Self {
        self.audit = AuditLayer::new(sink);
        self
    }

    /// Admits only who comes from one of `networks`, and leaves the [`ClientIp`](crate::ClientIp) on requests.
    pub fn allow_addresses(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.allowed = Some(networks.into_iter().collect());
        self
    }

    /// Limits each client address, before it is known who calls.
    ///
    /// The server has to tell the peer's address, or everybody is refused with 503: an axum router is served by
    /// `axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())`, tonic tells it by itself, and others put
    /// a [`PeerAddress`](crate::PeerAddress) into the extensions of each request.
    pub fn per_client_ip(mut self, quotas: impl Into<Quotas>) -> Self {
        self.per_client_ip = Some(quotas.into());
        self
    }

    /// Finds out who calls.
    pub fn authenticate<B: Authenticator>(self, layer: B) -> TollgateBuilder<B::Policy> {
        let Self {
            denials,
            address,
            audit,
            allowed,
            per_client_ip,
            per_principal,
            concurrency,
            rate_store,
            requirement,
            authorization,
            ..
        } = self;
        TollgateBuilder {
            authentication: Some(layer.into_gate()),
            denials,
            address,
            audit,
            allowed,
            per_client_ip,
            per_principal,
            concurrency,
            rate_store,
            requirement,
            authorization,
            spending: self.spending,
            skips: self.skips,
            shadow: self.shadow,
            clock: self.clock,
        }
    }

    /// Requires a permission of everybody, or any other [`Requirement`].
    pub fn require(mut self, roles: &RoleSet, requirement: impl Into<Requirement>) -> Self {
        self.requirement = Some(RbacLayer::require(roles, requirement));
        self
    }

    /// Requires what `layer` requires: of each route its own, with [`RbacLayer::routes`].
    pub fn authorize(mut self, layer: RbacLayer) -> Self {
        self.authorization = Some(layer);
        self
    }

    /// Limits each principal.
    pub fn per_principal(mut self, quotas: impl Into<Quotas>) -> Self {
        self.per_principal = Some(PrincipalLimit::Quotas(quotas.into()));
        self
    }

    /// Limits known callers as `layer` says: with plans, weights, in tokens, in other header dialects. It goes by its own clock, and
    /// counts in its own store, or where it has none, in the gate's, as `principal`. Takes the place of
    /// [`per_principal`](Self::per_principal).
    ///
    /// Its [`limits`](RateLimitLayer::limits) reach what the gate counts if it was given its store itself.
    pub fn with_rate_limit(mut self, layer: RateLimitLayer) -> Self {
        self.per_principal = Some(PrincipalLimit::Layer(layer));
        self
    }

    /// Limits how many requests known callers have under way at once, as `layer` says.
    pub fn concurrency(mut self, layer: ConcurrencyLimitLayer) -> Self {
        self.concurrency = Some(layer);
        self
    }

    /// Counts in `store`, so that several processes act as one; in this process's memory unless set. The
    /// limits are called `client-ip` and `principal` there.
    pub fn with_rate_store(mut self, store: impl RateStore) -> Self {
        self.rate_store = Some(Arc::new(store));
        self
    }

    /// Charges for each request.
    pub fn spending(mut self, ledger: impl Ledger, prices: PriceTable) -> Self {
        self.spending = Some(SpendingLimitLayer::new(ledger, prices));
        self
    }

    /// Charges as `layer` says.
    pub fn with_spending(mut self, layer: SpendingLimitLayer) -> Self {
        self.spending = Some(layer);
        self
    }

    /// Passes requests by for which `skip` says so: only their id and the style of errors are seen to.
    pub fn skip(mut self, skip: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.skips.push(Arc::new(skip));
        self
    }

    /// Passes requests by whose full path is one of `paths`, letter by letter.
    pub fn skip_paths<'a>(mut self, paths: impl IntoIterator<Item = &'a str>) -> Self {
        self.skips.push(on_paths(paths));
        self
    }

    /// Passes CORS preflight requests by.
    pub fn skip_preflight(self) -> Self {
        self.skip(is_preflight)
    }

    /// Decides, logs and counts, and lets everything through: a whole gate that is tried before it bites. A layer that
    /// was handed in can be tried alone, by its own `shadow`.
    pub fn shadow(mut self) -> Self {
        self.shadow = true;
        self
    }

    /// Another source of time, for limits, the audit log and prices.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The gate.
    ///
    /// # Errors
    /// [`TollgateError`] names the setting that can't be.
    pub fn build(self) -> Result<TollgateLayer<A>, TollgateError> {
        self.check()?;
        let common = Common {
            address: self.address,
            shadow: self.shadow,
        };
        let clock = self.clock.clone().unwrap_or_else(SystemClock::shared);
        let shared = |layer: RateLimitLayer, scope| match &self.rate_store {
            Some(store) => layer.inherit_store(scope, store),
            None => layer,
        };
        let per_client_ip = self.per_client_ip.map(|quotas| {
            let layer = RateLimitLayer::per_client_ip(quotas).with_clock(Arc::clone(&clock));
            shared(layer, "client-ip").into_gate()
        });
        let per_principal = self.per_principal.map(|limit| {
            let layer = match limit {
                PrincipalLimit::Quotas(quotas) => {
                    RateLimitLayer::per_principal(quotas).with_clock(Arc::clone(&clock))
                }
                PrincipalLimit::Layer(layer) => layer,
            };
            shared(layer, "principal").into_gate()
        });
        let spending = self.spending.map(|layer| match self.clock {
            Some(clock) => layer.with_clock(clock),
            None => layer,
        });
        let requirement = self.authorization.or(self.requirement);
        let allowed = self.allowed.map(IpAllowLayer::new);
        let audit = self.audit.client_address(common.address.clone());
        let asked = Then {
            outer: common.gate(allowed.map(IpAllowLayer::into_gate)),
            inner: Then {
                outer: common.gate(per_client_ip),
                inner: Then {
                    outer: common.gate(self.authentication),
                    inner: Then {
                        outer: common.gate(self.concurrency.map(ConcurrencyLimitLayer::into_gate)),
                        inner: Then {
                            outer: common.gate(per_principal),
                            inner: Then {
                                outer: common.gate(requirement.map(RbacLayer::into_gate)),
                                inner: common.gate(spending.map(SpendingLimitLayer::into_gate)),
                            },
                        },
                    },
                },
            },
        };
        let course = Then {
            outer: RequestIdLayer::new().into_gate(),
            inner: Then {
                outer: self.denials.into_gate(),
                inner: Unless::new(self.skips, asked),
            },
        };
        Ok(TollgateLayer::new(audit.with_clock(clock), course))
    }

    fn check(&self) -> Result<(), TollgateError> {
        let needing = [
            ("require", self.requirement.is_some()),
            ("authorize", self.authorization.is_some()),
            ("per_principal", self.per_principal.is_some()),
            ("concurrency", self.concurrency.is_some()),
            ("spending", self.spending.is_some()),
        ];
        if self.authentication.is_none()
            && let Some((setting, _)) = needing.into_iter().find(|(_, set)| *set)
        {
            return Err(TollgateError::NeedsAuthentication { setting });
        }
        if self.requirement.is_some() && self.authorization.is_some() {
            return Err(TollgateError::Contradiction {
                setting: "authorize",
                other: "require",
            });
        }
        if self.allowed.as_ref().is_some_and(Vec::is_empty) {
            return Err(TollgateError::AllowsNobody);
        }
        if self.address.trusts_everybody() {
            return Err(TollgateError::TrustsEveryAddress);
        }
        Ok(())
    }
}

/// What goes for every gate of the stack.
struct Common {
    address: ClientAddress,
    shadow: bool,
}

impl Common {
    fn gate<P: Policy + Clone>(&self, gate: Option<Gate<P>>) -> Option<Gate<P>> {
        let gate = gate?.map_policy(|policy| policy.inherit_address(&self.address));
        Some(if self.shadow { gate.shadow() } else { gate })
    }
}

impl<A> fmt::Debug for TollgateBuilder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TollgateBuilder")
            .field("per_client_ip", &self.per_client_ip)
            .field("per_principal", &self.per_principal)
            .field("requirement", &self.requirement)
            .field("spending", &self.spending)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
