//! Floor 5: the whole stack in the right order.

use std::{fmt, sync::Arc};

use ipnet::IpNet;
use tower_layer::Layer;

use crate::{
    audit::{AuditLayer, AuditSink, Audited},
    denials::{DenialsLayer, DenialsPolicy},
    domain::{
        clock::{Clock, SystemClock},
        quota::Quotas,
        role::{Requirement, RoleSet},
    },
    guard::{Authenticator, Gate, Guard, Identified, Policy, Skip, Then, Unless},
    ip_allow::{IpAllowLayer, IpAllowPolicy},
    rate_limit::{ConcurrencyLimitLayer, ConcurrencyLimitPolicy, RateLimitLayer, RateLimitPolicy},
    rbac::{RbacLayer, RbacPolicy},
    request_id::{RequestIdLayer, RequestIdPolicy},
    spending_limit::{PriceTable, SpendingLimitLayer, SpendingLimitPolicy},
    store::{Ledger, RateStore},
    wire::{ClientAddress, DenialFormat, Denials, RequestHead},
};

/// The whole gate as one layer: [`Tollgate::builder`].
///
/// From the outside in: request id → audit → house style → allowed addresses → rate limit by address →
/// authentication → permission → requests under way → rate limit by principal → spending. What isn't set isn't there.
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
            clock: SystemClock::shared(),
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
    clock: Arc<dyn Clock>,
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

    /// How a client's address is found; the peer's unless set. It goes for every part of the gate that
    /// counts or compares addresses but the authenticating layer, which has a setting of its own.
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
            clock: self.clock,
        }
    }

    /// Requires a permission of everybody, or any other [`Requirement`].
    pub fn require(mut self, roles: &RoleSet, requirement: impl Into<Requirement>) -> Self {
        self.requirement = Some(RbacLayer::require(roles, requirement));
        self
    }

    /// Requires what `layer` requires: of each route its own, with [`RbacLayer::routes`]. Its settings
    /// (`skip`, `shadow`, `denials`) are not taken over.
    pub fn authorize(mut self, layer: RbacLayer) -> Self {
        self.authorization = Some(layer);
        self
    }

    /// Limits each principal.
    pub fn per_principal(mut self, quotas: impl Into<Quotas>) -> Self {
        self.per_principal = Some(PrincipalLimit::Quotas(quotas.into()));
        self
    }

    /// Limits known callers as `layer` says: with plans, weights, in tokens, in other header dialects. It counts in the
    /// store and by the clock that it has itself; its own denials and skips don't count here. Takes the place of
    /// [`per_principal`](Self::per_principal).
    pub fn with_rate_limit(mut self, layer: RateLimitLayer) -> Self {
        self.per_principal = Some(PrincipalLimit::Layer(layer));
        self
    }

    /// Limits how many requests known callers have under way at once, as `layer` says, whose own denials and skips don't
    /// count here.
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

    /// Charges as `layer` says, whose own denials, skips and clock don't count here.
    pub fn with_spending(mut self, layer: SpendingLimitLayer) -> Self {
        self.spending = Some(layer);
        self
    }

    /// Passes requests by for which `skip` says so: only their id and the style of errors are seen to.
    pub fn skip(mut self, skip: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.skips.push(Arc::new(skip));
        self
    }

    /// Another source of time, for limits and prices.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The gate.
    ///
    /// # Errors
    /// [`TollgateError`] names the setting that can't be.
    pub fn build(self) -> Result<TollgateLayer<A>, TollgateError> {
        self.check()?;
        let rate = |layer: RateLimitLayer, scope| {
            let layer = layer.with_clock(Arc::clone(&self.clock));
            match &self.rate_store {
                Some(store) => layer.with_store(scope, Arc::clone(store)).into_policy(),
                None => layer.into_policy(),
            }
        };
        let address = self.address.clone();
        let outer_rate = self.per_client_ip.map(|quotas| {
            let layer = RateLimitLayer::per_client_ip(quotas).client_address(address);
            rate(layer, "client-ip")
        });
        let inner_rate = self.per_principal.map(|limit| match limit {
            PrincipalLimit::Quotas(quotas) => {
                rate(RateLimitLayer::per_principal(quotas), "principal")
            }
            PrincipalLimit::Layer(layer) => layer.into_policy(),
        });
        let concurrency = self.concurrency.map(ConcurrencyLimitLayer::into_policy);
        let allowed = self.allowed.map(|networks| {
            let layer = IpAllowLayer::new(networks);
            layer.client_address(self.address.clone()).into_policy()
        });
        let audit = self.audit.client_address(self.address);
        let audit = audit.with_clock(Arc::clone(&self.clock));
        let requirement = self.authorization.or(self.requirement);
        let spending = self
            .spending
            .map(|spending| spending.with_clock(Arc::clone(&self.clock)).into_policy());
        let authorization = requirement.map(RbacLayer::into_policy);
        let spared = Then {
            outer: allowed.map(Gate::new),
            inner: Then {
                outer: outer_rate.map(Gate::new),
                inner: Then {
                    outer: self.authentication,
                    inner: Then {
                        outer: authorization.map(Gate::new),
                        inner: Then {
                            outer: concurrency.map(Gate::new),
                            inner: Then {
                                outer: inner_rate.map(Gate::new),
                                inner: spending.map(Gate::new),
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
                inner: Unless::new(self.skips, spared),
            },
        };
        Ok(TollgateLayer {
            audit,
            course: Arc::new(course),
        })
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

/// The authentication of a gate that has none. There is no value of this type.
#[derive(Clone, Debug)]
pub enum NoAuthentication {}

impl Policy for NoAuthentication {
    type Permit = Identified;

    fn name(&self) -> &'static str {
        match *self {}
    }

    fn decide(&self, _: &RequestHead<'_>) -> crate::guard::Decision<Identified> {
        match *self {}
    }
}

/// The whole gate. A clone is a few reference counts.
#[derive(Clone, Debug)]
pub struct TollgateLayer<A: Policy> {
    audit: AuditLayer,
    course: Arc<WholeCourse<A>>,
}

/// Whom and what a request that isn't spared is asked, from the outside in.
type Asked<A> = Then<Option<Gate<IpAllowPolicy>>, Then<Option<Gate<RateLimitPolicy>>, Known<A>>>;
type Known<A> = Then<Option<Gate<A>>, Then<Option<Gate<RbacPolicy>>, Counted>>;
type Counted = Then<Option<Gate<ConcurrencyLimitPolicy>>, Paying>;
type Paying = Then<Option<Gate<RateLimitPolicy>>, Option<Gate<SpendingLimitPolicy>>>;

/// All gates of a [`TollgateLayer`].
type WholeCourse<A> = Then<Gate<RequestIdPolicy>, Then<Gate<DenialsPolicy>, Unless<Asked<A>>>>;

impl<S, A: Policy<Permit = Identified>> Layer<S> for TollgateLayer<A> {
    type Service = Audited<Guard<S, Arc<WholeCourse<A>>>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.audit
            .layer(Guard::new(inner, Arc::clone(&self.course)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Nowhere;

    impl AuditSink for Nowhere {
        fn record(&self, _: crate::audit::AuditEvent) {}
    }

    fn refused<A: Policy<Permit = Identified> + Clone>(builder: TollgateBuilder<A>) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[test]
    fn contradictions_are_refused_by_the_name_of_the_setting() {
        let gate = Tollgate::builder;
        let everything = || RbacLayer::authenticated();
        assert_eq!(
            refused(gate().authorize(everything())),
            "authorize: needs `authenticate`"
        );
        assert_eq!(
            refused(gate().allow_addresses([])),
            "allow_addresses: allows nobody"
        );
        let everybody = ["0.0.0.0/0".parse().unwrap()];
        let trusting =
            ClientAddress::peer().trusting(everybody, crate::wire::ForwardedHeader::XForwardedFor);
        assert_eq!(
            refused(gate().client_address(trusting)),
            "client_address: trusts every address"
        );
        let secret = b"thirty-two bytes or more, please!";
        let verifier = crate::token::TokenVerifier::hs256(secret).build().unwrap();
        let known = gate().authenticate(crate::jwt::JwtLayer::new(verifier));
        let both = known
            .require(&RoleSet::viewer_operator_admin(), "read")
            .authorize(everything());
        assert_eq!(refused(both), "authorize: contradicts `require`");
        let one = gate().audit(Nowhere).allow_addresses(everybody);
        assert!(one.build().is_ok());
    }
}
