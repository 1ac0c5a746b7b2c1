//! Private keys as JWKs.

use super::*;

const ED: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A""#;
const EC: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI""#;
const OCT: &str = r#""kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow""#;

// A key that was made for this test.
pub(super) const N: &str = "\
    rwXnFroquJUI4B0CebaK1xLu60ajVdOKDGh9Q593h_15diRsM14Na32OzTvfvMB0BSQoAfz_F3WWQXqYXmRNJu-Y\
    ovv9T3FT3Puln32MOeswpdUw-K18CvSWV519rIqSYtFoqPACQf8I4__Hl1Eff4YwN_Xr46tyaQLySeI293oRnAIP\
    GMiYRbSJiHUGWMvS9BjpKY1Cbuwjezo5nLrzKOwnU9DDNYz91jfvstjc2Qw3FgOOdce1klkD0OMbTTB5koEvGiwE\
    AyOsGY2QAUNk7JNOOWXvCChafEo-uVaidEBfCg4k1VaVMOsNAZBgdQUGz2tjw_QjTEdVYyxDvVuVAw";
const D: &str = "\
    BxGu9r0IMrJaTGr_iZj03KD4I2qT-Eh1__BMdum-8zAqsrnf4OdAlYHZvbJYZBBF31tJfmMQjosCSZzBALb-Yr80\
    pAiXf5jtMTS8yMdSXZiBO4Fz2-dt5idg1yMWS1zBctpQZtpizPWXD1ZqYlM1eXobAnedUnG_SjyDOra3T6F-Xm08\
    TVQgaaQDEistq_BgaGn1F0FKNr--hACB5vW1bCQxHxR5_xHzxiGcgwI577CQRYmrUgYYig3-hDXAS3PfnVJ2Xtot\
    GTrKyBCsXvZxJAbirKMYPfX1FOk0fCT4qFQAtr6ejGexp-iAwWeMxUeXT2yfcoWfUcWBe5CZTGiz6Q";
const P: &str = "\
    6DmhRuRP5ZLfEp0rB0ytkziilV_yfpwIFSUCWGTFa603InCfbIrzpufO7lQW76txUTR5lloKYdyh_MA5KpX9t9pC\
    gDn9PlqdQtzTnn9RYaQmXx0iQj8moxc52ZjMXGF4sj_QizYDLwICSOFrBl4JbdGp88BtqneeQFCE2209e-U";
const Q: &str = "\
    wPERgN9rR6jU0L-M7_LfD8hi75Jw8IBmA1YFyqOjertI9wf7jv9TJA1SNy3xUkBqcshNcL1Ooe-w-eRwoyHCkBY-\
    Ie8e0bVNQKGmp8Ama-Gd5lsNuHtsYxLUfcFUhTK6a9K4G4GDv_i8BTj4wArDD13lIxzbf5ACzsFoK5OGzsc";
const DP: &str = "\
    gcukPtFhbrlWgTrjT-MlqQGgrcjA6s8fHWJgGzPHvFVGWbOFB8_qO0GZQVAyuaajYXXo94ZAA06kI3b0_L503wvY\
    236N8woGl9aBWTdkLyTmZYcNHOXbHJDgvqROpNu98DMGxqhbwyxmRoHnpdltf7oOObU2Fm9hPiVC_LnkAZk";
const DQ: &str = "\
    rtPBgHzxwKUC8YQgOOxhovN4cozHOaWeyjcQWGWepH8_xle9Yf2JYImRjd5bZKRp0Egfo6Blt-Zw_n44chkNK3J8\
    KlN6IZuevIm9cRNzvR1a7nhjHl73_234jVq5M1icA0eU-5eHwlOoSzMscxdNWIdEMWTcn-HmKWKm-ZVb-dE";
const QI: &str = "\
    f_pfSQiIPcx_b8I1rPMyxkWcnSODIeLPnhQZcY_qNSEYOJyHM5YauxEiRnRlo1IBQKSO-9e-mG3qSlVfHI2HpooZ\
    66ZrJaKp8Aghv-X0QGXcy6_JGFY3dCh0kEXvYZhrHZqLVSws1jY6mqyAEvyixcAS68nI9BG2bJ0WE9wkIb0";

fn rsa(more: &str) -> String {
    format!(
        r#""kty":"RSA","n":"{N}","e":"AQAB","d":"{D}","p":"{P}","q":"{Q}","dp":"{DP}","dq":"{DQ}","qi":"{QI}"{more}"#
    )
}

fn key(members: &str) -> Result<SigningKey, KeyError> {
    SigningKey::from_jwk(format!("{{{members}}}").as_bytes())
}

fn public(members: &str) -> VerifyingKey {
    VerifyingKey::from_jwk(format!("{{{members}}}").as_bytes()).unwrap()
}

/// Signs with one, verifies with the other.
#[track_caller]
fn is_a_pair(members: &str) {
    let clock = Arc::new(ManualClock::default());
    let issuer = TokenIssuer::with_key(key(members).unwrap())
        .with_clock(clock.clone())
        .build()
        .unwrap();
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    let token = issuer.issue(&user, &session, []).unwrap();
    // The public part has no name unless the JWK has; then any name is accepted.
    let keys = VerifyingKeys::from(public(members));
    let verifier = TokenVerifier::builder(keys).with_clock(clock).build();
    verifier.unwrap().verify(token.expose()).unwrap();
}

#[test]
fn a_private_jwk_signs_what_its_public_part_verifies() {
    for members in [
        ED.to_owned(),
        EC.to_owned(),
        OCT.to_owned(),
        rsa(""),
        rsa(r#","alg":"PS384","use":"sig","key_ops":["sign","verify"]"#),
        format!(r#"{OCT},"alg":"HS512","kid":"1""#),
        format!(r#"{EC},"kid":"2026-01","alg":"ES256""#),
    ] {
        is_a_pair(&members);
    }
}

#[test]
fn its_name_is_its_kid_or_its_thumbprint() {
    let name = |members: &str| key(members).unwrap().verifying().name().map(str::to_owned);
    // RFC 8037 appendix A.3
    let thumbprint = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    assert_eq!(name(ED).as_deref(), Some(thumbprint));
    assert_eq!(name(&format!(r#"{ED},"kid":"a""#)).as_deref(), Some("a"));
    assert_eq!(name(OCT), None);
    let long = format!(r#"{ED},"kid":"{}""#, "a".repeat(256));
    assert_eq!(key(&long).unwrap_err(), KeyError::Kid);
}

#[test]
fn rfc_8037_signs_as_it_says() {
    let signature =
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let message = format!(
        "{}.{}",
        encode(r#"{"alg":"EdDSA"}"#),
        encode("Example of Ed25519 signing")
    );
    let signed = key(ED).unwrap().sign(message.as_bytes()).unwrap();
    assert_eq!(encode(signed), signature);
}

#[test]
fn half_a_key_two_halves_of_two_keys_and_keys_for_something_else_are_refused() {
    use KeyError as E;
    let other = encode([7; 32]);
    let without = |members: &str, name: &str| {
        let start = members.find(&format!(r#""{name}":"#)).unwrap();
        let rest = &members[start..];
        let end = rest.find(',').map_or(members.len(), |at| start + at + 1);
        format!("{}{}", &members[..start], &members[end..])
            .trim_end_matches(',')
            .to_owned()
    };
    for (members, error) in [
        (without(ED, "d"), E::Unreadable),
        (without(EC, "d"), E::Unreadable),
        (without(OCT, "k"), E::Unreadable),
        (without(&rsa(""), "d"), E::Unreadable),
        (without(&rsa(""), "p"), E::Unreadable),
        (without(&rsa(""), "qi"), E::Unreadable),
        (
            format!(r#"{},"d":"{other}""#, without(ED, "d")),
            E::Unreadable,
        ),
        (
            format!(r#"{},"d":"{other}""#, without(EC, "d")),
            E::Unreadable,
        ),
        (format!(r#"{},"d":"AA""#, without(EC, "d")), E::Unreadable),
        (format!(r#"{},"d":"AA""#, without(ED, "d")), E::Unreadable),
        (format!(r#"{},"d":"AA=""#, without(ED, "d")), E::Unreadable),
        (
            format!(r#"{},"d":"{other}""#, without(&rsa(""), "d")),
            E::Unreadable,
        ),
        (
            format!(r#"{},"p":"{Q}""#, without(&rsa(""), "p")),
            E::Unreadable,
        ),
        (rsa(r#","oth":[]"#), E::Foreign),
        (format!(r#"{ED},"use":"enc""#), E::Foreign),
        (format!(r#"{ED},"key_ops":["verify"]"#), E::WrongUse),
        (format!(r#"{ED},"alg":"ES256""#), E::WrongAlgorithm),
        (
            r#""kty":"oct","k":"c2VjcmV0""#.to_owned(),
            E::SecretTooShort,
        ),
        (format!(r#"{},"d":1"#, without(ED, "d")), E::Malformed),
    ] {
        assert_eq!(key(&members).unwrap_err(), error, "{members}");
    }
}

#[test]
fn nothing_of_a_private_jwk_is_shown() {
    let shown = format!("{:?}", key(EC).unwrap());
    assert!(!shown.contains("jpsQnn"), "{shown}");
}
