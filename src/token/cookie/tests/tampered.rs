//! Cookies of NextAuth 4 that were changed where another reader of JWE might not look (RFC 7516,
//! RFC 7518 sections 4 and 5).

use super::*;

const CLAIMS: &str = r#"{"sub":"u","exp":4949229071}"#;

/// The segments of a good cookie.
fn parts(cookie: &str) -> [String; 5] {
    let parts: Vec<_> = cookie.split('.').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

fn with(at: usize, text: &str) -> String {
    let mut parts = parts(&sealed(HEADER, CLAIMS));
    parts[at] = text.to_owned();
    parts.join(".")
}

fn bytes(at: usize) -> Vec<u8> {
    let parts = parts(&sealed(HEADER, CLAIMS));
    URL_SAFE_NO_PAD.decode(&parts[at]).unwrap()
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn a_changed_segment_opens_nothing() {
    use TokenErrorKind::{BadSignature, Malformed};
    assert!(
        builder()
            .build()
            .unwrap()
            .verify(&sealed(HEADER, CLAIMS))
            .is_ok()
    );
    let (nonce, text, tag) = (bytes(2), bytes(3), bytes(4));
    let flipped = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        encode(bytes)
    };
    for (name, cookie, kind) in [
        ("a tag of 15 bytes", with(4, &encode(&tag[..15])), Malformed),
        ("a tag of 12 bytes", with(4, &encode(&tag[..12])), Malformed),
        ("a tag of 4 bytes", with(4, &encode(&tag[..4])), Malformed),
        ("no tag", with(4, ""), Malformed),
        (
            "a tag of 17 bytes",
            with(4, &encode([&tag[..], &[0]].concat())),
            Malformed,
        ),
        ("a tag of zeros", with(4, &encode([0; 16])), BadSignature),
        ("another tag", with(4, &flipped(&tag)), BadSignature),
        ("no nonce", with(2, ""), Malformed),
        (
            "a nonce of 8 bytes",
            with(2, &encode(&nonce[..8])),
            Malformed,
        ),
        (
            "a nonce of 11 bytes",
            with(2, &encode(&nonce[..11])),
            Malformed,
        ),
        (
            "a nonce of 13 bytes",
            with(2, &encode([&nonce[..], &[0]].concat())),
            Malformed,
        ),
        ("a nonce of 16 bytes", with(2, &encode([7; 16])), Malformed),
        ("another nonce", with(2, &flipped(&nonce)), BadSignature),
        ("a nonce of zeros", with(2, &encode([0; 12])), BadSignature),
        ("another text", with(3, &flipped(&text)), BadSignature),
        ("no text", with(3, ""), BadSignature),
        ("a byte cut", with(3, &encode(&text[1..])), BadSignature),
        (
            "the tag in the text",
            with(3, &encode([&text[..], &tag].concat())),
            BadSignature,
        ),
        ("an encrypted key", with(1, &encode([7; 32])), Malformed),
        ("a key of one byte", with(1, "AA"), Malformed),
    ] {
        assert_eq!(super::kind(&cookie), kind, "{name}");
    }
}

#[test]
fn a_header_is_authenticated_as_it_is_written() {
    use TokenErrorKind::{BadSignature, Malformed, Unsupported};
    let other_aad = |header: &str| with(0, &encode(header));
    for (name, cookie, kind) in [
        (
            "a space in the header",
            other_aad(r#"{"alg":"dir", "enc":"A256GCM"}"#),
            BadSignature,
        ),
        (
            "members in another order",
            other_aad(r#"{"enc":"A256GCM","alg":"dir"}"#),
            BadSignature,
        ),
        (
            "a member more",
            other_aad(r#"{"alg":"dir","enc":"A256GCM","typ":"JWT"}"#),
            BadSignature,
        ),
        (
            "escaped",
            other_aad(r#"{"alg":"\u0064ir","enc":"A256GCM"}"#),
            BadSignature,
        ),
        (
            "a key's name",
            other_aad(r#"{"alg":"dir","enc":"A256GCM","kid":"1"}"#),
            BadSignature,
        ),
        (
            "another encryption",
            other_aad(r#"{"alg":"dir","enc":"A128GCM"}"#),
            Unsupported,
        ),
        ("no header", with(0, ""), Malformed),
        (
            "padding in the header",
            with(0, &format!("{}=", encode(HEADER))),
            Malformed,
        ),
    ] {
        assert_eq!(super::kind(&cookie), kind, "{name}");
    }
}

/// Sealed with our own key, so that the header alone can be what is wrong.
fn sealed_under(members: &str) -> TokenErrorKind {
    kind(&sealed(&format!("{{{members}}}"), CLAIMS))
}

#[test]
fn a_header_that_asks_for_other_work_is_refused_before_any_is_done() {
    let epk = r#""epk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#;
    let wrapped = r#""iv":"KkYT0GX_2jHlfqN_","tag":"kfPduVQ3T3H6vnewt--ksw""#;
    let pbes = |count: &str| {
        format!(
            r#""alg":"PBES2-HS512+A256KW","enc":"A256GCM","p2s":"8Q1SzinasR3xchYz6ZZcHA","p2c":{count}"#
        )
    };
    let in_dir = |count: &str| format!(r#""alg":"dir","enc":"A256GCM","p2c":{count}"#);
    for members in [
        r#""alg":"dir","enc":"A128GCM""#,
        r#""alg":"dir","enc":"A192GCM""#,
        r#""alg":"dir","enc":"A128CBC-HS256""#,
        r#""alg":"dir","enc":"A256CBC-HS512""#,
        r#""alg":"dir","enc":"XC20P""#,
        r#""alg":"dir","enc":"a256gcm""#,
        r#""alg":"dir","enc":"A256GCM ""#,
        r#""alg":"dir","enc":"""#,
        r#""alg":"dir","enc":"none""#,
        r#""alg":"DIR","enc":"A256GCM""#,
        r#""alg":"","enc":"A256GCM""#,
        r#""alg":"HS256","enc":"A256GCM""#,
        r#""alg":"RSA1_5","enc":"A256GCM""#,
        r#""alg":"RSA-OAEP","enc":"A256GCM""#,
        r#""alg":"RSA-OAEP-256","enc":"A256GCM""#,
        r#""alg":"A256KW","enc":"A256GCM""#,
        &format!(r#""alg":"A256GCMKW","enc":"A256GCM",{wrapped}"#),
        &format!(r#""alg":"ECDH-ES","enc":"A256GCM",{epk}"#),
        &format!(r#""alg":"ECDH-ES+A256KW","enc":"A256GCM",{epk}"#),
        &format!(r#""alg":"dir","enc":"A256GCM",{epk}"#),
        &format!(r#""alg":"dir","enc":"A256GCM",{wrapped}"#),
        &pbes("4096"),
        &pbes("2147483647"),
        &pbes("18446744073709551616"),
        &pbes("-1"),
        &pbes("1e9"),
        &pbes(r#""4096""#),
        &in_dir("2147483647"),
        &in_dir("0"),
        // A number that no type holds.
        &pbes(&"9".repeat(400)),
        r#""alg":"dir","enc":"A256GCM","zip":"DEF""#,
        r#""zip":"DEF","alg":"dir","enc":"A256GCM""#,
        r#""alg":"dir","enc":"A256GCM","zip":null"#,
        r#""alg":"dir","enc":"A256GCM","\u007aip":"DEF""#,
        r#""alg":"dir","enc":"A256GCM","crit":[]"#,
        r#""alg":"dir","enc":"A256GCM","b64":false,"crit":["b64"]"#,
    ] {
        assert_eq!(
            sealed_under(members),
            TokenErrorKind::Unsupported,
            "{members}"
        );
    }
    for members in [
        r#""alg":"dir","enc":null"#,
        r#""alg":"dir","enc":"A256GCM","enc":"A256GCM""#,
        r#""alg":"dir","enc":"A256GCM","x":1,"x":1"#,
        r#""alg":"dir","enc":"A256GCM"}{"#,
        // Longer than a header may be.
        &in_dir(&"9".repeat(1_000)),
    ] {
        assert_eq!(
            sealed_under(members),
            TokenErrorKind::Malformed,
            "{members}"
        );
    }
}

#[test]
fn what_is_inside_is_one_object_whatever_encrypted_it() {
    let deep = format!(r#"{{"sub":"u","exp":4949229071,"x":{}"#, "[".repeat(5_000));
    for (name, claims, expected) in [
        ("as it is", CLAIMS, None),
        (
            "a signed token",
            "eyJhbGciOiJub25lIn0.e30.",
            Some(TokenErrorKind::Malformed),
        ),
        ("an encrypted one", WHOLE, Some(TokenErrorKind::Malformed)),
        ("deflated", "\u{3}\u{0}", Some(TokenErrorKind::Malformed)),
        ("nested", &deep, Some(TokenErrorKind::Malformed)),
        (
            "a byte order mark",
            "\u{feff}{\"sub\":\"u\",\"exp\":4949229071}",
            Some(TokenErrorKind::Malformed),
        ),
        (
            "a lone surrogate",
            r#"{"sub":"u","exp":4949229071,"name":"\ud800"}"#,
            Some(TokenErrorKind::Malformed),
        ),
        (
            "1e400",
            r#"{"sub":"u","exp":1e400}"#,
            Some(TokenErrorKind::Malformed),
        ),
        (
            "2^63",
            r#"{"sub":"u","exp":9223372036854775808}"#,
            Some(TokenErrorKind::Malformed),
        ),
        (
            "iat beyond all time",
            r#"{"sub":"u","exp":4949229071,"iat":9223372036854775807}"#,
            Some(TokenErrorKind::Malformed),
        ),
        (
            "iat in a hundred years",
            r#"{"sub":"u","exp":4949229071,"iat":4949229070}"#,
            Some(TokenErrorKind::NotYetValid),
        ),
        (
            "nbf in a hundred years",
            r#"{"sub":"u","exp":4949229071,"nbf":4949229070}"#,
            Some(TokenErrorKind::NotYetValid),
        ),
    ] {
        let verified = builder().build().unwrap().verify(&sealed(HEADER, claims));
        assert_eq!(verified.err().map(|error| error.kind()), expected, "{name}");
    }
}
