//! The standards' examples, judged as a strict verifier must.

use super::*;

/// RFC 7515 appendix A.1.1: the payload of the first three.
const CLAIMS: &str = "\
    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVl\
    fQ";
/// RFC 7515 appendix A.2.1.
const RSA_7515: &str = "\
    ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4\
    d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5re\
    xMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxX\
    FvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
/// RFC 7515 appendix A.2.1.
const RS256_7515: &str = "\
    cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5\
    jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb\
    1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QO\
    YEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
/// RFC 7520 section 3.3.
const RSA_7520: &str = "\
    n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmS\
    CpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-Of\
    VfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKw\
    uCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw";
/// RFC 7520 section 4, figure 8.
const POEM: &str = "\
    SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250\
    byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hl\
    cmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4";
/// RFC 7520 section 4.1.
const RS256_7520: &str = "\
    MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xugl\
    II7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x\
    8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE\
    _oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg";
/// RFC 7520 section 4.2.
const PS384_7520: &str = "\
    cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TT\
    B5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrY\
    RXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtf\
    a64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw";
/// RFC 7520 section 4.3.
const ES512_7520: &str = "\
    AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3\
    mtPBu_u_sDDyYjnAMDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2";

fn key(jwk: &str) -> VerifyingKeys {
    VerifyingKey::from_jwk(jwk.as_bytes()).unwrap().into()
}

fn rsa(modulus: &str, more: &str) -> VerifyingKeys {
    key(&format!(
        r#"{{"kty":"RSA","n":"{modulus}","e":"AQAB"{more}}}"#
    ))
}

#[track_caller]
fn signs(keys: &VerifyingKeys, jws: &str, payload: &str) {
    assert_eq!(keys.verify(jws).unwrap(), payload.as_bytes());
    let (head, signature) = jws.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    let changed = format!("{head}.{other}{}", &signature[1..]);
    let error = keys.verify(&changed).unwrap_err();
    assert_eq!(error.kind(), Kind::BadSignature);
}

fn poem() -> String {
    String::from_utf8(URL_SAFE_NO_PAD.decode(POEM).unwrap()).unwrap()
}

fn claims() -> String {
    String::from_utf8(URL_SAFE_NO_PAD.decode(CLAIMS).unwrap()).unwrap()
}

#[test]
fn rfc_7515_appendix_a() {
    let secret =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let hs256 = format!(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{CLAIMS}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    );
    let keys = key(&format!(r#"{{"kty":"oct","k":"{secret}"}}"#));
    signs(&keys, &hs256, &claims());
    // It isn't an acceptable token: it expired in 2011, and has no subject.
    let verifier = TokenVerifier::builder(keys).build().unwrap();
    assert_eq!(verifier.verify(&hs256).unwrap_err().kind(), Kind::Malformed);

    let rs256 = format!("eyJhbGciOiJSUzI1NiJ9.{CLAIMS}.{RS256_7515}");
    signs(&rsa(RSA_7515, ""), &rs256, &claims());

    let es256 = format!(
        "eyJhbGciOiJFUzI1NiJ9.{CLAIMS}.\
         DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    signs(&key(P256), &es256, &claims());

    // A.4 is ES512, which isn't supported; A.5 is not signed; A.6 is JSON.
    let p521 = r#"{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}"#;
    let foreign = VerifyingKey::from_jwk(p521.as_bytes()).unwrap_err();
    assert_eq!(foreign, KeyError::Foreign);
    let unsigned = format!("eyJhbGciOiJub25lIn0.{CLAIMS}.");
    let error = key(P256).verify(&unsigned).unwrap_err();
    assert_eq!(error.kind(), Kind::BadSignature);
    let json = format!(r#"{{"payload":"{CLAIMS}","protected":"eyJhbGciOiJFUzI1NiJ9"}}"#);
    assert_eq!(key(P256).verify(&json).unwrap_err().kind(), Kind::Malformed);
}

/// RFC 7515 appendix A.3.1, its public part.
const P256: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

#[test]
fn rfc_7520_section_4() {
    let kid = r#","kid":"bilbo.baggins@hobbiton.example","use":"sig""#;
    let rs256 = format!(
        "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.{POEM}.{RS256_7520}"
    );
    signs(&rsa(RSA_7520, kid), &rs256, &poem());
    let ps384 = format!(
        "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.{POEM}.{PS384_7520}"
    );
    let pinned = format!(r#"{kid},"alg":"PS384""#);
    signs(&rsa(RSA_7520, &pinned), &ps384, &poem());
    // A key works only with its own algorithm, though its numbers would suit both.
    let error = rsa(RSA_7520, kid).verify(&ps384).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let error = rsa(RSA_7520, &pinned).verify(&rs256).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let es512 = format!(
        "eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.{POEM}.{ES512_7520}"
    );
    let error = rsa(RSA_7520, kid).verify(&es512).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let hs256 = format!(
        "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9.{POEM}.\
         s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0"
    );
    let secret = r#"{"kty":"oct","kid":"018c0ae5-4d9b-471b-bfd6-eef314bc7037","use":"sig","alg":"HS256","k":"hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg"}"#;
    signs(&key(secret), &hs256, &poem());
    // 4.5 is detached: its payload is empty, and not what was signed.
    let detached = hs256.replace(POEM, "");
    let error = key(secret).verify(&detached).unwrap_err();
    assert_eq!(error.kind(), Kind::BadSignature);
}

#[test]
fn rfc_8037_appendix_a() {
    let jwk = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let jws = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
               hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    signs(&key(jwk), jws, "Example of Ed25519 signing");
    let x25519 = jwk.replace("Ed25519", "X25519");
    let foreign = VerifyingKey::from_jwk(x25519.as_bytes()).unwrap_err();
    assert_eq!(foreign, KeyError::Foreign);
}

#[test]
fn signatures_of_nothing_are_no_signatures() {
    let head = format!("eyJhbGciOiJFUzI1NiJ9.{CLAIMS}");
    // n, the order of P-256: equivalent to zero.
    let order = [
        255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 188, 230, 250, 173,
        167, 23, 158, 132, 243, 185, 202, 194, 252, 99, 37, 81,
    ];
    let mut one = [0; 32];
    one[31] = 1;
    let halves = [[0; 32], one, order, [255; 32]];
    for r in halves {
        for s in halves {
            let jws = format!("{head}.{}", encode([r, s].concat()));
            let error = key(P256).verify(&jws).unwrap_err();
            assert_eq!(error.kind(), Kind::BadSignature);
        }
    }
    // In ASN.1 instead of the fixed form (RFC 7518 section 3.4), too short, too long.
    for odd in [&[0x30, 6, 2, 1, 1, 2, 1, 1][..], &[1; 63], &[1; 65], &[0]] {
        let error = key(P256)
            .verify(&format!("{head}.{}", encode(odd)))
            .unwrap_err();
        assert_eq!(error.kind(), Kind::BadSignature);
    }
}
