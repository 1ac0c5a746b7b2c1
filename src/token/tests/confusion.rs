//! One key taken for another: public text as a secret, a secret beside public keys, secrets that
//! are short for their hash.

use aws_lc_rs::hmac;
use base64::engine::general_purpose::STANDARD;

use super::{encodings::public_der, *};

const PUBLIC: [TokenAlgorithm; 3] = [
    TokenAlgorithm::Rs256,
    TokenAlgorithm::Es256,
    TokenAlgorithm::EdDsa,
];
const HASHES: [(TokenAlgorithm, usize, hmac::Algorithm); 3] = [
    (TokenAlgorithm::Hs256, 32, hmac::HMAC_SHA256),
    (TokenAlgorithm::Hs384, 48, hmac::HMAC_SHA384),
    (TokenAlgorithm::Hs512, 64, hmac::HMAC_SHA512),
];

#[test]
fn a_secret_is_as_long_as_its_hash_to_the_byte() {
    for (algorithm, length, _) in HASHES {
        for (count, is_good) in [(0, false), (1, false), (length - 1, false), (length, true)] {
            let secret = vec![7; count];
            let jwk = format!(
                r#"{{"kty":"oct","alg":"{algorithm}","k":"{}"}}"#,
                encode(&secret)
            );
            let expected = (!is_good).then_some(KeyError::SecretTooShort);
            for read in [
                VerifyingKey::from_secret(algorithm, &secret).map(drop),
                VerifyingKey::from_jwk(jwk.as_bytes()).map(drop),
                SigningKey::from_secret(algorithm, &secret).map(drop),
                SigningKey::from_jwk(jwk.as_bytes()).map(drop),
                VerifyingKeys::from_jwks(format!(r#"{{"keys":[{jwk}]}}"#).as_bytes()).map(drop),
            ] {
                assert_eq!(read.err(), expected, "{algorithm}, {count} bytes");
            }
        }
    }
    // A tag cut to the length of another algorithm's, or to nothing.
    for (algorithm, length, hash) in HASHES {
        let secret = [7; 64];
        let keys = VerifyingKeys::from(VerifyingKey::from_secret(algorithm, &secret).unwrap());
        let signed = format!("{}.e30", encode(format!(r#"{{"alg":"{algorithm}"}}"#)));
        let tag = hmac::sign(&hmac::Key::new(hash, &secret), signed.as_bytes());
        let jws = |tag: &[u8]| keys.verify(&format!("{signed}.{}", encode(tag)));
        assert_eq!(jws(tag.as_ref()).unwrap(), b"{}");
        for cut in [1, length / 2, length - 1] {
            let error = jws(&tag.as_ref()[..cut]).unwrap_err();
            assert_eq!(error.kind(), Kind::BadSignature, "{algorithm}, {cut} bytes");
        }
        let error = jws(&[tag.as_ref(), &[0]].concat()).unwrap_err();
        assert_eq!(error.kind(), Kind::BadSignature, "{algorithm}, a byte more");
    }
}

/// The texts of a public key that an attacker might sign with, for want of a secret.
fn texts(algorithm: TokenAlgorithm, key: &SigningKey) -> Vec<(&'static str, Vec<u8>)> {
    let der = public_der(algorithm, key);
    let armoured = |label: &str| pem::encode(&pem::Pem::new(label, der.clone()));
    let pem = armoured("PUBLIC KEY");
    let unix = pem.replace("\r\n", "\n");
    let jwks = VerifyingKeys::from(key.verifying().clone()).to_jwks();
    vec![
        ("PEM", pem.clone().into_bytes()),
        ("PEM, LF", unix.clone().into_bytes()),
        ("PEM, LF, no last", unix.trim_end().as_bytes().to_vec()),
        ("PEM, CRLF", unix.replace('\n', "\r\n").into_bytes()),
        (
            "PEM, another label",
            armoured("RSA PUBLIC KEY").into_bytes(),
        ),
        ("PEM, a certificate's", armoured("CERTIFICATE").into_bytes()),
        ("PEM in JSON", unix.replace('\n', "\\n").into_bytes()),
        ("DER in base64", STANDARD.encode(&der).into_bytes()),
        ("JWKS", jwks.into_bytes()),
        ("DER", der),
    ]
}

#[test]
fn no_token_is_signed_with_the_text_of_a_public_key() {
    let clock = Arc::new(ManualClock::default());
    for algorithm in PUBLIC {
        let key = SigningKey::generate(algorithm).unwrap();
        let public = key.verifying().clone();
        let verifier = TokenVerifier::builder(public).with_clock(clock.clone());
        let verifier = verifier.build().unwrap();
        let kid = key.verifying().name().unwrap();
        for (name, text) in texts(algorithm, &key) {
            for (hash, _, tag) in HASHES {
                // Whatever its length: that it is public is found first.
                let refused = VerifyingKey::from_secret(hash, &text).unwrap_err();
                assert_eq!(refused, KeyError::PublicSecret, "{algorithm} {name}");
                let header = format!(r#"{{"alg":"{hash}","kid":"{kid}"}}"#);
                let claims = format!(r#"{{"sub":"me","exp":{}}}"#, NOW + 60);
                let signed = format!("{}.{}", encode(header), encode(claims));
                let tag = hmac::sign(&hmac::Key::new(tag, &text), signed.as_bytes());
                let forged = format!("{signed}.{}", encode(tag));
                let refused = verifier.verify(&forged).unwrap_err();
                assert_eq!(refused.kind(), Kind::Unsupported, "{algorithm} {name}");
            }
            let settings = TokenVerifier::hs256(&text).build().unwrap_err();
            assert_eq!(settings, TokenConfigError::Key(KeyError::PublicSecret));
            let jwk = format!(r#"{{"kty":"oct","k":"{}"}}"#, encode(&text));
            let read = VerifyingKey::from_jwk(jwk.as_bytes());
            assert_eq!(
                read.unwrap_err(),
                KeyError::PublicSecret,
                "{algorithm} {name}"
            );
        }
    }
}

#[test]
fn a_secret_and_a_public_key_are_never_in_one_set() {
    use KeyError as E;
    let rsa = SigningKey::generate(TokenAlgorithm::Rs256).unwrap();
    let named = rsa.kid("1").unwrap();
    let set = VerifyingKeys::from(named.verifying().clone()).to_jwks();
    let rsa = set
        .trim_start_matches(r#"{"keys":["#)
        .trim_end_matches("]}");
    let oct = |more: &str| format!(r#"{{"kty":"oct","k":"{}"{more}}}"#, encode([7; 64]));
    let (same, other) = (oct(r#","kid":"1""#), oct(r#","kid":"2""#));
    let twice = rsa.replace("RS256", "PS256");
    let (nameless, foreign) = (oct(""), oct(r#","kid":"1","use":"enc""#));
    for (name, keys, own, public) in [
        ("RSA", vec![rsa], None, None),
        ("oct", vec![&same], None, Some(E::NotPublic)),
        (
            "RSA, oct",
            vec![rsa, &same],
            Some(E::Mixed),
            Some(E::NotPublic),
        ),
        (
            "oct, RSA",
            vec![&same, rsa],
            Some(E::Mixed),
            Some(E::NotPublic),
        ),
        (
            "two names",
            vec![rsa, &other],
            Some(E::Mixed),
            Some(E::NotPublic),
        ),
        (
            "nameless",
            vec![rsa, &nameless],
            Some(E::Mixed),
            Some(E::NotPublic),
        ),
        (
            "for encryption",
            vec![&foreign, rsa],
            None,
            Some(E::NotPublic),
        ),
        (
            "RSA twice",
            vec![rsa, rsa],
            Some(E::DuplicateKid),
            Some(E::DuplicateKid),
        ),
        (
            "RS256, PS256",
            vec![rsa, &twice],
            Some(E::DuplicateKid),
            Some(E::DuplicateKid),
        ),
    ] {
        let set = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
        let read = VerifyingKeys::from_jwks(set.as_bytes());
        assert_eq!(read.err(), own, "{name}");
        let read = VerifyingKeys::from_public_jwks(set.as_bytes());
        assert_eq!(read.err(), public, "{name}, published");
    }
}
