//! The algorithms of keys that name one, and of those that don't.

use super::*;

#[test]
fn a_key_has_one_of_the_two_names_of_its_algorithm_and_so_have_its_tokens() {
    let private = format!(r#"{ED},"kid":"1","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A""#);
    let issuer = |alg: &str| {
        let jwk = format!(r#"{{{private},"alg":"{alg}"}}"#);
        TokenIssuer::with_key(SigningKey::from_jwk(jwk.as_bytes()).unwrap())
            .build()
            .unwrap()
    };
    let issuers = [issuer("EdDSA"), issuer("Ed25519")];
    for (at, issuer) in issuers.iter().enumerate() {
        let verifier = TokenVerifier::builder(
            VerifyingKeys::from_public_jwks(issuer.jwks().as_bytes()).unwrap(),
        )
        .build()
        .unwrap();
        let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
        let of = |issuer: &TokenIssuer| issuer.issue(&user, &session, []).unwrap();
        verifier.verify(of(issuer).expose()).unwrap();
        let other = of(&issuers[1 - at]);
        let error = verifier.verify(other.expose()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
    }
}

/// The public key of a JWK set with a single key, without its `alg`.
fn without_alg(issuer: &TokenIssuer) -> String {
    let mut jwks: serde_json::Value = serde_json::from_str(&issuer.jwks()).unwrap();
    jwks["keys"][0]
        .as_object_mut()
        .unwrap()
        .remove("alg")
        .unwrap();
    jwks.to_string()
}

#[test]
fn a_key_that_says_no_algorithm_has_the_one_that_was_set_for_its_type() {
    let clock = Arc::new(ManualClock::default());
    let ps256 = SigningKey::generate(TokenAlgorithm::Ps256).unwrap();
    let pem = ps256.to_pem().unwrap();
    let pem = secrecy::ExposeSecret::expose_secret(&pem);
    let rs256 = SigningKey::from_pem(TokenAlgorithm::Rs256, pem.as_bytes()).unwrap();
    let (ps256, rs256) = (issuer(ps256, &clock), issuer(rs256, &clock));
    let unsaid = VerifyingKeys::from_public_jwks(without_alg(&ps256).as_bytes()).unwrap();
    let set = |algorithms: &[TokenAlgorithm]| {
        algorithms.iter().fold(unsaid.clone(), |keys, algorithm| {
            keys.default_algorithm(*algorithm).unwrap()
        })
    };
    for (algorithms, good, bad) in [
        (&[][..], &rs256, &ps256),
        (&[TokenAlgorithm::Ps256], &ps256, &rs256),
        (
            &[TokenAlgorithm::Rs512, TokenAlgorithm::Ps256],
            &ps256,
            &rs256,
        ),
        // Algorithms of other types leave it unchanged.
        (
            &[
                TokenAlgorithm::Es256,
                TokenAlgorithm::Ed25519,
                TokenAlgorithm::Hs512,
            ],
            &rs256,
            &ps256,
        ),
    ] {
        let verifier = TokenVerifier::builder(set(algorithms)).with_clock(clock.clone());
        let verifier = verifier.build().unwrap();
        verifier.verify(token(good).expose()).unwrap();
        // The header names an algorithm that would suit the key, but doesn't choose it.
        let error = verifier.verify(token(bad).expose()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{algorithms:?}");
    }
    let said = VerifyingKeys::from_public_jwks(ps256.jwks().as_bytes()).unwrap();
    let said = said.default_algorithm(TokenAlgorithm::Rs256).unwrap();
    let verifier = TokenVerifier::builder(said)
        .with_clock(clock.clone())
        .build();
    verifier.unwrap().verify(token(&ps256).expose()).unwrap();
}

#[test]
fn an_algorithm_that_the_key_cannot_have_is_refused() {
    use {KeyError as E, TokenAlgorithm as A};
    let wrong = |members: &str, algorithm| {
        let key = jwk(members).unwrap().default_algorithm(algorithm);
        key.map(|key| key.algorithm())
    };
    assert_eq!(wrong(ED, A::Ed25519), Ok(A::Ed25519));
    assert_eq!(
        wrong(&format!(r#"{ED},"alg":"EdDSA""#), A::Ed25519),
        Ok(A::EdDsa)
    );
    assert_eq!(wrong(ED, A::Es256), Err(E::WrongAlgorithm));
    assert_eq!(wrong(EC, A::Es256), Ok(A::Es256));
    assert_eq!(wrong(EC, A::Es384), Err(E::WrongAlgorithm));
    assert_eq!(wrong(EC, A::Hs256), Err(E::WrongAlgorithm));
    assert_eq!(wrong(OCT, A::Hs512), Ok(A::Hs512));
    let short = format!(r#""kty":"oct","k":"{}""#, encode([7; 40]));
    assert_eq!(wrong(&short, A::Hs384), Err(E::SecretTooShort));
    let pinned = VerifyingKey::from_secret(A::Hs256, &[7; 64]).unwrap();
    assert_eq!(
        pinned.default_algorithm(A::Hs512).unwrap().algorithm(),
        A::Hs256
    );
}
