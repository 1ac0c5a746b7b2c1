//! Verification of tokens: signature, claims, time.

mod builder;

use std::{fmt, sync::Arc};

use serde::de::DeserializeSeed;

pub use self::builder::TokenVerifierBuilder;
use super::{
    Refusal, TokenAlgorithm, TokenError, TokenErrorKind, TokenKeys, VerifiedToken, VerifyingKey,
    claims::{Claims, ClaimsSeed},
    header::{self, Expected, Segments},
    issuers::Issuers,
    live::{KeyRefresh, Source, Wait},
    memo::{Memo, TokenDigest},
    rules::Rules,
    unverified,
};
use crate::domain::{
    clock::{Clock, Timestamp},
    credential::CredentialText,
};

/// The longest token that is accepted, in bytes: 16 KiB. Longer ones are refused before any
/// computation.
pub(super) const TOKEN_LENGTH_MAX: usize = 16 * 1_024;

/// How often a token is judged again because the keys have changed.
const LOOKS_MAX: usize = 2;

/// Nobody else judges tokens.
const NO_OTHERS: Issuers = Issuers {
    names: Vec::new(),
    templates: Vec::new(),
};

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
        TokenVerifierBuilder::new(key.map(TokenKeys::from))
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
        TokenVerifierBuilder::new(Ok(keys.into()))
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
        match self.verify_or_wait(token.into(), &NO_OTHERS) {
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
        match self.verify_or_wait(token.into(), &NO_OTHERS) {
            Verification::Over(outcome) => Ok(outcome?),
            Verification::Waits { keys, .. } => Ok(self.verify_after(keys, token).await?),
        }
    }

    /// Verifies a token by the current keys, and reports whether others may arrive. A token that is
    /// not this verifier's but of one of the issuers `others` is [left](Refusal::is_left) to
    /// theirs.
    pub(crate) fn verify_or_wait(
        &self,
        token: CredentialText<'_>,
        others: &Issuers,
    ) -> Verification {
        let outcome = self.look_beside(token, others);
        if matches!(&outcome, Err(refusal) if refusal.is_left) {
            return Verification::Over(outcome);
        }
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
                self.retry_after_refresh(token.as_str(), refusal)
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
        let header = header::read(segments.header, &mut json, self.0.rules.header_keys)?;
        source.wait_for(header.kid.as_deref(), generation)
    }

    /// Verifies a token by the current keys.
    pub(crate) fn look(&self, token: &str) -> Result<Arc<VerifiedToken>, Refusal> {
        self.look_beside(token.into(), &NO_OTHERS)
    }

    fn look_beside(
        &self,
        token: CredentialText<'_>,
        others: &Issuers,
    ) -> Result<Arc<VerifiedToken>, Refusal> {
        if token.as_bytes().len() > TOKEN_LENGTH_MAX {
            return Err(TokenError::malformed("the token is longer than 16 KiB").into());
        }
        let now = self.0.clock.now();
        // Needed even without a cache: it lets a source look for new keys.
        let generation = self.0.keys.generation(now);
        let Some(memo) = &self.0.verified else {
            self.claim_token(token.as_str(), others)?;
            return self.judge(token.as_str(), now).map(Arc::new);
        };
        let digest = TokenDigest::of(token.as_bytes());
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
        // A known token was this verifier's.
        let token = token.as_str();
        self.claim_token(token, others)?;
        let verified = Arc::new(self.judge(token, now)?);
        memo.remember(digest, Arc::clone(&verified));
        Ok(verified)
    }

    /// Fails if the token, unverified, names one of the issuers `others`, and none of this
    /// verifier's. A verifier without issuers takes the tokens of any.
    fn claim_token(&self, token: &str, others: &Issuers) -> Result<(), Refusal> {
        let own = &self.0.rules.issuers;
        if others.is_empty() || own.is_empty() {
            return Ok(());
        }
        match unverified::issuer(token) {
            Some(issuer) if others.have(&issuer) && !own.have(&issuer) => Err(Refusal::left()),
            _ => Ok(()),
        }
    }

    /// The issuers whose tokens this verifier is for; empty: any.
    pub(crate) fn issuers(&self) -> &Issuers {
        &self.0.rules.issuers
    }

    fn judge(&self, token: &str, now: Timestamp) -> Result<VerifiedToken, Refusal> {
        let segments = Segments::of(token)?;
        let (keys, generation) = self.0.keys.keys();
        let keys = keys.ok_or_else(|| Refusal {
            undecided_by: Some(generation),
            ..NO_KEYS.into()
        })?;
        let expected = Expected {
            typ: self.0.rules.typ.as_deref(),
            header_keys: self.0.rules.header_keys,
        };
        let key = keys.check(&segments, Some(expected));
        let key = key.map_err(|unfit| Refusal {
            undecided_by: unfit.others_may_fit.then_some(generation),
            ..self.0.keys.explain(&unfit).into()
        })?;
        let of_key = key.issuer();
        let json = header::decode(segments.claims)?;
        let mut verified = self
            .0
            .rules
            .judge(self.read(&json)?, of_key)
            .map_err(|error| self.refusal_of(error, &json))?;
        verified.keys = generation;
        let in_time = self.0.rules.judge_time(&verified, now);
        in_time.map_err(|error| Refusal::of(error, &verified.subject))?;
        Ok(verified)
    }

    /// A refusal of a token with a good signature. Users of another issuer are not our users, even
    /// if they have the same name.
    fn refusal_of(&self, error: TokenError, claims: &[u8]) -> Refusal {
        let subject = self.read(claims);
        let subject = subject.and_then(|claims| self.0.rules.subject(&claims));
        match subject {
            Ok(subject) if error.kind() != TokenErrorKind::WrongIssuer => {
                Refusal::of(error, &subject)
            }
            _ => error.into(),
        }
    }

    fn read<'a>(&'a self, json: &'a [u8]) -> Result<Claims<'a>, TokenError> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let seed = ClaimsSeed {
            kept: &self.0.rules.read,
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
