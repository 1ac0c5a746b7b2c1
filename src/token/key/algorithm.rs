//! The algorithms, and what each requires of a key.

use std::fmt;

use aws_lc_rs::{
    hmac,
    signature::{
        self, EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm, RsaEncoding, RsaParameters,
    },
};
use jsonwebtoken::Algorithm;

/// How tokens are signed (RFC 7518 section 3.1, RFC 8037 section 3.1, RFC 9864). `none` is not
/// among them. In a JWK, COSE's `ESP256` and `ESP384` are read as `ES256` and `ES384`; the tokens
/// of such a key have JOSE's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256; a secret of at least 32 bytes.
    Hs256,
    /// HMAC with SHA-384; a secret of at least 48 bytes.
    Hs384,
    /// HMAC with SHA-512; a secret of at least 64 bytes.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256; like all of RSA with 2,048 to 8,192 bits.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519, as RFC 8037 calls it: `EdDSA`.
    EdDsa,
    /// Ed25519 by its own name (RFC 9864). A key has one of the two names, and its tokens have the
    /// same.
    Ed25519,
}

/// The library's implementation of an algorithm.
#[derive(Clone, Copy)]
pub(super) enum Implementation {
    Secret {
        hmac: hmac::Algorithm,
        length_min: usize,
    },
    Rsa {
        verify: &'static RsaParameters,
        sign: &'static dyn RsaEncoding,
    },
    Ec {
        verify: &'static EcdsaVerificationAlgorithm,
        sign: &'static EcdsaSigningAlgorithm,
        curve: &'static str,
        /// The length of one coordinate, in bytes.
        length: usize,
    },
    Ed,
}

impl TokenAlgorithm {
    const ALL: [Self; 13] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
        Self::Ed25519,
    ];

    /// Its name in `alg`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Ed25519 => "Ed25519",
        }
    }

    /// The algorithm with exactly that name.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }

    /// Whether anyone who can verify can also sign.
    #[must_use]
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }

    /// Whether a key of one algorithm could be a key of the other.
    pub(super) fn shares_keys_with(self, other: Self) -> bool {
        match (self.implementation(), other.implementation()) {
            (Implementation::Secret { .. }, Implementation::Secret { .. })
            | (Implementation::Rsa { .. }, Implementation::Rsa { .. })
            | (Implementation::Ed, Implementation::Ed) => true,
            _ => self == other,
        }
    }

    /// Its name in the library that verifies signatures.
    pub(super) const fn named(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Hs384 => Algorithm::HS384,
            Self::Hs512 => Algorithm::HS512,
            Self::Rs256 => Algorithm::RS256,
            Self::Rs384 => Algorithm::RS384,
            Self::Rs512 => Algorithm::RS512,
            Self::Ps256 => Algorithm::PS256,
            Self::Ps384 => Algorithm::PS384,
            Self::Ps512 => Algorithm::PS512,
            Self::Es256 => Algorithm::ES256,
            Self::Es384 => Algorithm::ES384,
            Self::EdDsa | Self::Ed25519 => Algorithm::EdDSA,
        }
    }

    pub(super) fn implementation(self) -> Implementation {
        let secret = |hmac, length_min| Implementation::Secret { hmac, length_min };
        let rsa = |verify, sign| Implementation::Rsa { verify, sign };
        match self {
            Self::Hs256 => secret(hmac::HMAC_SHA256, 32),
            Self::Hs384 => secret(hmac::HMAC_SHA384, 48),
            Self::Hs512 => secret(hmac::HMAC_SHA512, 64),
            Self::Rs256 => rsa(
                &signature::RSA_PKCS1_2048_8192_SHA256,
                &signature::RSA_PKCS1_SHA256,
            ),
            Self::Rs384 => rsa(
                &signature::RSA_PKCS1_2048_8192_SHA384,
                &signature::RSA_PKCS1_SHA384,
            ),
            Self::Rs512 => rsa(
                &signature::RSA_PKCS1_2048_8192_SHA512,
                &signature::RSA_PKCS1_SHA512,
            ),
            Self::Ps256 => rsa(
                &signature::RSA_PSS_2048_8192_SHA256,
                &signature::RSA_PSS_SHA256,
            ),
            Self::Ps384 => rsa(
                &signature::RSA_PSS_2048_8192_SHA384,
                &signature::RSA_PSS_SHA384,
            ),
            Self::Ps512 => rsa(
                &signature::RSA_PSS_2048_8192_SHA512,
                &signature::RSA_PSS_SHA512,
            ),
            Self::Es256 => Implementation::Ec {
                verify: &signature::ECDSA_P256_SHA256_FIXED,
                sign: &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                curve: "P-256",
                length: 32,
            },
            Self::Es384 => Implementation::Ec {
                verify: &signature::ECDSA_P384_SHA384_FIXED,
                sign: &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
                curve: "P-384",
                length: 48,
            },
            Self::EdDsa | Self::Ed25519 => Implementation::Ed,
        }
    }
}

impl fmt::Display for TokenAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
