//! The vectors were made by `encode` of next-auth 4.24.15.

mod auth_js;
mod tampered;

use std::{sync::Arc, time::Duration};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;
use crate::domain::clock::ManualClock;

const SECRET: &[u8] = b"a secret made for the tests of this crate";
const WHOLE: &str = include_str!("vectors/whole.txt");
/// Valid for a minute from [`MADE_AT`].
const SHORT: &str = include_str!("vectors/short.txt");
const MADE_AT: i64 = 1_704_067_200;
const HEADER: &str = r#"{"alg":"dir","enc":"A256GCM"}"#;

fn clock(second: i64) -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_second(second).unwrap()))
}

fn builder() -> SessionCookieVerifierBuilder {
    SessionCookieVerifier::next_auth(SECRET).with_clock(clock(MADE_AT + 30))
}

fn kind(cookie: &str) -> TokenErrorKind {
    let refused = builder().build().unwrap().verify(cookie);
    refused.unwrap_err().kind()
}

/// A cookie as NextAuth would encrypt it, with whatever header and claims.
fn sealed(header: &str, claims: &str) -> String {
    let key = Salt::new(HKDF_SHA256, b"").extract(SECRET);
    let key = key.expand(&[b"NextAuth.js Generated Encryption Key"], &AES_256_GCM);
    let key = LessSafeKey::new(UnboundKey::from(key.unwrap()));
    let header = URL_SAFE_NO_PAD.encode(header);
    let mut text = claims.as_bytes().to_vec();
    let nonce = Nonce::assume_unique_for_key([7; 12]);
    let aad = Aad::from(header.as_bytes());
    let tag = key
        .seal_in_place_separate_tag(nonce, aad, &mut text)
        .unwrap();
    let [nonce, text, tag] =
        [&[7; 12][..], &text, tag.as_ref()].map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{header}..{nonce}.{text}.{tag}")
}

#[test]
fn the_real_thing_is_taken() {
    let verifier = builder().build().unwrap();
    for _warm in [false, true] {
        let ann = verifier.verify(WHOLE).unwrap();
        assert_eq!(ann.subject(), "user-7");
        assert_eq!(ann.credential(), CredentialKind::SessionCookie);
        assert_eq!(ann.attribute("email"), Some("ann@example.com"));
        assert_eq!(ann.attribute("name"), Some("Ann Example"));
        assert_eq!(
            ann.attribute("jti"),
            Some("17884b29-7791-4ccb-a150-fc8748cf2229")
        );
        assert_eq!(ann.expires_at().unwrap().as_second(), 4_857_667_200);
    }
    let chunks = include_str!("vectors/chunks.txt").replace('\n', "");
    assert_eq!(verifier.verify(&chunks).unwrap().subject(), "user-7");
}

#[test]
fn an_email_stands_in_for_a_subject_and_roles_are_read_where_told() {
    let mail = include_str!("vectors/mail.txt");
    let plain = builder().build().unwrap().verify(mail).unwrap();
    assert_eq!(
        (plain.subject(), plain.roles().count()),
        ("bob@example.com", 0)
    );
    assert_eq!(
        (plain.attribute("role"), plain.attribute("name")),
        (None, None)
    );
    let verifier = builder()
        .add_role("dashboard")
        .roles_claim("role")
        .add_claim("team");
    let verifier = verifier.build().unwrap();
    let roles = |cookie: &str| {
        let principal = verifier.verify(cookie).unwrap();
        principal.roles().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(roles(mail), ["dashboard", "editor"]);
    let many = sealed(
        HEADER,
        r#"{"sub":"u","exp":4949229071,"role":["a","b"],"team":"red"}"#,
    );
    assert_eq!(roles(&many), ["dashboard", "a", "b"]);
    assert_eq!(
        verifier.verify(&many).unwrap().attribute("team"),
        Some("red")
    );
    let none = sealed(
        HEADER,
        r#"{"sub":"u","exp":4949229071,"role":null,"team":{"a":1}}"#,
    );
    assert_eq!(roles(&none), ["dashboard"]);
    assert_eq!(verifier.verify(&none).unwrap().attribute("team"), None);
}

#[test]
fn it_expires_to_the_second_warm_or_cold() {
    for capacity in [0, 100] {
        let time = clock(MADE_AT);
        let verifier = builder().with_clock(time.clone()).cache_capacity(capacity);
        let verifier = verifier.build().unwrap();
        assert!(verifier.verify(SHORT).is_ok());
        time.advance(Duration::from_secs(59));
        assert!(verifier.verify(SHORT).is_ok());
        time.advance(Duration::from_secs(1));
        let at = time.now();
        assert_eq!(
            verifier.verify(SHORT).unwrap_err().kind(),
            TokenErrorKind::Expired { at }
        );
        time.set(Timestamp::from_second(MADE_AT - 1).unwrap());
        assert_eq!(
            verifier.verify(SHORT).unwrap_err().kind(),
            TokenErrorKind::NotYetValid
        );
    }
    let late = |leeway| {
        let builder = builder()
            .with_clock(clock(MADE_AT + 69))
            .leeway(Duration::from_secs(leeway));
        builder.build().unwrap().verify(SHORT)
    };
    assert!(late(15).is_ok());
    assert!(late(9).is_err());
    // Our clock is behind by this much: the session begins in the future.
    let early = |behind, set: fn(SessionCookieVerifierBuilder) -> SessionCookieVerifierBuilder| {
        let builder = builder().with_clock(clock(MADE_AT - behind));
        set(builder).build().unwrap().verify(SHORT).is_ok()
    };
    let (ten, none) = (Duration::from_secs(10), Duration::ZERO);
    assert!(early(10, |builder| builder.leeway(Duration::from_secs(10))));
    assert!(!early(11, |builder| builder.leeway(Duration::from_secs(10))));
    assert!(early(10, |builder| builder.leeway_ahead(Duration::from_secs(10))));
    assert!(!early(11, |builder| builder.leeway_ahead(Duration::from_secs(10))));
    let strict = builder()
        .with_clock(clock(MADE_AT - 1))
        .leeway(ten)
        .leeway_ahead(none);
    assert!(strict.build().unwrap().verify(SHORT).is_err());
    let over = builder().with_clock(clock(MADE_AT + 60)).leeway_ahead(ten);
    assert!(over.build().unwrap().verify(SHORT).is_err());
}

#[test]
fn another_secret_s_cookie_is_refused() {
    for cookie in [
        include_str!("vectors/foreign.txt"),
        include_str!("vectors/salted.txt"),
    ] {
        assert_eq!(kind(cookie), TokenErrorKind::BadSignature);
    }
}

#[test]
fn no_character_can_be_changed_dropped_or_added() {
    for at in 0..WHOLE.len() {
        let mut changed = WHOLE.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        kind(std::str::from_utf8(&changed).unwrap());
        kind(&WHOLE[..at]);
        kind(&format!("{}A{}", &WHOLE[..at], &WHOLE[at..]));
    }
    let chunks: Vec<_> = include_str!("vectors/chunks.txt").split('\n').collect();
    let [first, second] = chunks[..] else {
        panic!("two chunks")
    };
    for wrong in [
        format!("{second}{first}"),
        first.into(),
        second.into(),
        format!("{first}{second}{second}"),
    ] {
        kind(&wrong);
    }
}

#[test]
fn only_dir_with_a256gcm_is_opened() {
    let claims = r#"{"sub":"u","exp":4949229071}"#;
    let verifier = builder().build().unwrap();
    for good in [
        HEADER,
        r#"{"enc":"A256GCM","alg":"dir"}"#,
        r#"{"alg":"dir","enc":"A256GCM","typ":"JWT","kid":"1"}"#,
    ] {
        assert!(verifier.verify(&sealed(good, claims)).is_ok(), "{good}");
    }
    for (header, kind) in [
        (
            r#"{"alg":"none","enc":"A256GCM"}"#,
            TokenErrorKind::Unsupported,
        ),
        (
            r#"{"alg":"A256KW","enc":"A256GCM"}"#,
            TokenErrorKind::Unsupported,
        ),
        (
            r#"{"alg":"PBES2-HS256+A128KW","enc":"A256GCM","p2c":2147483647}"#,
            TokenErrorKind::Unsupported,
        ),
        (
            r#"{"alg":"dir","enc":"A128GCM"}"#,
            TokenErrorKind::Unsupported,
        ),
        (
            r#"{"alg":"dir","enc":"A256CBC-HS512"}"#,
            TokenErrorKind::Unsupported,
        ),
        (
            r#"{"alg":"dir","enc":"A256GCM","zip":"DEF"}"#,
            TokenErrorKind::Unsupported,
        ),
        (
            r#"{"alg":"dir","enc":"A256GCM","crit":["exp"]}"#,
            TokenErrorKind::Unsupported,
        ),
        (
            r#"{"alg":"dir","enc":"A256GCM","jku":"https://evil.example"}"#,
            TokenErrorKind::Unsupported,
        ),
        (r#"{"alg":"dir"}"#, TokenErrorKind::Unsupported),
        (r#"{"enc":"A256GCM"}"#, TokenErrorKind::Unsupported),
        (
            r#"{"alg":"dir","alg":"dir","enc":"A256GCM"}"#,
            TokenErrorKind::Malformed,
        ),
        (
            r#"{"alg":["dir"],"enc":"A256GCM"}"#,
            TokenErrorKind::Malformed,
        ),
        ("[]", TokenErrorKind::Malformed),
        ("", TokenErrorKind::Malformed),
    ] {
        let refused = verifier.verify(&sealed(header, claims)).unwrap_err();
        assert_eq!(refused.kind(), kind, "{header}");
    }
}

#[test]
fn a_cookie_has_five_segments_of_the_right_length() {
    let parts: Vec<_> = WHOLE.split('.').collect();
    let [header, _, nonce, text, tag] = parts[..] else {
        panic!("five segments")
    };
    for cookie in [
        String::new(),
        "....".into(),
        format!("{header}.{nonce}.{text}.{tag}"),
        format!("{header}..{nonce}.{text}.{tag}."),
        format!("{header}.AAAA.{nonce}.{text}.{tag}"),
        format!("{header}..{nonce}AAAA.{text}.{tag}"),
        format!("{header}...{text}.{tag}"),
        format!("{header}..{nonce}.{text}."),
        format!("{header}..{nonce}.{text}.{}", &tag[..20]),
        format!("{header}..{nonce}.{text}.{tag}=="),
        format!(" {WHOLE}"),
        "a".repeat(COOKIE_LENGTH_MAX + 1),
    ] {
        assert_eq!(kind(&cookie), TokenErrorKind::Malformed, "{cookie}");
    }
    assert_eq!(
        kind(&format!("{header}..{nonce}..{tag}")),
        TokenErrorKind::BadSignature
    );
}

#[test]
fn claims_of_the_wrong_form_are_refused() {
    for claims in [
        r#"{"sub":"u"}"#,
        r#"{"exp":4949229071}"#,
        r#"{"sub":"","exp":4949229071}"#,
        r#"{"sub":null,"email":null,"exp":4949229071}"#,
        r#"{"sub":1,"exp":4949229071}"#,
        r#"{"sub":"u","exp":"4949229071"}"#,
        r#"{"sub":"u","exp":null}"#,
        r#"{"sub":"u","exp":-1}"#,
        r#"{"sub":"u","exp":1e308}"#,
        r#"{"sub":"u","sub":"v","exp":4949229071}"#,
        r#"{"sub":"u","exp":4949229071,"x":{"a":1,"a":2}}"#,
        r#"{"sub":"u","exp":4949229071}{}"#,
        r#"["sub"]"#,
        "",
    ] {
        assert_eq!(
            kind(&sealed(HEADER, claims)),
            TokenErrorKind::Malformed,
            "{claims}"
        );
    }
    let long = format!(r#"{{"sub":"{}","exp":4949229071}}"#, "u".repeat(256));
    assert_eq!(kind(&sealed(HEADER, &long)), TokenErrorKind::Malformed);
    let deep = format!(
        r#"{{"sub":"u","exp":4949229071,"x":{}{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    assert_eq!(kind(&sealed(HEADER, &deep)), TokenErrorKind::Malformed);
}

#[test]
fn settings_that_cannot_be_are_named() {
    let short = SessionCookieVerifier::next_auth(b"short");
    assert_eq!(
        short.build().unwrap_err(),
        SessionCookieError::SecretTooShort
    );
    assert!(
        SessionCookieVerifier::next_auth(b"short")
            .dangerous_short_secret()
            .build()
            .is_ok()
    );
    let empty = SessionCookieVerifier::next_auth(b"").dangerous_short_secret();
    assert_eq!(
        empty.build().unwrap_err(),
        SessionCookieError::SecretTooShort
    );
    let much = Duration::from_secs(601);
    for lax in [builder().leeway(much), builder().leeway_ahead(much)] {
        assert_eq!(lax.build().unwrap_err(), SessionCookieError::Leeway);
    }
}

#[test]
fn nothing_of_secret_or_cookie_is_shown() {
    let verifier = builder().build().unwrap();
    let principal = verifier.verify(WHOLE).unwrap();
    let refused = verifier.verify(&WHOLE[1..]).unwrap_err();
    let shown = format!(
        "{verifier:?} {:?} {principal:?} {refused:?} {refused}",
        builder()
    );
    for secret in [
        "made for the tests",
        &WHOLE[60..80],
        &WHOLE[WHOLE.len() - 20..],
    ] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[A-Za-z0-9_.-]{0,300}", claims in ".{0,80}") {
        let verifier = builder().build().unwrap();
        prop_assert!(verifier.verify(&text).is_err());
        prop_assert!(verifier.verify(&sealed(HEADER, &claims)).is_err());
    }
}
