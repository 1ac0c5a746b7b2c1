//! Quotas by tier: which ones a caller has.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    domain::{principal::Principal, quota::Quotas},
    wire::RequestHead,
};

type Tier = dyn for<'a> Fn(&RequestHead<'a>) -> Option<&'a str> + Send + Sync;

/// A table of tiers and their quotas, which may change while the server runs: what was used stays used.
/// A clone is the same table.
///
/// Requests that count together may be in different tiers, as where a tier is a path. Windows of one name are
/// then one count, and windows of other names are counts of their own: a tier that has a `second` alone takes
/// nothing from the `day` of another, and gives nothing back. Numbers of one name that differ measure the same
/// use, which drains by those that were asked with last, and never faster than by the most generous; give them names
/// of their own where that is not meant.
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
    /// A table whose tiers `tier` finds in the request's head.
    #[must_use]
    pub fn by(
        tier: impl for<'a> Fn(&RequestHead<'a>) -> Option<&'a str> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            tier: Box::new(tier),
            quotas: RwLock::default(),
        }))
    }

    /// A table whose tiers the application keeps with the principal under that name.
    #[must_use]
    pub fn by_attribute(name: &str) -> Self {
        let name: Box<str> = name.into();
        Self::by(move |head| head.extensions.get::<Principal>()?.attribute(&name))
    }

    /// One more tier.
    #[must_use]
    pub fn add_tier(self, tier: &str, quotas: impl Into<Quotas>) -> Self {
        self.set(tier, quotas);
        self
    }

    /// Changes a tier's quotas, or adds the tier.
    pub fn set(&self, tier: &str, quotas: impl Into<Quotas>) {
        let mut table = self
            .0
            .quotas
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        table.insert(tier.into(), quotas.into());
    }

    /// Takes a tier out of the table: its callers have the layer's quotas.
    pub fn remove(&self, tier: &str) {
        let mut table = self
            .0
            .quotas
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        table.remove(tier);
    }

    pub(super) fn find(&self, head: &RequestHead<'_>) -> Option<Quotas> {
        let tier = (self.0.tier)(head)?;
        let table = self.0.quotas.read().unwrap_or_else(PoisonError::into_inner);
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
