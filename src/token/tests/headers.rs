//! What a header may contain.

use super::*;

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
fn keys_in_a_header_are_ignored_where_that_was_asked_for() {
    let (_, clock) = setup();
    let lax = builder(&clock).ignore_header_keys().build().unwrap();
    let with = |member: &str| format!(r#"{{"alg":"HS256",{member},"typ":"JWT"}}"#);
    let own = r#""jwk":{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T"}"#;
    for member in [
        own,
        r#""jku":"http://127.0.0.1:1""#,
        r#""x5u":"http://127.0.0.1:1""#,
        r#""x5c":["AA"]"#,
    ] {
        lax.verify(&sign(&with(member), good_claims(""))).unwrap();
    }
    let certificate = "A".repeat(2_000);
    let chain = format!(r#""x5c":["{certificate}","{certificate}"]"#);
    lax.verify(&sign(&with(&chain), good_claims(""))).unwrap();
    let forged = sign(&with(own), good_claims(""));
    let forged = format!("{}.AAAA", forged.rsplit_once('.').unwrap().0);
    let refused = lax.verify(&forged).unwrap_err();
    assert_eq!(refused.kind(), Kind::BadSignature);
    for (member, kind) in [
        (r#""crit":["jku"],"jku":"a""#, Kind::Unsupported),
        (r#""b64":false"#, Kind::Unsupported),
        (r#""enc":"A256GCM""#, Kind::Unsupported),
        (r#""jku":"a","jku":"a""#, Kind::Malformed),
    ] {
        let refused = lax.verify(&sign(&with(member), good_claims("")));
        assert_eq!(refused.unwrap_err().kind(), kind, "{member}");
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
