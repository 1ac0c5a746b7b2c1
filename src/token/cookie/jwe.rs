//! The two supported kinds of JWE: compact, `dir`, with `A256GCM` or `A256CBC-HS512` (RFC 7516
//! section 7.1, RFC 7518 sections 4.5, 5.2.5 and 5.3).

mod cbc;

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use zeroize::Zeroizing;

use self::cbc::CbcHmacKey;
use crate::token::{TokenError, TokenErrorKind, header::decode, jose::Members};

/// `{"alg":"dir","enc":"A256GCM"}`: the header of every cookie of NextAuth 4.
const DIR_A256GCM: &str = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0";

/// The longest first segment, in bytes: it is parsed before anything is known of its sender.
const HEADER_LENGTH_MAX: usize = 1_024;

const MEMBERS: Members<3> = Members {
    read: ["alg", "enc", "kid"],
    refused: &[
        "crit", "b64", "zip", "jwk", "jku", "x5u", "x5c", "epk", "apu", "apv", "iv", "tag", "p2s",
        "p2c",
    ],
};

/// The tag's length with `A256GCM`, in bytes.
const GCM_TAG_LENGTH: usize = 16;

/// The exact info string from which NextAuth 4 derives its key.
const NEXT_AUTH_INFO: &[u8] = b"NextAuth.js Generated Encryption Key";

/// How the content is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    A256Gcm,
    A256CbcHs512,
}

impl Encryption {
    const fn name(self) -> &'static str {
        match self {
            Self::A256Gcm => "A256GCM",
            Self::A256CbcHs512 => "A256CBC-HS512",
        }
    }
}

/// A cookie's segments. The second, an encrypted key, is empty with `dir`.
pub(super) struct Segments<'a> {
    pub(super) header: &'a str,
    nonce: &'a str,
    ciphertext: &'a str,
    tag: &'a str,
}

impl<'a> Segments<'a> {
    pub(super) fn of(cookie: &'a str) -> Result<Self, TokenError> {
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
        if !key.is_empty() {
            return Err(TokenError::malformed("`dir` encrypts no key"));
        }
        Ok(Self {
            header,
            nonce,
            ciphertext,
            tag,
        })
    }
}

/// Reads the header, which asks for `dir` and this encryption, and for nothing else that changes
/// the meaning. Returns the `kid`.
pub(super) fn read_header(
    segment: &str,
    encryption: Encryption,
) -> Result<Option<String>, TokenError> {
    if encryption == Encryption::A256Gcm && segment == DIR_A256GCM {
        return Ok(None);
    }
    if segment.len() > HEADER_LENGTH_MAX {
        return Err(TokenError::malformed("the header is too long"));
    }
    let json = decode(segment)?;
    let found = MEMBERS.find(&json)?;
    let [algorithm, asked, kid] = found.texts;
    let is_known =
        algorithm.as_deref() == Some("dir") && asked.as_deref() == Some(encryption.name());
    if found.asks_too_much || !is_known {
        let reason = match encryption {
            Encryption::A256Gcm => "the header asks for something other than `dir` with A256GCM",
            Encryption::A256CbcHs512 => {
                "the header asks for something other than `dir` with A256CBC-HS512"
            }
        };
        return Err(TokenError::new(TokenErrorKind::Unsupported, reason));
    }
    Ok(kid.map(Into::into))
}

/// The key that cookies are encrypted with.
pub(super) enum CookieKey {
    Gcm(LessSafeKey),
    Cbc(Box<CbcHmacKey>),
}

impl CookieKey {
    /// HKDF-SHA256 without salt, as NextAuth 4 does it. `None` if the library refuses.
    pub(super) fn next_auth(secret: &[u8]) -> Option<Self> {
        let extracted = Salt::new(HKDF_SHA256, b"").extract(secret);
        let derived = extracted.expand(&[NEXT_AUTH_INFO], &AES_256_GCM).ok()?;
        Some(Self::Gcm(LessSafeKey::new(UnboundKey::from(derived))))
    }

    /// HKDF-SHA256 with the cookie's name as its salt, as Auth.js 5 does it. `None` if the library
    /// refuses.
    pub(super) fn auth_js(secret: &[u8], cookie_name: &str) -> Option<Self> {
        let key = CbcHmacKey::auth_js(secret, cookie_name)?;
        Some(Self::Cbc(Box::new(key)))
    }

    /// Whether this may be the key that a header names. NextAuth 4 names none.
    pub(super) fn may_be(&self, kid: Option<&str>) -> bool {
        match (self, kid) {
            (Self::Cbc(key), Some(kid)) => key.id() == kid,
            _ => true,
        }
    }

    /// Decrypts a cookie, if it was made with this key and not changed since.
    pub(super) fn open(&self, segments: &Segments<'_>) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let nonce = decode(segments.nonce)?;
        let tag = decode(segments.tag)?;
        let sealed = Zeroizing::new(decode(segments.ciphertext)?);
        match self {
            Self::Gcm(key) => open_gcm(key, segments.header, &nonce, &tag, sealed),
            Self::Cbc(key) => key.open(segments.header, &nonce, &tag, sealed),
        }
    }
}

fn open_gcm(
    key: &LessSafeKey,
    header: &str,
    nonce: &[u8],
    tag: &[u8],
    mut sealed: Zeroizing<Vec<u8>>,
) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    let nonce: [u8; NONCE_LEN] = nonce
        .try_into()
        .map_err(|_| TokenError::malformed("the nonce has 12 bytes"))?;
    if tag.len() != GCM_TAG_LENGTH {
        return Err(TokenError::malformed("the tag has 16 bytes"));
    }
    sealed.extend_from_slice(tag);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let length = key
        .open_in_place(nonce, Aad::from(header), &mut sealed)
        .map_err(|_| NOT_OURS)?
        .len();
    sealed.truncate(length);
    Ok(sealed)
}

pub(super) const NOT_OURS: TokenError = TokenError::new(
    TokenErrorKind::BadSignature,
    "the cookie was made with another secret, or changed since",
);

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey(..)")
    }
}
