//! The attacks of the books, each with the verdict it must get. The signer here signs anything.

mod edwards;
#[cfg(feature = "jwks")]
mod jwks;
mod jwks_file;
mod keys;
mod mapping;
mod private_jwk;
mod rotation;
#[cfg(unix)]
mod secret_file;
mod segments;
mod settings;
mod time;
mod timing;
mod vectors;

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{TokenErrorKind as Kind, *};
use crate::domain::{
    SessionId, UserId,
    clock::{Clock, ManualClock, Timestamp},
    credential::CredentialKind,
    denial::{Denial, DenialKind},
};

const CANARY: &[u8] = b"CANARY-secret-of-thirty-two-bytes";
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
/// 2026-01-01T00:00:00Z, where a `ManualClock` begins.
const NOW: i64 = 1_767_225_600;

fn encode(json: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(json)
}

fn sign_segments(signed: &str, secret: &[u8]) -> String {
    let signature = SigningKey::from_secret(TokenAlgorithm::Hs256, secret)
        .unwrap()
        .sign(signed.as_bytes())
        .unwrap();
    format!("{signed}.{}", encode(signature))
}

fn sign(header: &str, claims: impl AsRef<[u8]>) -> String {
    sign_segments(&format!("{}.{}", encode(header), encode(claims)), CANARY)
}

fn good_claims(more: &str) -> String {
    format!(
        r#"{{"iss":"api","aud":"web","sub":"me","exp":{}{more}}}"#,
        NOW + 60
    )
}

fn with_exp(exp: &str) -> String {
    sign(
        HEADER,
        format!(r#"{{"iss":"api","aud":"web","sub":"me","exp":{exp}}}"#),
    )
}

fn setup() -> (TokenVerifier, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let verifier = builder(&clock).build().unwrap();
    (verifier, clock)
}

fn builder(clock: &Arc<ManualClock>) -> TokenVerifierBuilder {
    TokenVerifier::hs256(CANARY)
        .issuer("api")
        .audience("web")
        .with_clock(clock.clone())
}

#[track_caller]
fn refused(token: &str, kind: Kind) {
    let (verifier, _) = setup();
    assert_eq!(
        verifier.verify(token).map_err(|error| error.kind()),
        Err(kind)
    );
    assert_eq!(
        verifier.verify(token).map_err(|error| error.kind()),
        Err(kind),
        "the second time"
    );
}

#[track_caller]
fn accepted(token: &str) -> Arc<VerifiedToken> {
    setup().0.verify(token).unwrap()
}

#[test]
fn a_good_token_says_what_it_says() {
    let claims = good_claims(
        r#","nbf":1,"iat":2.5,"jti":"j","sid":"s","roles":["a","b"],"token_use":"access","x":[{}]"#,
    );
    let token = accepted(&sign(HEADER, claims));
    assert_eq!(token.subject(), "me");
    assert_eq!(token.session().unwrap().as_str(), "s");
    assert_eq!(token.id(), Some("j"));
    assert_eq!(
        token.issued_at(),
        Some(Timestamp::new(2, 500_000_000).unwrap())
    );
    assert_eq!(token.expires_at().as_second(), NOW + 60);
    assert_eq!(token.roles().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(token.claim("x"), None);
}

#[test]
fn the_algorithm_is_the_keys_whatever_the_token_says() {
    for alg in [
        "none", "None", "nOnE", "NONE", "hs256", "HS384", "HS512", "RS256", "PS256", "ES256",
        "EdDSA", "", "HS256 ",
    ] {
        let header = format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#);
        refused(&sign(&header, good_claims("")), Kind::Unsupported);
        let unsigned = format!("{}.{}.", encode(&header), encode(good_claims("")));
        refused(&unsigned, Kind::BadSignature);
    }
    for header in [
        r#"{"typ":"JWT"}"#,
        r#"{"alg":null}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":1}"#,
    ] {
        refused(&sign(header, good_claims("")), Kind::Malformed);
    }
}

#[test]
fn headers_that_ask_for_more_are_refused() {
    for member in [
        r#""crit":["exp"]"#,
        r#""crit":[]"#,
        r#""b64":false"#,
        r#""b64":true"#,
        r#""zip":"DEF""#,
        r#""enc":"A256GCM""#,
        r#""jwk":{"kty":"oct","k":"AA"}"#,
        r#""jku":"http://127.0.0.1:1""#,
        r#""x5u":"http://127.0.0.1:1""#,
        r#""x5c":["AA"]"#,
        r#""\u0063rit":[]"#,
    ] {
        let header = format!(r#"{{"alg":"HS256",{member},"typ":"JWT"}}"#);
        refused(&sign(&header, good_claims("")), Kind::Unsupported);
    }
}

#[test]
fn a_kid_is_a_string_and_nothing_is_done_with_it() {
    for kid in ["../../dev/null", "' OR 1=1 --", "a"] {
        let header = format!(r#"{{"alg":"HS256","typ":"JWT","kid":"{kid}"}}"#);
        accepted(&sign(&header, good_claims("")));
    }
    let long = format!(
        r#"{{"alg":"HS256","typ":"JWT","kid":"{}"}}"#,
        "k".repeat(5_000)
    );
    refused(&sign(&long, good_claims("")), Kind::Malformed);
    refused(
        &sign(r#"{"alg":"HS256","kid":{}}"#, good_claims("")),
        Kind::Malformed,
    );
}

#[test]
fn headers_of_odd_form_are_refused() {
    let deep = format!(
        r#"{{"alg":"HS256","x":{}{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    for header in [
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","\u0061lg":"HS256"}"#,
        r#"{"alg":"HS256","x":1,"x":1}"#,
        r#"{"alg":"HS256","x":{"y":1,"y":1}}"#,
        r#"{"alg":"HS256","typ":"JWT","typ":"JWT"}"#,
        r#"{"alg":"HS256","typ":null}"#,
        r#"{"alg":"HS256"} x"#,
        r#"["HS256"]"#,
        r#""HS256""#,
        "",
        "null",
        &deep,
    ] {
        refused(&sign(header, good_claims("")), Kind::Malformed);
    }
}

#[test]
fn the_type_is_told_apart() {
    for typ in [
        "at+jwt",
        "logout+jwt",
        "id+jwt",
        "",
        "JWT ",
        "application/at+jwt",
    ] {
        let header = format!(r#"{{"alg":"HS256","typ":"{typ}"}}"#);
        refused(&sign(&header, good_claims("")), Kind::WrongUse);
    }
    for typ in ["jwt", "application/JWT", "Application/jwt"] {
        let header = format!(r#"{{"alg":"HS256","typ":"{typ}"}}"#);
        accepted(&sign(&header, good_claims("")));
    }
    let untyped = sign(r#"{"alg":"HS256"}"#, good_claims(""));
    accepted(&untyped);

    let (_, clock) = setup();
    let strict = builder(&clock).typ("at+jwt").build().unwrap();
    let typed = sign(r#"{"typ":"AT+JWT","alg":"HS256"}"#, good_claims(""));
    strict.verify(&typed).unwrap();
    for other in [untyped, sign(HEADER, good_claims(""))] {
        assert_eq!(strict.verify(&other).unwrap_err().kind(), Kind::WrongUse);
    }
}

#[test]
fn sizes_and_depths_have_bounds() {
    let megabytes = sign(
        HEADER,
        good_claims(&format!(r#","x":"{}""#, "x".repeat(3 << 20))),
    );
    assert!(megabytes.len() > 4 << 20);
    refused(&megabytes, Kind::Malformed);
    accepted(&sign(
        HEADER,
        good_claims(&format!(r#","x":"{}""#, "x".repeat(8_000))),
    ));
    let nested = |open: &str, close: &str, depth| {
        good_claims(&format!(
            r#","x":{}1{}"#,
            open.repeat(depth),
            close.repeat(depth)
        ))
    };
    accepted(&sign(HEADER, nested("[", "]", 15)));
    accepted(&sign(HEADER, nested(r#"{"a":"#, "}", 15)));
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        refused(&sign(HEADER, nested(open, close, 16)), Kind::Malformed);
        refused(&sign(HEADER, nested(open, close, 200)), Kind::Malformed);
    }
    let members: String = (0..300).map(|n| format!(r#","x{n}":1"#)).collect();
    refused(&sign(HEADER, good_claims(&members)), Kind::Malformed);
    let roles = format!(r#","roles":[{}"r"]"#, r#""r","#.repeat(64));
    refused(&sign(HEADER, good_claims(&roles)), Kind::Malformed);
}

#[test]
fn members_that_are_there_twice_are_refused() {
    for more in [
        r#","exp":99999999999"#,
        r#","\u0065xp":99999999999"#,
        r#","sub":"me""#,
        r#","iss":"api""#,
        r#","aud":"web""#,
        r#","sid":"s","sid":"s""#,
        r#","nbf":1,"nbf":1"#,
        r#","iat":1,"iat":1"#,
        r#","jti":"a","jti":"b""#,
        r#","roles":[],"roles":["admin"]"#,
        r#","token_use":"access","token_use":"access""#,
        r#","admin":false,"admin":true"#,
        r#","x":{"a":{"b":1,"b":1}}"#,
        r#","x":[[{"b":1,"\u0062":1}]]"#,
    ] {
        refused(&sign(HEADER, good_claims(more)), Kind::Malformed);
    }
}

#[test]
fn claims_have_their_types() {
    for more in [
        r#","nbf":"1""#,
        r#","nbf":null"#,
        r#","iat":"1""#,
        r#","iat":-1"#,
        r#","iat":true"#,
        r#","jti":1"#,
        r#","jti":null"#,
        r#","sid":1"#,
        r#","sid":["s"]"#,
        r#","sid":"""#,
        r#","sid":null"#,
        r#","roles":"admin""#,
        r#","roles":["a",1]"#,
        r#","roles":{"a":1}"#,
        r#","roles":null"#,
        r#","token_use":1"#,
        r#","token_use":["access"]"#,
    ] {
        refused(&sign(HEADER, good_claims(more)), Kind::Malformed);
    }
    for (name, value) in [
        ("iss", r#"["api"]"#),
        ("iss", "1"),
        ("iss", "null"),
        ("sub", "1"),
        ("sub", "null"),
        ("sub", r#"["me"]"#),
        ("sub", r#""""#),
        ("aud", "123"),
        ("aud", "null"),
        ("aud", r#"["web",1]"#),
        ("aud", r#"{"web":1}"#),
    ] {
        let mut claims =
            serde_json::json!({"iss": "api", "aud": "web", "sub": "me", "exp": NOW + 60});
        claims[name] = serde_json::from_str(value).unwrap();
        refused(&sign(HEADER, claims.to_string()), Kind::Malformed);
    }
    let missing_sub = format!(r#"{{"iss":"api","aud":"web","exp":{}}}"#, NOW + 60);
    refused(&sign(HEADER, missing_sub), Kind::Malformed);
    let long_sub = format!(
        r#"{{"iss":"api","aud":"web","sub":"{}","exp":{}}}"#,
        "x".repeat(256),
        NOW + 60
    );
    refused(&sign(HEADER, long_sub), Kind::Malformed);
}

#[test]
fn claims_are_one_well_formed_object() {
    let trailing = format!("{}{{}}", good_claims(""));
    let bom = format!("\u{feff}{}", good_claims(""));
    for claims in [
        "",
        "null",
        "[]",
        "\"x\"",
        "1",
        "{",
        "{\"sub\":}",
        &trailing,
        &bom,
    ] {
        refused(&sign(HEADER, claims), Kind::Malformed);
    }
    let mut not_utf8 = good_claims(r#","x":"?""#).into_bytes();
    let at = not_utf8.iter().position(|byte| *byte == b'?').unwrap();
    not_utf8[at] = 0xff;
    refused(&sign(HEADER, not_utf8), Kind::Malformed);
    refused(
        &sign(HEADER, good_claims(r#","x":"\ud800""#)),
        Kind::Malformed,
    );
}

#[test]
fn issuer_audience_and_use_must_be_ours() {
    let claims = |iss: &str, aud: &str, more: &str| {
        sign(
            HEADER,
            format!(r#"{{{iss}{aud}"sub":"me","exp":{}{more}}}"#, NOW + 60),
        )
    };
    let (iss, aud) = (r#""iss":"api","#, r#""aud":"web","#);
    accepted(&claims(iss, aud, ""));
    accepted(&claims(iss, r#""aud":["a","web"],"#, ""));
    refused(&claims(r#""iss":"API","#, aud, ""), Kind::WrongIssuer);
    refused(&claims("", aud, ""), Kind::WrongIssuer);
    refused(&claims(iss, r#""aud":"webb","#, ""), Kind::WrongAudience);
    refused(&claims(iss, r#""aud":["a"],"#, ""), Kind::WrongAudience);
    refused(&claims(iss, r#""aud":[],"#, ""), Kind::WrongAudience);
    refused(&claims(iss, "", ""), Kind::WrongAudience);
    for other in ["refresh", "id", "Access", ""] {
        refused(
            &claims(iss, aud, &format!(r#","token_use":"{other}""#)),
            Kind::WrongUse,
        );
    }
    let clock = Arc::new(ManualClock::default());
    let refresh = builder(&clock)
        .token_use(TokenUse::Refresh)
        .build()
        .unwrap();
    refresh
        .verify(&claims(iss, aud, r#","token_use":"refresh""#))
        .unwrap();
    for token in [
        claims(iss, aud, ""),
        claims(iss, aud, r#","token_use":"access""#),
    ] {
        assert_eq!(refresh.verify(&token).unwrap_err().kind(), Kind::WrongUse);
    }
    let nameless = TokenVerifier::hs256(CANARY)
        .with_clock(clock)
        .build()
        .unwrap();
    nameless.verify(&claims(iss, "", "")).unwrap();
    let error = nameless.verify(&claims(iss, aud, "")).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongAudience);
}

#[test]
fn what_some_providers_say_in_a_claim_is_heard() {
    for other in ["ID", "Refresh", "Offline", "Logout", "Serialized-ID", "id"] {
        let claims = good_claims(&format!(r#","typ":"{other}""#));
        refused(&sign(HEADER, &claims), Kind::WrongUse);
    }
    for fine in ["Bearer", "DPoP", "JWT", ""] {
        accepted(&sign(HEADER, good_claims(&format!(r#","typ":"{fine}""#))));
    }
    for odd in ["1", "null", r#"["ID"]"#] {
        refused(
            &sign(HEADER, good_claims(&format!(r#","typ":{odd}"#))),
            Kind::Malformed,
        );
    }
    refused(
        &sign(HEADER, good_claims(r#","typ":"Bearer","typ":"ID""#)),
        Kind::Malformed,
    );
    let clock = Arc::new(ManualClock::default());
    let refresh = builder(&clock)
        .token_use(TokenUse::Refresh)
        .build()
        .unwrap();
    let says = |typ: &str| {
        let more = format!(r#","token_use":"refresh","typ":"{typ}""#);
        refresh.verify(&sign(HEADER, good_claims(&more)))
    };
    says("Refresh").unwrap();
    assert_eq!(says("ID").unwrap_err().kind(), Kind::WrongUse);
}

#[test]
fn other_claims_are_kept_when_asked_for_and_checked_all_the_same() {
    let clock = Arc::new(ManualClock::default());
    let verifier = builder(&clock).add_claim("realm").build().unwrap();
    let token = verifier
        .verify(&sign(
            HEADER,
            good_claims(r#","realm":{"roles":["a"]},"y":1"#),
        ))
        .unwrap();
    assert_eq!(token.claim("realm").unwrap()["roles"][0], "a");
    assert_eq!(token.claim("y"), None);
    for more in [
        r#","realm":{"a":1,"a":2}"#,
        r#","realm":1,"realm":1"#,
        &format!(r#","realm":{}{}"#, "[".repeat(16), "]".repeat(16)),
    ] {
        let error = verifier
            .verify(&sign(HEADER, good_claims(more)))
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
    }
}

fn issue(clock: &Arc<ManualClock>) -> IssuedToken {
    let issuer = TokenIssuer::hs256(CANARY)
        .issuer("api")
        .audience("web")
        .with_clock(clock.clone())
        .build()
        .unwrap();
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    issuer.issue(&user, &session, ["admin"]).unwrap()
}

#[test]
fn issued_tokens_have_the_documented_header_and_verify() {
    let (verifier, clock) = setup();
    clock.advance(Duration::from_millis(1_900));
    let token = issue(&clock);
    assert!(
        token
            .expose()
            .starts_with("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.")
    );
    let verified = verifier.verify(token.expose()).unwrap();
    assert_eq!(verified.subject(), "u");
    assert_eq!(verified.session().unwrap().as_str(), "s");
    assert_eq!(verified.issued_at().unwrap().as_second(), NOW + 1);
    assert_eq!(verified.expires_at(), token.expires_at());
    assert_eq!(token.expires_at().as_second(), NOW + 1 + 86_400);
    assert_eq!(verified.roles().collect::<Vec<_>>(), ["admin"]);
    assert_ne!(issue(&clock).expose(), token.expose(), "ids differ");
}

#[test]
fn no_secret_and_no_token_is_in_any_text() {
    let (verifier, clock) = setup();
    let token = issue(&clock);
    let error = verifier
        .verify(&token.expose().replace('.', "!"))
        .unwrap_err();
    let builder = TokenVerifier::hs256(CANARY);
    let issuer = TokenIssuer::hs256(CANARY);
    let texts = [
        format!("{verifier:?} {builder:?} {issuer:?}"),
        format!("{:?} {token:?}", issuer.build().unwrap()),
        format!("{error:?} {error} {:?}", Denial::from(error)),
        format!("{:?}", verifier.verify(token.expose()).unwrap()),
        format!("{:?}", SigningSecret::from_bytes(CANARY).unwrap()),
    ];
    let signature = token.expose().rsplit('.').next().unwrap();
    let numbers = format!("{:?}", &CANARY[..8]);
    for text in texts {
        assert!(!text.contains("CANARY"), "{text}");
        assert!(!text.contains(numbers.trim_matches(['[', ']'])), "{text}");
        assert!(!text.contains(signature), "{text}");
    }
}

#[test]
fn refusals_become_denials() {
    let (verifier, clock) = setup();
    let token = issue(&clock);
    clock.advance(Duration::from_secs(86_400));
    let denial = Denial::from(verifier.verify(token.expose()).unwrap_err());
    assert_eq!(denial.kind(), DenialKind::CredentialExpired);
    assert_eq!(denial.expiry(), Some(token.expires_at()));
    assert_eq!(denial.credential(), Some(CredentialKind::Token));
    let denial = Denial::from(verifier.verify("x").unwrap_err());
    assert_eq!(denial.kind(), DenialKind::CredentialInvalid);
    assert_eq!(clock.now().as_second(), NOW + 86_400);
}
