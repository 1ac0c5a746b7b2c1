//! Keys that verify signatures.

use std::{fmt, sync::Arc};

use aws_lc_rs::hmac;
use jsonwebtoken::{DecodingKey, crypto::aws_lc::DEFAULT_PROVIDER};

use super::{
    KeyError, TokenAlgorithm,
    algorithm::Implementation,
    encoding::{from_pem, is_known_to_all},
    jwk::Jwk,
    material::PublicNumbers,
};
use crate::token::{TokenError, TokenErrorKind};

const KID_LENGTH_MAX: usize = 255;

/// A key that verifies signatures, with its single algorithm and optional name. Cloning it
/// increments a reference count.
///
/// Weak keys are refused on construction: short secrets, RSA keys of less than 2,048 bits or with
/// the ROCA fingerprint, points of elliptic curves that aren't on theirs, points of small order,
/// the text of a public key as a secret.
///
/// ```
/// use tollgate::token::{KeyError, TokenAlgorithm, VerifyingKey};
///
/// // RFC 8037 appendix A.2
/// let jwk = br#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
/// let key = VerifyingKey::from_jwk(jwk)?.kid("2026-01")?;
/// assert_eq!(key.algorithm(), TokenAlgorithm::EdDsa);
///
/// let weak = VerifyingKey::from_secret(TokenAlgorithm::Hs256, b"secret").unwrap_err();
/// assert_eq!(weak, KeyError::SecretTooShort);
/// # Ok::<(), KeyError>(())
/// ```
#[derive(Clone)]
pub struct VerifyingKey {
    algorithm: TokenAlgorithm,
    /// Whether the algorithm was implied, by a JWK without `alg`.
    is_implied: bool,
    kid: Option<Arc<str>>,
    /// Whose it is, if its JWK says so; empty if it says so in no text, which is nobody's.
    issuer: Option<Arc<str>>,
    material: Arc<Material>,
}

struct Material {
    key: DecodingKey,
    /// `None` for a secret.
    numbers: Option<PublicNumbers>,
}

impl VerifyingKey {
    /// A secret; its raw bytes are the key.
    ///
    /// # Errors
    /// [`KeyError`]: too short, or the text of a public key.
    pub fn from_secret(algorithm: TokenAlgorithm, secret: &[u8]) -> Result<Self, KeyError> {
        hmac_key(algorithm, secret)?;
        Ok(Self::new(algorithm, DecodingKey::from_secret(secret), None))
    }

    /// A public key in PEM: `PUBLIC KEY`, or `RSA PUBLIC KEY`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(algorithm: TokenAlgorithm, pem: &[u8]) -> Result<Self, KeyError> {
        Self::from_der(
            algorithm,
            &from_pem(pem, &["PUBLIC KEY", "RSA PUBLIC KEY"])?,
        )
    }

    /// A public key in DER: SubjectPublicKeyInfo, or PKCS #1 for RSA.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_der(algorithm: TokenAlgorithm, der: &[u8]) -> Result<Self, KeyError> {
        Self::public(algorithm, PublicNumbers::from_der(algorithm, der)?)
    }

    /// A JWK (RFC 7517): a public key, or a secret. The algorithm is its `alg`; without one,
    /// `RS256` for RSA, `HS256` for a secret, and otherwise that of its curve, unless [another is
    /// set](Self::default_algorithm). A private part is not read.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_jwk(json: &[u8]) -> Result<Self, KeyError> {
        Jwk::read(json)?.verifying()
    }

    /// Sets the name, which tokens contain in their `kid`.
    ///
    /// # Errors
    /// [`KeyError::Kid`] if it is empty or longer than 255 bytes.
    pub fn kid(mut self, kid: &str) -> Result<Self, KeyError> {
        if kid.is_empty() || kid.len() > KID_LENGTH_MAX {
            return Err(KeyError::Kid);
        }
        self.kid = Some(kid.into());
        Ok(self)
    }

    /// The algorithm of a key that came as a JWK without `alg`, for an issuer that signs with
    /// `PS256`, for example, and doesn't declare it. A key with an explicit algorithm keeps it.
    /// Either way it is pinned: a token's header chooses nothing.
    ///
    /// ```
    /// use tollgate::token::{KeyError, TokenAlgorithm, VerifyingKey};
    ///
    /// // RFC 8037 appendix A.2
    /// let jwk = br#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    /// let key = VerifyingKey::from_jwk(jwk)?.default_algorithm(TokenAlgorithm::Ed25519)?;
    /// assert_eq!(key.algorithm(), TokenAlgorithm::Ed25519);
    /// # Ok::<(), KeyError>(())
    /// ```
    ///
    /// # Errors
    /// [`KeyError::WrongAlgorithm`] for an algorithm of another type or curve than the key's,
    /// `SecretTooShort` for one that requires a longer secret.
    pub fn default_algorithm(mut self, algorithm: TokenAlgorithm) -> Result<Self, KeyError> {
        if !self.algorithm.shares_keys_with(algorithm) {
            return Err(KeyError::WrongAlgorithm);
        }
        if !self.is_implied {
            return Ok(self);
        }
        if algorithm.is_symmetric() {
            let secret = self.material.key.try_get_as_bytes();
            hmac_key(algorithm, secret.map_err(|_| KeyError::Unreadable)?)?;
        }
        self.algorithm = algorithm;
        Ok(self)
    }

    /// Its algorithm.
    #[must_use]
    pub fn algorithm(&self) -> TokenAlgorithm {
        self.algorithm
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Marks the algorithm as implied.
    pub(super) fn implied(mut self) -> Self {
        self.is_implied = true;
        self
    }

    /// The issuer that it signs for, if its JWK names one: a member of Microsoft Entra's keys.
    pub(in crate::token) fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    pub(super) fn of_issuer(mut self, issuer: &str) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    pub(super) fn nameless(mut self) -> Self {
        self.kid = None;
        self
    }

    pub(super) fn public(
        algorithm: TokenAlgorithm,
        numbers: PublicNumbers,
    ) -> Result<Self, KeyError> {
        let key = numbers.checked(algorithm)?;
        Ok(Self::new(algorithm, key, Some(numbers)))
    }

    pub(super) fn numbers(&self) -> Option<&PublicNumbers> {
        self.material.numbers.as_ref()
    }

    fn new(algorithm: TokenAlgorithm, key: DecodingKey, numbers: Option<PublicNumbers>) -> Self {
        Self {
            algorithm,
            is_implied: false,
            kid: None,
            issuer: None,
            material: Arc::new(Material { key, numbers }),
        }
    }

    /// Refuses every `alg` that isn't exactly the key's own; `none` in any spelling is just another
    /// one.
    pub(in crate::token) fn check_algorithm(&self, alg: &str) -> Result<(), TokenError> {
        if alg == self.algorithm.as_str() {
            Ok(())
        } else {
            Err(TokenError::new(
                TokenErrorKind::Unsupported,
                "the token's algorithm is not the key's",
            ))
        }
    }

    /// Secrets are compared in constant time, by the library. Its factory is called directly: its
    /// process-wide provider is the application's to install, and panics when both backends are in
    /// the build and neither was chosen.
    pub(in crate::token) fn verify(
        &self,
        signed: &[u8],
        signature: &Vec<u8>,
    ) -> Result<(), TokenError> {
        (DEFAULT_PROVIDER.verifier_factory)(&self.algorithm.named(), &self.material.key)
            .ok()
            .and_then(|verifier| verifier.verify(signed, signature).ok())
            .ok_or(TokenError::new(
                TokenErrorKind::BadSignature,
                "the signature is not the key's",
            ))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey")
            .field("algorithm", &self.algorithm)
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// The key of a secret that is long enough and isn't public text.
pub(super) fn hmac_key(algorithm: TokenAlgorithm, secret: &[u8]) -> Result<hmac::Key, KeyError> {
    let Implementation::Secret { hmac, length_min } = algorithm.implementation() else {
        return Err(KeyError::Unreadable);
    };
    if is_known_to_all(secret) {
        return Err(KeyError::PublicSecret);
    }
    if secret.len() < length_min {
        return Err(KeyError::SecretTooShort);
    }
    Ok(hmac::Key::new(hmac, secret))
}
