//! Signatures on curves: numbers out of range, other encodings, points of small order.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..][..2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// `a + b` of numbers of one length, big-endian, without what is carried out.
fn sum(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let digits = a.iter().zip(b).rev().map(|(a, b)| {
        let digit = u16::from(*a)
            .saturating_add((*b).into())
            .saturating_add(carry);
        carry = digit >> 8;
        digit.to_le_bytes()[0]
    });
    let mut sum: Vec<_> = digits.collect();
    sum.reverse();
    sum
}

/// `a - b`, where `a` is the larger.
fn difference(a: &[u8], b: &[u8]) -> Vec<u8> {
    let inverted: Vec<_> = b.iter().map(|byte| !byte).collect();
    let mut one = vec![0; a.len()];
    *one.last_mut().unwrap() = 1;
    sum(&sum(a, &inverted), &one)
}

fn one(length: usize) -> Vec<u8> {
    let mut one = vec![0; length];
    *one.last_mut().unwrap() = 1;
    one
}

/// `SEQUENCE { INTEGER, INTEGER }`, each with its leading zero.
fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let number = |number: &[u8]| {
        let length = u8::try_from(number.len().saturating_add(1)).unwrap();
        [&[2, length, 0], number].concat()
    };
    let content = [number(r), number(s)].concat();
    [&[0x30, u8::try_from(content.len()).unwrap()], &content[..]].concat()
}

/// The orders: SEC 2 sections 2.4.2 and 2.5.1.
const CURVES: [(TokenAlgorithm, &str); 2] = [
    (
        TokenAlgorithm::Es256,
        "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
    ),
    (
        TokenAlgorithm::Es384,
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    ),
];

#[test]
fn of_ecdsa_only_the_fixed_form_in_range_counts() {
    for (algorithm, order) in CURVES {
        let key = SigningKey::generate(algorithm).unwrap();
        let message = b"header.payload";
        let signature = key.sign(message).unwrap();
        let n = bytes(order);
        let (r, s) = signature.split_at(n.len());
        let (zero, one) = (vec![0; n.len()], one(n.len()));
        let (more, less) = (sum(&n, &one), difference(&n, &one));
        let most = vec![0xff; n.len()];
        let minus = |number: &[u8]| difference(&n, number);
        let wide = |number: &[u8]| [&[0], number].concat();
        for (name, signature, is_good) in [
            ("as it was made", signature.clone(), true),
            // The standard has both: a token's text is no name of the token.
            ("-s", [r, &minus(s)].concat(), true),
            ("-r", [&minus(r), s].concat(), false),
            ("-r, -s", [minus(r), minus(s)].concat(), false),
            ("s, r", [s, r].concat(), false),
            ("r alone", r.to_vec(), false),
            ("one byte short", signature[1..].to_vec(), false),
            (
                "one byte cut",
                signature[..signature.len() - 1].to_vec(),
                false,
            ),
            ("one byte more", [&signature[..], &[0]].concat(), false),
            ("a zero before", [&[0], &signature[..]].concat(), false),
            ("each a byte longer", [wide(r), wide(s)].concat(), false),
            ("twice", signature.repeat(2), false),
            ("nothing", Vec::new(), false),
            ("DER", der(r, s), false),
            ("DER of -s", der(r, &minus(s)), false),
            ("DER, more behind", [der(r, s), vec![0]].concat(), false),
            ("DER of zeros", vec![0x30, 6, 2, 1, 0, 2, 1, 0], false),
        ] {
            let verified = key.verifying().verify(message, &signature);
            let verified = verified.map_err(|error| error.kind());
            let expected = if is_good {
                Ok(())
            } else {
                Err(Kind::BadSignature)
            };
            assert_eq!(verified, expected, "{algorithm} {name}");
        }
        let numbers = [&zero, &one, &less, &n, &more, &most].map(Vec::as_slice);
        let pairs = numbers.iter().flat_map(|r| numbers.map(|s| (*r, s)));
        let halves = numbers.iter().flat_map(|odd| [(r, *odd), (*odd, s)]);
        for (r, s) in pairs.chain(halves) {
            let odd = [r, s].concat();
            assert!(key.verifying().verify(message, &odd).is_err(), "{odd:x?}");
        }
        let other = SigningKey::generate(algorithm).unwrap();
        assert!(other.verifying().verify(message, &signature).is_err());
    }
}

fn ed25519(point: &[u8]) -> Result<VerifyingKey, KeyError> {
    let jwk = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, encode(point));
    VerifyingKey::from_jwk(jwk.as_bytes())
}

/// RFC 8037 appendix A.4.
const JWS: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
const SIGNATURE: &str =
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
/// RFC 8037 appendix A.2.
const POINT: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
/// The order of the base point, big-endian (RFC 8032 section 5.1).
const L: &str = "1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed";
/// The `y` of the points whose order divides eight, little-endian, and other encodings of them.
const SMALL: [&str; 8] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

#[test]
fn of_ed25519_a_number_is_below_the_order_and_a_point_is_the_signers() {
    let key = ed25519(&URL_SAFE_NO_PAD.decode(POINT).unwrap()).unwrap();
    let signature = URL_SAFE_NO_PAD.decode(SIGNATURE).unwrap();
    let verdict = |signature: &[u8]| {
        let verified = key.verify(JWS.as_bytes(), &signature.to_vec());
        verified.map_err(|error| error.kind())
    };
    assert_eq!(verdict(&signature), Ok(()));
    let reversed = |bytes: &[u8]| bytes.iter().rev().copied().collect::<Vec<_>>();
    let (r, s) = signature.split_at(32);
    let order = bytes(L);
    let mut more = reversed(s);
    // 2^256 is less than seventeen times the order.
    for times in 1..16 {
        let larger = sum(&more, &order);
        assert!(larger > more, "{times}");
        more = larger;
        let forged = [r, &reversed(&more)].concat();
        assert_eq!(verdict(&forged), Err(Kind::BadSignature), "s + {times} l");
    }
    let minus = reversed(&difference(&order, &reversed(s)));
    let negative = |point: &[u8]| {
        let mut point = point.to_vec();
        point[31] ^= 0x80;
        point
    };
    for (name, signature) in [
        ("63 bytes", signature[..63].to_vec()),
        ("its last 63 bytes", signature[1..].to_vec()),
        ("65 bytes", [&signature[..], &[0]].concat()),
        ("a zero before", [&[0], &signature[..]].concat()),
        ("twice", signature.repeat(2)),
        ("nothing", Vec::new()),
        (
            "114 bytes, as of Ed448",
            [&signature[..], &[0; 50]].concat(),
        ),
        ("r, -s", [r, &minus].concat()),
        ("-r, s", [&negative(r), s].concat()),
        ("-r, -s", [negative(r), minus].concat()),
        ("s, r", [s, r].concat()),
        ("big-endian", [reversed(r), reversed(s)].concat()),
        ("s = 0", [r, &[0; 32]].concat()),
        ("s = l", [r, &reversed(&order)].concat()),
        ("s = 2^256 - 1", [r, &[0xff; 32]].concat()),
    ] {
        assert_eq!(verdict(&signature), Err(Kind::BadSignature), "{name}");
    }
    for point in SMALL.map(bytes) {
        for r in [negative(&point), point] {
            for s in [
                vec![0; 32],
                reversed(&one(32)),
                reversed(&order),
                s.to_vec(),
            ] {
                let forged = [&r[..], &s].concat();
                assert_eq!(verdict(&forged), Err(Kind::BadSignature), "{forged:x?}");
            }
        }
    }
}

/// The cases of "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko, 2020) on which libraries
/// differ: message, key, R, S. The two that are good took the private key; the equation that is
/// checked has no cofactor.
const TAMING: [(&str, [&str; 4], Result<bool, KeyError>); 10] = [
    (
        "key and R of small order, S = 0",
        [
            "8c93255d71dcab10e8f379c26200f3c7bd5f09d9bc3068d3ef4edeb4853022b6",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "0000000000000000000000000000000000000000000000000000000000000000",
        ],
        Err(KeyError::SmallOrder),
    ),
    (
        "a key of small order",
        [
            "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
            "a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        ],
        Err(KeyError::SmallOrder),
    ),
    (
        "R of small order",
        [
            "aebf3f2601a0c8c5d39cc7d8911642f740b78168218da8471772b35f9d35b9ab",
            "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            "8c4bd45aecaca5b24fb97bc10ac27ac8751a7dfe1baff8b953ec9f5833ca260e",
        ],
        Ok(true),
    ),
    (
        "key and R of mixed order",
        [
            "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
            "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
            "9046a64750444938de19f227bb80485e92b83fdb4b6506c160484c016cc1852f",
            "87909e14428a7a1d62e9f22f3d3ad7802db02eb2e688b6c52fcd6648a98bd009",
        ],
        Ok(true),
    ),
    (
        "good only with the cofactor",
        [
            "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
            "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
            "160a1cb0dc9c0258cd0a7d23e94d8fa878bcb1925f2c64246b2dee1796bed512",
            "5ec6bc982a269b723e0668e540911a9a6a58921d6925e434ab10aa7940551a09",
        ],
        Ok(false),
    ),
    (
        "good only with the cofactor, reduced first",
        [
            "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
            "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
            "21122a84e0b5fca4052f5b1235c80a537878b38f3142356b2c2384ebad4668b7",
            "e40bc836dac0f71076f9abe3a53f9c03c1ceeeddb658d0030494ace586687405",
        ],
        Ok(false),
    ),
    (
        "S above the order",
        [
            "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
            "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
            "e96f66be976d82e60150baecff9906684aebb1ef181f67a7189ac78ea23b6c0e",
            "547f7690a0e2ddcd04d87dbc3490dc19b3b3052f7ff0538cb68afb369ba3a514",
        ],
        Ok(false),
    ),
    (
        "S far above the order",
        [
            "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
            "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
            "8ce5b96c8f26d0ab6c47958c9e68b937104cd36e13c33566acd2fe8d38aa1942",
            "7e71f98a473474f2f13f06f97c20d58cc3f54b8bd0d272f42b695dd7e89a8c22",
        ],
        Ok(false),
    ),
    (
        "R above the prime",
        [
            "fdaebc429f4a735932a160da1301080c13280eea8bc280d1b392c6b9e6ba3a5a",
            "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "454d370c8d9fc323a41450f8d513eafeb5b0697390c1e505a0d4ddc71f566607",
        ],
        Ok(false),
    ),
    (
        "R above the prime, reduced first",
        [
            "84b698d39be126ff55fe45079e6c8bf64a0d7db6994560b4e96b7021eb39c1a1",
            "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "084d5b99c2a9463d9c8bd5026916996984eeec87ddf1d3be329006ace1b37b09",
        ],
        Ok(false),
    ),
];

#[test]
fn the_disputed_cases_of_ed25519_have_one_verdict() {
    for (name, [message, point, r, s], expected) in TAMING {
        let signature = [bytes(r), bytes(s)].concat();
        let verdict =
            ed25519(&bytes(point)).map(|key| key.verify(&bytes(message), &signature).is_ok());
        assert_eq!(verdict, expected, "{name}");
    }
}

#[test]
fn the_other_edwards_curve_has_no_name_here() {
    let point = encode([7; 57]);
    for (members, expected) in [
        (format!(r#""crv":"Ed448","x":"{point}""#), KeyError::Foreign),
        (
            format!(r#""crv":"Ed448","x":"{point}","alg":"EdDSA""#),
            KeyError::Foreign,
        ),
        (
            format!(r#""crv":"Ed448","x":"{point}","alg":"Ed448""#),
            KeyError::Foreign,
        ),
        (
            format!(r#""crv":"Ed448","x":"{POINT}","alg":"EdDSA""#),
            KeyError::Foreign,
        ),
        (
            format!(r#""crv":"Ed25519","x":"{POINT}","alg":"Ed448""#),
            KeyError::Foreign,
        ),
        (
            format!(r#""crv":"Ed25519","x":"{POINT}","alg":"Ed25519ph""#),
            KeyError::Foreign,
        ),
        (
            format!(r#""crv":"Ed25519","x":"{point}","alg":"EdDSA""#),
            KeyError::Unreadable,
        ),
    ] {
        let jwk = format!(r#"{{"kty":"OKP",{members}}}"#);
        let read = VerifyingKey::from_jwk(jwk.as_bytes());
        assert_eq!(read.unwrap_err(), expected, "{members}");
    }
    let key = ed25519(&URL_SAFE_NO_PAD.decode(POINT).unwrap()).unwrap();
    let (_, payload) = JWS.split_once('.').unwrap();
    for alg in ["Ed448", "ed25519", "EDDSA", "EdDSA ", "ES256", "Ed25519"] {
        let header = encode(format!(r#"{{"alg":"{alg}"}}"#));
        let jws = format!("{header}.{payload}.{SIGNATURE}");
        let refused = VerifyingKeys::from(key.clone()).verify(&jws);
        assert_eq!(refused.unwrap_err().kind(), Kind::Unsupported, "{alg}");
    }
}
