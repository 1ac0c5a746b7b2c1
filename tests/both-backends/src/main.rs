//! Some dependency of an application has chosen one backend of `jsonwebtoken`, and tollgate the
//! other. Features only add, so both are in the build, and there `jsonwebtoken` panics unless the
//! process has installed one. Tokens are issued and verified all the same, whether or not it has.

use std::error::Error;

use jsonwebtoken::{
    EncodingKey, Header,
    crypto::{aws_lc, rust_crypto},
    encode,
};
use tollgate::{
    store::{SessionId, UserId},
    token::{SigningKey, TokenAlgorithm, TokenIssuer, TokenVerifier},
};

fn issue_and_verify() -> Result<(), Box<dyn Error>> {
    let asymmetric = [
        TokenAlgorithm::Rs256,
        TokenAlgorithm::Ps256,
        TokenAlgorithm::Es256,
        TokenAlgorithm::Es384,
        TokenAlgorithm::EdDsa,
    ];
    let keys = asymmetric.map(SigningKey::generate).into_iter();
    let secret =
        SigningKey::from_secret(TokenAlgorithm::Hs256, b"thirty-two bytes or more, please!");
    for key in keys.chain([secret]) {
        let issuer = TokenIssuer::with_key(key?).build()?;
        let verifier = issuer.verifier().build()?;
        let token = issuer.issue(&UserId::new("user-1")?, &SessionId::new("session-1")?, [])?;
        assert_eq!(verifier.verify(token.expose())?.subject(), "user-1");
        let (signed, _) = token.expose().rsplit_once('.').ok_or("no signature")?;
        assert!(verifier.verify(&format!("{signed}.AAAA")).is_err());
    }
    Ok(())
}

/// Another dependency reads numbers as they are written; a token's dates mean what they mean.
fn fractional_dates() -> Result<(), Box<dyn Error>> {
    let secret = b"thirty-two bytes or more, please!";
    let token = |iat: &str| -> Result<String, Box<dyn Error>> {
        let claims = format!(r#"{{"sub":"user-1","exp":99999999999,"iat":{iat}}}"#);
        let claims: serde_json::Value = serde_json::from_str(&claims)?;
        let key = EncodingKey::from_secret(secret);
        Ok(encode(&Header::default(), &claims, &key)?)
    };
    let verifier = TokenVerifier::hs256(secret).build()?;
    for fine in ["1764128400.25", "1.7641284e9", "1764128400"] {
        verifier.verify(&token(fine)?)?;
    }
    for odd in ["-1", "1e400", "\"1764128400\"", "null", "{}"] {
        assert!(verifier.verify(&token(odd)?).is_err(), "{odd}");
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    // With one of them alone this would show nothing, and not compile.
    let both = [&aws_lc::DEFAULT_PROVIDER, &rust_crypto::DEFAULT_PROVIDER];
    issue_and_verify()?;
    for provider in both {
        let _ = provider.install_default();
        issue_and_verify()?;
    }
    fractional_dates()?;
    println!("both backends: tokens are issued and verified");
    Ok(())
}
