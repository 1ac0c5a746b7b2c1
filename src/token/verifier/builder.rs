//! The settings of a verifier.

use std::{fmt, sync::Arc, time::Duration};

use super::{Inner, TokenVerifier};
use crate::{
    domain::{
        clock::{Clock, SystemClock},
        principal::TENANT,
    },
    token::{
        IssuerTemplate, Issuers, KeyError, TokenConfigError, TokenKeys, TokenUse,
        header::HeaderKeys,
        mapping::{ClaimPath, Mapping},
        memo::Memo,
        rules::Rules,
    },
};

const LEEWAY_MAX: Duration = Duration::from_secs(600);
const AGE_MAX_MIN: Duration = Duration::from_secs(1);
const CACHE_CAPACITY: usize = 50_000;

/// Builds a [`TokenVerifier`].
#[must_use]
pub struct TokenVerifierBuilder {
    keys: Result<TokenKeys, KeyError>,
    rules: Rules,
    clock: Arc<dyn Clock>,
    cache_capacity: usize,
}

impl TokenVerifierBuilder {
    pub(super) fn new(keys: Result<TokenKeys, KeyError>) -> Self {
        Self {
            keys,
            rules: Rules {
                issuers: Issuers::default(),
                audiences: Vec::new(),
                typ: None,
                header_keys: HeaderKeys::Refused,
                token_use: None,
                leeway: Duration::ZERO,
                leeway_ahead: None,
                age_max: None,
                subject_prefix: Box::default(),
                kept: Vec::new(),
                read: Vec::new(),
                mapping: Mapping::default(),
            },
            clock: SystemClock::shared(),
            cache_capacity: CACHE_CAPACITY,
        }
    }

    /// The only `iss` that a token may have. Unless set, any will do, or none.
    pub fn issuer(mut self, issuer: &str) -> Self {
        self.rules.issuers.names = vec![issuer.into()];
        self
    }

    /// Adds an `iss` that a token may have, for an issuer with several names: one that has moved,
    /// or whose older tokens have another name. Holders of this verifier's keys can sign for all of
    /// these names, and a `sub` means the same user under each of them. For an issuer with other
    /// users and keys, use a separate verifier (RFC 8725 section 3.8):
    /// [`JwtLayer::or`](crate::JwtLayer::or).
    ///
    /// ```
    /// use tollgate::token::TokenVerifier;
    ///
    /// let verifier = TokenVerifier::hs256(b"thirty-two bytes or more, please!")
    ///     .issuer("https://accounts.example.com")
    ///     .add_issuer("accounts.example.com")
    ///     .audience("web")
    ///     .add_audience("mobile")
    ///     .build()?;
    /// # Ok::<(), tollgate::token::TokenConfigError>(())
    /// ```
    pub fn add_issuer(mut self, issuer: &str) -> Self {
        self.rules.issuers.names.push(issuer.into());
        self
    }

    /// Adds an issuer that has a name for each of its tenants. It stands for
    /// [`issuer`](Self::issuer): a verifier has names or templates. With templates of several
    /// providers, a tenant that two of them call by one UUID would have the subjects of both.
    pub fn add_issuer_template(mut self, template: IssuerTemplate) -> Self {
        self.rules.issuers.templates.push(template);
        self
    }

    /// What the subject begins with, before the token's `sub`, both together of at most 255 bytes;
    /// nothing unless set. A `sub` is unique for its issuer only (RFC 7519 section 4.1.2): where
    /// there are several with users of their own, it keeps them apart in limits, accounts and keys.
    /// A token's `sid` stays as it is: end a login by it only for tokens of your own issuer.
    pub fn subject_prefix(mut self, prefix: &str) -> Self {
        self.rules.subject_prefix = prefix.into();
        self
    }

    /// The only name accepted in a token's `aud`. Unless set, a token with an `aud` is refused: it
    /// is not for us.
    pub fn audience(mut self, audience: &str) -> Self {
        self.rules.audiences = vec![audience.into()];
        self
    }

    /// Adds an audience: at least one of them must be in a token's `aud`.
    pub fn add_audience(mut self, audience: &str) -> Self {
        self.rules.audiences.push(audience.into());
        self
    }

    /// The `typ` that a token's header must have, for example `at+jwt` (RFC 9068 section 2.1).
    /// Unless set: `JWT`, or none.
    ///
    /// Set it if the issuer does: it distinguishes access tokens from ID tokens (RFC 8725 section
    /// 3.11). Otherwise an ID token is kept out by its audience, which is the client and not the
    /// API, and by issuer-specific claims: `token_use`, or a claim `typ` of `ID`, `Refresh`,
    /// `Offline` or `Logout`.
    pub fn typ(mut self, typ: &str) -> Self {
        self.rules.typ = Some(typ.into());
        self
    }

    /// Accepts tokens whose header names or contains a key (`jwk`, `jku`, `x5u`, `x5c`), as those
    /// of some issuers do (Cloud Foundry's UAA, SAP's XSUAA). They are refused unless this is set.
    /// A key from a token is never used, nor an address looked at: only the verifier's own keys
    /// count.
    pub fn ignore_header_keys(mut self) -> Self {
        self.rules.header_keys = HeaderKeys::Ignored;
        self
    }

    /// The `token_use` that a token must have. Unless set: `access`, or none.
    pub fn token_use(mut self, token_use: TokenUse) -> Self {
        self.rules.token_use = Some(token_use);
        self
    }

    /// How much the issuer's clock may differ from ours, at most 10 minutes; 0 unless set. It
    /// applies to `exp`, `nbf` and `iat`, and to the [age](Self::age_max).
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.rules.leeway = leeway;
        self
    }

    /// How much the issuer's clock may be ahead of ours, that is how far in the future an `nbf` or
    /// an `iat` may lie, at most 10 minutes; equal to [`leeway`](Self::leeway) unless set. Set
    /// alone, it accepts new tokens from a clock that is a second fast, but no expired token.
    pub fn leeway_ahead(mut self, leeway: Duration) -> Self {
        self.rules.leeway_ahead = Some(leeway);
        self
    }

    /// Keeps a claim for [`Principal::claim`](crate::Principal::claim) and
    /// [`VerifiedToken::claim`](crate::token::VerifiedToken::claim), whatever else it is used for;
    /// other claims are checked for their form and dropped. A token whose kept claims are longer
    /// than 4 KiB of JSON is refused: each is in memory as long as the token is cached.
    pub fn add_claim(mut self, name: &str) -> Self {
        self.rules.kept.push(name.into());
        self
    }

    /// The path to the claim with the roles, instead of `roles`: `["realm_access", "roles"]`, or
    /// `["scope"]` (RFC 9068 section 2.2.3). It may be an array of strings, or a string of words; a
    /// token without it, or with null, has no roles. `["roles"]` is the default place, but then
    /// accepts words too; if another path is set, `roles` becomes an ordinary claim.
    pub fn roles_from<'a>(mut self, path: impl IntoIterator<Item = &'a str>) -> Self {
        self.rules.mapping.roles = Some(ClaimPath::new(path));
        self
    }

    /// The path to the claim with the subject, instead of `sub`: `["oid"]` for an issuer whose
    /// `sub` differs from client to client. It is a string; a token without it, or with an empty
    /// one, is refused. It must be a claim that the issuer assigns, never gives to somebody else,
    /// and lets nobody choose: who can set it to another's can be that other.
    pub fn subject_from<'a>(mut self, path: impl IntoIterator<Item = &'a str>) -> Self {
        self.rules.mapping.subjects = vec![ClaimPath::new(path)];
        self
    }

    /// Adds a path to a claim that is the subject where the paths before it, or `sub`, lead to none
    /// or to an empty one: `["client_id"]` for an issuer whose tokens for services have no `sub`.
    /// The values of all of them are names of one and the same kind: a client whose id is a user's
    /// `sub` would be that user.
    ///
    /// ```
    /// use tollgate::token::TokenVerifier;
    ///
    /// let verifier = TokenVerifier::hs256(b"thirty-two bytes or more, please!")
    ///     .add_subject_from(["client_id"])
    ///     .build()?;
    /// # Ok::<(), tollgate::token::TokenConfigError>(())
    /// ```
    pub fn add_subject_from<'a>(mut self, path: impl IntoIterator<Item = &'a str>) -> Self {
        let paths = &mut self.rules.mapping.subjects;
        if paths.is_empty() {
            paths.push(ClaimPath::new(["sub"]));
        }
        paths.push(ClaimPath::new(path));
        self
    }

    /// The path to the claim with the scopes, instead of `scope`: `["scp"]` for some issuers. It
    /// may be an array of strings, or a string of words; a token without it, or with null, has
    /// none.
    pub fn scopes_from<'a>(mut self, path: impl IntoIterator<Item = &'a str>) -> Self {
        self.rules.mapping.scopes = Some(ClaimPath::new(path));
        self
    }

    /// Maps a claim to an attribute of the [`Principal`](crate::Principal): for example `tenant`
    /// from `["org", "id"]`. It is a string, or an integer of 64 bits or a boolean, whose JSON text
    /// the attribute is (`7`, `true`); a string `"7"` gives the same attribute. A token with
    /// anything else there is refused. A token without it, or with null, has no such attribute.
    /// Roles and scopes are never numbers or booleans.
    pub fn add_attribute_from<'a>(
        mut self,
        attribute: &str,
        path: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let path = ClaimPath::new(path);
        self.rules.mapping.attributes.push((attribute.into(), path));
        self
    }

    /// Requires a claim; null counts as missing. `exp` and the subject are always required.
    pub fn add_required_claim(mut self, name: &str) -> Self {
        self.rules.mapping.required.push(name.into());
        self
    }

    /// How long ago a token may have been issued (`iat`), whatever its `exp`; unlimited unless set.
    /// If set, a token without `iat` is refused.
    pub fn age_max(mut self, age: Duration) -> Self {
        self.rules.age_max = Some(age);
        self
    }

    /// How many verified tokens are cached (a few hundred bytes each); 50,000 unless set, 0 for
    /// none, otherwise at least 2.
    pub fn cache_capacity(mut self, tokens: usize) -> Self {
        self.cache_capacity = tokens;
        self
    }

    /// Another source of time.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The verifier.
    ///
    /// # Errors
    /// [`TokenConfigError`], which names the setting.
    pub fn build(mut self) -> Result<TokenVerifier, TokenConfigError> {
        let TokenKeys(keys) = self.keys?;
        let empty = |text: &Option<Box<str>>| text.as_deref() == Some("");
        let any_empty = |texts: &[Box<str>]| texts.iter().any(|text| text.is_empty());
        if any_empty(&self.rules.issuers.names) {
            return Err(TokenConfigError::Issuer);
        }
        check_templates(&self.rules)?;
        if any_empty(&self.rules.audiences) {
            return Err(TokenConfigError::Audience);
        }
        if empty(&self.rules.typ) {
            return Err(TokenConfigError::Typ);
        }
        if self
            .rules
            .leeway
            .max(self.rules.leeway_ahead.unwrap_or_default())
            > LEEWAY_MAX
        {
            return Err(TokenConfigError::Leeway);
        }
        if self.rules.age_max.is_some_and(|age| age < AGE_MAX_MIN) {
            return Err(TokenConfigError::Age);
        }
        self.rules.mapping.check()?;
        let roots = self.rules.mapping.roots().map(Into::into);
        let tenants = self
            .rules
            .issuers
            .templates
            .iter()
            .map(IssuerTemplate::claim);
        let roots = roots.chain(tenants.map(Into::into));
        self.rules.read = roots.chain(self.rules.kept.iter().cloned()).collect();
        let verified = (self.cache_capacity > 0).then(|| Memo::new(self.cache_capacity));
        Ok(TokenVerifier(Arc::new(Inner {
            keys,
            rules: self.rules,
            clock: self.clock,
            verified,
        })))
    }
}

fn check_templates(rules: &Rules) -> Result<(), TokenConfigError> {
    if rules.issuers.templates.is_empty() {
        return Ok(());
    }
    if !rules.issuers.names.is_empty() {
        return Err(TokenConfigError::MixedIssuers);
    }
    let mut attributes = rules.mapping.attributes.iter();
    if attributes.any(|(name, _)| **name == *TENANT) {
        return Err(TokenConfigError::TenantAttribute);
    }
    Ok(())
}

impl fmt::Debug for TokenVerifierBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifierBuilder")
            .field("issuers", &self.rules.issuers)
            .field("audiences", &self.rules.audiences)
            .finish_non_exhaustive()
    }
}
