//! PEM and DER around keys.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::KeyError;

/// Blocks that say nothing about the key: tools write the name of its curve before it.
const PARAMETERS: &str = "EC PARAMETERS";

/// The one key of a PEM text, if it has one of these labels. Of several, nobody could say which one
/// counts.
pub(super) fn from_pem(text: &[u8], labels: &[&str]) -> Result<Vec<u8>, KeyError> {
    let blocks = pem::parse_many(text).map_err(|_| KeyError::Unreadable)?;
    let mut keys = blocks.into_iter().filter(|block| block.tag() != PARAMETERS);
    match (keys.next(), keys.next()) {
        (Some(key), None) if labels.contains(&key.tag()) => Ok(key.into_contents()),
        _ => Err(KeyError::Unreadable),
    }
}

/// The content of a text that is one SEQUENCE and nothing more (X.690, 8.1.3 and 10.1). Libraries
/// pass over what follows, and another reader may take that for the key.
pub(super) fn one_sequence(der: &[u8]) -> Result<&[u8], KeyError> {
    match content_of_sequence(der) {
        Some((length, content)) if length == content.len() => Ok(content),
        _ => Err(KeyError::Unreadable),
    }
}

/// The length that a SEQUENCE states, and all that follows that.
fn content_of_sequence(der: &[u8]) -> Option<(usize, &[u8])> {
    let [0x30, first, rest @ ..] = der else {
        return None;
    };
    if *first < 0x80 {
        return Some((usize::from(*first), rest));
    }
    let (length, rest) = rest.split_at_checked(usize::from(*first & 0x7f))?;
    let is_shortest = length.first() != Some(&0) && (1..=3).contains(&length.len());
    let length = length.iter().try_fold(0_usize, |sum, byte| {
        sum.checked_mul(256)?.checked_add(usize::from(*byte))
    })?;
    (is_shortest && length >= 0x80).then_some((length, rest))
}

/// Whether it looks like a key or a certificate: PEM, DER, DER in base64, JWK, SSH. Using one as a
/// secret would let everyone sign who has read it (RFC 8725 section 2.1).
pub(super) fn is_known_to_all(secret: &[u8]) -> bool {
    let contains = |needle: &[u8]| secret.windows(needle.len()).any(|part| part == needle);
    contains(b"-----BEGIN ")
        || contains(b"-----END ")
        || contains(b"\"kty\"")
        || secret.starts_with(b"ssh-")
        || secret.starts_with(b"ecdsa-sha2-")
        || is_key_in_der(secret)
        || is_key_in_base64(secret)
}

fn is_key_in_der(der: &[u8]) -> bool {
    // The object identifiers of RSA, of elliptic curves, and of Ed25519 (RFC 8410).
    const OIDS: [&[u8]; 3] = [
        &[6, 9, 42, 134, 72, 134, 247, 13, 1, 1, 1],
        &[6, 7, 42, 134, 72, 206, 61, 2, 1],
        &[6, 3, 43, 101, 112],
    ];
    let contains = |needle: &[u8]| der.windows(needle.len()).any(|part| part == needle);
    let names_a_type = der.first() == Some(&0x30) && OIDS.into_iter().any(contains);
    // PKCS #1 (RFC 8017) begins with a number.
    let is_rsa = one_sequence(der).is_ok_and(|content| content.first() == Some(&2));
    names_a_type || is_rsa
}

/// The lines of PEM without its first and last, or an entry of `x5c`.
fn is_key_in_base64(text: &[u8]) -> bool {
    let is_begun = text.trim_ascii_start().starts_with(b"M");
    let dense = || {
        let bytes = text.iter().copied();
        bytes
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect::<Vec<_>>()
    };
    is_begun
        && STANDARD
            .decode(dense())
            .is_ok_and(|der| is_key_in_der(&der))
}
