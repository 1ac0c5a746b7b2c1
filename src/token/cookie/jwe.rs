//! The only supported kind of JWE: compact, `dir` with `A256GCM` (RFC 7516 section 7.1, RFC 7518
//! sections 4.5 and 5.3).

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use zeroize::Zeroizing;

use crate::token::{TokenError, TokenErrorKind, header::decode, jose::Members};

/// `{"alg":"dir","enc":"A256GCM"}`: the header of every cookie of NextAuth 4.
const DIR_A256GCM: &str = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0";

/// The longest first segment, in bytes: it is parsed before anything is known of its sender.
const HEADER_LENGTH_MAX: usize = 1_024;

const MEMBERS: Members<2> = Members {
    read: ["alg", "enc"],
    refused: &[
        "crit", "b64", "zip", "jwk", "jku", "x5u", "x5c", "epk", "apu", "apv", "iv", "tag", "p2s",
        "p2c",
    ],
};

/// The tag's length, in bytes.
const TAG_LENGTH: usize = 16;

/// The exact info string from which NextAuth 4 derives its key.
const NEXT_AUTH_INFO: &[u8] = b"NextAuth.js Generated Encryption Key";

/// The key that cookies are encrypted with.
pub(super) struct CookieKey(LessSafeKey);

impl CookieKey {
    /// HKDF-SHA256 without salt, as NextAuth 4 does it. `None` if the library refuses.
    pub(super) fn next_auth(secret: &[u8]) -> Option<Self> {
        let extracted = Salt::new(HKDF_SHA256, b"").extract(secret);
        let derived = extracted.expand(&[NEXT_AUTH_INFO], &AES_256_GCM).ok()?;
        Some(Self(LessSafeKey::new(UnboundKey::from(derived))))
    }

    /// Decrypts a cookie, if it was made with this key and not changed since.
    pub(super) fn open(&self, cookie: &str) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let mut segments = cookie.split('.');
        let (Some(header), Some(key), Some(nonce), Some(ciphertext), Some(tag), None) = (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) else {
            return Err(TokenError::malformed("a cookie has five segments"));
        };
        check_header(header)?;
        if !key.is_empty() {
            return Err(TokenError::malformed("`dir` encrypts no key"));
        }
        let nonce: [u8; NONCE_LEN] = decode(nonce)?
            .try_into()
            .map_err(|_| TokenError::malformed("the nonce has 12 bytes"))?;
        let tag = decode(tag)?;
        if tag.len() != TAG_LENGTH {
            return Err(TokenError::malformed("the tag has 16 bytes"));
        }
        let mut sealed = Zeroizing::new(decode(ciphertext)?);
        sealed.extend_from_slice(&tag);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = self
            .0
            .open_in_place(nonce, Aad::from(header), &mut sealed)
            .map_err(|_| {
                let reason = "the cookie was made with another secret, or changed since";
                TokenError::new(TokenErrorKind::BadSignature, reason)
            })?
            .len();
        sealed.truncate(length);
        Ok(sealed)
    }
}

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey(..)")
    }
}

/// Refuses every header except one with `dir` and `A256GCM` and nothing else that changes the
/// meaning.
fn check_header(segment: &str) -> Result<(), TokenError> {
    if segment == DIR_A256GCM {
        return Ok(());
    }
    if segment.len() > HEADER_LENGTH_MAX {
        return Err(TokenError::malformed("the header is too long"));
    }
    let json = decode(segment)?;
    let found = MEMBERS.find(&json)?;
    let [algorithm, encryption] = &found.texts;
    let known = algorithm.as_deref() == Some("dir") && encryption.as_deref() == Some("A256GCM");
    if found.asks_too_much || !known {
        let reason = "the header asks for something other than `dir` with A256GCM";
        return Err(TokenError::new(TokenErrorKind::Unsupported, reason));
    }
    Ok(())
}
