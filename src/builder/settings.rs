//! What a gate is to be, and what of it can't be.

use std::sync::Arc;

use ipnet::IpNet;

use crate::{
    audit::AuditLayer,
    denials::DenialsLayer,
    domain::{clock::Clock, quota::Quotas},
    guard::{Gate, Skip},
    ip_allow::{IpAllowLayer, IpAllowPolicy},
    rate_limit::{ConcurrencyLimitLayer, RateLimitLayer},
    rbac::RbacLayer,
    spending_limit::SpendingLimitLayer,
    store::RateStore,
    wire::ClientAddress,
};

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
    /// The setting was given before, and says something else now.
    #[error("{setting}: is set twice")]
    SetTwice {
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
pub(super) enum PrincipalLimit {
    Quotas(Quotas),
    Layer(RateLimitLayer),
}

pub(super) struct Settings {
    pub(super) denials: DenialsLayer,
    pub(super) address: ClientAddress,
    pub(super) audit: AuditLayer,
    /// Who is let in, and located.
    pub(super) allowed: Option<Allowed>,
    pub(super) per_client_ip: Option<Quotas>,
    pub(super) per_principal: Option<PrincipalLimit>,
    pub(super) concurrency: Option<ConcurrencyLimitLayer>,
    pub(super) rate_store: Option<Arc<dyn RateStore>>,
    pub(super) rate_scope: Option<Box<str>>,
    pub(super) requirement: Option<RbacLayer>,
    pub(super) spending: Option<SpendingLimitLayer>,
    pub(super) skips: Vec<Skip>,
    pub(super) shadow: bool,
    /// `None`: the machine's own time, but a layer that was handed in keeps its own.
    pub(super) clock: Option<Arc<dyn Clock>>,
}

/// Which client addresses come in.
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

/// Settings of which each pair is about the same.
const RIVALS: [(&str, &str); 4] = [
    ("require", "authorize"),
    ("per_principal", "with_rate_limit"),
    ("spending", "with_spending"),
    ("locate_clients", "allow_addresses"),
];

impl Settings {
    /// Of `settings`, the names of those that were given, one that can't be.
    pub(super) fn check<A>(
        &self,
        settings: &[&'static str],
        authentication: Option<&A>,
    ) -> Result<(), TollgateError> {
        let given = |setting: &str| settings.contains(&setting);
        let needing = [
            "require",
            "authorize",
            "per_principal",
            "with_rate_limit",
            "concurrency",
            "spending",
            "with_spending",
        ];
        if authentication.is_none()
            && let Some(setting) = needing.into_iter().find(|setting| given(setting))
        {
            return Err(TollgateError::NeedsAuthentication { setting });
        }
        let count = |setting| settings.iter().filter(|given| **given == setting).count();
        if let Some(setting) = settings.iter().find(|setting| count(**setting) > 1) {
            return Err(TollgateError::SetTwice { setting });
        }
        let both = |(one, other): &(&str, &str)| given(one) && given(other);
        if let Some((other, setting)) = RIVALS.into_iter().find(both) {
            return Err(TollgateError::Contradiction { setting, other });
        }
        if matches!(&self.allowed, Some(Allowed::Networks(networks)) if networks.is_empty()) {
            return Err(TollgateError::AllowsNobody);
        }
        if self.address.trusts_everybody() {
            return Err(TollgateError::TrustsEveryAddress);
        }
        Ok(())
    }
}
