//! Rotation of keys.

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn pair() -> SigningKey {
    SigningKey::generate(TokenAlgorithm::EdDsa).unwrap()
}

fn secret(letter: u8) -> SigningKey {
    SigningKey::from_secret(TokenAlgorithm::Hs256, &[letter; 32]).unwrap()
}

fn builder(key: SigningKey, clock: &Arc<ManualClock>) -> TokenIssuerBuilder {
    TokenIssuer::with_key(key).with_clock(clock.clone())
}

fn issuer(key: SigningKey, clock: &Arc<ManualClock>) -> TokenIssuer {
    builder(key, clock).build().unwrap()
}

fn token(issuer: &TokenIssuer) -> String {
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    let token = issuer.issue(&user, &session, []).unwrap();
    token.expose().to_owned()
}

fn verdict(verifier: &TokenVerifier, token: &str) -> Result<(), Kind> {
    let outcome = verifier.verify(token);
    outcome.map(drop).map_err(|error| error.kind())
}

#[test]
fn signing_keys_change_while_tokens_stay_good() {
    let clock = Arc::new(ManualClock::default());
    let make = || SigningKey::generate(TokenAlgorithm::Es256).unwrap();
    let (first, second, third) = (make(), make(), make());
    let names = [&first, &second, &third].map(|key| key.verifying().name().unwrap().to_owned());
    let issuer = issuer(first, &clock);
    let verifier = issuer.verifier().build().unwrap();
    let published = |wanted: &[usize]| {
        let jwks = issuer.jwks();
        for (index, name) in names.iter().enumerate() {
            assert_eq!(
                jwks.contains(name.as_str()),
                wanted.contains(&index),
                "{jwks}"
            );
        }
    };
    let old = token(&issuer);
    verifier.verify(&old).unwrap();
    issuer.announce(&second).unwrap();
    published(&[0, 1]);
    issuer.rotate(second, HOUR).unwrap();
    published(&[0, 1]);
    let new = token(&issuer);
    for token in [&old, &new] {
        verifier.verify(token).unwrap();
    }
    clock.advance(HOUR);
    published(&[1]);
    issuer.rotate(third, HOUR).unwrap();
    published(&[1, 2]);
    verifier.verify(&new).unwrap();
    // Cached or not: a removed key verifies nothing.
    let error = verifier.verify(&old).unwrap_err();
    assert_eq!(error.kind(), Kind::UnknownKey);
    let secret = SigningKey::from_secret(TokenAlgorithm::Hs256, CANARY).unwrap();
    assert!(issuer.rotate(secret, HOUR).is_err());
    verifier.verify(&token(&issuer)).unwrap();
}

#[test]
fn a_key_that_signed_before_verifies_for_its_overlap_and_no_longer() {
    let clock = Arc::new(ManualClock::default());
    let issuer = issuer(pair(), &clock);
    let remembers = issuer.verifier().build().unwrap();
    let forgets = issuer.verifier().cache_capacity(0).build().unwrap();
    let old = token(&issuer);
    clock.advance(Duration::from_micros(300));
    issuer.rotate(pair(), HOUR).unwrap();
    issuer.rotate(pair(), 2 * HOUR).unwrap();
    let new = token(&issuer);
    clock.advance(HOUR - Duration::from_nanos(1));
    for verifier in [&remembers, &forgets] {
        assert_eq!(verdict(verifier, &old), Ok(()));
        assert_eq!(verdict(verifier, &new), Ok(()));
    }
    clock.advance(Duration::from_nanos(1));
    for verifier in [&remembers, &forgets] {
        assert_eq!(verdict(verifier, &old), Err(Kind::UnknownKey));
        assert_eq!(verdict(verifier, &new), Ok(()));
    }
    assert_eq!(issuer.jwks().matches("kid").count(), 2);
    clock.advance(HOUR);
    assert_eq!(issuer.jwks().matches("kid").count(), 1);
}

#[test]
fn a_stolen_key_is_out_at_once() {
    let clock = Arc::new(ManualClock::default());
    for (stolen, next) in [
        (pair(), pair()),
        // Neither has a name, and only one may be unnamed.
        (secret(1), secret(2)),
    ] {
        let issuer = issuer(stolen, &clock);
        let verifier = issuer.verifier().build().unwrap();
        let forged = token(&issuer);
        assert_eq!(verdict(&verifier, &forged), Ok(()), "it is remembered");
        issuer.rotate(next, Duration::ZERO).unwrap();
        assert!(verdict(&verifier, &forged).is_err());
        assert!(issuer.jwks().matches("kid").count() <= 1);
        assert_eq!(verdict(&verifier, &token(&issuer)), Ok(()));
    }
}

#[test]
fn secrets_follow_one_another_by_names_that_they_are_given() {
    let clock = Arc::new(ManualClock::default());
    let issuer = issuer(secret(1), &clock);
    let verifier = issuer.verifier().build().unwrap();
    let old = token(&issuer);
    assert_eq!(issuer.rotate(secret(2), HOUR), Err(KeyError::NoKid));
    assert_eq!(issuer.rotate(pair(), HOUR), Err(KeyError::Mixed));
    assert_eq!(issuer.announce(&secret(2)), Err(KeyError::NoKid));
    let named = || secret(2).kid("2").unwrap();
    issuer.announce(&named()).unwrap();
    // Another process was faster.
    let faster = token(&self::issuer(named(), &clock));
    for token in [&old, &faster] {
        assert_eq!(verdict(&verifier, token), Ok(()));
    }
    issuer.rotate(named(), HOUR).unwrap();
    let new = token(&issuer);
    for token in [&old, &faster, &new] {
        assert_eq!(verdict(&verifier, token), Ok(()));
    }
    assert_eq!(issuer.jwks(), r#"{"keys":[]}"#, "no secret is published");
    let again = issuer.rotate(secret(3).kid("2").unwrap(), HOUR);
    assert_eq!(again, Err(KeyError::DuplicateKid));
    clock.advance(HOUR);
    assert!(verdict(&verifier, &old).is_err());
    assert_eq!(verdict(&verifier, &new), Ok(()));
}

#[test]
fn a_process_that_starts_later_is_told_of_the_keys_before() {
    let clock = Arc::new(ManualClock::default());
    let until = clock.now().checked_add(HOUR).unwrap();
    for (old, new) in [(pair(), pair()), (secret(1), secret(2).kid("2").unwrap())] {
        let before = old.verifying().clone();
        let earlier = token(&issuer(old, &clock));
        let issuer = builder(new, &clock).add_retired(before.clone(), until);
        // Ended long ago, and no obstacle.
        let issuer = issuer.add_retired(before, clock.now()).build().unwrap();
        let verifier = issuer.verifier().build().unwrap();
        assert_eq!(verdict(&verifier, &earlier), Ok(()));
        assert_eq!(verdict(&verifier, &token(&issuer)), Ok(()));
        clock.advance(HOUR);
        assert!(verdict(&verifier, &earlier).is_err());
        assert_eq!(verdict(&verifier, &token(&issuer)), Ok(()));
        clock.set(until.checked_sub(HOUR).unwrap());
    }
    let refused = |key: SigningKey, retired: VerifyingKey| {
        let built = builder(key, &clock).add_retired(retired, until).build();
        let TokenConfigError::Key(error) = built.unwrap_err() else {
            panic!("a key was at fault");
        };
        error
    };
    let verifying = |key: SigningKey| key.verifying().clone();
    let nameless = pem_without_name();
    assert_eq!(refused(pair(), nameless), KeyError::NoKid);
    assert_eq!(refused(secret(1), verifying(secret(2))), KeyError::NoKid);
    assert_eq!(refused(pair(), verifying(secret(2))), KeyError::Mixed);
    let same = secret(2).kid("1").unwrap();
    let (one, same) = (secret(1).kid("1").unwrap(), verifying(same));
    assert_eq!(refused(one, same), KeyError::DuplicateKid);
}

fn pem_without_name() -> VerifyingKey {
    let jwk = br#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    VerifyingKey::from_jwk(jwk).unwrap()
}

#[test]
fn a_token_without_a_name_is_the_nameless_keys_and_no_others() {
    let clock = Arc::new(ManualClock::default());
    let named = |letter, kid| secret(letter).kid(kid).unwrap().verifying().clone();
    let keys = VerifyingKeys::new([named(1, "1"), named(2, "2")]).unwrap();
    let nameless = || secret(3).kid("never looked at").unwrap();
    let keys = keys.add_nameless(nameless().verifying().clone()).unwrap();
    let verifier = TokenVerifier::builder(keys.clone())
        .with_clock(clock.clone())
        .build()
        .unwrap();
    for (key, expected) in [
        (secret(1).kid("1").unwrap(), Ok(())),
        (secret(2).kid("2").unwrap(), Ok(())),
        (secret(3), Ok(())),
        (secret(1), Err(Kind::BadSignature)),
        (secret(3).kid("1").unwrap(), Err(Kind::BadSignature)),
        (secret(3).kid("3").unwrap(), Err(Kind::UnknownKey)),
        (nameless(), Err(Kind::UnknownKey)),
    ] {
        let token = token(&issuer(key, &clock));
        assert_eq!(verdict(&verifier, &token), expected);
    }
    let error = |added: Result<VerifyingKeys, KeyError>| added.unwrap_err();
    let another = secret(4).verifying().clone();
    assert_eq!(error(keys.clone().add_nameless(another)), KeyError::NoKid);
    let public = pair().verifying().clone();
    assert_eq!(error(keys.add_nameless(public)), KeyError::Mixed);
    let undeclared = VerifyingKeys::new([named(1, "1"), secret(3).verifying().clone()]);
    assert_eq!(error(undeclared), KeyError::NoKid);
}
