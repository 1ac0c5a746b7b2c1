//! Cookies of Auth.js 5. The vectors were made by `encode` of @auth/core 0.41.3.

use aws_lc_rs::{
    cipher::{AES_256, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey},
    hkdf::KeyType,
    hmac,
    iv::FixedLength,
};

use super::*;

const PLAIN: &str = include_str!("../vectors/auth_js/plain.txt");
const SECURE: &str = include_str!("../vectors/auth_js/secure.txt");
const OLDER: &str = include_str!("../vectors/auth_js/older.txt");
/// Valid for a minute from [`MADE_AT`].
const BRIEF: &str = include_str!("../vectors/auth_js/short.txt");
const OLDER_SECRET: &[u8] = b"an older secret made for the tests of this crate";
const SECURE_NAME: &str = "__Secure-authjs.session-token";
const PLAIN_NAME: &str = "authjs.session-token";
const HEADER: &str = r#"{"alg":"dir","enc":"A256CBC-HS512"}"#;
const CLAIMS: &str = r#"{"sub":"u","exp":4949229071}"#;

fn builder() -> SessionCookieVerifierBuilder {
    SessionCookieVerifier::auth_js(SECRET).with_clock(clock(MADE_AT + 30))
}

fn kind_of(verifier: &SessionCookieVerifier, name: &str, cookie: &str) -> TokenErrorKind {
    verifier.verify_named(name, cookie).unwrap_err().kind()
}

struct Bytes64;

impl KeyType for Bytes64 {
    fn len(&self) -> usize {
        64
    }
}

/// A cookie as Auth.js would encrypt it, with whatever header and content.
fn sealed(header: &str, claims: &[u8]) -> String {
    let info = format!("Auth.js Generated Encryption Key ({PLAIN_NAME})");
    let info = [info.as_bytes()];
    let derived = Salt::new(HKDF_SHA256, PLAIN_NAME.as_bytes()).extract(SECRET);
    let mut key = [0; 64];
    let derived = derived.expand(&info, Bytes64);
    derived.unwrap().fill(&mut key).unwrap();
    let cipher = UnboundCipherKey::new(&AES_256, &key[32..]).unwrap();
    let cipher = PaddedBlockEncryptingKey::cbc_pkcs7(cipher).unwrap();
    let iv = [7; 16];
    let mut text = claims.to_vec();
    let context = EncryptionContext::Iv128(FixedLength::from(iv));
    cipher.less_safe_encrypt(&mut text, context).unwrap();
    authenticated(&key, header, &iv, &text)
}

fn authenticated(key: &[u8; 64], header: &str, iv: &[u8], text: &[u8]) -> String {
    let header = URL_SAFE_NO_PAD.encode(header);
    let bits = u64::try_from(header.len())
        .unwrap()
        .saturating_mul(8)
        .to_be_bytes();
    let message = [header.as_bytes(), iv, text, &bits].concat();
    let mac = hmac::Key::new(hmac::HMAC_SHA512, &key[..32]);
    let tag = hmac::sign(&mac, &message);
    let [iv, text, tag] = [iv, text, &tag.as_ref()[..32]].map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{header}..{iv}.{text}.{tag}")
}

#[test]
fn the_real_thing_is_taken_under_its_own_name_alone() {
    for capacity in [0, 100] {
        let verifier = builder().cache_capacity(capacity).build().unwrap();
        for _warm in [false, true] {
            for (own, other, cookie) in [
                (PLAIN_NAME, SECURE_NAME, PLAIN),
                (SECURE_NAME, PLAIN_NAME, SECURE),
            ] {
                let ann = verifier.verify_named(own, cookie).unwrap();
                assert_eq!(ann.subject(), "user-7");
                assert_eq!(ann.attribute("email"), Some("ann@example.com"));
                assert_eq!(verifier.verify(cookie).unwrap().subject(), "user-7");
                for foreign in [other, "", "session"] {
                    let kind = kind_of(&verifier, foreign, cookie);
                    assert_eq!(kind, TokenErrorKind::BadSignature, "{foreign}");
                }
            }
        }
    }
}

#[test]
fn an_older_secret_s_cookies_are_taken_while_it_is_named() {
    let alone = builder().build().unwrap();
    assert_eq!(
        kind_of(&alone, PLAIN_NAME, OLDER),
        TokenErrorKind::BadSignature
    );
    let both = builder().add_secret(OLDER_SECRET).build().unwrap();
    for cookie in [PLAIN, OLDER] {
        assert!(both.verify_named(PLAIN_NAME, cookie).is_ok());
    }
    let short = builder().add_secret(b"short").build();
    assert_eq!(short.unwrap_err(), SessionCookieError::SecretTooShort);
    // NextAuth 4 names no key: each is tried.
    let next = SessionCookieVerifier::next_auth(OLDER_SECRET).with_clock(clock(MADE_AT));
    assert!(
        next.add_secret(SECRET)
            .build()
            .unwrap()
            .verify(WHOLE)
            .is_ok()
    );
}

#[test]
fn it_expires_to_the_second() {
    for (second, expected) in [(0, true), (59, true), (60, false)] {
        let time = clock(MADE_AT + second);
        let verifier = builder().with_clock(time).build().unwrap();
        let is_good = verifier.verify_named(PLAIN_NAME, BRIEF).is_ok();
        assert_eq!(is_good, expected, "{second}");
    }
}

#[test]
fn no_character_can_be_changed_dropped_or_added() {
    let verifier = builder().build().unwrap();
    for at in 0..PLAIN.len() {
        let mut changed = PLAIN.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        kind_of(&verifier, PLAIN_NAME, &changed);
        kind_of(&verifier, PLAIN_NAME, &PLAIN[..at]);
        let more = format!("{}A{}", &PLAIN[..at], &PLAIN[at..]);
        kind_of(&verifier, PLAIN_NAME, &more);
    }
}

#[test]
fn only_what_auth_js_makes_is_opened() {
    let verifier = builder().build().unwrap();
    let named = r#"{"alg":"dir","enc":"A256CBC-HS512","typ":"JWT"}"#;
    for good in [HEADER, named] {
        let cookie = sealed(good, CLAIMS.as_bytes());
        assert!(verifier.verify_named(PLAIN_NAME, &cookie).is_ok(), "{good}");
    }
    for (header, kind) in [
        (
            r#"{"alg":"dir","enc":"A256GCM"}"#,
            TokenErrorKind::Unsupported,
        ),
        (
            r#"{"alg":"dir","enc":"A128CBC-HS256"}"#,
            TokenErrorKind::Unsupported,
        ),
        (
            r#"{"alg":"A256KW","enc":"A256CBC-HS512"}"#,
            TokenErrorKind::Unsupported,
        ),
        (
            r#"{"alg":"dir","enc":"A256CBC-HS512","zip":"DEF"}"#,
            TokenErrorKind::Unsupported,
        ),
        (
            r#"{"alg":"dir","enc":"A256CBC-HS512","kid":"x"}"#,
            TokenErrorKind::BadSignature,
        ),
        (
            r#"{"alg":"dir","enc":"A256CBC-HS512","kid":1}"#,
            TokenErrorKind::Malformed,
        ),
    ] {
        let cookie = sealed(header, CLAIMS.as_bytes());
        assert_eq!(kind_of(&verifier, PLAIN_NAME, &cookie), kind, "{header}");
    }
    for claims in ["", "[]", r#"{"sub":"u"}"#] {
        let cookie = sealed(HEADER, claims.as_bytes());
        let kind = kind_of(&verifier, PLAIN_NAME, &cookie);
        assert_eq!(kind, TokenErrorKind::Malformed, "{claims}");
    }
    // Each scheme refuses the other's.
    assert_eq!(
        kind_of(&verifier, PLAIN_NAME, WHOLE),
        TokenErrorKind::Unsupported
    );
    assert_eq!(kind(PLAIN), TokenErrorKind::Unsupported);
}

#[test]
fn segments_have_the_right_length() {
    let verifier = builder().build().unwrap();
    let parts: Vec<_> = PLAIN.split('.').collect();
    let [header, _, iv, text, tag] = parts[..] else {
        panic!("five segments")
    };
    for cookie in [
        format!("{header}..{}.{text}.{tag}", &iv[..16]),
        format!("{header}..{iv}AAAA.{text}.{tag}"),
        format!("{header}..{iv}.{text}.{}", &tag[..20]),
        format!("{header}..{iv}.{text}."),
        format!("{header}.AAAA.{iv}.{text}.{tag}"),
    ] {
        let kind = kind_of(&verifier, PLAIN_NAME, &cookie);
        assert_eq!(kind, TokenErrorKind::Malformed, "{cookie}");
    }
    for text in ["", "AAAA"] {
        let cookie = format!("{header}..{iv}.{text}.{tag}");
        let kind = kind_of(&verifier, PLAIN_NAME, &cookie);
        assert_eq!(kind, TokenErrorKind::BadSignature, "the tag comes first");
    }
    let name = "n".repeat(257);
    assert_eq!(kind_of(&verifier, &name, PLAIN), TokenErrorKind::NoKeys);
}

#[test]
fn nothing_of_secret_or_cookie_is_shown() {
    let verifier = builder().add_secret(OLDER_SECRET).build().unwrap();
    let refused = verifier.verify_named("other", PLAIN).unwrap_err();
    let shown = format!("{verifier:?} {:?} {refused:?} {refused}", builder());
    for secret in [
        "made for the tests",
        &PLAIN[60..80],
        &PLAIN[PLAIN.len() - 20..],
    ] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[A-Za-z0-9_.-]{0,300}", content in prop::collection::vec(any::<u8>(), 0..80)) {
        let verifier = builder().build().unwrap();
        prop_assert!(verifier.verify(&text).is_err());
        prop_assert!(verifier.verify_named(PLAIN_NAME, &sealed(HEADER, &content)).is_err());
    }
}
