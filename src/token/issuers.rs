//! Whose tokens a verifier takes: issuers by name, or one that has a name for each of its tenants.

use std::{collections::BTreeSet, fmt};

use serde_json::Value;

use super::{TokenConfigError, TokenError, TokenErrorKind, claims::Claims};

/// Where the hyphens of a UUID are.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
const UUID_LENGTH: usize = 36;

const ANOTHER: TokenError = wrong("the token is another issuer's");
const OTHER_TENANT: TokenError = wrong("the token's tenant is not the one that issued it");
const OTHER_KEY: TokenError = wrong("the token's key is another issuer's");

const fn wrong(reason: &'static str) -> TokenError {
    TokenError::new(TokenErrorKind::WrongIssuer, reason)
}

/// The issuers whose tokens a verifier takes, or a [`Policy`](crate::guard::Policy) of one's own
/// that judges bearer tokens beside a [`JwtLayer`](crate::JwtLayer). None are named by default.
///
/// ```
/// use tollgate::token::{IssuerTemplate, Issuers};
///
/// let entra = "https://login.microsoftonline.com/{tenantid}/v2.0";
/// let issuers = Issuers::default()
///     .add_name("https://id.example.com")
///     .add_template(IssuerTemplate::of_any_tenant(entra, "tid")?);
/// assert!(issuers.have("https://id.example.com"));
/// assert!(issuers.have("https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0"));
/// assert!(!issuers.have(entra));
/// # Ok::<(), tollgate::token::TokenConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Issuers {
    pub(super) names: Vec<Box<str>>,
    pub(super) templates: Vec<IssuerTemplate>,
}

impl Issuers {
    /// Adds one by its name, the `iss` of its tokens.
    #[must_use]
    pub fn add_name(mut self, issuer: &str) -> Self {
        self.names.push(issuer.into());
        self
    }

    /// Adds one that has a name for each of its tenants.
    #[must_use]
    pub fn add_template(mut self, template: IssuerTemplate) -> Self {
        self.templates.push(template);
        self
    }

    /// None are named: tokens of any are taken.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.templates.is_empty()
    }

    /// Whether an `iss` is one of them, by itself: the token's other claims may still belie it.
    #[must_use]
    pub fn have(&self, issuer: &str) -> bool {
        self.names.iter().any(|name| **name == *issuer) || self.template_of(issuer).is_some()
    }

    pub(crate) fn extend(&mut self, others: &Self) {
        self.names.extend_from_slice(&others.names);
        self.templates.extend_from_slice(&others.templates);
    }

    fn template_of<'a>(&self, issuer: &'a str) -> Option<(&IssuerTemplate, &'a str)> {
        let mut found = self
            .templates
            .iter()
            .map(|it| Some((it, it.tenant_of(issuer)?)));
        found.find_map(|it| it)
    }

    /// The tenant whose token it is; `None` where issuers have names. `of_key` is the issuer that
    /// its key belongs to, if a provider says so of each.
    pub(super) fn judge<'a>(
        &self,
        claims: &'a Claims<'_>,
        of_key: Option<&str>,
    ) -> Result<Option<&'a str>, TokenError> {
        if self.is_empty() {
            return Ok(None);
        }
        let issuer = claims.issuer.as_deref().ok_or(ANOTHER)?;
        if self.names.iter().any(|name| **name == *issuer) {
            return Ok(None);
        }
        let (template, tenant) = self.template_of(issuer).ok_or(ANOTHER)?;
        let claimed = claims.kept.get(&*template.claim).and_then(Value::as_str);
        if claimed != Some(tenant) {
            return Err(OTHER_TENANT);
        }
        if of_key.is_some_and(|of_key| of_key != issuer && *of_key != *template.text) {
            return Err(OTHER_KEY);
        }
        Ok(Some(tenant))
    }
}

/// An issuer that has a name for each of its tenants, and the same keys for all of them, as
/// Microsoft Entra has.
///
/// A token is taken if its `iss` is the template with the token's own tenant in the place of
/// `{…}`, to the letter. The tenant is the claim that is named here, `tid` for Entra, and a
/// lower-case UUID: nothing else that could be a part of an address.
///
/// - Where a key of the provider's set has a member `issuer`, it signs for that issuer alone, or
///   for each tenant if that is the template: a key for personal accounts, or of another cloud,
///   signs for no company's tenant. A key without one signs for all. Only verifiers with a template
///   heed it, because no standard knows the member.
/// - The [subject](crate::Principal::subject) begins with the tenant and a colon
///   (`72f988bf-86f1-41af-91ab-2d7cd011db47:AAAAAGhlJ…`), after
///   [`subject_prefix`](crate::token::TokenVerifierBuilder::subject_prefix): a `sub`, and any claim
///   that a tenant's administrator may set, is its tenant's alone. So one tenant's users are never
///   taken for another's.
/// - The tenant is the attribute `tenant`, which is
///   [`Principal::tenant`](crate::Principal::tenant).
/// - Roles, scopes and other attributes are as the token has them, and a tenant's administrator
///   decides which of them its users have: of Entra's, who is given an application's roles. So a
///   role is one within its tenant. What belongs to the service's own operator asks for a tenant of
///   its own besides, or for a verifier of that tenant alone.
///
/// Tokens of Entra's version 1 have the issuer `https://sts.windows.net/{tenantid}/`, and keys at
/// `https://login.microsoftonline.com/common/discovery/keys`, which have no `issuer`.
///
/// ```
/// use tollgate::token::{IssuerTemplate, JwksUrl, TokenVerifier};
///
/// let issuer = "https://login.microsoftonline.com/{tenantid}/v2.0";
/// let customers = ["72f988bf-86f1-41af-91ab-2d7cd011db47", "0b4c7d3e-6e0b-4f7e-9c7a-2a1d4e1f8a55"];
/// let template = IssuerTemplate::of_tenants(issuer, "tid", customers)?;
/// # #[cfg(feature = "jwks")] {
/// let keys = JwksUrl::discover_template(&template, "organizations").build()?;
/// let verifier = TokenVerifier::builder(keys)
///     .add_issuer_template(template)
///     .audience("6731de76-14a6-49ae-97bc-6eba6914391e")
///     .subject_from(["oid"])
///     .build()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct IssuerTemplate {
    text: Box<str>,
    /// What the placeholder is between.
    before: Box<str>,
    after: Box<str>,
    claim: Box<str>,
    /// If empty, all.
    tenants: BTreeSet<Box<str>>,
}

impl IssuerTemplate {
    /// The tokens of these tenants, each a lower-case UUID. `text` is an address with one `{…}`
    /// that is a whole segment of its path, as in the provider's discovery document; `claim` is the
    /// claim that names the tenant.
    ///
    /// # Errors
    /// [`TokenConfigError`]: `IssuerTemplate`, or `Tenants` if there is none or one isn't a
    /// lower-case UUID.
    pub fn of_tenants<'a>(
        text: &str,
        claim: &str,
        tenants: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, TokenConfigError> {
        let mut template = Self::of_any_tenant(text, claim)?;
        template.tenants = tenants.into_iter().map(Into::into).collect();
        let all_fit = template.tenants.iter().all(|tenant| is_uuid(tenant));
        if template.tenants.is_empty() || !all_fit {
            return Err(TokenConfigError::Tenants);
        }
        Ok(template)
    }

    /// The tokens of all tenants that the provider has, for a service that anybody may sign up for.
    /// Of Entra's, everybody can have one: that a caller is somebody in some tenant says nothing of
    /// what it may do.
    ///
    /// # Errors
    /// [`TokenConfigError::IssuerTemplate`].
    pub fn of_any_tenant(text: &str, claim: &str) -> Result<Self, TokenConfigError> {
        let (before, after) = split(text).ok_or(TokenConfigError::IssuerTemplate)?;
        if claim.is_empty() {
            return Err(TokenConfigError::IssuerTemplate);
        }
        Ok(Self {
            text: text.into(),
            before: before.into(),
            after: after.into(),
            claim: claim.into(),
            tenants: BTreeSet::new(),
        })
    }

    pub(super) fn claim(&self) -> &str {
        &self.claim
    }

    #[cfg(feature = "jwks")]
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The address with this in the place of the tenant, if it is a segment and no more.
    #[cfg(feature = "jwks")]
    pub(super) fn with(&self, place: &str) -> Option<String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        let is_segment = place.bytes().all(is_plain) && !place.bytes().all(|byte| byte == b'.');
        is_segment.then(|| [&self.before, place, &self.after].concat())
    }

    /// The tenant of an `iss` that has this form, if it is one of ours.
    fn tenant_of<'a>(&self, issuer: &'a str) -> Option<&'a str> {
        let tenant = issuer
            .strip_prefix(&*self.before)?
            .strip_suffix(&*self.after)?;
        let is_ours = self.tenants.is_empty() || self.tenants.contains(tenant);
        (is_ours && is_uuid(tenant)).then_some(tenant)
    }
}

impl fmt::Debug for IssuerTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerTemplate")
            .field("text", &self.text)
            .field("claim", &self.claim)
            .field("tenants", &self.tenants)
            .finish()
    }
}

/// What is before the only placeholder, and what is after it.
fn split(text: &str) -> Option<(&str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    let path = before
        .strip_prefix("https://")
        .or(before.strip_prefix("http://"))?;
    let (host, _) = path.split_once('/')?;
    let is_segment = before.ends_with('/') && (after.is_empty() || after.starts_with('/'));
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let odd = |text: &str| text.contains(['{', '}', '?', '#', '\\']);
    (!host.is_empty() && is_segment && is_name && !odd(before) && !odd(after))
        .then_some((before, after))
}

/// RFC 9562 section 4, in the one spelling that is written: a tenant has one name.
fn is_uuid(text: &str) -> bool {
    text.len() == UUID_LENGTH
        && text.bytes().enumerate().all(|(at, byte)| {
            if HYPHENS.contains(&at) {
                byte == b'-'
            } else {
                matches!(byte, b'0'..=b'9' | b'a'..=b'f')
            }
        })
}
