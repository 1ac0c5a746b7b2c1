//! Ed25519 keys that anyone can sign for.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

use super::*;

/// Little-endian.
fn number(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    (bytes[0], bytes[31]) = (first, last);
    bytes
}

fn from_jwk(point: &[u8]) -> Result<VerifyingKey, KeyError> {
    let jwk = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, encode(point));
    VerifyingKey::from_jwk(jwk.as_bytes())
}

fn from_der(point: &[u8]) -> Result<VerifyingKey, KeyError> {
    // RFC 8410 section 4.
    let prefix = [48, 42, 48, 5, 6, 3, 43, 101, 112, 3, 33, 0];
    VerifyingKey::from_der(TokenAlgorithm::EdDsa, &[&prefix, point].concat())
}

#[test]
fn a_point_of_small_order_lets_anybody_sign_and_is_no_key() {
    // R is the base point and S is 1: S B = R + k A, whatever k, where A is the identity.
    let (identity, base) = (number(1, 0, 0), number(0x58, 0x66, 0x66));
    let forged = [base, number(1, 0, 0)].concat();
    let trusting = UnparsedPublicKey::new(&ED25519, identity);
    for message in ["whatever", "anybody", "likes"] {
        let taken = trusting.verify(message.as_bytes(), &forged);
        taken.expect("it is for the user of the library to refuse such a key");
    }
    let of_order_eight = [
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ]
    .map(|hex| {
        let digits = |at: usize| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap();
        std::array::from_fn(digits)
    });
    let small = [identity, number(0xec, 0xff, 0x7f), number(0, 0, 0)];
    for mut point in small.into_iter().chain(of_order_eight) {
        for sign in [0, 0x80] {
            point[31] = point[31] & 0x7f | sign;
            assert_eq!(from_jwk(&point).unwrap_err(), KeyError::SmallOrder);
            assert_eq!(from_der(&point).unwrap_err(), KeyError::SmallOrder);
        }
    }
}

#[test]
fn a_point_is_written_in_one_way() {
    for first in 0xed..=0xff {
        for last in [0x7f, 0xff] {
            let point = number(first, 0xff, last);
            assert_eq!(from_jwk(&point).unwrap_err(), KeyError::Unreadable);
            assert_eq!(from_der(&point).unwrap_err(), KeyError::Unreadable);
        }
    }
    for _ in 0..64 {
        let key = SigningKey::generate(TokenAlgorithm::EdDsa).unwrap();
        VerifyingKeys::from_public_jwks(
            VerifyingKeys::from(key.verifying().clone())
                .to_jwks()
                .as_bytes(),
        )
        .unwrap();
    }
}
