//! Why a key can't be used.

/// A key, or a set of keys, can't be used to sign or to verify tokens. The text contains nothing of
/// the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// RFC 7518 section 3.2: a secret has at least as many bits as the hash.
    #[error("key: a secret has at least 32 bytes for HS256, 48 for HS384, 64 for HS512")]
    SecretTooShort,
    /// Public text is no secret: PEM or DER of a public key, a JWK, an SSH key.
    #[error("key: the text of a key or a certificate is no secret")]
    PublicSecret,
    /// It isn't a key in the expected encoding, or not of the algorithm's type or curve.
    #[error("key: unreadable, or not of the algorithm's type or curve")]
    Unreadable,
    /// Too small to be safe, or too large to handle.
    #[error("key: an RSA modulus has 2,048 to 8,192 bits")]
    RsaLength,
    /// An even modulus, or an exponent that is even, below 65,537 or beyond 33 bits (FIPS 186-5
    /// appendix A.1.1).
    #[error("key: not the modulus or the exponent of an RSA key")]
    RsaNumbers,
    /// The modulus has the fingerprint of a generator whose keys can be factored (ROCA,
    /// CVE-2017-15361).
    #[error("key: an RSA modulus that can be factored (ROCA)")]
    Roca,
    /// An Ed25519 point whose order divides eight: anyone can sign for it.
    #[error("key: an Ed25519 point of small order, for which anybody can sign")]
    SmallOrder,
    /// Its `use` or `key_ops` is for something else (RFC 7517 sections 4.2 and 4.3).
    #[error("key: its use or key_ops is not that of signatures")]
    WrongUse,
    /// Its `kty` or `crv` isn't supported, or it is for encryption.
    #[error("key: of a type that is not used here")]
    Foreign,
    /// Its `alg` is not one of its type.
    #[error("key: its alg is not one of its type or curve")]
    WrongAlgorithm,
    /// A public set contains a secret or a private key.
    #[error("keys: a private key or a secret in a public set")]
    NotPublic,
    /// A `kid` has 1 to 255 bytes.
    #[error("kid: 1 to 255 bytes")]
    Kid,
    /// Each of several keys must have a `kid`; at most one may be added for tokens without.
    #[error("keys: one of several has no kid, or one too many")]
    NoKid,
    /// Two keys have the same name.
    #[error("keys: a kid is there twice")]
    DuplicateKid,
    /// Mixing secrets and public keys risks confusing one for the other.
    #[error("keys: symmetric and asymmetric ones are mixed")]
    Mixed,
    /// There are no keys.
    #[error("keys: there is none to verify signatures with")]
    Empty,
    /// There are too many keys to verify signatures with.
    #[error("keys: more than 64")]
    TooMany,
    /// The set is not JSON as in RFC 7517, or has a duplicate member.
    #[error("keys: not a well-formed JWK or JWK set")]
    Malformed,
    /// The system provided no randomness, or the library generated no key.
    #[error("key: none could be made")]
    Generate,
}
