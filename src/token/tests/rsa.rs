//! RSA signatures that another reading of RFC 8017 would take, and keys that are weak.
//!
//! Each row of `rsa.txt` was computed with the private key. With a small exponent and a careless
//! verifier, its like is made without one: Bleichenbacher's forgery of 2006 and its kin have
//! something behind the digest, inside its name, or in place of the padding.

use super::{private_jwk::N, *};

const ROWS: &str = include_str!("rsa.txt");

fn key(n: &str, e: &str, algorithm: &str) -> Result<VerifyingKey, KeyError> {
    let jwk = format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}","alg":"{algorithm}"}}"#);
    VerifyingKey::from_jwk(jwk.as_bytes())
}

#[test]
fn a_signature_is_written_in_one_way() {
    let mut counts = [0, 0];
    for row in ROWS.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<_> = row.split(' ').collect();
        let [name, algorithm, payload, verdict, signature] = columns[..] else {
            panic!("five columns: {row}")
        };
        let keys = VerifyingKeys::from(key(N, "AQAB", algorithm).unwrap());
        let header = encode(format!(r#"{{"alg":"{algorithm}"}}"#));
        let jws = format!("{header}.{}.{signature}", encode(payload));
        let outcome = keys.verify(&jws).map_err(|error| error.kind());
        let expected = match verdict {
            "good" => Ok(payload.as_bytes().to_vec()),
            _ => Err(Kind::BadSignature),
        };
        assert_eq!(outcome, expected, "{algorithm} {name}");
        counts[usize::from(verdict == "good")] += 1;
    }
    assert_eq!(counts, [60, 5]);
}

#[test]
fn a_weak_or_oddly_written_key_is_told_apart() {
    let n = URL_SAFE_NO_PAD.decode(N).unwrap();
    let even = [&n[..255], &[n[255] & 0xfe]].concat();
    let of = |bits: usize| {
        let mut modulus = n[..bits / 8].to_vec();
        *modulus.last_mut().unwrap() |= 1;
        modulus
    };
    let zeros = |count: usize| [&vec![0; count][..], &n].concat();
    let good = key(N, "AQAB", "RS256").unwrap();
    let published = |key: VerifyingKey| VerifyingKeys::from(key).to_jwks();
    for (name, modulus, exponent, expected) in [
        ("as it was made", n.clone(), &[1, 0, 1][..], None),
        ("a leading zero", zeros(1), &[1, 0, 1], None),
        ("leading zeros", zeros(9), &[0, 1, 0, 1], None),
        ("e = 0", n.clone(), &[0], Some(KeyError::RsaNumbers)),
        ("e = 1", n.clone(), &[1], Some(KeyError::RsaNumbers)),
        ("e = 2", n.clone(), &[2], Some(KeyError::RsaNumbers)),
        ("e = 3", n.clone(), &[3], Some(KeyError::RsaNumbers)),
        (
            "e = 65,536",
            n.clone(),
            &[1, 0, 0],
            Some(KeyError::RsaNumbers),
        ),
        (
            "e = 65,538",
            n.clone(),
            &[1, 0, 2],
            Some(KeyError::RsaNumbers),
        ),
        ("e = n", n.clone(), &n, Some(KeyError::RsaNumbers)),
        ("no e", n.clone(), &[], Some(KeyError::RsaNumbers)),
        ("n even", even, &[1, 0, 1], Some(KeyError::RsaNumbers)),
        ("512 bits", of(512), &[1, 0, 1], Some(KeyError::RsaLength)),
        (
            "1,024 bits",
            of(1_024),
            &[1, 0, 1],
            Some(KeyError::RsaLength),
        ),
        (
            "1,024 bits behind as many zeros",
            [vec![0; 128], of(1_024)].concat(),
            &[1, 0, 1],
            Some(KeyError::RsaLength),
        ),
        (
            "2,040 bits",
            of(2_040),
            &[1, 0, 1],
            Some(KeyError::RsaLength),
        ),
        ("n = 0", vec![0; 256], &[1, 0, 1], Some(KeyError::RsaLength)),
    ] {
        for algorithm in ["RS256", "PS512"] {
            let read = key(&encode(&modulus), &encode(exponent), algorithm);
            assert_eq!(read.as_ref().err(), expected.as_ref(), "{name}");
            if algorithm == "RS256"
                && let Ok(key) = read
            {
                assert_eq!(published(key), published(good.clone()), "{name}");
            }
        }
    }
}
