//! Claims as other parsers may read them: numbers, times, audiences, texts.

use super::*;

const EXPIRED_IN_1970: Kind = Kind::Expired {
    at: Timestamp::UNIX_EPOCH,
};

/// What the verifier makes of a payload that is signed well.
fn verdict(claims: impl AsRef<[u8]>) -> Result<(), Kind> {
    let verified = setup().0.verify(&sign(HEADER, claims)).map(drop);
    verified.map_err(|error| error.kind())
}

#[test]
fn an_end_is_a_number_of_seconds() {
    for (exp, expected) in [
        ("1767225660", Ok(())),
        ("1767225660.0", Ok(())),
        ("1.76722566e9", Ok(())),
        ("1.76722566E+9", Ok(())),
        ("1767225600.000001", Ok(())),
        ("253402300799.999", Ok(())),
        ("0", Err(EXPIRED_IN_1970)),
        ("-0", Err(EXPIRED_IN_1970)),
        ("0.0", Err(EXPIRED_IN_1970)),
        ("-0.0", Err(EXPIRED_IN_1970)),
        ("1e-400", Err(EXPIRED_IN_1970)),
        // In milliseconds, as a careless issuer writes it.
        ("1767225660000", Err(Kind::Malformed)),
        ("-1", Err(Kind::Malformed)),
        ("-1e400", Err(Kind::Malformed)),
        ("1e400", Err(Kind::Malformed)),
        ("1e999999999999999999999", Err(Kind::Malformed)),
        ("2147483648e9", Err(Kind::Malformed)),
        ("9223372036854775807", Err(Kind::Malformed)),
        ("9223372036854775808", Err(Kind::Malformed)),
        ("-9223372036854775808", Err(Kind::Malformed)),
        ("18446744073709551615", Err(Kind::Malformed)),
        ("18446744073709551616", Err(Kind::Malformed)),
        (
            "340282366920938463463374607431768211456",
            Err(Kind::Malformed),
        ),
        ("NaN", Err(Kind::Malformed)),
        ("nan", Err(Kind::Malformed)),
        ("Infinity", Err(Kind::Malformed)),
        ("inf", Err(Kind::Malformed)),
        (r#""1767225660""#, Err(Kind::Malformed)),
        (r#""2026-01-01T00:01:00Z""#, Err(Kind::Malformed)),
        (r#""NaN""#, Err(Kind::Malformed)),
        (r#""""#, Err(Kind::Malformed)),
        ("01767225660", Err(Kind::Malformed)),
        ("+1767225660", Err(Kind::Malformed)),
        ("0x6955b93c", Err(Kind::Malformed)),
        ("1767225660.", Err(Kind::Malformed)),
        (".5", Err(Kind::Malformed)),
        ("1_767_225_660", Err(Kind::Malformed)),
        ("1767225660n", Err(Kind::Malformed)),
        ("true", Err(Kind::Malformed)),
        ("null", Err(Kind::Malformed)),
        ("[1767225660]", Err(Kind::Malformed)),
        (r#"{"$numberLong":"1767225660"}"#, Err(Kind::Malformed)),
        ("", Err(Kind::Malformed)),
    ] {
        let claims = format!(r#"{{"iss":"api","aud":"web","sub":"me","exp":{exp}}}"#);
        assert_eq!(verdict(claims), expected, "exp: {exp}");
        // As times, they have the same form.
        for name in ["nbf", "iat"] {
            let expected = match expected {
                Err(Kind::Malformed) => Err(Kind::Malformed),
                Err(_) => Ok(()),
                // Later than now, all of them.
                Ok(()) => Err(Kind::NotYetValid),
            };
            let claims = good_claims(&format!(r#","{name}":{exp}"#));
            assert_eq!(verdict(claims), expected, "{name}: {exp}");
        }
    }
}

#[test]
fn of_two_claims_of_one_name_none_is_chosen() {
    let (past, future) = (NOW - 60, NOW + 60);
    for (name, claims) in [
        (
            "exp, the first good",
            format!(r#""exp":{future},"sub":"me","exp":{past}"#),
        ),
        (
            "exp, the last good",
            format!(r#""exp":{past},"sub":"me","exp":{future}"#),
        ),
        (
            "exp, null first",
            format!(r#""exp":null,"sub":"me","exp":{future}"#),
        ),
        (
            "exp, escaped",
            format!(r#""exp":{future},"sub":"me","\u0065x\u0070":{future}"#),
        ),
        ("sub", format!(r#""sub":"me","exp":{future},"sub":"admin""#)),
        (
            "sub, the same",
            format!(r#""sub":"me","exp":{future},"sub":"me""#),
        ),
        ("aud", format!(r#""sub":"me","exp":{future},"aud":"web""#)),
        (
            "one that nobody reads",
            format!(r#""sub":"me","exp":{future},"x":1,"x":1"#),
        ),
        (
            "one inside",
            format!(r#""sub":"me","exp":{future},"x":[{{"y":1,"y":2}}]"#),
        ),
        (
            "an empty name",
            format!(r#""sub":"me","exp":{future},"":1,"":2"#),
        ),
        (
            "a surrogate pair",
            format!(r#""sub":"me","exp":{future},"\ud83d\ude00":1,"😀":2"#),
        ),
    ] {
        let claims = format!(r#"{{"iss":"api","aud":"web",{claims}}}"#);
        assert_eq!(verdict(claims), Err(Kind::Malformed), "{name}");
    }
    // Other names, though they look alike.
    for more in [
        r#","EXP":1"#,
        r#","exp ":1"#,
        r#","ехр":1"#,
        r#","exp\u0000":1"#,
    ] {
        assert_eq!(verdict(good_claims(more)), Ok(()), "{more}");
    }
}

#[test]
fn an_audience_is_a_text_or_texts() {
    let many = format!("[{}\"web\"]", r#""x","#.repeat(63));
    let more = format!("[{}\"web\"]", r#""x","#.repeat(64));
    for (aud, expected) in [
        (r#""web""#, Ok(())),
        (r#""\u0077eb""#, Ok(())),
        (r#"["web"]"#, Ok(())),
        (r#"["web","web"]"#, Ok(())),
        (&many, Ok(())),
        (&more, Err(Kind::Malformed)),
        ("[]", Err(Kind::WrongAudience)),
        (r#"[""]"#, Err(Kind::WrongAudience)),
        (r#""""#, Err(Kind::WrongAudience)),
        (r#""Web""#, Err(Kind::WrongAudience)),
        (r#""web ""#, Err(Kind::WrongAudience)),
        (r#""web\u0000""#, Err(Kind::WrongAudience)),
        (r#""web,other""#, Err(Kind::WrongAudience)),
        (r#""[\"web\"]""#, Err(Kind::WrongAudience)),
        ("[1]", Err(Kind::Malformed)),
        (r#"["web",1]"#, Err(Kind::Malformed)),
        (r#"[1,"web"]"#, Err(Kind::Malformed)),
        (r#"["web",null]"#, Err(Kind::Malformed)),
        (r#"[["web"]]"#, Err(Kind::Malformed)),
        (r#"[{"web":1}]"#, Err(Kind::Malformed)),
        (r#"{"0":"web"}"#, Err(Kind::Malformed)),
        ("true", Err(Kind::Malformed)),
        ("null", Err(Kind::Malformed)),
        ("0", Err(Kind::Malformed)),
    ] {
        let exp = NOW + 60;
        let claims = format!(r#"{{"iss":"api","aud":{aud},"sub":"me","exp":{exp}}}"#);
        assert_eq!(verdict(claims), expected, "{aud}");
    }
}

#[test]
fn a_payload_is_one_object_in_utf_8() {
    let good = good_claims("");
    let with = |bytes: &[u8]| {
        let claims = good_claims(r#","x":"?""#).into_bytes();
        let at = claims.iter().position(|byte| *byte == b'?').unwrap();
        [&claims[..at], bytes, &claims[at + 1..]].concat()
    };
    let behind = |bytes: &[u8]| [good.as_bytes(), bytes].concat();
    let before = |bytes: &[u8]| [bytes, good.as_bytes()].concat();
    let utf_16: Vec<_> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let expected = Err(Kind::Malformed);
    for (name, claims, expected) in [
        ("as it is", good.clone().into_bytes(), Ok(())),
        (
            "white space around",
            format!(" \t\r\n{good} \t\r\n").into_bytes(),
            Ok(()),
        ),
        ("a text in UTF-8", with("é😀".as_bytes()), Ok(())),
        ("a surrogate pair", with(br"\ud83d\ude00"), Ok(())),
        ("a byte order mark", before(b"\xef\xbb\xbf"), expected),
        ("UTF-16", utf_16.clone(), expected),
        (
            "UTF-16 with its mark",
            [&[0xff, 0xfe], &utf_16[..]].concat(),
            expected,
        ),
        ("no UTF-8", with(b"\xff"), expected),
        ("Latin-1", with(b"\xe9"), expected),
        ("a zero in two bytes", with(b"\xc0\x80"), expected),
        ("a slash in two bytes", with(b"\xc0\xaf"), expected),
        ("a surrogate in UTF-8", with(b"\xed\xa0\x80"), expected),
        (
            "a pair of them",
            with(b"\xed\xa0\xbd\xed\xb8\x80"),
            expected,
        ),
        ("beyond Unicode", with(b"\xf4\x90\x80\x80"), expected),
        ("cut short", with(b"\xf0\x9f\x98"), expected),
        ("a lone high surrogate", with(br"\ud83d"), expected),
        ("a lone low one", with(br"\ude00"), expected),
        ("two high ones", with(br"\ud83d\ud83d"), expected),
        ("the wrong way round", with(br"\ude00\ud83d"), expected),
        ("an unknown escape", with(br"\x41"), expected),
        ("a bare line end", with(b"\n"), expected),
        ("a NUL", with(b"\0"), expected),
        ("a NUL behind", behind(b"\0"), expected),
        ("another object behind", behind(b"{}"), expected),
        ("itself behind", behind(good.as_bytes()), expected),
        ("a brace behind", behind(b"}"), expected),
        ("a comma behind", behind(b","), expected),
        ("a comment behind", behind(b"//"), expected),
        ("a form feed before", before(b"\x0c"), expected),
        (
            "a no-break space before",
            before("\u{a0}".as_bytes()),
            expected,
        ),
        ("a dangling comma", good_claims(",").into_bytes(), expected),
        ("an array of it", format!("[{good}]").into_bytes(), expected),
        (
            "cut short by one",
            good.as_bytes()[..good.len() - 1].to_vec(),
            expected,
        ),
        ("nothing", Vec::new(), expected),
    ] {
        assert_eq!(verdict(claims), expected, "{name}");
    }
}

#[test]
fn a_payload_is_no_deeper_than_it_may_be() {
    for depth in [16, 17, 127, 128, 1_000, 5_000] {
        for (open, close) in [("[", "]"), ("[", ""), ("[[],", "0]")] {
            let nested = format!("{}{}", open.repeat(depth), close.repeat(depth));
            for name in ["x", "nbf", "roles", "typ"] {
                let claims = good_claims("").replacen('{', &format!(r#"{{"{name}":{nested},"#), 1);
                let refused = verdict(claims);
                assert_eq!(refused, Err(Kind::Malformed), "{name}: {depth} of {open}");
            }
        }
    }
    // More than fits a token: neither a payload nor a header of this depth is looked at.
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let claims = good_claims(&format!(r#","x":{deep}"#));
    assert_eq!(verdict(claims), Err(Kind::Malformed));
    let header = format!(r#"{{"alg":"HS256","x":{deep}}}"#);
    refused(&sign(&header, good_claims("")), Kind::Malformed);
    // A set of keys may be longer than a token.
    let jwk = format!(r#"{{"kty":"oct","x":{deep}}}"#);
    let read = VerifyingKey::from_jwk(jwk.as_bytes());
    assert_eq!(read.unwrap_err(), KeyError::Malformed);
    let set = format!(r#"{{"keys":[{jwk}]}}"#);
    let read = VerifyingKeys::from_public_jwks(set.as_bytes());
    assert_eq!(read.unwrap_err(), KeyError::Malformed);
}
