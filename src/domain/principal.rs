//! Who is calling, once that is known.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock},
};

use super::{
    AccountId, BudgetId, KeyId, SessionId,
    clock::Timestamp,
    credential::CredentialKind,
    denial::{Denial, DenialKind},
    quota::Quotas,
};

/// The attribute that names a caller's tenant.
pub(crate) const TENANT: &str = "tenant";

/// Who is calling: the outcome of an authentication. A clone is a reference count.
///
/// An authenticating layer puts it into the request's extensions; later layers and handlers read it there.
///
/// ```
/// use tollgate::{CredentialKind, Principal};
///
/// let caller = Principal::builder("user-7", CredentialKind::ApiKey).role("operator").build();
/// assert_eq!(caller.subject(), "user-7");
/// assert!(caller.has_role("operator"));
/// ```
#[derive(Clone)]
pub struct Principal(Arc<Identity>, Option<Arc<Grant>>, Option<Timestamp>);

/// What a token says beside the identity, of which a login's tokens may say different things: what its client was let
/// do, and what the issuer tells of the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    scopes: Box<[Box<str>]>,
    attributes: BTreeMap<String, String>,
}

impl Grant {
    /// None at all costs nothing.
    pub(crate) fn shared(
        scopes: impl Into<Box<[Box<str>]>>,
        attributes: BTreeMap<String, String>,
    ) -> Option<Arc<Self>> {
        let scopes = scopes.into();
        (!scopes.is_empty() || !attributes.is_empty())
            .then(|| Arc::new(Self { scopes, attributes }))
    }

    pub(crate) fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scopes.iter().map(AsRef::as_ref)
    }
}

struct Identity {
    subject: Arc<str>,
    credential: CredentialKind,
    key: Option<KeyId>,
    session: Option<SessionId>,
    environment: Option<Box<str>>,
    roles: Box<[Box<str>]>,
    resource: Option<Box<str>>,
    account: Option<AccountId>,
    budgets: Arc<[BudgetId]>,
    quotas: Option<Quotas>,
    expires_at: Option<Timestamp>,
    attributes: BTreeMap<String, String>,
    meter: Arc<str>,
}

impl Principal {
    /// Begins a principal: `subject` is the user or the owner of the key.
    pub fn builder(subject: &str, credential: CredentialKind) -> PrincipalBuilder {
        let subject: Arc<str> = subject.into();
        PrincipalBuilder {
            roles: Vec::new(),
            scopes: Vec::new(),
            identity: Identity {
                account: AccountId::try_from(Arc::clone(&subject)).ok(),
                meter: Arc::clone(&subject),
                subject,
                credential,
                key: None,
                session: None,
                environment: None,
                roles: Box::default(),
                resource: None,
                budgets: no_budgets(),
                quotas: None,
                expires_at: None,
                attributes: BTreeMap::new(),
            },
        }
    }

    /// The user, or the owner of the key.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    pub(crate) fn shared_subject(&self) -> &Arc<str> {
        &self.0.subject
    }

    /// How the caller authenticated.
    #[must_use]
    pub fn credential(&self) -> CredentialKind {
        self.0.credential
    }

    /// The key that was used, if one was.
    #[must_use]
    pub fn key(&self) -> Option<&KeyId> {
        self.0.key.as_ref()
    }

    /// The login that the token belongs to, if it belongs to one.
    #[must_use]
    pub fn session(&self) -> Option<&SessionId> {
        self.0.session.as_ref()
    }

    /// The key's environment (`live`, `test`).
    #[must_use]
    pub fn environment(&self) -> Option<&str> {
        self.0.environment.as_deref()
    }

    /// The roles.
    pub fn roles(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.roles.iter().map(AsRef::as_ref)
    }

    /// Whether the caller has that role by name.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles().any(|held| held == role)
    }

    /// The scopes of the token, if it is one (RFC 6749 section 3.3): what its client was let do. What the user may do is in the
    /// roles.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.1.iter().flat_map(|grant| grant.scopes())
    }

    /// Whether the token has that scope.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes().any(|held| held == scope)
    }

    /// The same caller, by a token that grants this and ends then.
    pub(crate) fn by_token(&self, grant: Option<&Arc<Grant>>, expires_at: Timestamp) -> Self {
        Self(Arc::clone(&self.0), grant.map(Arc::clone), Some(expires_at))
    }

    /// The one resource that the credential is good for; `None`: not bound to one.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        self.0.resource.as_deref()
    }

    /// The tenant that the caller belongs to: the attribute `tenant`.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.attribute(TENANT)
    }

    /// Whose money is spent: the account that was set, or one named like the subject. `None` when the
    /// subject can't name an account (longer than 255 bytes).
    #[must_use]
    pub fn account(&self) -> Option<&AccountId> {
        self.0.account.as_ref()
    }

    /// Whose money is spent, or the refusal of a caller who can have none.
    ///
    /// # Errors
    /// A [`Denial`] (403).
    pub fn require_account(&self) -> Result<&AccountId, Denial> {
        self.account().ok_or_else(|| {
            Denial::new(DenialKind::NotPermitted).because("the subject can't name an account")
        })
    }

    /// The budgets that must hold besides the account's balance.
    #[must_use]
    pub fn budgets(&self) -> &Arc<[BudgetId]> {
        &self.0.budgets
    }

    /// The rate quotas of its own, which take the place of those of the tier or the layer.
    #[must_use]
    pub fn quotas(&self) -> Option<&Quotas> {
        self.0.quotas.as_ref()
    }

    /// When the credential ends: of a token and its login, what ends sooner.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        match (self.0.expires_at, self.2) {
            (Some(login), Some(token)) => Some(login.min(token)),
            (one, other) => one.or(other),
        }
    }

    /// What the application keeps of the caller; or else what was mapped from the claims of the token.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let own = self.0.attributes.get(name);
        own.or_else(|| self.1.as_ref()?.attributes.get(name))
            .map(String::as_str)
    }

    /// What rate limits per principal count by: the key with all it was rotated into, or else the subject.
    #[must_use]
    pub fn metered_as(&self) -> &str {
        &self.0.meter
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("subject", &self.0.subject)
            .field("credential", &self.0.credential)
            .field("key", &self.0.key)
            .field("session", &self.0.session)
            .field("roles", &self.0.roles)
            .finish_non_exhaustive()
    }
}

/// Shared: whoever is no key has none.
fn no_budgets() -> Arc<[BudgetId]> {
    static NONE: LazyLock<Arc<[BudgetId]>> = LazyLock::new(|| Arc::from([]));
    Arc::clone(&NONE)
}

/// Makes a [`Principal`].
#[must_use]
pub struct PrincipalBuilder {
    identity: Identity,
    roles: Vec<Box<str>>,
    scopes: Vec<Box<str>>,
}

impl PrincipalBuilder {
    /// The key that was used.
    pub fn key(mut self, key: KeyId) -> Self {
        self.identity.key = Some(key);
        self
    }

    /// The login that the token belongs to.
    pub fn session(mut self, session: SessionId) -> Self {
        self.identity.session = Some(session);
        self
    }

    /// The key's environment.
    pub fn environment(mut self, environment: &str) -> Self {
        self.identity.environment = Some(environment.into());
        self
    }

    /// One more role.
    pub fn role(mut self, role: &str) -> Self {
        self.roles.push(role.into());
        self
    }

    /// One more scope of the token.
    pub fn scope(mut self, scope: &str) -> Self {
        self.scopes.push(scope.into());
        self
    }

    /// The one resource that the credential is good for.
    pub fn resource(mut self, resource: &str) -> Self {
        self.identity.resource = Some(resource.into());
        self
    }

    /// Whose money is spent.
    pub fn account(mut self, account: AccountId) -> Self {
        self.identity.account = Some(account);
        self
    }

    /// The budgets that must hold besides the account's balance.
    pub fn budgets(mut self, budgets: impl Into<Arc<[BudgetId]>>) -> Self {
        self.identity.budgets = budgets.into();
        self
    }

    /// Rate quotas of its own.
    pub fn quotas(mut self, quotas: Quotas) -> Self {
        self.identity.quotas = Some(quotas);
        self
    }

    /// When the credential ends.
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        self.identity.expires_at = Some(at);
        self
    }

    /// What the application keeps of the caller.
    pub fn attributes(mut self, attributes: BTreeMap<String, String>) -> Self {
        self.identity.attributes = attributes;
        self
    }

    /// What rate limits per principal count by; the subject unless set.
    pub fn metered_as(mut self, meter: &str) -> Self {
        self.identity.meter = meter.into();
        self
    }

    /// The same, counted as that budget is.
    pub(crate) fn metered_as_budget(mut self, budget: &BudgetId) -> Self {
        self.identity.meter = budget.into();
        self
    }

    /// The principal.
    #[must_use]
    pub fn build(self) -> Principal {
        let mut identity = self.identity;
        identity.roles = self.roles.into();
        let grant = Grant::shared(self.scopes, BTreeMap::new());
        Principal(Arc::new(identity), grant, None)
    }
}

impl fmt::Debug for PrincipalBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrincipalBuilder")
            .field("subject", &self.identity.subject)
            .finish_non_exhaustive()
    }
}
