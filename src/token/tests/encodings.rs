//! DER and PEM: one key each, and nothing beside it.

use super::*;

/// RFC 8410 section 4.
const ED_PREFIX: [u8; 12] = [48, 42, 48, 5, 6, 3, 43, 101, 112, 3, 33, 0];

pub(super) fn public_der(algorithm: TokenAlgorithm, pair: &SigningKey) -> Vec<u8> {
    let jwks: serde_json::Value =
        serde_json::from_str(&VerifyingKeys::from(pair.verifying().clone()).to_jwks()).unwrap();
    let member = |name| {
        let text = jwks["keys"][0][name].as_str().unwrap();
        URL_SAFE_NO_PAD.decode(text).unwrap()
    };
    match algorithm {
        TokenAlgorithm::EdDsa => [&ED_PREFIX[..], &member("x")].concat(),
        // RFC 5480 section 2.
        TokenAlgorithm::Es256 => {
            let prefix = [
                48, 89, 48, 19, 6, 7, 42, 134, 72, 206, 61, 2, 1, 6, 8, 42, 134, 72, 206, 61, 3, 1,
                7, 3, 66, 0, 4,
            ];
            [&prefix[..], &member("x"), &member("y")].concat()
        }
        // RFC 8017 appendix A.1.1.
        TokenAlgorithm::Rs256 => {
            let n = member("n");
            let length = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
            let number = [&[2, 0x82][..], &length(n.len().saturating_add(1)), &[0], &n].concat();
            let content = [&number[..], &[2, 3, 1, 0, 1]].concat();
            [&[48, 0x82][..], &length(content.len()), &content].concat()
        }
        _ => unreachable!(),
    }
}

#[test]
fn nothing_may_follow_a_key() {
    for algorithm in [
        TokenAlgorithm::EdDsa,
        TokenAlgorithm::Es256,
        TokenAlgorithm::Rs256,
    ] {
        let pair = || SigningKey::generate(algorithm).unwrap();
        let (one, other) = (pair(), pair());
        let der = public_der(algorithm, &one);
        let key = VerifyingKey::from_der(algorithm, &der).unwrap();
        assert_eq!(
            VerifyingKeys::from(key.kid("one").unwrap()).to_jwks(),
            VerifyingKeys::from(one.verifying().clone().kid("one").unwrap()).to_jwks()
        );
        let others = public_der(algorithm, &other);
        let private = one.to_pem().unwrap();
        let private = pem::parse(secrecy::ExposeSecret::expose_secret(&private)).unwrap();
        SigningKey::from_der(algorithm, private.contents()).unwrap();
        for behind in [
            &b"\n"[..],
            b"\r\n",
            b"\0",
            &others,
            &others[others.len().saturating_sub(65)..],
        ] {
            let der = [&der, behind].concat();
            let refused = VerifyingKey::from_der(algorithm, &der).unwrap_err();
            assert_eq!(refused, KeyError::Unreadable, "{algorithm}");
            let private = [private.contents(), behind].concat();
            let refused = SigningKey::from_der(algorithm, &private).unwrap_err();
            assert_eq!(refused, KeyError::Unreadable, "{algorithm}");
        }
        for cut in [0, 1, 2, der.len() - 1] {
            assert!(VerifyingKey::from_der(algorithm, &der[..cut]).is_err());
        }
    }
    // A point alone names no curve.
    let ed = SigningKey::generate(TokenAlgorithm::EdDsa).unwrap();
    let point = &public_der(TokenAlgorithm::EdDsa, &ed)[ED_PREFIX.len()..];
    assert!(VerifyingKey::from_der(TokenAlgorithm::EdDsa, point).is_err());
}

#[test]
fn of_two_keys_in_a_text_none_is_taken() {
    let algorithm = TokenAlgorithm::Es256;
    let pem = || {
        let pair = SigningKey::generate(algorithm).unwrap();
        let public = pem::Pem::new("PUBLIC KEY", public_der(algorithm, &pair));
        let private = pair.to_pem().unwrap();
        let private = secrecy::ExposeSecret::expose_secret(&private).to_owned();
        (private, pem::encode(&public))
    };
    let ((private, public), (others_private, others_public)) = (pem(), pem());
    let parameters =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    for before in ["", parameters, "a remark\n"] {
        let (private, public) = (before.to_owned() + &private, before.to_owned() + &public);
        SigningKey::from_pem(algorithm, private.as_bytes()).unwrap();
        VerifyingKey::from_pem(algorithm, public.as_bytes()).unwrap();
        let twice = private + &others_private;
        assert!(SigningKey::from_pem(algorithm, twice.as_bytes()).is_err());
        let twice = public + &others_public;
        assert!(VerifyingKey::from_pem(algorithm, twice.as_bytes()).is_err());
    }
}

#[test]
fn a_public_key_without_its_armour_is_no_secret() {
    for algorithm in [
        TokenAlgorithm::EdDsa,
        TokenAlgorithm::Es256,
        TokenAlgorithm::Rs256,
    ] {
        let der = public_der(algorithm, &SigningKey::generate(algorithm).unwrap());
        let armoured = pem::encode(&pem::Pem::new("PUBLIC KEY", der.clone()));
        let lines: Vec<_> = armoured.lines().collect();
        let body = lines[1..lines.len() - 1].join("\r\n");
        let without_first = lines[1..].join("\n");
        let dense = base64::engine::general_purpose::STANDARD.encode(&der);
        let texts = [&der[..], body.as_bytes(), without_first.as_bytes()];
        for secret in texts.into_iter().chain([dense.as_bytes()]) {
            let refused = VerifyingKey::from_secret(TokenAlgorithm::Hs256, secret).unwrap_err();
            assert_eq!(refused, KeyError::PublicSecret, "{algorithm}");
        }
    }
    let random = base64::engine::general_purpose::STANDARD.encode([0x30; 64]);
    VerifyingKey::from_secret(TokenAlgorithm::Hs256, random.as_bytes()).unwrap();
}

#[test]
fn a_private_key_in_a_public_set_is_found_however_malformed() {
    let good = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    for bad in [
        r#"{"kty":"EC","crv":"P-256","kid":5,"d":"AAAA"}"#,
        r#"{"kty":"EC","use":["sig"],"d":"AAAA"}"#,
        r#"{"d":"AAAA"}"#,
        r#"{"kty":"EC","d":7}"#,
        r#"{"kty":"oct","k":["AAAA"]}"#,
        r#"{"kty":"RSA","oth":[]}"#,
    ] {
        let set = format!(r#"{{"keys":[{good},{bad}]}}"#);
        let refused = VerifyingKeys::from_public_jwks(set.as_bytes()).unwrap_err();
        assert_eq!(refused, KeyError::NotPublic, "{bad}");
    }
    for odd in [
        r#"{"kty":"EC","kid":5}"#,
        "5",
        "{}",
        r#"{"kty":"EC","d":null}"#,
    ] {
        let set = format!(r#"{{"keys":[{good},{odd}]}}"#);
        VerifyingKeys::from_public_jwks(set.as_bytes()).unwrap();
    }
}
