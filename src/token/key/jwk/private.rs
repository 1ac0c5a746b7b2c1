//! The private part of a JWK (RFC 7518 section 6).

use aws_lc_rs::rsa::{KeyPairComponents, PublicKeyComponents};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{Jwk, bytes};
use crate::token::key::{KeyError, TokenAlgorithm, algorithm::Implementation};

type Secret = Zeroizing<Vec<u8>>;

/// The components of a private key.
pub(in crate::token::key) enum Private {
    Secret(Secret),
    Rsa(Box<KeyPairComponents<Vec<u8>, Secret>>),
    /// The private number, and the uncompressed point.
    Ec {
        d: Secret,
        point: Vec<u8>,
    },
    /// The seed, and the public key.
    Ed {
        d: Secret,
        x: Vec<u8>,
    },
}

fn secret(text: Option<&SecretString>) -> Result<Secret, KeyError> {
    let text = text.ok_or(KeyError::Unreadable)?;
    URL_SAFE_NO_PAD
        .decode(text.expose_secret())
        .map(Zeroizing::new)
        .map_err(|_| KeyError::Unreadable)
}

impl Jwk {
    /// The algorithm and the private part. The library checks that it belongs to the public part.
    pub(in crate::token::key) fn private(&self) -> Result<(TokenAlgorithm, Private), KeyError> {
        let algorithm = self.algorithm()?;
        self.check_use("sign")?;
        let d = self.d.as_ref();
        let private = match algorithm.implementation() {
            Implementation::Secret { .. } => Private::Secret(secret(self.k.as_ref())?),
            // Three primes or more: implementations that don't support them must not use the key
            // (section 6.3.2.7).
            Implementation::Rsa { .. } if self.oth.is_some() => return Err(KeyError::Foreign),
            Implementation::Rsa { .. } => Private::Rsa(Box::new(KeyPairComponents {
                public_key: PublicKeyComponents {
                    n: bytes(self.n.as_ref())?,
                    e: bytes(self.e.as_ref())?,
                },
                d: secret(d)?,
                p: secret(self.p.as_ref())?,
                q: secret(self.q.as_ref())?,
                dP: secret(self.dp.as_ref())?,
                dQ: secret(self.dq.as_ref())?,
                qInv: secret(self.qi.as_ref())?,
            })),
            Implementation::Ec { length, .. } => {
                let (x, y) = (bytes(self.x.as_ref())?, bytes(self.y.as_ref())?);
                let d = secret(d)?;
                // Sections 6.2.1.2 and 6.2.2.1: full length, including leading zeros.
                if [x.len(), y.len(), d.len()] != [length; 3] {
                    return Err(KeyError::Unreadable);
                }
                let point = [vec![4], x, y].concat();
                Private::Ec { d, point }
            }
            Implementation::Ed => {
                let (d, x) = (secret(d)?, bytes(self.x.as_ref())?);
                if d.len() != 32 {
                    return Err(KeyError::Unreadable);
                }
                Private::Ed { d, x }
            }
        };
        Ok((algorithm, private))
    }
}
