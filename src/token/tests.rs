//! Well-known attacks, each with the required verdict. The signer here signs anything.

mod claims;
mod confusion;
mod edwards;
mod encodings;
mod forms;
mod headers;
#[cfg(feature = "jwks")]
mod jwks;
mod jwks_file;
mod keys;
mod left_out;
mod mapping;
mod odd_claims;
mod private_jwk;
mod rotation;
mod rsa;
#[cfg(unix)]
mod secret_file;
mod segments;
mod settings;
mod signatures;
mod tenants;
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
fn what_no_verifier_takes_is_not_issued() {
    let clock = Arc::new(ManualClock::default());
    let issuer = TokenIssuer::hs256(CANARY).with_clock(clock.clone());
    let issuer = issuer.build().unwrap();
    let verifier = issuer.verifier().build().unwrap();
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    let issue = |roles: &[&str]| {
        let issued = issuer.issue(&user, &session, roles.iter().copied());
        let foretold = issuer.check_roles(&user, &session, roles.iter().copied());
        // Of a time that has two digits more.
        assert!(issued.is_ok() || foretold == Err(IssueError::TooLong));
        issued
    };
    let most = issue(&["r"; 64]).unwrap();
    let roles = verifier.verify(most.expose()).unwrap();
    assert_eq!(roles.roles().count(), 64);
    assert_eq!(issue(&["r"; 65]).unwrap_err(), IssueError::TooLong);
    assert_eq!(issuer.check_roles(&user, &session, ["r"; 64]), Ok(()));
    let mut longest = 0;
    for length in 12_000..12_200 {
        match issue(&["r".repeat(length).as_str()]) {
            Ok(token) => {
                verifier.verify(token.expose()).unwrap();
                longest = token.expose().len();
            }
            Err(error) => assert_eq!(error, IssueError::TooLong),
        }
    }
    assert!((16_380..=16_384).contains(&longest), "{longest}");
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
