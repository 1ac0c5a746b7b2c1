//! Makes principals.

use std::{collections::BTreeMap, fmt, sync::Arc};

use ipnet::IpNet;
use serde_json::Value;

use super::{
    Principal, TokenGrant,
    identity::{Identity, Standing},
};
use crate::domain::{
    AccountId, BudgetId, KeyId, SessionId, budget::Budgets, clock::Timestamp, quota::Quotas,
};

/// Makes a [`Principal`].
#[must_use = "a builder does nothing until it is built"]
pub struct PrincipalBuilder {
    pub(super) identity: Identity,
    pub(super) standing: Standing,
    pub(super) scopes: Vec<Box<str>>,
    /// Of a token; they are only copied.
    pub(super) claims: BTreeMap<String, Value>,
}

impl PrincipalBuilder {
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            identity,
            standing: Standing::default(),
            scopes: Vec::new(),
            claims: BTreeMap::new(),
        }
    }

    /// The key that was used.
    pub fn key(mut self, key: KeyId) -> Self {
        self.identity.key = Some(key);
        self
    }

    /// The login that the token belongs to.
    pub fn session(mut self, session: SessionId) -> Self {
        self.identity.rare_mut().session = Some(session);
        self
    }

    /// The key's environment.
    pub fn environment(mut self, environment: &str) -> Self {
        self.standing.environment = Some(environment.into());
        self
    }

    /// One more role.
    pub fn role(mut self, role: &str) -> Self {
        self.standing.roles.push(role.into());
        self
    }

    /// These roles and no others.
    pub fn roles<'a>(mut self, roles: impl IntoIterator<Item = &'a str>) -> Self {
        self.standing.roles = roles.into_iter().map(Box::from).collect();
        self
    }

    /// One more scope of the token.
    pub fn scope(mut self, scope: &str) -> Self {
        self.scopes.push(scope.into());
        self
    }

    /// The one resource that the credential is valid for.
    pub fn resource(mut self, resource: &str) -> Self {
        self.identity.rare_mut().resource = Some(resource.into());
        self
    }

    /// The account that pays; the one named like the subject by default.
    pub fn account(mut self, account: AccountId) -> Self {
        self.identity.rare_mut().account = Some(account);
        self
    }

    /// The budgets that must cover a call besides the account's balance.
    pub fn budgets(mut self, budgets: impl Into<Budgets>) -> Self {
        self.identity.rare_mut().budgets = Some(budgets.into());
        self
    }

    /// The caller's own rate quotas.
    pub fn quotas(mut self, quotas: Quotas) -> Self {
        self.identity.rare_mut().quotas = Some(quotas);
        self
    }

    /// When the credential expires.
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        self.identity.set_end(at);
        self
    }

    /// The attributes that the application stores for the caller.
    pub fn attributes(mut self, attributes: BTreeMap<String, String>) -> Self {
        if !attributes.is_empty() {
            self.identity.rare_mut().attributes = attributes;
        }
        self
    }

    /// What rate limits per principal count by; the subject by default.
    pub fn metered_as(mut self, meter: &str) -> Self {
        self.identity.rare_mut().meter = Some(meter.into());
        self
    }

    /// What its spending and its rate are counted under.
    pub(crate) fn lineage(mut self, lineage: BudgetId) -> Self {
        self.identity.set_lineage(lineage);
        self
    }

    /// The networks that the credential may be used from.
    pub(crate) fn networks(mut self, networks: Vec<IpNet>) -> Self {
        if !networks.is_empty() {
            self.identity.rare_mut().networks = networks.into();
        }
        self
    }

    /// Marks the credential as revoked: it is known, and refused.
    pub(crate) fn revoked(mut self) -> Self {
        self.identity.rare_mut().is_revoked = true;
        self
    }

    /// Marks the credential as disabled: it is known, and refused.
    pub(crate) fn disabled(mut self) -> Self {
        self.identity.rare_mut().is_disabled = true;
        self
    }

    /// The identity alone; `share` deduplicates the part that many callers have in common. The
    /// scopes of a token are not included.
    pub(crate) fn into_identity(self, share: impl FnOnce(Standing) -> Arc<Standing>) -> Identity {
        let mut identity = self.identity;
        identity.standing = share(self.standing);
        identity
    }

    /// Builds the principal.
    #[must_use]
    pub fn build(self) -> Principal {
        let mut builder = self;
        let scopes = std::mem::take(&mut builder.scopes);
        let claims = std::mem::take(&mut builder.claims);
        let identity = builder.into_identity(Arc::new);
        Principal {
            token: TokenGrant::shared(scopes, BTreeMap::new(), claims),
            ..Principal::of(Arc::new(identity))
        }
    }
}

impl fmt::Debug for PrincipalBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrincipalBuilder")
            .field("subject", &self.identity.subject())
            .finish_non_exhaustive()
    }
}
