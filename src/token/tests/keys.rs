//! Keys that are accepted or refused, and sets of keys.

mod algorithms;

use super::*;

const ED: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;
const EC: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
const OCT: &str = r#""kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow""#;

fn jwk(members: &str) -> Result<VerifyingKey, KeyError> {
    VerifyingKey::from_jwk(format!("{{{members}}}").as_bytes())
}

fn jwks(keys: &[&str]) -> Result<VerifyingKeys, KeyError> {
    let keys: Vec<_> = keys.iter().map(|key| format!("{{{key}}}")).collect();
    VerifyingKeys::from_jwks(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes())
}

const ASYMMETRIC: [TokenAlgorithm; 5] = [
    TokenAlgorithm::Rs256,
    TokenAlgorithm::Ps512,
    TokenAlgorithm::Es256,
    TokenAlgorithm::Es384,
    TokenAlgorithm::EdDsa,
];

fn issuer(key: SigningKey, clock: &Arc<ManualClock>) -> TokenIssuer {
    TokenIssuer::with_key(key)
        .with_clock(clock.clone())
        .build()
        .unwrap()
}

fn token(issuer: &TokenIssuer) -> IssuedToken {
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    issuer.issue(&user, &session, []).unwrap()
}

#[test]
fn every_algorithm_signs_what_it_verifies() {
    let clock = Arc::new(ManualClock::default());
    for algorithm in ASYMMETRIC {
        let key = SigningKey::generate(algorithm).unwrap();
        let pem = key.to_pem().unwrap();
        let pem = secrecy::ExposeSecret::expose_secret(&pem);
        let again = SigningKey::from_pem(algorithm, pem.as_bytes()).unwrap();
        assert_eq!(
            again.verifying().name(),
            key.verifying().name(),
            "the thumbprint"
        );
        let issuer = issuer(again, &clock);
        let token = token(&issuer);
        assert_eq!(key.sign(b"x").unwrap().len(), key.signature_length());
        // With public text as the secret.
        let published = VerifyingKeys::from_public_jwks(issuer.jwks().as_bytes()).unwrap();
        let verifier = TokenVerifier::builder(published)
            .with_clock(clock.clone())
            .build()
            .unwrap();
        verifier.verify(token.expose()).unwrap();
        let other = SigningKey::generate(algorithm).unwrap();
        let other = VerifyingKeys::from(other.verifying().clone());
        assert_eq!(
            other.verify(token.expose()).unwrap_err().kind(),
            Kind::UnknownKey
        );
        assert!(VerifyingKey::from_secret(algorithm, &[7; 64]).is_err());
        assert!(SigningKey::from_pem(TokenAlgorithm::Hs256, pem.as_bytes()).is_err());
    }
    for (algorithm, length) in [
        (TokenAlgorithm::Hs256, 32),
        (TokenAlgorithm::Hs384, 48),
        (TokenAlgorithm::Hs512, 64),
    ] {
        let short = VerifyingKey::from_secret(algorithm, &vec![7; length - 1]).unwrap_err();
        assert_eq!(short, KeyError::SecretTooShort);
        let key = SigningKey::from_secret(algorithm, &vec![7; length]).unwrap();
        assert_eq!(key.sign(b"x").unwrap().len(), key.signature_length());
        let issuer = issuer(key, &clock);
        let verifier = issuer.verifier().build().unwrap();
        verifier.verify(token(&issuer).expose()).unwrap();
        assert_eq!(issuer.jwks(), r#"{"keys":[]}"#, "no secret is published");
    }
}

#[test]
fn a_key_of_one_type_is_none_of_another() {
    let pem = |algorithm| {
        let key = SigningKey::generate(algorithm).unwrap().to_pem().unwrap();
        secrecy::ExposeSecret::expose_secret(&key).to_owned()
    };
    for made in ASYMMETRIC {
        let pem = pem(made);
        for wanted in ASYMMETRIC {
            let same = made == wanted
                || matches!(
                    (made, wanted),
                    (TokenAlgorithm::Rs256, TokenAlgorithm::Ps512)
                        | (TokenAlgorithm::Ps512, TokenAlgorithm::Rs256)
                );
            let read = SigningKey::from_pem(wanted, pem.as_bytes());
            assert_eq!(read.is_ok(), same, "{made} as {wanted}");
        }
        // A signing key isn't a verifying key.
        assert!(VerifyingKey::from_pem(made, pem.as_bytes()).is_err());
    }
}

/// The key of RFC 7515 appendix A.3.1, as SubjectPublicKeyInfo.
const EC_PEM: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7
6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==
-----END PUBLIC KEY-----
";

#[test]
fn a_public_key_in_pem_is_the_one_in_json() {
    let pem = VerifyingKey::from_pem(TokenAlgorithm::Es256, EC_PEM.as_bytes()).unwrap();
    let keys = |key: VerifyingKey| VerifyingKeys::from(key).to_jwks();
    assert_eq!(keys(pem), keys(jwk(EC).unwrap()));
    for algorithm in [
        TokenAlgorithm::Es384,
        TokenAlgorithm::EdDsa,
        TokenAlgorithm::Rs256,
    ] {
        let other = VerifyingKey::from_pem(algorithm, EC_PEM.as_bytes());
        assert_eq!(other.unwrap_err(), KeyError::Unreadable);
    }
    for text in [
        "",
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
        "AAAA",
    ] {
        assert!(VerifyingKey::from_pem(TokenAlgorithm::Es256, text.as_bytes()).is_err());
    }
}

#[test]
fn what_everybody_may_know_is_no_secret() {
    let der = pem::parse(EC_PEM).unwrap().into_contents();
    for secret in [
        EC_PEM.as_bytes(),
        &der,
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
        format!("{{{ED}}}").as_bytes(),
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ] {
        let refused = VerifyingKey::from_secret(TokenAlgorithm::Hs256, secret).unwrap_err();
        assert_eq!(refused, KeyError::PublicSecret);
        let refused = SigningKey::from_secret(TokenAlgorithm::Hs256, secret).unwrap_err();
        assert_eq!(refused, KeyError::PublicSecret);
    }
}

#[test]
fn keys_that_contradict_themselves_are_refused_with_a_reason() {
    use KeyError as E;
    let short_rsa = format!(r#""kty":"RSA","e":"AQAB","n":"{}""#, encode([0xa7; 128]));
    let odd_rsa = format!(r#""kty":"RSA","e":"Aw","n":"{}""#, encode([0xa7; 256]));
    let long_x = ED.replace("URo", "URoA");
    for (members, error) in [
        (&*format!(r#"{ED},"use":"enc""#), E::Foreign),
        (&format!(r#"{ED},"use":"other""#), E::WrongUse),
        (&format!(r#"{ED},"key_ops":["sign"]"#), E::WrongUse),
        (&format!(r#"{ED},"key_ops":[]"#), E::WrongUse),
        (
            &format!(r#"{ED},"key_ops":["verify","verify"]"#),
            E::WrongUse,
        ),
        (
            &format!(r#"{ED},"key_ops":["verify","encrypt"]"#),
            E::WrongUse,
        ),
        (&format!(r#"{ED},"alg":"ES256""#), E::WrongAlgorithm),
        (&format!(r#"{ED},"alg":"HS256""#), E::WrongAlgorithm),
        (&format!(r#"{EC},"alg":"ES384""#), E::WrongAlgorithm),
        (&format!(r#"{EC},"alg":"ESP384""#), E::WrongAlgorithm),
        (&format!(r#"{EC},"alg":"RS256""#), E::WrongAlgorithm),
        (&format!(r#"{EC},"alg":"none""#), E::Foreign),
        (
            &format!(r#"{EC},"alg":"none","use":"sig""#),
            E::WrongAlgorithm,
        ),
        (&format!(r#"{EC},"alg":"ECDH-ES""#), E::Foreign),
        (&format!(r#"{OCT},"alg":"RS256""#), E::WrongAlgorithm),
        (&format!(r#"{OCT},"alg":"A128KW""#), E::Foreign),
        (&format!(r#"{ED},"kid":"""#), E::Kid),
        (&format!(r#"{ED},"kid":1"#), E::Malformed),
        (&format!(r#"{ED},"kid":"a","kid":"b""#), E::Malformed),
        (&format!(r#"{ED},"x":"AA""#), E::Malformed),
        (&long_x, E::Unreadable),
        (&ED.replace("URo", "UR"), E::Unreadable),
        (&ED.replace("URo", "URp"), E::Unreadable),
        (&ED.replace("URo", "URo="), E::Unreadable),
        (&EC.replace("P-256", "P-384"), E::Unreadable),
        (&EC.replace("f83O", "f83P"), E::Unreadable),
        (&EC.replace("\"x\":\"f8", "\"x\":\"AAf8"), E::Unreadable),
        (&EC.replace("P-256", "secp256k1"), E::Foreign),
        (r#""kty":"oct","k":"""#, E::SecretTooShort),
        (r#""kty":"oct","k":"c2VjcmV0""#, E::SecretTooShort),
        (r#""kty":"oct""#, E::Unreadable),
        (r#""kty":"RSA","n":"AQAB""#, E::Unreadable),
        (&short_rsa, E::RsaLength),
        (&odd_rsa, E::RsaNumbers),
        (r#""kty":"XYZ""#, E::Foreign),
        (r#""alg":"HS256""#, E::Malformed),
    ] {
        assert_eq!(jwk(members).unwrap_err(), error, "{members}");
    }
    for (algorithm, length) in [("HS384", 47), ("HS512", 63)] {
        let secret = encode(vec![7; length]);
        let short = jwk(&format!(
            r#""kty":"oct","alg":"{algorithm}","k":"{secret}""#
        ));
        assert_eq!(short.unwrap_err(), E::SecretTooShort);
    }
    for fine in [
        format!(r#"{ED},"use":"sig","key_ops":["verify"]"#),
        format!(r#"{ED},"alg":"Ed25519""#),
        format!(r#"{EC},"alg":"ESP256""#),
        format!(r#"{OCT},"key_ops":["sign","verify"],"alg":"HS512""#),
        format!(r#"{EC},"d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI","x5t":"AA""#),
    ] {
        jwk(&fine).unwrap();
    }
}

#[test]
fn a_set_is_one_kind_of_keys_each_with_its_name() {
    use KeyError as E;
    let named = |key: &str, kid: &str| format!(r#"{key},"kid":"{kid}""#);
    let (one, two) = (named(ED, "1"), named(EC, "2"));
    let err = |keys: &[&str]| jwks(keys).unwrap_err();
    jwks(&[&one, &two]).unwrap();
    jwks(&[ED]).unwrap();
    assert_eq!(err(&[&one, &named(EC, "1")]), E::DuplicateKid);
    assert_eq!(err(&[&one, EC]), E::NoKid);
    assert_eq!(err(&[&one, &named(OCT, "3")]), E::Mixed);
    assert_eq!(err(&[]), E::Empty);
    assert_eq!(err(&[r#""kty":"XYZ""#]), E::Empty);
    let many: Vec<_> = (0..65).map(|kid| named(ED, &kid.to_string())).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(err(&many), E::TooMany);
    jwks(&many[1..]).unwrap();
    // What verifies no signatures for us doesn't count.
    let others: Vec<_> = (0..500)
        .map(|kid| named(&format!(r#"{EC},"use":"enc""#), &kid.to_string()))
        .collect();
    let both = others.iter().map(String::as_str);
    jwks(&both.chain(many[1..].iter().copied()).collect::<Vec<_>>()).unwrap();
    let foreign = [
        r#""kty":"XYZ","kid":"1""#,
        &named(&format!(r#"{EC},"use":"enc""#), "1"),
        &one,
    ];
    jwks(&foreign).unwrap();
    assert_eq!(
        err(&[&one, r#""kty":"oct","k":"c2VjcmV0","kid":"4""#]),
        E::SecretTooShort
    );
    for text in [
        "",
        "{}",
        "[]",
        r#"{"keys":{}}"#,
        r#"{"keys":[1]}"#,
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[]} x"#,
    ] {
        assert_eq!(
            VerifyingKeys::from_jwks(text.as_bytes()).unwrap_err(),
            E::Malformed,
            "{text}"
        );
    }
    for secret in [OCT.to_owned(), format!(r#"{EC},"d":"AA""#)] {
        let text = format!(r#"{{"keys":[{{{secret}}}]}}"#);
        let public = VerifyingKeys::from_public_jwks(text.as_bytes());
        assert_eq!(public.unwrap_err(), E::NotPublic);
    }
}

#[test]
fn a_kid_chooses_and_nothing_else_does() {
    let clock = Arc::new(ManualClock::default());
    let make = |kid: &str| {
        let key = SigningKey::generate(TokenAlgorithm::EdDsa).unwrap();
        key.kid(kid).unwrap()
    };
    let (one, two, three) = (make("1"), make("2"), make("3"));
    let keys = [one.verifying().clone(), two.verifying().clone()];
    let keys = VerifyingKeys::new(keys).unwrap();
    let verifier = TokenVerifier::builder(keys)
        .with_clock(clock.clone())
        .build()
        .unwrap();
    let renamed = SigningKey::from_pem(
        TokenAlgorithm::EdDsa,
        secrecy::ExposeSecret::expose_secret(&two.to_pem().unwrap()).as_bytes(),
    );
    let renamed = renamed.unwrap().kid("1").unwrap();
    for (key, verdict) in [
        (one, None),
        (two, None),
        (three, Some(Kind::UnknownKey)),
        (renamed, Some(Kind::BadSignature)),
    ] {
        let token = token(&issuer(key, &clock));
        let outcome = verifier.verify(token.expose()).map(drop);
        assert_eq!(outcome.err().map(|error| error.kind()), verdict);
    }
    let header = |kid: &str| format!(r#"{{"alg":"EdDSA"{kid}}}"#);
    let long = format!(r#","kid":"{}""#, "k".repeat(256));
    for (kid, kind) in [
        ("", Kind::UnknownKey),
        (r#","kid":"""#, Kind::UnknownKey),
        (r#","kid":"../1""#, Kind::UnknownKey),
        (r#","kid":"1\u0000""#, Kind::UnknownKey),
        (r#","kid":"' OR 1=1 --""#, Kind::UnknownKey),
        (&long, Kind::Malformed),
    ] {
        let text = format!("{}.{}.AA", encode(header(kid)), encode(good_claims("")));
        assert_eq!(verifier.verify(&text).unwrap_err().kind(), kind, "{kid}");
    }
}

#[test]
fn no_private_key_is_in_any_text() {
    for algorithm in [TokenAlgorithm::Es256, TokenAlgorithm::Rs256] {
        let key = SigningKey::generate(algorithm).unwrap();
        let pem = key.to_pem().unwrap();
        let line = secrecy::ExposeSecret::expose_secret(&pem)
            .lines()
            .nth(1)
            .unwrap()
            .to_owned();
        let text = format!("{key:?} {:?} {pem:?}", key.verifying());
        let issuer = issuer(key, &Arc::new(ManualClock::default()));
        let text = format!(
            "{text} {issuer:?} {:?} {}",
            issuer.verifier(),
            issuer.jwks()
        );
        assert!(
            !text.contains(&line[..16]) && !text.contains("\"d\""),
            "{text}"
        );
    }
}

#[test]
fn a_set_leaves_out_what_is_for_other_uses() {
    let named = |members: &str, kid: &str| format!(r#"{{{members},"kid":"{kid}"}}"#);
    let ours = named(ED, "ours");
    for other in [
        named(&format!(r#"{EC},"key_ops":[]"#), "other"),
        named(&format!(r#"{EC},"key_ops":["deriveBits"]"#), "other"),
        named(&format!(r#"{EC},"use":"x509-svid""#), "other"),
        named(
            &format!(r#"{EC},"use":"enc","key_ops":["verify"]"#),
            "other",
        ),
    ] {
        let set = VerifyingKeys::from_jwks(format!(r#"{{"keys":[{ours},{other}]}}"#).as_bytes());
        assert_eq!(set.unwrap().to_jwks().matches("kid").count(), 1, "{other}");
    }
}
