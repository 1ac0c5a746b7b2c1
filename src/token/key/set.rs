//! Several keys, each selected by its name.

use std::sync::Arc;

use serde_json::json;

use super::{
    KeyError, TokenAlgorithm, VerifyingKey,
    jwk::{Jwk, Member, published},
    left_out::LeftOut,
};
use crate::token::{
    TokenError, TokenErrorKind,
    header::{self, Segments},
    verifier::TOKEN_LENGTH_MAX,
};

/// The most keys of one set.
const KEYS_MAX: usize = 64;

/// One or several keys; a token's `kid` selects one. Cloning it increments a reference count.
///
/// - One key: a token may omit the `kid`; if it has one, it must be the key's, if that has one.
/// - Several keys: each has a `kid` of its own, and a token must name one. No other key is tried if
///   that one doesn't fit. Tokens without a `kid` are verified only by a key that was added by
///   [`add_nameless`](Self::add_nameless).
#[derive(Clone, Debug)]
pub struct VerifyingKeys(Arc<[VerifyingKey]>);

impl VerifyingKeys {
    /// A set of 1 to 64 keys.
    ///
    /// # Errors
    /// [`KeyError`]: `Empty`, `TooMany`, `NoKid`, `DuplicateKid`, `Mixed`.
    pub fn new(keys: impl IntoIterator<Item = VerifyingKey>) -> Result<Self, KeyError> {
        let keys = Self::with_one_nameless(keys)?;
        // A key left unnamed by mistake would verify every token without a `kid`.
        if keys.0.len() > 1 && keys.0.iter().any(|key| key.name().is_none()) {
            return Err(KeyError::NoKid);
        }
        Ok(keys)
    }

    /// Adds a key for tokens without a `kid`, for those that were signed before keys had names.
    /// There is at most one such key, and it verifies no other tokens, whatever its own name.
    ///
    /// ```
    /// use tollgate::token::{KeyError, TokenAlgorithm, VerifyingKey, VerifyingKeys};
    ///
    /// let secret = |secret| VerifyingKey::from_secret(TokenAlgorithm::Hs256, secret);
    /// let keys = VerifyingKeys::from(secret(b"the secret of 2026 and of no other")?.kid("2026")?)
    ///     .add_nameless(secret(b"the secret of before, nameless yet")?)?;
    /// let second = keys.add_nameless(secret(b"one more that has no name of its own")?).unwrap_err();
    /// assert_eq!(second, KeyError::NoKid);
    /// # Ok::<(), KeyError>(())
    /// ```
    ///
    /// # Errors
    /// As for [`new`](Self::new); `NoKid` if there already is an unnamed key.
    pub fn add_nameless(self, key: VerifyingKey) -> Result<Self, KeyError> {
        Self::with_one_nameless(self.0.iter().cloned().chain([key.nameless()]))
    }

    /// Like [`new`](Self::new), but one of several may be unnamed.
    pub(in crate::token) fn with_one_nameless(
        keys: impl IntoIterator<Item = VerifyingKey>,
    ) -> Result<Self, KeyError> {
        let keys: Vec<VerifyingKey> = keys.into_iter().take(KEYS_MAX.saturating_add(1)).collect();
        let (first, others) = keys.split_first().ok_or(KeyError::Empty)?;
        if keys.len() > KEYS_MAX {
            return Err(KeyError::TooMany);
        }
        let symmetric = first.algorithm().is_symmetric();
        if others
            .iter()
            .any(|key| key.algorithm().is_symmetric() != symmetric)
        {
            return Err(KeyError::Mixed);
        }
        let mut names = Vec::with_capacity(keys.len());
        for key in &keys {
            let name = key.name();
            if names.contains(&name) {
                return Err(name.map_or(KeyError::NoKid, |_| KeyError::DuplicateKid));
            }
            names.push(name);
        }
        Ok(Self(keys.into()))
    }

    /// The keys of a JWK set (RFC 7517 section 5) from configuration, which may contain secrets.
    ///
    /// Keys that aren't meant for us are ignored, and don't count: those for other uses than
    /// signatures (`use`, or `key_ops` without `verify`), and of other types, curves or algorithms.
    /// A key that is meant for us, but can't be read, is weak or contradicts itself, refuses the
    /// whole set: a mistake in one's own configuration shows at once.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_jwks(json: &[u8]) -> Result<Self, KeyError> {
        let set = Jwk::read_set(json)?;
        let keys = set.iter().map(Member::verifying_if_meant);
        let keys = keys.filter_map(Result::transpose);
        // One more than fits shows that there are too many.
        let keys = keys.take(KEYS_MAX.saturating_add(1));
        Self::new(keys.collect::<Result<Vec<_>, _>>()?)
    }

    /// The keys of somebody else's JWK set, which is public: it must contain no secret or private
    /// key.
    ///
    /// - Keys that aren't meant for us are ignored, as by [`from_jwks`](Self::from_jwks).
    /// - A key that is meant for us, but can't be read, is weak, contradicts itself or has no name
    ///   beside others is left out, with one warning for the set that says which and why: it
    ///   verifies nothing, and the others remain usable. So one bad key of a provider doesn't end
    ///   every login.
    /// - The set is refused if no key is left (with the reason of the first that was left out), or
    ///   if a name belongs to two usable keys.
    ///
    /// ```
    /// use tollgate::token::{KeyError, VerifyingKeys};
    ///
    /// // RFC 8037 appendix A.2
    /// let good = r#"{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    /// let weak = r#"{"kty":"RSA","kid":"2","n":"sAAAAQ","e":"AQAB"}"#;
    /// let both = format!(r#"{{"keys":[{weak},{good}]}}"#);
    /// let keys = VerifyingKeys::from_public_jwks(both.as_bytes())?;
    /// assert!(!keys.to_jwks().contains("RSA"));
    /// assert_eq!(VerifyingKeys::from_jwks(both.as_bytes()).unwrap_err(), KeyError::RsaLength);
    ///
    /// let refused = VerifyingKeys::from_public_jwks(format!(r#"{{"keys":[{weak}]}}"#).as_bytes());
    /// assert_eq!(refused.unwrap_err(), KeyError::RsaLength);
    /// # Ok::<(), KeyError>(())
    /// ```
    ///
    /// # Errors
    /// [`KeyError`]; `NotPublic` if there is a secret.
    pub fn from_public_jwks(json: &[u8]) -> Result<Self, KeyError> {
        if Jwk::is_private_set(json)? {
            return Err(KeyError::NotPublic);
        }
        let mut left_out = LeftOut::default();
        let mut keys = Vec::new();
        for (at, jwk) in Jwk::read_set(json)?.into_iter().enumerate() {
            match jwk.verifying_if_meant() {
                Ok(Some(key)) => keys.push((at, key)),
                Ok(None) => {}
                Err(reason) => left_out.add(at, jwk.kid().as_deref(), reason),
            }
        }
        if keys.len() > 1 {
            keys.retain(|(at, key)| {
                let is_named = key.name().is_some();
                if !is_named {
                    left_out.add(*at, None, KeyError::NoKid);
                }
                is_named
            });
        }
        if keys.is_empty() {
            return Err(left_out.reason().unwrap_or(KeyError::Empty));
        }
        let keys = Self::new(keys.into_iter().map(|(_, key)| key))?;
        left_out.warn();
        Ok(keys)
    }

    /// The algorithm of keys of its type that came as JWKs without `alg`: for example `PS256` for
    /// RSA keys, which otherwise use `RS256`. See [`VerifyingKey::default_algorithm`]; set it
    /// separately for each type.
    ///
    /// # Errors
    /// [`KeyError::SecretTooShort`] for an algorithm that requires longer secrets.
    pub fn default_algorithm(self, algorithm: TokenAlgorithm) -> Result<Self, KeyError> {
        let keys = self.0.iter().cloned().map(|key| {
            if key.algorithm().shares_keys_with(algorithm) {
                key.default_algorithm(algorithm)
            } else {
                Ok(key)
            }
        });
        keys.collect::<Result<_, _>>().map(Self)
    }

    /// The public keys of the set as a JWK set for publication. Secrets are omitted.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        let keys: Vec<_> = self.0.iter().filter_map(published).collect();
        json!({ "keys": keys }).to_string()
    }

    /// Checks the signature of a JWS in its compact form, and returns what was signed, whatever it
    /// is. For tokens use [`TokenVerifier`](crate::token::TokenVerifier), which also checks their
    /// claims.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, jws: &str) -> Result<Vec<u8>, TokenError> {
        if jws.len() > TOKEN_LENGTH_MAX {
            return Err(TokenError::malformed("the token is longer than 16 KiB"));
        }
        let segments = Segments::of(jws)?;
        self.check(&segments, None).map_err(|unfit| unfit.error)?;
        header::decode(segments.claims)
    }

    /// The key by which it is signed. Refuses what isn't signed by one of these keys, or has a
    /// header with unsupported demands. `expected` is what the header must have, if anything.
    pub(in crate::token) fn check(
        &self,
        segments: &Segments<'_>,
        expected: Option<header::Expected<'_>>,
    ) -> Result<&VerifyingKey, Unfit> {
        let mut json = Vec::new();
        let header_keys =
            expected.map_or(header::HeaderKeys::Refused, |expected| expected.header_keys);
        let header = header::read(segments.header, &mut json, header_keys)?;
        let unknown = |error| Unfit {
            error,
            others_may_fit: true,
        };
        let key = self.choose(header.kid.as_deref()).map_err(unknown)?;
        key.check_algorithm(&header.algorithm)?;
        if let Some(expected) = expected {
            header::check_typ(header.typ.as_deref(), expected.typ)?;
        }
        let signature = header::decode(segments.signature)?;
        // Without names, a replaced key can't be told from a bad signature.
        let has_no_name = header.kid.is_none() || key.name().is_none();
        let verified = key.verify(segments.signed.as_bytes(), &signature);
        verified.map(|()| key).map_err(|error| Unfit {
            error,
            others_may_fit: has_no_name,
        })
    }

    /// Whether a key has that name.
    #[cfg(feature = "jwks")]
    pub(in crate::token) fn has(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.name() == Some(kid))
    }

    fn choose(&self, kid: Option<&str>) -> Result<&VerifyingKey, TokenError> {
        const UNKNOWN: TokenError =
            TokenError::new(TokenErrorKind::UnknownKey, "there is no key of that kid");
        const UNNAMED: TokenError = TokenError::new(
            TokenErrorKind::UnknownKey,
            "the token doesn't say by which of several keys it is signed",
        );
        match (&*self.0, kid) {
            ([only], None) => Ok(only),
            ([only], Some(kid)) => match only.name() {
                Some(name) if name != kid => Err(UNKNOWN),
                _ => Ok(only),
            },
            // A token without a name selects the unnamed key, if there is one.
            (keys, kid) => keys
                .iter()
                .find(|key| key.name() == kid)
                .ok_or(kid.map_or(UNNAMED, |_| UNKNOWN)),
        }
    }
}

/// The algorithms set for keys without `alg`, one for each type.
#[derive(Clone, Debug, Default)]
pub(in crate::token) struct DefaultAlgorithms(Vec<TokenAlgorithm>);

impl DefaultAlgorithms {
    /// The last one set for a type wins.
    pub(in crate::token) fn add(&mut self, algorithm: TokenAlgorithm) {
        self.0.retain(|other| !other.shares_keys_with(algorithm));
        self.0.push(algorithm);
    }

    pub(in crate::token) fn of(&self, keys: VerifyingKeys) -> Result<VerifyingKeys, KeyError> {
        let mut algorithms = self.0.iter().copied();
        algorithms.try_fold(keys, VerifyingKeys::default_algorithm)
    }
}

/// Why no key of a set verifies a signature.
pub(in crate::token) struct Unfit {
    pub(in crate::token) error: TokenError,
    /// Whether a key that isn't in the set may.
    pub(in crate::token) others_may_fit: bool,
}

impl From<TokenError> for Unfit {
    fn from(error: TokenError) -> Self {
        Self {
            error,
            others_may_fit: false,
        }
    }
}

impl From<VerifyingKey> for VerifyingKeys {
    fn from(key: VerifyingKey) -> Self {
        Self(Arc::from([key]))
    }
}
