//! Keys that sign.

use std::fmt;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, RsaPublicKeyComponents},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    KeyError, TokenAlgorithm, VerifyingKey,
    algorithm::Implementation,
    encoding::{from_pem, one_sequence},
    jwk::{Jwk, Private, members},
    material::PublicNumbers,
    verifying::hmac_key,
};
use crate::token::IssueError;

/// A key that signs, with the key that verifies. Redacted in `Debug`.
///
/// A private key is named by its thumbprint (RFC 7638) unless another name is set; a secret is
/// unnamed.
///
/// ```
/// use tollgate::token::{SigningKey, TokenAlgorithm, TokenIssuer};
/// use tollgate::store::{SessionId, UserId};
///
/// let key = SigningKey::generate(TokenAlgorithm::Es256)?;
/// let issuer = TokenIssuer::with_key(key).issuer("https://id.example.com").build()?;
/// let token = issuer.issue(&UserId::new("user-1")?, &SessionId::new("session-1")?, [])?;
/// assert!(issuer.verifier().build()?.verify(token.expose()).is_ok());
/// assert!(issuer.jwks().contains("P-256"), "for everybody to verify by");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SigningKey {
    material: Material,
    verifying: VerifyingKey,
}

enum Material {
    Secret(Box<hmac::Key>),
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl SigningKey {
    /// A secret; its raw bytes are the key.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_secret(algorithm: TokenAlgorithm, secret: &[u8]) -> Result<Self, KeyError> {
        Ok(Self {
            material: Material::Secret(Box::new(hmac_key(algorithm, secret)?)),
            verifying: VerifyingKey::from_secret(algorithm, secret)?,
        })
    }

    /// A private key in PEM: `PRIVATE KEY` (PKCS #8), or `RSA PRIVATE KEY`, or `EC PRIVATE KEY`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(algorithm: TokenAlgorithm, pem: &[u8]) -> Result<Self, KeyError> {
        let labels = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];
        Self::from_der(algorithm, &Zeroizing::new(from_pem(pem, &labels)?))
    }

    /// A private key in DER: PKCS #8, or PKCS #1 for RSA, or SEC 1 for elliptic curves.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_der(algorithm: TokenAlgorithm, der: &[u8]) -> Result<Self, KeyError> {
        let unreadable = |_| KeyError::Unreadable;
        one_sequence(der)?;
        let material = match algorithm.implementation() {
            Implementation::Secret { .. } => return Err(KeyError::Unreadable),
            Implementation::Rsa { .. } => Material::Rsa(
                RsaKeyPair::from_pkcs8(der)
                    .or_else(|_| RsaKeyPair::from_der(der))
                    .map_err(unreadable)?,
            ),
            Implementation::Ec { sign, .. } => Material::Ec(
                EcdsaKeyPair::from_pkcs8(sign, der)
                    .or_else(|_| EcdsaKeyPair::from_private_key_der(sign, der))
                    .map_err(unreadable)?,
            ),
            Implementation::Ed => {
                Material::Ed(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(unreadable)?)
            }
        };
        Self::named_by_thumbprint(algorithm, material)
    }

    /// A private key, or a secret, as a JWK (RFC 7517). The algorithm is its `alg`; without one, as
    /// for [`VerifyingKey::from_jwk`]. The name is its `kid`. An RSA key must include its primes
    /// and their exponents and coefficient.
    ///
    /// ```
    /// use tollgate::token::{SigningKey, TokenAlgorithm};
    ///
    /// // RFC 8037 appendix A.1
    /// let jwk = br#"{"kty":"OKP","crv":"Ed25519","kid":"2026-01",
    ///     "d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    /// let key = SigningKey::from_jwk(jwk)?;
    /// assert_eq!(key.verifying().algorithm(), TokenAlgorithm::EdDsa);
    /// assert_eq!(key.verifying().name(), Some("2026-01"));
    /// # Ok::<(), tollgate::token::KeyError>(())
    /// ```
    ///
    /// # Errors
    /// [`KeyError`]; `Unreadable` also if the private part is missing, or doesn't belong to the
    /// public one.
    pub fn from_jwk(json: &[u8]) -> Result<Self, KeyError> {
        let unreadable = |_| KeyError::Unreadable;
        let jwk = Jwk::read(json)?;
        let (algorithm, private) = jwk.private()?;
        let key = match (algorithm.implementation(), private) {
            (Implementation::Secret { .. }, Private::Secret(secret)) => {
                Self::from_secret(algorithm, &secret)?
            }
            (Implementation::Rsa { .. }, Private::Rsa(numbers)) => {
                let pair = RsaKeyPair::from_components(&numbers).map_err(unreadable)?;
                Self::named_by_thumbprint(algorithm, Material::Rsa(pair))?
            }
            (Implementation::Ec { sign, .. }, Private::Ec { d, point }) => {
                let pair = EcdsaKeyPair::from_private_key_and_public_key(sign, &d, &point);
                Self::named_by_thumbprint(algorithm, Material::Ec(pair.map_err(unreadable)?))?
            }
            (Implementation::Ed, Private::Ed { d, x }) => {
                let pair = Ed25519KeyPair::from_seed_and_public_key(&d, &x);
                Self::named_by_thumbprint(algorithm, Material::Ed(pair.map_err(unreadable)?))?
            }
            _ => return Err(KeyError::Unreadable),
        };
        match jwk.name() {
            Some(kid) => key.kid(kid),
            None => Ok(key),
        }
    }

    /// A new private key; 2,048 bits for RSA. [`to_pem`](Self::to_pem) exports it for storage.
    ///
    /// # Errors
    /// [`KeyError::Generate`]; always for a secret, which
    /// [`SigningSecret`](crate::token::SigningSecret) generates and stores.
    pub fn generate(algorithm: TokenAlgorithm) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Generate;
        let material = match algorithm.implementation() {
            Implementation::Secret { .. } => return Err(KeyError::Generate),
            Implementation::Rsa { .. } => {
                Material::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?)
            }
            Implementation::Ec { sign, .. } => {
                Material::Ec(EcdsaKeyPair::generate(sign).map_err(failed)?)
            }
            Implementation::Ed => Material::Ed(Ed25519KeyPair::generate().map_err(failed)?),
        };
        Self::named_by_thumbprint(algorithm, material)
    }

    /// Sets another name.
    ///
    /// # Errors
    /// [`KeyError::Kid`].
    pub fn kid(mut self, kid: &str) -> Result<Self, KeyError> {
        self.verifying = self.verifying.kid(kid)?;
        Ok(self)
    }

    /// The private key as PKCS #8 in PEM, to be stored where nobody else can read it.
    ///
    /// # Errors
    /// [`KeyError::Unreadable`] for a secret.
    pub fn to_pem(&self) -> Result<SecretString, KeyError> {
        let unreadable = |_| KeyError::Unreadable;
        let der = match &self.material {
            Material::Secret(_) => return Err(KeyError::Unreadable),
            Material::Rsa(pair) => pkcs8(pair)?,
            Material::Ec(pair) => {
                let document = pair.to_pkcs8v1().map_err(unreadable)?;
                Zeroizing::new(document.as_ref().to_vec())
            }
            Material::Ed(pair) => pkcs8(pair)?,
        };
        let block = pem::Pem::new("PRIVATE KEY", der.as_slice());
        Ok(SecretString::from(pem::encode(&block)))
    }

    /// The key that verifies its signatures.
    #[must_use]
    pub fn verifying(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// In bytes.
    pub(in crate::token) fn signature_length(&self) -> usize {
        match (&self.material, self.verifying.algorithm().implementation()) {
            (Material::Secret(key), _) => key.algorithm().tag_len(),
            (Material::Rsa(pair), _) => pair.public_modulus_len(),
            // Two numbers: of ECDSA, or the point and the number of EdDSA.
            (Material::Ec(_), Implementation::Ec { length, .. }) => length.saturating_mul(2),
            (Material::Ec(_) | Material::Ed(_), _) => 64,
        }
    }

    pub(in crate::token) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IssueError> {
        let failed = |_| IssueError::Signing;
        match (&self.material, self.verifying.algorithm().implementation()) {
            (Material::Secret(key), _) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            (Material::Rsa(pair), Implementation::Rsa { sign, .. }) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(sign, &SystemRandom::new(), message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
            (Material::Ec(pair), _) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(failed),
            (Material::Ed(pair), _) => Ok(pair.sign(message).as_ref().to_vec()),
            (Material::Rsa(_), _) => Err(IssueError::Signing),
        }
    }

    fn named_by_thumbprint(
        algorithm: TokenAlgorithm,
        material: Material,
    ) -> Result<Self, KeyError> {
        let numbers = match &material {
            Material::Secret(_) => return Err(KeyError::Unreadable),
            Material::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                PublicNumbers::rsa(&public.n, &public.e)
            }
            Material::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let (_, xy) = point.split_first().ok_or(KeyError::Unreadable)?;
                PublicNumbers::Ec { xy: xy.into() }
            }
            Material::Ed(pair) => PublicNumbers::Ed {
                x: pair.public_key().as_ref().into(),
            },
        };
        let verifying = VerifyingKey::public(algorithm, numbers)?;
        let text = members(&verifying).ok_or(KeyError::Unreadable)?.to_string();
        let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(text));
        Ok(Self {
            material,
            verifying: verifying.kid(&thumbprint)?,
        })
    }
}

fn pkcs8(pair: &impl AsDer<Pkcs8V1Der<'static>>) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let der = pair.as_der().map_err(|_| KeyError::Unreadable)?;
    Ok(Zeroizing::new(der.as_ref().to_vec()))
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.verifying.algorithm())
            .field("kid", &self.verifying.name())
            .finish_non_exhaustive()
    }
}
