//! The settings of a [`Tollgate`](crate::Tollgate), and the checks for contradictions.

use std::{mem, sync::Arc};

use ipnet::IpNet;

use crate::{
    audit::AuditLayer,
    denials::DenialsLayer,
    domain::{clock::Clock, quota::Quotas},
    guard::{Gate, Skip},
    ip_allow::{IpAllowLayer, IpAllowPolicy},
    rate_limit::{ConcurrencyLimitLayer, RateLimitLayer},
    rbac::{RbacLayer, UnheldName},
    spending_limit::SpendingLimitLayer,
    store::RateStore,
    wire::ClientAddress,
};

/// The setting that is missing, or that contradicts another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TollgateError {
    /// The setting needs a principal, but there is no authentication.
    #[error("{setting}: needs `authenticate`")]
    NeedsAuthentication {
        /// The setting.
        setting: &'static str,
    },
    /// The setting was given twice.
    #[error("{setting}: is set twice")]
    SetTwice {
        /// The setting.
        setting: &'static str,
    },
    /// Two limits have the same name, so a store would count them together.
    #[error("add_rate_limit, add_outer_rate_limit: there are two limits of one name")]
    LimitNamedTwice,
    /// The limit would never count where this setting puts it: failed attempts inside of
    /// authentication, which refuses them further out, or authenticated callers outside of it.
    #[error("{setting}: the limit never counts there; `{other}` puts it where it does")]
    NeverCounts {
        /// The setting.
        setting: &'static str,
        /// The setting for a limit of that kind.
        other: &'static str,
    },
    /// Two settings configure the same thing.
    #[error("{setting}: contradicts `{other}`")]
    Contradiction {
        /// The setting.
        setting: &'static str,
        /// The other one.
        other: &'static str,
    },
    /// The setting does nothing without another one.
    #[error("{setting}: needs `{other}`")]
    Needs {
        /// The setting.
        setting: &'static str,
        /// The other one.
        other: &'static str,
    },
    /// The list of addresses is empty, so every request would be refused.
    #[error("allow_addresses: allows nobody")]
    AllowsNobody,
    /// Every address is a trusted proxy, so any client can forge its address.
    #[error("client_address: trusts every address")]
    TrustsEveryAddress,
    /// What is required names a role or a permission that nobody has.
    #[error("{setting}: {name}")]
    Unheld {
        /// The setting.
        setting: &'static str,
        /// Where, and what.
        name: UnheldName,
    },
}

/// The names of the built-in limits in a store.
pub(super) const CLIENT_IP_LIMIT: &str = "client-ip";
pub(super) const PRINCIPAL_LIMIT: &str = "principal";
const ACCOUNT_LIMIT: &str = "account";

/// How authenticated callers are limited.
#[derive(Debug)]
pub(super) enum PrincipalLimit {
    Quotas(Quotas),
    Layer(RateLimitLayer),
}

impl PrincipalLimit {
    /// As a layer; one that was passed in keeps its own clock.
    pub(super) fn into_layer(self, clock: &Arc<dyn Clock>) -> RateLimitLayer {
        match self {
            Self::Quotas(quotas) => {
                RateLimitLayer::per_principal(quotas).with_clock(Arc::clone(clock))
            }
            Self::Layer(layer) => layer,
        }
    }
}

pub(super) struct Settings {
    pub(super) denials: DenialsLayer,
    pub(super) address: ClientAddress,
    pub(super) audit: AuditLayer,
    /// Which addresses are admitted and added to requests.
    pub(super) allowed: Option<Allowed>,
    pub(super) per_client_ip: Option<Quotas>,
    pub(super) per_principal: Option<PrincipalLimit>,
    pub(super) per_account: Option<Quotas>,
    /// Additional limits before authentication, with their names.
    pub(super) outer_limits: Vec<(Box<str>, RateLimitLayer)>,
    /// Additional limits on authenticated callers, with their names.
    pub(super) further_limits: Vec<(Box<str>, RateLimitLayer)>,
    pub(super) concurrency: Option<ConcurrencyLimitLayer>,
    pub(super) rate_store: Option<Arc<dyn RateStore>>,
    pub(super) rate_scope: Option<Box<str>>,
    pub(super) requirement: Option<RbacLayer>,
    pub(super) spending: Option<SpendingLimitLayer>,
    pub(super) skips: Vec<Skip>,
    pub(super) open: Vec<Skip>,
    pub(super) shadow: bool,
    /// `None` for the machine's own time; a layer that was passed in keeps its own clock.
    pub(super) clock: Option<Arc<dyn Clock>>,
}

/// Which client addresses are admitted.
#[derive(Debug)]
pub(super) enum Allowed {
    Everybody,
    Networks(Vec<IpNet>),
}

impl Allowed {
    pub(super) fn into_gate(self) -> Gate<IpAllowPolicy> {
        let layer = match self {
            Self::Everybody => IpAllowLayer::everybody(),
            Self::Networks(networks) => IpAllowLayer::new(networks),
        };
        layer.into_gate()
    }
}

/// A setting of the builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    Denials,
    ClientAddress,
    Audit,
    AllowAddresses,
    LocateClients,
    PerClientIp,
    AddOuterRateLimit,
    Authenticate,
    Require,
    Authorize,
    PerPrincipal,
    PerAccount,
    WithRateLimit,
    AddRateLimit,
    Concurrency,
    WithRateStore,
    RateScope,
    Spending,
    WithSpending,
    WithClock,
}

/// Pairs of settings that configure the same thing.
const RIVALS: [(Setting, Setting); 4] = [
    (Setting::Require, Setting::Authorize),
    (Setting::PerPrincipal, Setting::WithRateLimit),
    (Setting::Spending, Setting::WithSpending),
    (Setting::LocateClients, Setting::AllowAddresses),
];

impl Setting {
    /// The name of the builder's method.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Denials => "denials",
            Self::ClientAddress => "client_address",
            Self::Audit => "audit",
            Self::AllowAddresses => "allow_addresses",
            Self::LocateClients => "locate_clients",
            Self::PerClientIp => "per_client_ip",
            Self::AddOuterRateLimit => "add_outer_rate_limit",
            Self::Authenticate => "authenticate",
            Self::Require => "require",
            Self::Authorize => "authorize",
            Self::PerPrincipal => "per_principal",
            Self::PerAccount => "per_account",
            Self::WithRateLimit => "with_rate_limit",
            Self::AddRateLimit => "add_rate_limit",
            Self::Concurrency => "concurrency",
            Self::WithRateStore => "with_rate_store",
            Self::RateScope => "rate_scope",
            Self::Spending => "spending",
            Self::WithSpending => "with_spending",
            Self::WithClock => "with_clock",
        }
    }

    /// Whether it may be given repeatedly, each time adding something.
    const fn adds(self) -> bool {
        matches!(self, Self::AddRateLimit | Self::AddOuterRateLimit)
    }

    /// Whether it needs a principal.
    const fn needs_principal(self) -> bool {
        match self {
            Self::Require
            | Self::Authorize
            | Self::PerPrincipal
            | Self::PerAccount
            | Self::WithRateLimit
            | Self::AddRateLimit
            | Self::Concurrency
            | Self::Spending
            | Self::WithSpending => true,
            Self::Denials
            | Self::ClientAddress
            | Self::Audit
            | Self::AllowAddresses
            | Self::LocateClients
            | Self::PerClientIp
            | Self::AddOuterRateLimit
            | Self::Authenticate
            | Self::WithRateStore
            | Self::RateScope
            | Self::WithClock => false,
        }
    }
}

impl Settings {
    /// Checks the settings that were `given`.
    pub(super) fn check<A>(
        &self,
        given: &[Setting],
        authentication: Option<&A>,
    ) -> Result<(), TollgateError> {
        if authentication.is_none()
            && let Some(setting) = given.iter().find(|setting| setting.needs_principal())
        {
            let setting = setting.name();
            return Err(TollgateError::NeedsAuthentication { setting });
        }
        let count = |setting| given.iter().filter(|given| **given == setting).count();
        let is_twice = |setting: &&Setting| !setting.adds() && count(**setting) > 1;
        if let Some(setting) = given.iter().find(is_twice) {
            let setting = setting.name();
            return Err(TollgateError::SetTwice { setting });
        }
        let both = |(one, other): &(Setting, Setting)| given.contains(one) && given.contains(other);
        if let Some((other, setting)) = RIVALS.into_iter().find(both) {
            let (setting, other) = (setting.name(), other.name());
            return Err(TollgateError::Contradiction { setting, other });
        }
        if self.rate_scope.is_some() && self.rate_store.is_none() {
            let (setting, other) = (Setting::RateScope.name(), Setting::WithRateStore.name());
            return Err(TollgateError::Needs { setting, other });
        }
        self.check_places()?;
        let mut names: Vec<&str> = vec![CLIENT_IP_LIMIT, PRINCIPAL_LIMIT];
        names.extend(self.per_account.as_ref().map(|_| ACCOUNT_LIMIT));
        for (name, _) in self.outer_limits.iter().chain(&self.further_limits) {
            if names.contains(&name.as_ref()) {
                return Err(TollgateError::LimitNamedTwice);
            }
            names.push(name);
        }
        if matches!(&self.allowed, Some(Allowed::Networks(networks)) if networks.is_empty()) {
            return Err(TollgateError::AllowsNobody);
        }
        if self.address.trusts_everybody() {
            return Err(TollgateError::TrustsEveryAddress);
        }
        let unheld = |name| {
            let is_one = given.contains(&Setting::Require);
            let setting = if is_one {
                Setting::Require
            } else {
                Setting::Authorize
            };
            let setting = setting.name();
            TollgateError::Unheld { setting, name }
        };
        self.requirement
            .as_ref()
            .map_or(Ok(()), |layer| layer.check_needed_names().map_err(unheld))
    }

    /// The limits on authenticated callers after the one per principal, by name and in their order.
    pub(super) fn take_further_limits(
        &mut self,
        clock: &Arc<dyn Clock>,
    ) -> Vec<(Box<str>, RateLimitLayer)> {
        let are_beside = self.limits_requests();
        let per_account = self.per_account.take().map(|quotas| {
            let layer = RateLimitLayer::per_account(quotas).with_clock(Arc::clone(clock));
            (ACCOUNT_LIMIT.into(), layer)
        });
        let further = mem::take(&mut self.further_limits).into_iter();
        let further = further.map(|(name, layer)| match are_beside {
            true => (name, layer.beside_requests()),
            false => (name, layer),
        });
        per_account.into_iter().chain(further).collect()
    }

    /// Whether a limit beside the added ones sends the headers of requests.
    pub(super) fn limits_requests(&self) -> bool {
        self.per_principal.is_some() || self.per_account.is_some()
    }

    /// Checks for limits in places where they would never count.
    fn check_places(&self) -> Result<(), TollgateError> {
        let never_counts = |setting: Setting, other: Setting| TollgateError::NeverCounts {
            setting: setting.name(),
            other: other.name(),
        };
        if let Some(PrincipalLimit::Layer(layer)) = &self.per_principal
            && layer.counts_failed_attempts()
        {
            let (setting, other) = (Setting::WithRateLimit, Setting::AddOuterRateLimit);
            return Err(never_counts(setting, other));
        }
        let mut further = self.further_limits.iter().map(|(_, layer)| layer);
        if further.any(RateLimitLayer::counts_failed_attempts) {
            let (setting, other) = (Setting::AddRateLimit, Setting::AddOuterRateLimit);
            return Err(never_counts(setting, other));
        }
        let mut outer = self.outer_limits.iter().map(|(_, layer)| layer);
        if outer.any(RateLimitLayer::needs_principal) {
            let (setting, other) = (Setting::AddOuterRateLimit, Setting::AddRateLimit);
            return Err(never_counts(setting, other));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tollgate;
    use crate::{
        domain::{clock::SystemClock, quota::Quota},
        store::MemoryRateLimiter,
    };

    #[test]
    fn a_scope_of_nothing_shared_is_refused() {
        let gate = || {
            let gate = Tollgate::builder().per_client_ip(Quota::per_hour(1));
            gate.rate_scope("jobs")
        };
        let error = gate().build().unwrap_err();
        assert_eq!(error.to_string(), "rate_scope: needs `with_rate_store`");
        let store = MemoryRateLimiter::new(100, SystemClock::shared());
        assert!(gate().with_rate_store(store).build().is_ok());
    }
}
