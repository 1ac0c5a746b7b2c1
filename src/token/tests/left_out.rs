//! Keys of a set that can't be used, beside some that can.

use super::*;
use crate::log::Log;

const ED: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;
const EC: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
const EC_POINT: &str = r#""f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
const SECRET: &str = r#""AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8""#;
/// The identity: anyone can sign for it.
const SMALL: &str =
    r#""kty":"OKP","crv":"Ed25519","x":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA""#;

fn rsa(bits: usize, exponent: &str) -> String {
    let n = encode(vec![0xa7; bits / 8]);
    format!(r#""kty":"RSA","e":"{exponent}","n":"{n}""#)
}

fn set(keys: &[String]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| format!("{{{key}}}")).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

fn said_while<T>(act: impl FnOnce() -> T) -> (T, String) {
    let (log, _logged) = Log::begin();
    (act(), log.text())
}

/// Keys that can't be used, and why.
fn odd_keys() -> Vec<(String, KeyError)> {
    use KeyError as E;
    let named = |members: &str| format!(r#"{{{members},"kid":"odd"}}"#);
    vec![
        (named(&rsa(1_024, "AQAB")), E::RsaLength),
        (named(&rsa(2_048, "Aw")), E::RsaNumbers),
        (named(SMALL), E::SmallOrder),
        (
            named(&format!(r#"{EC},"key_ops":["verify","encrypt"]"#)),
            E::WrongUse,
        ),
        (
            named(&format!(r#"{EC},"key_ops":["verify","verify"]"#)),
            E::WrongUse,
        ),
        (
            named(&format!(r#"{EC},"use":"sig","key_ops":["encrypt"]"#)),
            E::WrongUse,
        ),
        (format!(r#"{{{EC},"kid":null}}"#), E::NoKid),
        (format!("{{{EC}}}"), E::NoKid),
        (format!(r#"{{{EC},"kid":""}}"#), E::Kid),
        (format!(r#"{{{EC},"kid":7}}"#), E::Malformed),
        (
            named(&format!(r#"{ED},"use":"sig","alg":"ML-DSA-44""#)),
            E::WrongAlgorithm,
        ),
        (named(&format!(r#"{ED},"alg":"RS256""#)), E::WrongAlgorithm),
        (
            format!(r#"["EC",null,null,null,"in order","P-256",null,null,{EC_POINT}]"#),
            E::Malformed,
        ),
        (
            format!(r#"["oct",null,null,"HS256","in order",null,null,null,null,null,{SECRET}]"#),
            E::Malformed,
        ),
        (named(&EC.replace("f83O", "f83P")), E::Unreadable),
        (
            r#"{"kty":"RSA","kid":"odd","e":"AQAB"}"#.to_owned(),
            E::Unreadable,
        ),
        (r#"{"kid":"odd"}"#.to_owned(), E::Malformed),
        ("1".to_owned(), E::Malformed),
    ]
}

#[test]
fn a_bad_key_of_a_set_is_refused_and_the_others_are_used() {
    let clock = Arc::new(ManualClock::default());
    let issuer = jwks_file::signer(&clock);
    let token = jwks_file::token(&issuer);
    let [good] = serde_json::from_str::<serde_json::Value>(&issuer.jwks()).unwrap()["keys"]
        .as_array()
        .unwrap()
        .clone()
        .try_into()
        .unwrap();
    let good = good.to_string();
    for (odd, reason) in odd_keys() {
        for set in [format!("{good},{odd}"), format!("{odd},{good}")] {
            let set = format!(r#"{{"keys":[{set}]}}"#);
            let (keys, said) =
                said_while(|| VerifyingKeys::from_public_jwks(set.as_bytes()).unwrap());
            assert_eq!(keys.to_jwks(), issuer.jwks(), "{odd}");
            keys.verify(token.expose()).unwrap();
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(
                said.contains(" WARN ") && said.contains(&reason.to_string()),
                "{odd}: {said}"
            );
            assert_eq!(
                said.contains(r#"(kid "odd")"#),
                odd.contains(r#""odd""#),
                "{said}"
            );
            // In one's own configuration it is a mistake.
            assert!(VerifyingKeys::from_jwks(set.as_bytes()).is_err(), "{odd}");
        }
        let alone = format!(r#"{{"keys":[{odd}]}}"#);
        let alone = VerifyingKeys::from_public_jwks(alone.as_bytes());
        if reason == KeyError::NoKid {
            alone.unwrap();
        } else {
            assert_eq!(alone.unwrap_err(), reason, "{odd}");
        }
        // By itself, a key is refused.
        assert_eq!(
            VerifyingKey::from_jwk(odd.as_bytes()).is_ok(),
            reason == KeyError::NoKid,
            "{odd}"
        );
    }
}

#[test]
fn what_is_not_meant_for_us_is_left_out_without_a_word() {
    for other in [
        format!(r#"{EC},"use":"enc""#),
        format!(r#"{EC},"alg":"ECDH-ES+A256KW""#),
        rsa(1_024, "AQAB") + r#","use":"enc""#,
        r#""kty":"AKP","alg":"ML-DSA-44","pub":"AA""#.to_owned(),
        EC.replace("P-256", "P-521"),
        EC.replace("P-256", "P-521") + r#","use":"sig","alg":"ES512""#,
        r#""kty":"AKP","alg":"ML-DSA-44","pub":"AA","use":"sig""#.to_owned(),
    ] {
        let set = set(&[
            format!(r#"{ED},"kid":"1""#),
            format!(r#"{other},"kid":"2""#),
        ]);
        let (keys, said) = said_while(|| VerifyingKeys::from_public_jwks(set.as_bytes()).unwrap());
        assert_eq!(keys.to_jwks().matches("kid").count(), 1, "{other}");
        assert_eq!(said, "", "{other}");
    }
}

#[test]
fn a_token_of_a_key_that_was_left_out_is_refused() {
    let small = format!(r#"{SMALL},"kid":"odd""#);
    let set = set(&[format!(r#"{EC},"kid":"1""#), small]);
    let keys = VerifyingKeys::from_public_jwks(set.as_bytes()).unwrap();
    // R is the identity and s is 0: that fits every message under such a key.
    let signature = encode([&[1_u8][..], &[0; 63]].concat());
    for (kid, kind) in [
        (r#","kid":"odd""#, Kind::UnknownKey),
        ("", Kind::Unsupported),
    ] {
        let header = encode(format!(r#"{{"alg":"EdDSA"{kid}}}"#));
        let token = format!("{header}.{}.{signature}", encode(good_claims("")));
        assert_eq!(keys.verify(&token).unwrap_err().kind(), kind);
    }
}

#[test]
fn what_makes_a_set_ambiguous_or_dangerous_refuses_it() {
    use KeyError as E;
    let secret = encode([7; 32]);
    let oct = format!(r#""kty":"oct","k":"{secret}","kid":"2""#);
    let one = format!(r#"{ED},"kid":"1""#);
    let weak = rsa(1_024, "AQAB") + r#","kid":"1""#;
    let own = |keys: &[String]| VerifyingKeys::from_jwks(set(keys).as_bytes()).unwrap_err();
    let refused =
        |keys: &[String]| VerifyingKeys::from_public_jwks(set(keys).as_bytes()).unwrap_err();
    assert_eq!(
        refused(&[one.clone(), format!(r#"{EC},"kid":"1""#)]),
        E::DuplicateKid
    );
    assert_eq!(own(&[one.clone(), oct.clone()]), E::Mixed);
    assert_eq!(refused(&[one.clone(), oct]), E::NotPublic);
    assert_eq!(refused(&[weak.clone(), SMALL.to_owned()]), E::RsaLength);
    let public = set(&[one.clone(), format!(r#"{weak},"d":"AA""#)]);
    let public = VerifyingKeys::from_public_jwks(public.as_bytes());
    assert_eq!(
        public.unwrap_err(),
        E::NotPublic,
        "even in a key that is left out"
    );
    // A key that is left out has no name that another could share.
    let keys = VerifyingKeys::from_public_jwks(set(&[weak.clone(), one.clone()]).as_bytes());
    assert_eq!(keys.unwrap().to_jwks().matches("kid").count(), 1);
    // Nor does it take a place.
    let named = |number: usize| format!(r#"{ED},"kid":"{number}""#);
    let full: Vec<_> = (0..64).map(named).collect();
    let most = [&full[..], &[weak, ED.to_owned()]].concat();
    let keys = VerifyingKeys::from_public_jwks(set(&most).as_bytes());
    assert_eq!(keys.unwrap().to_jwks().matches("kid").count(), 64);
    assert_eq!(refused(&[&full[..], &[named(64)]].concat()), E::TooMany);
}

#[test]
fn a_warning_is_short_and_says_nothing_of_a_key() {
    let odd = |at: usize| {
        let kid = format!(r"line\nline{}{at}", "x".repeat(300));
        rsa(1_024, "AQAB") + &format!(r#","kid":"{kid}""#)
    };
    let keys: Vec<_> = [format!(r#"{ED},"kid":"1""#)]
        .into_iter()
        .chain((0..40).map(odd))
        .collect();
    let (_, said) = said_while(|| VerifyingKeys::from_public_jwks(set(&keys).as_bytes()).unwrap());
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.len() < 2_000 && said.contains("and 32 more") && said.contains("count=40"),
        "{said}"
    );
    assert!(!said.contains(&encode([0xa7; 8])[..10]), "{said}");
}

#[test]
fn the_names_of_cose_in_a_key_are_those_of_jose_in_its_tokens() {
    let clock = Arc::new(ManualClock::default());
    for (algorithm, named) in [
        (TokenAlgorithm::Es256, "ESP256"),
        (TokenAlgorithm::Es384, "ESP384"),
    ] {
        let key = SigningKey::generate(algorithm).unwrap();
        let issuer = TokenIssuer::with_key(key)
            .with_clock(clock.clone())
            .build()
            .unwrap();
        let jwks = issuer
            .jwks()
            .replace(&format!(r#""{algorithm}""#), &format!(r#""{named}""#));
        assert!(jwks.contains(named));
        let keys = VerifyingKeys::from_public_jwks(jwks.as_bytes()).unwrap();
        assert_eq!(keys.to_jwks(), issuer.jwks());
        let token = jwks_file::token(&issuer);
        keys.verify(token.expose()).unwrap();
        let (_, rest) = token.expose().split_once('.').unwrap();
        let renamed = format!("{}.{rest}", encode(format!(r#"{{"alg":"{named}"}}"#)));
        assert_eq!(keys.verify(&renamed).unwrap_err().kind(), Kind::Unsupported);
    }
}
