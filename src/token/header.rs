//! The three segments, and what the header may contain (RFC 7515 section 4).

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{TokenError, TokenErrorKind, jose::Members};

/// `{"alg":"HS256","typ":"JWT"}`: the header of most tokens.
const HS256_JWT: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// The longest first segment, in bytes: it is parsed before anything is known of its sender.
const HEADER_LENGTH_MAX: usize = 4 * 1_024;
/// The same where it may hold a chain of certificates.
const HEADER_WITH_KEYS_LENGTH_MAX: usize = 12 * 1_024;

/// The longest `kid`, in bytes.
const KID_LENGTH_MAX: usize = 255;

const READ: [&str; 3] = ["alg", "typ", "kid"];

/// What a token says of the key that it was signed with: that key, its certificate, or an address
/// of either (RFC 7515 sections 4.1.2 to 4.1.6). It is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderKeys {
    Refused,
    Ignored,
}

impl HeaderKeys {
    const fn length_max(self) -> usize {
        match self {
            Self::Refused => HEADER_LENGTH_MAX,
            Self::Ignored => HEADER_WITH_KEYS_LENGTH_MAX,
        }
    }

    const fn members(self) -> Members<3> {
        let refused: &[&str] = match self {
            Self::Refused => &["crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"],
            Self::Ignored => &["crit", "b64", "zip", "enc"],
        };
        Members {
            read: READ,
            refused,
        }
    }
}

/// A token split at its two dots.
pub(super) struct Segments<'a> {
    pub(super) header: &'a str,
    pub(super) claims: &'a str,
    pub(super) signature: &'a str,
    /// What is signed: the first two with the dot between them.
    pub(super) signed: &'a str,
}

impl<'a> Segments<'a> {
    pub(super) fn of(token: &'a str) -> Result<Self, TokenError> {
        const NOT_THREE: TokenError = TokenError::malformed("a token has three segments");
        let (signed, signature) = token.rsplit_once('.').ok_or(NOT_THREE)?;
        let (header, claims) = signed.split_once('.').ok_or(NOT_THREE)?;
        if claims.contains('.') {
            return Err(NOT_THREE);
        }
        if signature.is_empty() {
            return Err(TokenError::new(
                TokenErrorKind::BadSignature,
                "the token is not signed",
            ));
        }
        Ok(Self {
            header,
            claims,
            signature,
            signed,
        })
    }
}

/// Strict base64url: no padding, no white space, no leftover bits (RFC 7515 section 2, RFC 4648
/// section 3.5).
pub(super) fn decode(segment: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(segment)
        .map_err(|_| TokenError::malformed("a segment is not canonical base64url"))
}

/// The accepted content of a header.
pub(super) struct Header<'a> {
    pub(super) algorithm: Cow<'a, str>,
    pub(super) kid: Option<Cow<'a, str>>,
    pub(super) typ: Option<Cow<'a, str>>,
}

/// Reads the first segment, using `json` as a buffer; refuses a header that demands something
/// unsupported.
pub(super) fn read<'a>(
    segment: &str,
    json: &'a mut Vec<u8>,
    header_keys: HeaderKeys,
) -> Result<Header<'a>, TokenError> {
    if segment == HS256_JWT {
        return Ok(Header {
            algorithm: Cow::Borrowed("HS256"),
            kid: None,
            typ: Some(Cow::Borrowed("JWT")),
        });
    }
    if segment.len() > header_keys.length_max() {
        return Err(TokenError::malformed("the header is too long"));
    }
    *json = decode(segment)?;
    let found = header_keys.members().find(json)?;
    if found.asks_too_much {
        return Err(TokenError::new(
            TokenErrorKind::Unsupported,
            "the header has a member that is not supported",
        ));
    }
    let [algorithm, typ, kid] = found.texts;
    if kid.as_ref().is_some_and(|kid| kid.len() > KID_LENGTH_MAX) {
        return Err(TokenError::malformed("the kid is longer than 255 bytes"));
    }
    Ok(Header {
        algorithm: algorithm.ok_or(TokenError::malformed("the header names no algorithm"))?,
        kid,
        typ,
    })
}

/// What a header must have, and may have.
#[derive(Clone, Copy)]
pub(super) struct Expected<'a> {
    /// If `None`, `JWT` or none.
    pub(super) typ: Option<&'a str>,
    pub(super) header_keys: HeaderKeys,
}

/// Media types are compared case-insensitively, and `application/` may be omitted (RFC 7515 section
/// 4.1.9).
///
/// If none is expected, a token that has a `typ` must have `JWT`: this keeps out ID tokens and
/// logout tokens with an explicit type (RFC 8725 section 3.11).
pub(super) fn check_typ(typ: Option<&str>, expected: Option<&str>) -> Result<(), TokenError> {
    let fits = match (typ, expected) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some(typ), expected) => {
            bare_type(typ).eq_ignore_ascii_case(bare_type(expected.unwrap_or("JWT")))
        }
    };
    if fits {
        Ok(())
    } else {
        Err(TokenError::new(
            TokenErrorKind::WrongUse,
            "the token's typ is not the expected one",
        ))
    }
}

fn bare_type(typ: &str) -> &str {
    match typ.split_at_checked("application/".len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
        _ => typ,
    }
}
