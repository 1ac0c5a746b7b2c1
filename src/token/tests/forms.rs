//! How a JWS may be written: compact, in base64url without anything added, with a header that asks
//! for nothing more (RFC 7515 section 3.1, RFC 7797).

use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE};

use super::*;

/// RFC 7515 appendix A.1.1, which RFC 7797 section 4 uses.
const SECRET: &str =
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";

#[test]
fn rfc_7797_section_4() {
    let jwk = format!(r#"{{"kty":"oct","k":"{SECRET}"}}"#);
    let keys = VerifyingKeys::from(VerifyingKey::from_jwk(jwk.as_bytes()).unwrap());
    let plain = "eyJhbGciOiJIUzI1NiJ9.JC4wMg.5mvfOroL-g7HyqJoozehmsaqmvTYGEq5jTI1gVvoEoQ";
    let (head, tag) = (
        "eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2UsImNyaXQiOlsiYjY0Il19",
        "A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY",
    );
    assert_eq!(keys.verify(plain).unwrap(), b"$.02");
    for (name, jws, kind) in [
        (
            "4.1, detached",
            plain.replace("JC4wMg", ""),
            Kind::BadSignature,
        ),
        (
            "4.1, not encoded",
            plain.replace("JC4wMg", "$02"),
            Kind::BadSignature,
        ),
        ("4.2, detached", format!("{head}..{tag}"), Kind::Unsupported),
        (
            "4.2, encoded",
            format!("{head}.JC4wMg.{tag}"),
            Kind::Unsupported,
        ),
        (
            "4.2, with its dot",
            format!("{head}.$.02.{tag}"),
            Kind::Malformed,
        ),
    ] {
        assert_eq!(keys.verify(&jws).unwrap_err().kind(), kind, "{name}");
    }
}

#[test]
fn what_a_header_asks_for_is_not_passed_over() {
    for member in [
        r#""crit":["b64"],"b64":false"#,
        r#""b64":false,"crit":["b64"]"#,
        r#""crit":["b64"],"b64":true"#,
        r#""crit":["exp"],"exp":9999999999"#,
        r#""crit":["alg"]"#,
        r#""crit":["kid"],"kid":"1""#,
        r#""crit":["http://example.invalid/UNDEFINED"],"http://example.invalid/UNDEFINED":true"#,
        r#""crit":["",""]"#,
        r#""crit":[]"#,
        r#""crit":null"#,
        r#""crit":"b64""#,
        r#""crit":{"b64":false}"#,
        r#""crit":false"#,
        r#""crit":["b64"],"crit":["b64"]"#,
        r#""b64":null"#,
        r#""b64":"false""#,
        r#""zip":"DEF""#,
        r#""zip":null"#,
        r#""zip":"""#,
    ] {
        let header = format!(r#"{{"alg":"HS256","typ":"JWT",{member}}}"#);
        refused(&sign(&header, good_claims("")), Kind::Unsupported);
    }
    // Names are told apart by case (RFC 7515 section 4).
    for member in [r#""CRIT":["b64"]"#, r#""B64":false"#, r#""Zip":"DEF""#] {
        let header = format!(r#"{{"alg":"HS256","typ":"JWT",{member}}}"#);
        accepted(&sign(&header, good_claims("")));
    }
    for header in [
        r#"{"ALG":"HS256","typ":"JWT"}"#,
        r#"{"alg":"HS256","typ":"JWT","kid":1}"#,
        r#"{"alg":"HS256","typ":"JWT","kid":null}"#,
        r#"{"alg":"HS256","typ":"JWT"}{}"#,
        "\u{feff}{\"alg\":\"HS256\",\"typ\":\"JWT\"}",
        r#"{"alg":"HS256","typ":"JWT",}"#,
        r#"{"alg":"HS256",/**/"typ":"JWT"}"#,
        r#"{'alg':'HS256'}"#,
        "{\"alg\":\"HS256\",\"x\":\"\u{0}\"}",
    ] {
        refused(&sign(header, good_claims("")), Kind::Malformed);
    }
}

/// `text` with another last character that only leftover bits tell from its own.
fn twisted(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (last, rest) = text.as_bytes().split_last().unwrap();
    let index = ALPHABET.iter().position(|other| other == last).unwrap();
    assert_ne!(text.len() % 4, 0, "there are leftover bits");
    let other = char::from(ALPHABET[index | 1]);
    format!("{}{other}", std::str::from_utf8(rest).unwrap())
}

#[test]
fn a_segment_is_base64url_and_nothing_else() {
    // Of bytes that the two alphabets write differently, and as long as leaves bits over.
    let header = r#"{"alg":"HS256","typ":"JWT","x":"??>>~~"}"#;
    let claims = good_claims(r#","x":"??>>~~~""#);
    let token = sign(header, &claims);
    accepted(&token);
    let segments: Vec<_> = token.split('.').collect();
    let parts = [header.as_bytes().to_vec(), claims.into_bytes()];
    for (at, part) in parts.iter().enumerate() {
        let own = segments[at];
        let standard = STANDARD_NO_PAD.encode(part);
        assert_ne!(standard, own, "the alphabets differ");
        let padded = URL_SAFE.encode(part);
        assert_ne!(padded, own, "there is padding");
        for (name, text) in [
            ("the standard alphabet", standard),
            ("padding", padded.clone()),
            ("padding, escaped", padded.replace('=', "%3D")),
            ("more padding", format!("{own}====")),
            ("bits left over", twisted(own)),
            ("a character left over", format!("{own}AAA")),
            ("a space before", format!(" {own}")),
            ("a space behind", format!("{own} ")),
            ("a line end", format!("{own}\n")),
            ("two lines", format!("{}\r\n{}", &own[..8], &own[8..])),
            ("a tab", format!("{}\t{}", &own[..8], &own[8..])),
            ("a NUL", format!("{own}\0")),
            ("another script", format!("{own}Å")),
            ("a soft hyphen", format!("{own}\u{ad}")),
            ("a tilde", format!("{own}~")),
            ("nothing", String::new()),
        ] {
            let mut signed = [segments[0], segments[1]];
            signed[at] = &text;
            // Signed as it stands, so that only its form can be what is wrong.
            let odd = sign_segments(&signed.join("."), CANARY);
            let verified = setup().0.verify(&odd).map_err(|error| error.kind());
            assert_eq!(verified, Err(Kind::Malformed), "segment {at}: {name}");
        }
    }
}

#[test]
fn only_the_compact_form_of_three_is_read() {
    let token = sign(HEADER, good_claims(""));
    let segments: Vec<_> = token.split('.').collect();
    let [header, claims, tag] = segments[..] else {
        panic!("three segments")
    };
    let one = format!(r#""protected":"{header}","signature":"{tag}""#);
    let odd_header = format!(r#""header":{{"alg":"HS256"}},"signature":"{tag}""#);
    for (name, text, kind) in [
        ("one segment", header.to_owned(), Kind::Malformed),
        ("two", format!("{header}.{claims}"), Kind::Malformed),
        ("four", format!("{token}.{tag}"), Kind::Malformed),
        ("four, the last empty", format!("{token}."), Kind::Malformed),
        (
            "four, the first empty",
            format!(".{token}"),
            Kind::Malformed,
        ),
        (
            "five, as encrypted",
            format!("{header}..{claims}.{claims}.{tag}"),
            Kind::Malformed,
        ),
        ("no header", format!(".{claims}.{tag}"), Kind::Malformed),
        ("detached", format!("{header}..{tag}"), Kind::BadSignature),
        (
            "no signature",
            format!("{header}.{claims}."),
            Kind::BadSignature,
        ),
        ("dots alone", "..".to_owned(), Kind::BadSignature),
        (
            "two dots of another script",
            token.replace('.', "\u{ff0e}"),
            Kind::Malformed,
        ),
        ("dots escaped", token.replace('.', "%2E"), Kind::Malformed),
        (
            "the scheme before it",
            format!("Bearer {token}"),
            Kind::Malformed,
        ),
        ("quoted", format!("\"{token}\""), Kind::Malformed),
        ("two tokens", format!("{token},{token}"), Kind::Malformed),
        (
            "flattened JSON",
            format!(r#"{{"payload":"{claims}",{one}}}"#),
            Kind::Malformed,
        ),
        (
            "flattened JSON, not protected",
            format!(r#"{{"payload":"{claims}",{odd_header}}}"#),
            Kind::Malformed,
        ),
        (
            "general JSON",
            format!(r#"{{"payload":"{claims}","signatures":[{{{one}}}]}}"#),
            Kind::Malformed,
        ),
        (
            "JSON around a token",
            format!(r#"{{"  {header}":1,"a":".{claims}.{tag}"}}"#),
            Kind::Malformed,
        ),
    ] {
        let verified = setup().0.verify(&text).map_err(|error| error.kind());
        assert_eq!(verified, Err(kind), "{name}");
    }
}
