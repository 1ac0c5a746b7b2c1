//! Several keys, each chosen by its name.

use std::sync::Arc;

use serde_json::json;

use super::{
    KeyError, TokenAlgorithm, VerifyingKey,
    jwk::{Jwk, published},
};
use crate::token::{
    TokenError, TokenErrorKind,
    header::{self, Segments},
    verifier::TOKEN_LENGTH_MAX,
};

/// The most keys of one set.
pub(super) const KEYS_MAX: usize = 64;

/// One key or several, of which a token's `kid` names one. A clone is a reference count.
///
/// - One key alone: a token may leave the `kid` out; one that it says must be the key's, if that has one.
/// - Several: each has a `kid` of its own, and a token must name one. None is tried because another didn't fit. Only what
///   [`add_nameless`](Self::add_nameless) added is for tokens that name none.
#[derive(Clone, Debug)]
pub struct VerifyingKeys(Arc<[VerifyingKey]>);

impl VerifyingKeys {
    /// A set of 1 to 64 keys.
    ///
    /// # Errors
    /// [`KeyError`]: `Empty`, `TooMany`, `NoKid`, `DuplicateKid`, `Mixed`.
    pub fn new(keys: impl IntoIterator<Item = VerifyingKey>) -> Result<Self, KeyError> {
        let keys = Self::with_one_nameless(keys)?;
        // One that was left without a name by mistake would be every nameless token's.
        if keys.0.len() > 1 && keys.0.iter().any(|key| key.name().is_none()) {
            return Err(KeyError::NoKid);
        }
        Ok(keys)
    }

    /// One more key: the one of tokens without a `kid`. For those that were signed before keys had names; there is one such
    /// key at most, and it is no other token's, whatever its own name is.
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
    /// As of [`new`](Self::new); `NoKid` when there is one without a name already.
    pub fn add_nameless(self, key: VerifyingKey) -> Result<Self, KeyError> {
        Self::with_one_nameless(self.0.iter().cloned().chain([key.nameless()]))
    }

    /// As [`new`](Self::new), but one of several may be nameless.
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

    /// The keys of a JWK set (RFC 7517 section 5), of a configuration: secrets may be in it.
    ///
    /// Keys that aren't meant for us are left out: for other uses than signatures (`use`, or `key_ops` without `verify`), of
    /// other types, curves or algorithms. A key that is, and is weak or contradicts itself, makes the whole set unacceptable.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_jwks(json: &[u8]) -> Result<Self, KeyError> {
        let jwks = Jwk::read_set(json)?.into_iter();
        Self::of_jwks(jwks.map(|jwk| jwk?.verifying_if_meant()))
    }

    /// The same of a set that everybody may read: there is no secret and no private key in it.
    ///
    /// Keys that can't be read, for want of a member or with an `alg` that is not of their type, are left out too, with a warning:
    /// the provider's other keys are good without them (RFC 7517 section 5).
    ///
    /// # Errors
    /// [`KeyError`]; `NotPublic` when there is a secret.
    pub fn from_public_jwks(json: &[u8]) -> Result<Self, KeyError> {
        let jwks = Jwk::read_set(json)?;
        if jwks.iter().flatten().any(Jwk::is_private) {
            return Err(KeyError::NotPublic);
        }
        let keys = jwks.into_iter().map(|jwk| {
            let key = jwk.and_then(|jwk| jwk.verifying_if_meant());
            match key {
                Err(
                    error @ (KeyError::Malformed
                    | KeyError::Unreadable
                    | KeyError::WrongAlgorithm
                    | KeyError::Kid),
                ) => {
                    tracing::warn!(target: "tollgate", %error, "a key of a JWK set is left out");
                    Ok(None)
                }
                key => key,
            }
        });
        Self::of_jwks(keys)
    }

    fn of_jwks(
        keys: impl Iterator<Item = Result<Option<VerifyingKey>, KeyError>>,
    ) -> Result<Self, KeyError> {
        let keys: Vec<_> = keys
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?;
        Self::new(keys)
    }

    /// The algorithm of those keys that came as JWKs without `alg` and are of its type: `PS256` for RSA keys, say, which are `RS256`'s
    /// otherwise. See [`VerifyingKey::default_algorithm`]; to be set for each type by itself.
    ///
    /// # Errors
    /// [`KeyError::SecretTooShort`] for an algorithm that asks for longer secrets.
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

    /// The public keys of the set as a JWK set, to be published. Secrets are left out.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        let keys: Vec<_> = self.0.iter().filter_map(published).collect();
        json!({ "keys": keys }).to_string()
    }

    /// Checks the signature of a JWS in its compact form, and hands out what was signed, whatever it is. For tokens there is
    /// [`TokenVerifier`](crate::token::TokenVerifier), which judges what they say too.
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

    /// Refuses whatever isn't signed by one of these keys, with a header that asks for nothing we don't do.
    /// `typ` is what the header must say, if it must.
    pub(in crate::token) fn check(
        &self,
        segments: &Segments<'_>,
        typ: Option<header::Typ<'_>>,
    ) -> Result<(), Unfit> {
        let mut json = Vec::new();
        let header = header::read(segments.header, &mut json)?;
        let unknown = |error| Unfit {
            error,
            others_may_fit: true,
        };
        let key = self.choose(header.kid.as_deref()).map_err(unknown)?;
        key.check_algorithm(&header.algorithm)?;
        if let Some(typ) = typ {
            typ.check(header.typ.as_deref())?;
        }
        let signature = header::decode(segments.signature)?;
        // Without names nobody can tell a key that was followed by another from the one that signed.
        let has_no_name = header.kid.is_none() || key.name().is_none();
        let verified = key.verify(segments.signed.as_bytes(), &signature);
        verified.map_err(|error| Unfit {
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
            // Whoever names none is the nameless one's, if there is one.
            (keys, kid) => keys
                .iter()
                .find(|key| key.name() == kid)
                .ok_or(kid.map_or(UNNAMED, |_| UNKNOWN)),
        }
    }
}

/// The algorithms of keys without `alg` that a source was told, one for each type.
#[derive(Clone, Debug, Default)]
pub(in crate::token) struct DefaultAlgorithms(Vec<TokenAlgorithm>);

impl DefaultAlgorithms {
    /// The last one of a type is what counts.
    pub(in crate::token) fn add(&mut self, algorithm: TokenAlgorithm) {
        self.0.retain(|other| !other.shares_keys_with(algorithm));
        self.0.push(algorithm);
    }

    pub(in crate::token) fn of(&self, keys: VerifyingKeys) -> Result<VerifyingKeys, KeyError> {
        let mut algorithms = self.0.iter().copied();
        algorithms.try_fold(keys, VerifyingKeys::default_algorithm)
    }
}

/// Why no key of a set finds a signature good.
pub(in crate::token) struct Unfit {
    pub(in crate::token) error: TokenError,
    /// Whether a key may that isn't in the set.
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
