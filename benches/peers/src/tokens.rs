//! A token verified by `jsonwebtoken` alone, as an application would call it.

use std::{
    hint::black_box,
    time::{Duration, SystemTime},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use super::scene::SECRET;

/// What is read of a token, by both sides.
#[derive(Debug, Deserialize, Serialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    exp: u64,
    roles: Vec<String>,
}

fn validation(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.set_issuer(&["bench"]);
    validation.set_audience(&["bench"]);
    validation
}

/// Verifies the caller's own token.
pub(crate) fn hs256(token: &str) -> impl FnMut() + use<> {
    let (token, key) = (token.to_owned(), DecodingKey::from_secret(SECRET));
    let validation = validation(Algorithm::HS256);
    move || {
        black_box(decode::<Claims>(&token, &key, &validation).expect("a good token"));
    }
}

/// Verifies a token with the same claims, signed with Ed25519.
pub(crate) fn ed_dsa() -> impl FnMut() {
    let pair = Ed25519KeyPair::generate().expect("randomness");
    let secret = pair.to_pkcs8v1().expect("a key");
    let tomorrow =
        SystemTime::UNIX_EPOCH.elapsed().expect("after 1970") + Duration::from_secs(86_400);
    let claims = Claims {
        iss: "bench".into(),
        aud: "bench".into(),
        sub: "user-1".into(),
        exp: tomorrow.as_secs(),
        roles: vec!["operator".into()],
    };
    let signing = EncodingKey::from_ed_der(secret.as_ref());
    let token = encode(&Header::new(Algorithm::EdDSA), &claims, &signing).expect("a token");
    let key = DecodingKey::from_ed_der(pair.public_key().as_ref());
    let validation = validation(Algorithm::EdDSA);
    move || {
        black_box(decode::<Claims>(&token, &key, &validation).expect("a good token"));
    }
}
