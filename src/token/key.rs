//! Keys, each pinned to its one algorithm.
//!
//! Which algorithm is used is never the token's to say: the header is compared with the key's, not obeyed.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto::aws_lc::DEFAULT_PROVIDER};

use super::{IssueError, TokenConfigError, TokenError, TokenErrorKind, secret::SECRET_LENGTH_MIN};

/// An algorithm, and what `alg` calls it (RFC 7518 section 3.1).
#[derive(Clone, Copy)]
struct Pin {
    algorithm: Algorithm,
    name: &'static str,
}

const HS256: Pin = Pin {
    algorithm: Algorithm::HS256,
    name: "HS256",
};

/// A key that checks signatures.
///
/// The library's factories are called directly: its process-wide provider is the application's to
/// install, and panics when both backends are in the build and neither was chosen.
#[derive(Clone)]
pub(super) struct VerifyingKey {
    pin: Pin,
    key: DecodingKey,
}

impl VerifyingKey {
    pub(super) fn hs256(secret: &[u8]) -> Result<Self, TokenConfigError> {
        long_enough(secret)?;
        Ok(Self {
            pin: HS256,
            key: DecodingKey::from_secret(secret),
        })
    }

    /// Refuses every `alg` but the key's own, letter by letter: `none` in any spelling is just another one.
    pub(super) fn check_algorithm(&self, alg: &str) -> Result<(), TokenError> {
        if alg == self.pin.name {
            Ok(())
        } else {
            Err(TokenError::new(
                TokenErrorKind::Unsupported,
                "the token's algorithm is not the key's",
            ))
        }
    }

    /// Compared by the library, in constant time; its verifiers are generic over `Vec<u8>`.
    pub(super) fn verify(&self, signed: &[u8], signature: &Vec<u8>) -> Result<(), TokenError> {
        (DEFAULT_PROVIDER.verifier_factory)(&self.pin.algorithm, &self.key)
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
        write!(f, "VerifyingKey({})", self.pin.name)
    }
}

/// A key that makes signatures.
pub(super) struct SigningKey {
    pin: Pin,
    key: EncodingKey,
}

impl SigningKey {
    pub(super) fn hs256(secret: &[u8]) -> Result<Self, TokenConfigError> {
        long_enough(secret)?;
        Ok(Self {
            pin: HS256,
            key: EncodingKey::from_secret(secret),
        })
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IssueError> {
        (DEFAULT_PROVIDER.signer_factory)(&self.pin.algorithm, &self.key)
            .ok()
            .and_then(|signer| signer.try_sign(message).ok())
            .ok_or(IssueError::Signing)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.pin.name)
    }
}

fn long_enough(secret: &[u8]) -> Result<(), TokenConfigError> {
    if secret.len() < SECRET_LENGTH_MIN {
        return Err(TokenConfigError::SecretTooShort);
    }
    Ok(())
}
