//! Session cookies as NextAuth 4 makes them.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tollgate::clock::{Clock, SystemClock};

use super::{NEXTAUTH_SECRET, support::Call};

/// Made by next-auth itself, for the secret of these tests.
pub(crate) const REAL: &str = include_str!("../../src/token/cookie/vectors/whole.txt");
pub(crate) const REAL_CHUNKS: &str = include_str!("../../src/token/cookie/vectors/chunks.txt");

/// A `cookie` header.
#[derive(Clone, Debug)]
pub(crate) struct Cookie(pub(crate) String);

impl Cookie {
    pub(crate) fn named(name: &str, value: &str) -> Self {
        Self(format!("theme=dark; {name}={value}"))
    }

    pub(crate) fn plain(value: &str) -> Self {
        Self::named("next-auth.session-token", value)
    }

    /// A session of `subject` for an hour.
    pub(crate) fn of(subject: &str) -> Self {
        Self::plain(&sealed(
            NEXTAUTH_SECRET,
            &json!({"sub": subject, "exp": now() + 3_600}),
        ))
    }

    pub(crate) fn on(&self, call: Call) -> Call {
        call.header("cookie", &self.0)
    }
}

pub(crate) fn now() -> u64 {
    SystemClock.now().as_second().try_into().unwrap()
}

pub(crate) fn sealed(secret: &str, claims: &Value) -> String {
    let key = Salt::new(HKDF_SHA256, b"").extract(secret.as_bytes());
    let key = key.expand(&[b"NextAuth.js Generated Encryption Key"], &AES_256_GCM);
    let key = LessSafeKey::new(UnboundKey::from(key.unwrap()));
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"dir","enc":"A256GCM"}"#);
    let mut nonce = [0; 12];
    rand::fill(&mut nonce).unwrap();
    let mut text = claims.to_string().into_bytes();
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(header.as_bytes()),
            &mut text,
        )
        .unwrap();
    let [nonce, text, tag] =
        [&nonce[..], &text, tag.as_ref()].map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{header}..{nonce}.{text}.{tag}")
}
