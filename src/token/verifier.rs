//! Verification of tokens: signature, claims, time.

use std::{fmt, sync::Arc, time::Duration};

use serde::de::DeserializeSeed;

use super::{
    KeyError, Refusal, TokenAlgorithm, TokenConfigError, TokenError, TokenErrorKind, TokenKeys,
    TokenUse, VerifiedToken, VerifyingKey,
    claims::{Claims, ClaimsSeed},
    header::{self, Segments, Typ},
    live::{KeyRefresh, Source, Wait},
    mapping::{ClaimPath, Mapping},
    memo::{Memo, TokenDigest},
    rules::Rules,
};
use crate::domain::clock::{Clock, SystemClock, Timestamp};

/// The longest token that is accepted, in bytes: 16 KiB. Longer ones are refused before any
/// computation.
pub(super) const TOKEN_LENGTH_MAX: usize = 16 * 1_024;

const LEEWAY_MAX: Duration = Duration::from_secs(600);
const AGE_MAX_MIN: Duration = Duration::from_secs(1);
const CACHE_CAPACITY: usize = 50_000;
/// How often a token is judged again because the keys have changed.
const LOOKS_MAX: usize = 2;

const NO_KEYS: TokenError =
    TokenError::new(TokenErrorKind::NoKeys, "the keys of tokens are not at hand");

/// Verifies tokens: whether one was signed with the key, is meant for us, and is currently valid.
///
/// Cloning it increments a reference count; clones share the cache of verified tokens.
///
/// ```
/// use tollgate::token::{TokenErrorKind, TokenVerifier};
///
/// let secret = b"thirty-two bytes or more, please!";
/// let verifier = TokenVerifier::hs256(secret).issuer("api").audience("web").build()?;
///
/// let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9.AA";
/// let refused = verifier.verify(unsigned).unwrap_err();
/// assert_eq!(refused.kind(), TokenErrorKind::Unsupported);
/// # Ok::<(), tollgate::token::TokenConfigError>(())
/// ```
#[derive(Clone)]
pub struct TokenVerifier(Arc<Inner>);

struct Inner {
    keys: Source,
    rules: Rules,
    clock: Arc<dyn Clock>,
    /// Keyed by the SHA-256 of the whole token. Contains identities, not decisions.
    verified: Option<Memo>,
}

/// The result of a verification before anything is awaited.
pub(crate) enum Verification {
    Over(Result<Arc<VerifiedToken>, Refusal>),
    /// Other keys may arrive soon. `meanwhile` is the outcome by the current keys.
    Waits {
        keys: Wait,
        meanwhile: Result<Arc<VerifiedToken>, Refusal>,
    },
}

impl TokenVerifier {
    /// Builds a verifier of HS256 tokens; the secret's raw bytes are the key, at least 32 of them.
    pub fn hs256(secret: &[u8]) -> TokenVerifierBuilder {
        let key = VerifyingKey::from_secret(TokenAlgorithm::Hs256, secret);
        Self::begin(key.map(TokenKeys::from))
    }

    /// Builds a verifier of tokens that are signed with one of several keys, or with those of a
    /// source.
    ///
    /// ```
    /// use tollgate::token::{KeyError, TokenVerifier, VerifyingKeys};
    ///
    /// let jwks = br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    /// let verifier = TokenVerifier::builder(VerifyingKeys::from_jwks(jwks)?)
    ///     .issuer("https://id.example.com/realms/acme")
    ///     .audience("api")
    ///     .roles_from(["realm_access", "roles"])
    ///     .build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(keys: impl Into<TokenKeys>) -> TokenVerifierBuilder {
        Self::begin(Ok(keys.into()))
    }

    fn begin(keys: Result<TokenKeys, KeyError>) -> TokenVerifierBuilder {
        TokenVerifierBuilder {
            keys,
            rules: Rules {
                issuers: Vec::new(),
                audiences: Vec::new(),
                typ: None,
                token_use: None,
                leeway: Duration::ZERO,
                leeway_ahead: None,
                age_max: None,
                claims: Vec::new(),
                mapping: Mapping::default(),
            },
            clock: SystemClock::shared(),
            cache_capacity: CACHE_CAPACITY,
        }
    }

    /// Verifies a token without waiting: a cached token costs a SHA-256 and a look-up, a new one a
    /// signature check.
    ///
    /// It uses the current keys. If the source may have newer ones, it starts a fetch (within a
    /// Tokio runtime), and later tokens are judged by those.
    /// [`verify_waiting`](Self::verify_waiting) waits for them.
    ///
    /// # Errors
    /// [`TokenError`], whose [`kind`](TokenError::kind) says what is wrong with it.
    pub fn verify(&self, token: &str) -> Result<Arc<VerifiedToken>, TokenError> {
        match self.verify_or_wait(token) {
            Verification::Over(outcome) => Ok(outcome?),
            // The fetch continues even if nobody waits for it.
            Verification::Waits { meanwhile, .. } => Ok(meanwhile?),
        }
    }

    /// Like [`verify`](Self::verify), but waits if the source may have the key that the token
    /// names.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn verify_waiting(&self, token: &str) -> Result<Arc<VerifiedToken>, TokenError> {
        match self.verify_or_wait(token) {
            Verification::Over(outcome) => Ok(outcome?),
            Verification::Waits { keys, .. } => Ok(self.verify_after(keys, token).await?),
        }
    }

    /// Verifies a token by the current keys, and reports whether others may arrive.
    pub(crate) fn verify_or_wait(&self, token: &str) -> Verification {
        let outcome = self.look(token);
        let Source::Live(source) = &self.0.keys else {
            return Verification::Over(outcome);
        };
        if let Some(keys) = source.overdue() {
            return Verification::Waits {
                keys,
                meanwhile: outcome,
            };
        }
        match outcome {
            Err(refusal) if refusal.undecided_by.is_some() => {
                self.retry_after_refresh(token, refusal)
            }
            outcome => Verification::Over(outcome),
        }
    }

    /// Verifies once the keys are loaded, or are known to be unavailable.
    pub(crate) async fn verify_after(
        &self,
        keys: Wait,
        token: &str,
    ) -> Result<Arc<VerifiedToken>, Refusal> {
        keys.await;
        self.look(token)
    }

    /// Decides what to do with a token that none of the keys fits.
    pub(super) fn retry_after_refresh(&self, token: &str, mut refusal: Refusal) -> Verification {
        // The keys may have changed since the token was judged, and then no fetch is due.
        for _ in 0..LOOKS_MAX {
            let meanwhile = match (self.key_refresh_for(token, &refusal), refusal) {
                (Ok(KeyRefresh::None), refusal) => return Verification::Over(Err(refusal)),
                (Ok(KeyRefresh::Pending(keys)), refusal) => {
                    return Verification::Waits {
                        keys,
                        meanwhile: Err(refusal),
                    };
                }
                (Ok(KeyRefresh::Done), _) => self.look(token),
                (Err(error), _) => Err(error.into()),
            };
            match meanwhile {
                Err(next) if next.undecided_by.is_some() => refusal = next,
                outcome => return Verification::Over(outcome),
            }
        }
        Verification::Over(Err(refusal))
    }

    fn key_refresh_for(&self, token: &str, refusal: &Refusal) -> Result<KeyRefresh, TokenError> {
        let (Source::Live(source), Some(generation)) = (&self.0.keys, refusal.undecided_by) else {
            return Ok(KeyRefresh::None);
        };
        let mut json = Vec::new();
        let segments = Segments::of(token)?;
        let header = header::read(segments.header, &mut json)?;
        source.wait_for(header.kid.as_deref(), generation)
    }

    /// Verifies a token by the current keys.
    pub(crate) fn look(&self, token: &str) -> Result<Arc<VerifiedToken>, Refusal> {
        if token.len() > TOKEN_LENGTH_MAX {
            return Err(TokenError::malformed("the token is longer than 16 KiB").into());
        }
        let now = self.0.clock.now();
        // Needed even without a cache: it lets a source look for new keys.
        let generation = self.0.keys.generation(now);
        let Some(memo) = &self.0.verified else {
            return self.judge(token, now).map(Arc::new);
        };
        let digest = TokenDigest::of(token);
        // A token verified by other keys is judged again: its key may have been removed.
        if let Some(known) = memo
            .recall(&digest)
            .filter(|known| known.keys == generation)
        {
            return match self.0.rules.judge_time(&known, now) {
                Ok(()) => Ok(known),
                Err(error) => {
                    // If the clock steps back to before its expiry, it is verified from scratch.
                    memo.forget(&digest);
                    Err(Refusal::of(error, known.subject()))
                }
            };
        }
        let verified = Arc::new(self.judge(token, now)?);
        memo.remember(digest, Arc::clone(&verified));
        Ok(verified)
    }

    fn judge(&self, token: &str, now: Timestamp) -> Result<VerifiedToken, Refusal> {
        let segments = Segments::of(token)?;
        let (keys, generation) = self.0.keys.keys();
        let keys = keys.ok_or_else(|| Refusal {
            undecided_by: Some(generation),
            ..NO_KEYS.into()
        })?;
        let typ = Typ(self.0.rules.typ.as_deref());
        keys.check(&segments, Some(typ)).map_err(|unfit| Refusal {
            undecided_by: unfit.others_may_fit.then_some(generation),
            ..self.0.keys.explain(&unfit).into()
        })?;
        let json = header::decode(segments.claims)?;
        let mut verified = self
            .0
            .rules
            .judge(self.read(&json)?)
            .map_err(|error| self.refusal_of(error, &json))?;
        verified.keys = generation;
        let in_time = self.0.rules.judge_time(&verified, now);
        in_time.map_err(|error| Refusal::of(error, &verified.subject))?;
        Ok(verified)
    }

    /// A refusal of a token with a good signature. Users of another issuer are not our users, even
    /// if they have the same name.
    fn refusal_of(&self, error: TokenError, claims: &[u8]) -> Refusal {
        let subject = self.read(claims).ok().and_then(|claims| claims.subject);
        match subject {
            Some(subject) if error.kind() != TokenErrorKind::WrongIssuer => {
                Refusal::of(error, &subject)
            }
            _ => error.into(),
        }
    }

    fn read<'a>(&'a self, json: &'a [u8]) -> Result<Claims<'a>, TokenError> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let seed = ClaimsSeed {
            kept: &self.0.rules.claims,
            roles_elsewhere: self.0.rules.mapping.roles.is_some(),
        };
        seed.deserialize(&mut deserializer)
            .and_then(|claims| deserializer.end().map(|()| claims))
            .map_err(|_| TokenError::malformed("the claims are not of the right form"))
    }
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier")
            .field("keys", &self.0.keys)
            .field("issuers", &self.0.rules.issuers)
            .field("audiences", &self.0.rules.audiences)
            .finish_non_exhaustive()
    }
}

/// Builds a [`TokenVerifier`].
#[must_use]
pub struct TokenVerifierBuilder {
    keys: Result<TokenKeys, KeyError>,
    rules: Rules,
    clock: Arc<dyn Clock>,
    cache_capacity: usize,
}

impl TokenVerifierBuilder {
    /// The only `iss` that a token may have. Unless set, any will do, or none.
    pub fn issuer(mut self, issuer: &str) -> Self {
        self.rules.issuers = vec![issuer.into()];
        self
    }

    /// Adds an `iss` that a token may have, for an issuer with several names: one that has moved,
    /// or whose older tokens have another name. Holders of this verifier's keys can sign for all of
    /// these names, and a `sub` means the same user under each of them. For an issuer with other
    /// users and keys, use a separate verifier (RFC 8725 section 3.8).
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
        self.rules.issuers.push(issuer.into());
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

    /// Keeps a claim for [`VerifiedToken::claim`], whatever else it is used for; other claims are
    /// checked for their form and dropped.
    pub fn add_claim(mut self, name: &str) -> Self {
        self.rules.claims.push(name.into());
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

    /// The path to the claim with the scopes, instead of `scope`: `["scp"]` for some issuers. It
    /// may be an array of strings, or a string of words; a token without it, or with null, has
    /// none.
    pub fn scopes_from<'a>(mut self, path: impl IntoIterator<Item = &'a str>) -> Self {
        self.rules.mapping.scopes = Some(ClaimPath::new(path));
        self
    }

    /// Maps a string claim to an attribute of the [`Principal`](crate::Principal): for example
    /// `tenant` from `["org", "id"]`. A token without it, or with null, has no such attribute.
    pub fn add_attribute_from<'a>(
        mut self,
        attribute: &str,
        path: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let path = ClaimPath::new(path);
        self.rules.mapping.attributes.push((attribute.into(), path));
        self
    }

    /// Requires a claim; null counts as missing. `exp` and `sub` are always required.
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
        if any_empty(&self.rules.issuers) {
            return Err(TokenConfigError::Issuer);
        }
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
        let roots: Vec<Box<str>> = self.rules.mapping.roots().map(Into::into).collect();
        self.rules.claims.extend(roots);
        let verified = (self.cache_capacity > 0).then(|| Memo::new(self.cache_capacity));
        Ok(TokenVerifier(Arc::new(Inner {
            keys,
            rules: self.rules,
            clock: self.clock,
            verified,
        })))
    }
}

impl fmt::Debug for TokenVerifierBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifierBuilder")
            .field("issuers", &self.rules.issuers)
            .field("audiences", &self.rules.audiences)
            .finish_non_exhaustive()
    }
}
