//! Floor 5: the whole stack in the right order.

mod bodies;
mod common;
mod layer;
mod limits;
mod settings;

use std::{fmt, sync::Arc};

use ipnet::IpNet;

use crate::{
    audit::{AuditLayer, AuditSink},
    denials::DenialsLayer,
    domain::{
        clock::{Clock, SystemClock},
        role::{Requirement, RoleSet},
    },
    guard::{
        Authenticator, Gate, Identified, Policy,
        course::{Then, Unless},
        is_preflight, on_paths,
    },
    rate_limit::{ConcurrencyLimitLayer, RateLimitLayer},
    rbac::RbacLayer,
    request_id::RequestIdLayer,
    spending_limit::{PriceTable, SpendingLimitLayer},
    store::Ledger,
    wire::{ClientAddress, DenialFormat, Denials, RequestHead},
};

pub use bodies::ReadingTollgateLayer;
use common::Common;
pub use layer::{NoAuthentication, TollgateLayer};
pub use settings::TollgateError;
use settings::{Allowed, CLIENT_IP_LIMIT, PRINCIPAL_LIMIT, Setting, Settings};

/// The whole gate as one layer: [`Tollgate::builder`].
///
/// From the outside in: request id → audit → format of refusals → allowed addresses → rate limit by
/// address, and other outer limits → authentication → requests under way → rate limits by principal
/// and by account → permission → spending. What isn't configured is left out.
///
/// An authenticated caller's requests count whether or not they are permitted, and each answer says
/// what is left. In a gate that [reads bodies](TollgateBuilder::build_reading_bodies), limits of
/// tokens stand between permission and spending.
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
    /// Starts a gate.
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
                per_account: None,
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

/// Builds a [`TollgateLayer`]. Setting the same thing twice is an error, since it would be unclear
/// which one was meant.
#[must_use]
pub struct TollgateBuilder<A> {
    authentication: Option<Gate<A>>,
    settings: Settings,
    /// The settings that were given, in order.
    given: Vec<Setting>,
}

impl<A: Policy<Permit = Identified> + Clone> TollgateBuilder<A> {
    /// The format of refusals, including those of handlers; problem details (RFC 9457) by default.
    pub fn denials(mut self, denials: impl Into<Denials>) -> Self {
        self.settings.denials = self.settings.denials.with_style(denials);
        self.given(Setting::Denials)
    }

    /// Also applies the format to the service's plain errors: a router's 404, an extractor's 400.
    pub fn cover_plain_errors(mut self) -> Self {
        self.settings.denials = self.settings.denials.cover_plain_errors();
        self
    }

    /// How a client's address is determined; the peer's by default. Applies to every part of the
    /// gate that counts or compares addresses, including layers that are passed in, except those
    /// with trusted proxies of their own.
    pub fn client_address(mut self, address: ClientAddress) -> Self {
        self.settings.address = address;
        self.given(Setting::ClientAddress)
    }

    /// Records authentications, refusals and acts.
    pub fn audit(mut self, sink: impl AuditSink) -> Self {
        self.settings.audit = AuditLayer::new(sink);
        self.given(Setting::Audit)
    }

    /// Admits only clients from `networks`, and adds the [`ClientIp`](crate::ClientIp) to requests.
    pub fn allow_addresses(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.settings.allowed = Some(Allowed::Networks(networks.into_iter().collect()));
        self.given(Setting::AllowAddresses)
    }

    /// Adds the [`ClientIp`](crate::ClientIp) to requests, wherever they come from. Requests
    /// without an address are refused.
    pub fn locate_clients(mut self) -> Self {
        self.settings.allowed = Some(Allowed::Everybody);
        self.given(Setting::LocateClients)
    }

    /// Authenticates callers.
    pub fn authenticate<B: Authenticator>(self, layer: B) -> TollgateBuilder<B::Policy> {
        let mut given = self.given;
        given.push(Setting::Authenticate);
        TollgateBuilder {
            authentication: Some(layer.into_gate()),
            settings: self.settings,
            given,
        }
    }

    /// Requires a permission, or any other [`Requirement`], for all requests.
    pub fn require(mut self, roles: &RoleSet, requirement: impl Into<Requirement>) -> Self {
        self.settings.requirement = Some(RbacLayer::require(roles, requirement));
        self.given(Setting::Require)
    }

    /// Requires what `layer` requires; with [`RbacLayer::routes`] this depends on the route. What
    /// nobody could fulfil is refused when the gate is built, see [`RbacLayer::checked`].
    pub fn authorize(mut self, layer: RbacLayer) -> Self {
        self.settings.requirement = Some(layer);
        self.given(Setting::Authorize)
    }

    /// Charges for each request.
    pub fn spending(mut self, ledger: impl Ledger, prices: PriceTable) -> Self {
        self.settings.spending = Some(SpendingLimitLayer::new(ledger, prices));
        self.given(Setting::Spending)
    }

    /// Charges for each request by `layer`.
    pub fn with_spending(mut self, layer: SpendingLimitLayer) -> Self {
        self.settings.spending = Some(layer);
        self.given(Setting::WithSpending)
    }

    /// Skips the gate for requests for which `skip` returns true: they only get an id and the
    /// format of errors.
    pub fn skip(mut self, skip: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.settings.skips.push(Arc::new(skip));
        self
    }

    /// Skips the gate for requests whose full path equals one of `paths` exactly.
    pub fn skip_paths<'a>(mut self, paths: impl IntoIterator<Item = &'a str>) -> Self {
        self.settings.skips.push(on_paths(paths));
        self
    }

    /// Admits requests for which `is_open` returns true without authentication, permission or
    /// payment. Unlike those that are [skipped](Self::skip), they are still subject to the address
    /// rules and limits. Use it for a health check that may hold a stream open, and skip one that
    /// is reachable only from your own network.
    pub fn open_to_strangers(
        mut self,
        is_open: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.open.push(Arc::new(is_open));
        self
    }

    /// Skips the gate for CORS preflight requests, if they are answered inside of it. Better put
    /// CORS outside of the gate, where no preflight gets this far: inside of it, refusals lack
    /// `access-control-allow-origin`, and a page can't see that they are a 401, a 402 or a 429.
    pub fn skip_preflight(self) -> Self {
        self.skip(is_preflight)
    }

    /// Decides, logs and counts, but admits everything: to try a whole gate before enforcing it. A
    /// layer that is passed in can be tried alone, by its own `shadow`.
    ///
    /// Requests that would be admitted have their full effect: limits are used up, and **real money
    /// is held and settled** for callers who have some. Try prices on a separate ledger.
    pub fn shadow(mut self) -> Self {
        self.settings.shadow = true;
        self
    }

    /// Sets another source of time, for limits, the audit log and prices.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.settings.clock = Some(clock);
        self.given(Setting::WithClock)
    }

    /// Builds the gate.
    ///
    /// # Errors
    /// [`TollgateError`] names the invalid setting.
    pub fn build(self) -> Result<TollgateLayer<A>, TollgateError> {
        let Self {
            authentication,
            mut settings,
            given,
        } = self;
        settings.check(&given, authentication.as_ref())?;
        let clock = settings.clock.clone().unwrap_or_else(SystemClock::shared);
        let spending = settings.take_spending();
        let further = settings.take_further_limits(&clock);
        let common = Common {
            address: settings.address,
            shadow: settings.shadow,
            rate_store: settings.rate_store,
            rate_scope: settings.rate_scope,
        };
        let per_client_ip = settings.per_client_ip.map(|quotas| {
            let layer = RateLimitLayer::per_client_ip(quotas).with_clock(Arc::clone(&clock));
            common.limit(layer, CLIENT_IP_LIMIT)
        });
        let outer = common.limits(settings.outer_limits);
        let further = common.limits(further);
        let per_principal = settings.per_principal;
        let per_principal =
            per_principal.map(|limit| common.limit(limit.into_layer(&clock), PRINCIPAL_LIMIT));
        let requirement = settings.requirement.map(RbacLayer::into_gate);
        let audit = settings.audit.client_address(common.address.clone());
        let concurrency = settings.concurrency.map(ConcurrencyLimitLayer::into_gate);
        let authenticated = Then {
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
        let guarded = Then {
            outer: common.gate(settings.allowed.map(Allowed::into_gate)),
            inner: Then {
                outer: common.gate(per_client_ip),
                inner: Then {
                    outer,
                    inner: Unless::new(settings.open, authenticated),
                },
            },
        };
        let course = Then {
            outer: RequestIdLayer::new().into_gate(),
            inner: Then {
                outer: settings.denials.into_gate(),
                inner: Unless::new(settings.skips, guarded),
            },
        };
        Ok(TollgateLayer::new(audit.with_clock(clock), course))
    }

    fn given(mut self, setting: Setting) -> Self {
        self.given.push(setting);
        self
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
