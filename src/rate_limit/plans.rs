//! Quotas by tier.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, RwLock},
};

use crate::{
    domain::{principal::Principal, quota::Quotas},
    sync::{read, write},
    wire::RequestHead,
};

type Tier = dyn for<'a> Fn(&RequestHead<'a>) -> Option<&'a str> + Send + Sync;

/// A table of tiers and their quotas, which may change while the server runs; usage so far remains
/// counted. Clones share the table.
///
/// Requests that are counted together may belong to different tiers, say if the tier depends on the
/// path. Windows of the same name then share a count, and windows of different names have separate
/// counts: a tier with only a `second` takes nothing from the `day` of another, and gives nothing
/// back. If windows of the same name have different numbers, they measure the same usage; it drains
/// by the numbers of the latest request, but never faster than the most generous ones allow. Use
/// distinct names if that is not intended.
///
/// ```
/// use tollgate::{RateLimitLayer, quota::Quota, rate_limit::Plans};
///
/// let plans = Plans::by_attribute("tier")
///     .add_tier("free", Quota::per_minute(10))
///     .add_tier("pro", [Quota::per_second(20), Quota::per_minute(600)]);
/// let layer = RateLimitLayer::per_principal(Quota::per_minute(10)).plans(plans.clone());
/// plans.set("pro", Quota::per_minute(1_200)); // counts from the next request on
/// ```
#[derive(Clone)]
pub struct Plans(Arc<Inner>);

struct Inner {
    tier: Box<Tier>,
    quotas: RwLock<BTreeMap<Box<str>, Quotas>>,
}

impl Plans {
    /// A table whose tier is derived from the request's head by `tier`.
    #[must_use]
    pub fn by(
        tier: impl for<'a> Fn(&RequestHead<'a>) -> Option<&'a str> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            tier: Box::new(tier),
            quotas: RwLock::default(),
        }))
    }

    /// A table whose tier is an attribute of the principal.
    #[must_use]
    pub fn by_attribute(name: &str) -> Self {
        let name: Box<str> = name.into();
        Self::by(move |head| head.extensions.get::<Principal>()?.attribute(&name))
    }

    /// Adds a tier.
    #[must_use]
    pub fn add_tier(self, tier: &str, quotas: impl Into<Quotas>) -> Self {
        self.set(tier, quotas);
        self
    }

    /// Changes a tier's quotas, or adds the tier.
    pub fn set(&self, tier: &str, quotas: impl Into<Quotas>) {
        let mut table = write(&self.0.quotas);
        table.insert(tier.into(), quotas.into());
    }

    /// Removes a tier from the table: its callers then get the layer's quotas.
    pub fn remove(&self, tier: &str) {
        let mut table = write(&self.0.quotas);
        table.remove(tier);
    }

    pub(super) fn find(&self, head: &RequestHead<'_>) -> Option<Quotas> {
        let tier = (self.0.tier)(head)?;
        let table = read(&self.0.quotas);
        table.get(tier).cloned()
    }
}

impl fmt::Debug for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plans")
            .field("quotas", &self.0.quotas)
            .finish_non_exhaustive()
    }
}
