//! The authenticated caller.

mod builder;
mod identity;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde_json::Value;

pub use self::builder::PrincipalBuilder;
pub(crate) use self::identity::{Identity, IdentityHolder, Standing};
use super::{
    AccountId, BudgetId, KeyId, SessionId,
    budget::Budgets,
    clock::Timestamp,
    credential::CredentialKind,
    denial::{Denial, DenialKind},
    quota::Quotas,
};

/// The attribute that names a caller's tenant.
pub(crate) const TENANT: &str = "tenant";

/// The attributes of a session cookie that describe its user and the session.
pub(crate) const EMAIL: &str = "email";
pub(crate) const NAME: &str = "name";
pub(crate) const SESSION_ID: &str = "jti";

/// Whether an attribute describes who came in which session, so that it conveys no right: what the
/// makers of session cookies write into all of them. Any attribute that an application chose itself
/// may convey one, also of these names.
pub(crate) fn describes_session(credential: CredentialKind, attribute: &str) -> bool {
    credential == CredentialKind::SessionCookie && matches!(attribute, EMAIL | NAME | SESSION_ID)
}

/// The caller, as the result of authentication. Cloning is cheap.
///
/// An authenticating layer puts it into the request's extensions; later layers and handlers read it
/// there.
///
/// ```
/// use tollgate::{CredentialKind, Principal};
///
/// let caller = Principal::builder("user-7", CredentialKind::ApiKey).role("operator").build();
/// assert_eq!(caller.subject(), "user-7");
/// assert!(caller.has_role("operator"));
/// ```
#[derive(Clone)]
pub struct Principal {
    holder: Arc<dyn IdentityHolder>,
    /// What its token adds to the identity.
    token: Option<Arc<TokenGrant>>,
    token_ends_at: Option<Timestamp>,
}

/// What a token adds to the identity, and what may differ between the tokens of one login: what its
/// client was allowed to do, and the issuer's claims about the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenGrant {
    scopes: Box<[Box<str>]>,
    attributes: BTreeMap<String, String>,
    claims: BTreeMap<String, Value>,
}

impl TokenGrant {
    /// `None` if all are empty, so that nothing is allocated.
    pub(crate) fn shared(
        scopes: impl Into<Box<[Box<str>]>>,
        attributes: BTreeMap<String, String>,
        claims: BTreeMap<String, Value>,
    ) -> Option<Arc<Self>> {
        let grant = Self {
            scopes: scopes.into(),
            attributes,
            claims,
        };
        let is_empty =
            grant.scopes.is_empty() && grant.attributes.is_empty() && grant.claims.is_empty();
        (!is_empty).then(|| Arc::new(grant))
    }

    pub(crate) fn claim(&self, name: &str) -> Option<&Value> {
        self.claims.get(name)
    }

    pub(crate) fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scopes.iter().map(AsRef::as_ref)
    }
}

impl Principal {
    /// Starts a principal: `subject` is the user or the owner of the key.
    pub fn builder(subject: &str, credential: CredentialKind) -> PrincipalBuilder {
        PrincipalBuilder::new(Identity::new(subject, credential))
    }

    /// Starts a principal as a copy of this one: so a caller can continue with fewer rights, or
    /// under another account.
    ///
    /// ```
    /// use tollgate::{CredentialKind, Principal, store::AccountId};
    ///
    /// let caller = Principal::builder("user-7", CredentialKind::ApiKey).role("admin").build();
    /// let team = caller.to_builder().account(AccountId::new("team-1")?).roles(["viewer"]).build();
    /// assert_eq!((team.subject(), team.has_role("admin")), ("user-7", false));
    /// # Ok::<(), tollgate::store::InvalidId>(())
    /// ```
    pub fn to_builder(&self) -> PrincipalBuilder {
        let mut identity = self.identity().clone();
        if let Some(at) = self.expires_at() {
            identity.set_end(at);
        }
        if let Some(token) = &self.token {
            for (name, value) in &token.attributes {
                let own = &mut identity.rare_mut().attributes;
                own.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        PrincipalBuilder {
            standing: Standing::clone(&identity.standing),
            identity,
            scopes: self.scopes().map(Box::from).collect(),
            claims: self
                .token
                .iter()
                .flat_map(|token| token.claims.clone())
                .collect(),
        }
    }

    /// The principal of an identity that is stored together with other data.
    pub(crate) fn of(holder: Arc<dyn IdentityHolder>) -> Self {
        Self {
            holder,
            token: None,
            token_ends_at: None,
        }
    }

    fn identity(&self) -> &Identity {
        self.holder.identity()
    }

    /// The user, or the owner of the key.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.shared_subject()
    }

    pub(crate) fn shared_subject(&self) -> &Arc<str> {
        self.identity().subject()
    }

    /// How the caller authenticated.
    #[must_use]
    pub fn credential(&self) -> CredentialKind {
        self.identity().credential
    }

    /// The key that was used, if one was.
    #[must_use]
    pub fn key(&self) -> Option<&KeyId> {
        self.identity().key()
    }

    /// The login that the token belongs to, if it belongs to one.
    #[must_use]
    pub fn session(&self) -> Option<&SessionId> {
        self.identity().rare()?.session.as_ref()
    }

    /// The key's environment (`live`, `test`).
    #[must_use]
    pub fn environment(&self) -> Option<&str> {
        self.identity().standing.environment.as_deref()
    }

    /// The roles.
    pub fn roles(&self) -> impl Iterator<Item = &str> + Clone {
        let roles = &self.identity().standing.roles;
        roles.iter().map(AsRef::as_ref)
    }

    /// Whether the caller has that role by name.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles().any(|held| held == role)
    }

    /// The scopes of the token, if there is one (RFC 6749 section 3.3): what its client was allowed
    /// to do. What the user may do is in the roles.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.token.iter().flat_map(|token| token.scopes())
    }

    /// Whether the token has that scope.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes().any(|held| held == scope)
    }

    /// The same caller with a token that grants this and expires then.
    pub(crate) fn by_token(&self, token: Option<&Arc<TokenGrant>>, expires_at: Timestamp) -> Self {
        Self {
            holder: Arc::clone(&self.holder),
            token: token.map(Arc::clone),
            token_ends_at: Some(expires_at),
        }
    }

    /// The one resource that the credential is valid for; `None`: not bound to one.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        self.identity().rare()?.resource.as_deref()
    }

    /// The tenant that the caller belongs to: the attribute `tenant`.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.attribute(TENANT)
    }

    /// The account that pays: the one that was set, or the one named like the subject. `None` if
    /// the subject can't name an account (longer than 255 bytes).
    #[must_use]
    pub fn account(&self) -> Option<&AccountId> {
        self.identity().account()
    }

    /// The account that pays, or the refusal of a caller who can't have one.
    ///
    /// # Errors
    /// A [`Denial`] (403).
    pub fn require_account(&self) -> Result<&AccountId, Denial> {
        self.account().ok_or_else(|| {
            Denial::new(DenialKind::NotPermitted).because("the subject can't name an account")
        })
    }

    /// The budgets that must cover a call besides the account's balance.
    #[must_use]
    pub fn budgets(&self) -> &[BudgetId] {
        self.identity().budgets()
    }

    /// The lineage that the key shares with those it was rotated from.
    pub(crate) fn lineage(&self) -> Option<&BudgetId> {
        self.identity().lineage()
    }

    pub(crate) fn shared_budgets(&self) -> Budgets {
        self.identity().shared_budgets()
    }

    /// The caller's own rate quotas, in requests, which replace those of the tier or the layer.
    #[must_use]
    pub fn quotas(&self) -> Option<&Quotas> {
        self.identity().rare()?.quotas.as_ref()
    }

    /// When the credential expires: for a token of a login, whichever of the two ends sooner.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        match (self.identity().expires_at(), self.token_ends_at) {
            (Some(login), Some(token)) => Some(login.min(token)),
            (one, other) => one.or(other),
        }
    }

    /// An attribute that the application stores for the caller, or else one that was mapped from
    /// the token's claims.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let kept = self.identity().rare();
        let own = kept.and_then(|rare| rare.attributes.get(name));
        own.or_else(|| self.token.as_ref()?.attributes.get(name))
            .map(String::as_str)
    }

    /// All attributes by name, each once.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        let kept = self.identity().rare().map(|rare| &rare.attributes);
        let of_token = self.token.as_ref().map(|token| &token.attributes);
        let others = of_token.into_iter().flatten();
        let others =
            others.filter(move |(name, _)| kept.is_none_or(|own| !own.contains_key(*name)));
        let all = kept.into_iter().flatten().chain(others);
        all.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A claim of the verified token that
    /// [`add_claim`](crate::token::TokenVerifierBuilder::add_claim) keeps, as its issuer wrote it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::convert::Infallible;
    /// use tollgate::{JwtLayer, Principal, token::TokenVerifier};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let secret = b"thirty-two bytes or more, please!";
    /// let verifier = TokenVerifier::hs256(secret).add_claim("org").build()?;
    /// // In axum, a handler takes the `Principal` as an argument.
    /// let plan = service_fn(async |request: http::Request<()>| {
    ///     let caller = request.extensions().get::<Principal>().expect("behind the layer");
    ///     let plan = caller.claim("org").and_then(|org| org["plan"].as_str());
    ///     let answer = http::Response::builder().header("x-plan", plan.unwrap_or("none"));
    ///     Ok::<_, Infallible>(answer.body(String::new()).expect("a response"))
    /// });
    /// # let claims = serde_json::json!({ "sub": "me", "exp": 4_000_000_000_u64, "org": { "plan": "pro" } });
    /// # let key = jsonwebtoken::EncodingKey::from_secret(secret);
    /// # let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key)?;
    /// // A token with the claim `"org": { "plan": "pro" }`.
    /// let request = http::Request::builder().header("authorization", format!("Bearer {token}")).body(())?;
    /// let answer = JwtLayer::new(verifier).layer(plan).oneshot(request).await?;
    /// assert_eq!(answer.headers()["x-plan"], "pro");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.token.as_ref()?.claim(name)
    }

    /// What rate limits per principal count by: the key with everything it was rotated into, or
    /// else the subject.
    #[must_use]
    pub fn metered_as(&self) -> &str {
        self.identity().meter()
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("subject", &self.subject())
            .field("credential", &self.credential())
            .field("key", &self.key())
            .field("session", &self.session())
            .field("roles", &self.identity().standing.roles)
            .finish_non_exhaustive()
    }
}
