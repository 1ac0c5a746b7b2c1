//! The numbers of public keys, whatever their encoding.

use aws_lc_rs::{
    rsa::PublicKey,
    signature::{ED25519, ParsedPublicKey, RsaPublicKeyComponents},
};

use jsonwebtoken::DecodingKey;

use super::{
    KeyError, TokenAlgorithm, algorithm::Implementation, edwards, encoding::one_sequence, rsa,
};

/// A public key by its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PublicNumbers {
    /// Modulus and exponent, without leading zeros.
    Rsa { n: Box<[u8]>, e: Box<[u8]> },
    /// The uncompressed point without its first byte.
    Ec { xy: Box<[u8]> },
    /// 32 bytes.
    Ed { x: Box<[u8]> },
}

impl PublicNumbers {
    /// From SubjectPublicKeyInfo (RFC 5280), or PKCS #1 for RSA.
    pub(super) fn from_der(algorithm: TokenAlgorithm, der: &[u8]) -> Result<Self, KeyError> {
        let unreadable = |_| KeyError::Unreadable;
        one_sequence(der)?;
        match algorithm.implementation() {
            Implementation::Secret { .. } => Err(KeyError::Unreadable),
            Implementation::Rsa { .. } => {
                let key = PublicKey::from_der(der).map_err(unreadable)?;
                let numbers = RsaPublicKeyComponents::<Vec<u8>>::from(&key);
                Ok(Self::rsa(&numbers.n, &numbers.e))
            }
            // The library checks the structure and the curve; in a sequence that it accepts, the
            // point comes last.
            Implementation::Ec { verify, length, .. } => {
                ParsedPublicKey::new(verify, der).map_err(unreadable)?;
                let point = tail(der, length.saturating_mul(2).saturating_add(1))?;
                match point.split_first() {
                    Some((4, xy)) => Ok(Self::Ec { xy: xy.into() }),
                    _ => Err(KeyError::Unreadable),
                }
            }
            Implementation::Ed => {
                ParsedPublicKey::new(&ED25519, der).map_err(unreadable)?;
                let x = tail(der, 32)?.into();
                Ok(Self::Ed { x })
            }
        }
    }

    pub(super) fn rsa(n: &[u8], e: &[u8]) -> Self {
        Self::Rsa {
            n: rsa::trimmed(n).into(),
            e: rsa::trimmed(e).into(),
        }
    }

    /// The key, ready for use with that algorithm; refused if it is of another type, weak, or not a
    /// point of its curve.
    pub(super) fn checked(&self, algorithm: TokenAlgorithm) -> Result<DecodingKey, KeyError> {
        match (algorithm.implementation(), self) {
            (Implementation::Rsa { verify, .. }, Self::Rsa { n, e }) => {
                rsa::check(n, e)?;
                parsed(RsaPublicKeyComponents { n, e }.to_parsed_public_key(verify))?;
                Ok(DecodingKey::from_rsa_raw_components(n, e))
            }
            (Implementation::Ec { verify, length, .. }, Self::Ec { xy })
                if xy.len() == length.saturating_mul(2) =>
            {
                let point = [&[4], &xy[..]].concat();
                parsed(ParsedPublicKey::new(verify, &point))?;
                Ok(DecodingKey::from_ec_der(&point))
            }
            (Implementation::Ed, Self::Ed { x }) => {
                let point: &[u8; 32] = (**x).try_into().map_err(|_| KeyError::Unreadable)?;
                edwards::check(point)?;
                parsed(ParsedPublicKey::new(&ED25519, x))?;
                Ok(DecodingKey::from_ed_der(x))
            }
            _ => Err(KeyError::Unreadable),
        }
    }
}

/// Only checks that the key can be parsed; the library that verifies signatures parses it again,
/// from its numbers.
fn parsed<E>(outcome: Result<ParsedPublicKey, E>) -> Result<(), KeyError> {
    outcome.map(drop).map_err(|_| KeyError::Unreadable)
}

fn tail(der: &[u8], length: usize) -> Result<&[u8], KeyError> {
    der.len()
        .checked_sub(length)
        .and_then(|at| der.get(at..))
        .ok_or(KeyError::Unreadable)
}
