//! The only supported kind of JWE: compact, `dir` with `A256GCM` (RFC 7516 section 7.1, RFC 7518
//! sections 4.5 and 5.3).

use std::{borrow::Cow, fmt};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use zeroize::Zeroizing;

use crate::token::{
    TokenError, TokenErrorKind,
    header::decode,
    strict::{Checked, DEPTH_MAX, Names, Text, set_once, skip},
};

/// `{"alg":"dir","enc":"A256GCM"}`: the header of every cookie of NextAuth 4.
const DIR_A256GCM: &str = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0";

/// The longest first segment, in bytes: it is parsed before anything is known of its sender.
const HEADER_LENGTH_MAX: usize = 1_024;

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
    let header: Header<'_> = serde_json::from_slice(&json)
        .map_err(|_| TokenError::malformed("the header is not a well-formed JSON object"))?;
    let known = header.algorithm.as_deref() == Some("dir")
        && header.encryption.as_deref() == Some("A256GCM");
    if header.asks_too_much || !known {
        let reason = "the header asks for something other than `dir` with A256GCM";
        return Err(TokenError::new(TokenErrorKind::Unsupported, reason));
    }
    Ok(())
}

#[derive(Default)]
struct Header<'de> {
    algorithm: Option<Cow<'de, str>>,
    encryption: Option<Cow<'de, str>>,
    asks_too_much: bool,
}

impl<'de> Deserialize<'de> for Header<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JOSE header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut header = Header::default();
        let mut names = Names::default();
        while let Some(Text(name)) = members.next_key()? {
            match name.as_ref() {
                "alg" => set_once(&mut header.algorithm, members.next_value::<Text<'_>>()?.0)?,
                "enc" => set_once(&mut header.encryption, members.next_value::<Text<'_>>()?.0)?,
                "crit" | "b64" | "zip" | "jwk" | "jku" | "x5u" | "x5c" | "epk" | "apu" | "apv"
                | "iv" | "tag" | "p2s" | "p2c" => {
                    header.asks_too_much = true;
                    skip(&mut members)?;
                }
                _ => {
                    names.admit(name)?;
                    members.next_value_seed(Checked {
                        depth: DEPTH_MAX.saturating_sub(1),
                    })?;
                }
            }
        }
        Ok(header)
    }
}
