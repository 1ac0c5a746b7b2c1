//! `A256CBC-HS512`: AES-256 in CBC mode, authenticated by HMAC-SHA-512 (RFC 7518 section 5.2).

use aws_lc_rs::{
    cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey},
    constant_time::verify_slices_are_equal,
    digest::{SHA512, digest},
    hkdf::{HKDF_SHA256, KeyType, Salt},
    hmac::{Context, HMAC_SHA512, Key},
    iv::FixedLength,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::NOT_OURS;
use crate::token::TokenError;

/// The key's length, in bytes: half of it authenticates, and half of it encrypts.
const KEY_LENGTH: usize = 64;
const HALF: usize = KEY_LENGTH / 2;
const IV_LENGTH: usize = 16;
/// HMAC-SHA-512, cut in half.
const TAG_LENGTH: usize = 32;

/// A key of 512 bits.
pub(in crate::token::cookie) struct CbcHmacKey {
    mac: Key,
    cipher: PaddedBlockDecryptingKey,
    /// The thumbprint of the whole key, by which Auth.js names it.
    id: String,
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_LENGTH
    }
}

impl CbcHmacKey {
    /// The key that Auth.js 5 derives for the cookies of a name.
    pub(super) fn auth_js(secret: &[u8], cookie_name: &str) -> Option<Self> {
        let extracted = Salt::new(HKDF_SHA256, cookie_name.as_bytes()).extract(secret);
        let info = format!("Auth.js Generated Encryption Key ({cookie_name})");
        let info = [info.as_bytes()];
        let derived = extracted.expand(&info, Length).ok()?;
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        derived.fill(key.as_mut()).ok()?;
        let (authenticates, encrypts) = key.split_at_checked(HALF)?;
        let cipher = UnboundCipherKey::new(&AES_256, encrypts).ok()?;
        Some(Self {
            mac: Key::new(HMAC_SHA512, authenticates),
            cipher: PaddedBlockDecryptingKey::cbc_pkcs7(cipher).ok()?,
            id: thumbprint(key.as_ref()),
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The tag is checked before anything is decrypted (RFC 7518 section 5.2.2.2).
    pub(super) fn open(
        &self,
        header: &str,
        iv: &[u8],
        tag: &[u8],
        mut sealed: Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let iv: [u8; IV_LENGTH] = iv
            .try_into()
            .map_err(|_| TokenError::malformed("the initialization vector has 16 bytes"))?;
        if tag.len() != TAG_LENGTH {
            return Err(TokenError::malformed("the tag has 32 bytes"));
        }
        let made = self.tag(header, &iv, &sealed);
        let (made, _) = made.as_ref().split_at_checked(TAG_LENGTH).ok_or(NOT_OURS)?;
        verify_slices_are_equal(made, tag).map_err(|_| NOT_OURS)?;
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        let length = self
            .cipher
            .decrypt(&mut sealed, context)
            .map_err(|_| TokenError::malformed("the cookie's content is not whole blocks"))?
            .len();
        sealed.truncate(length);
        Ok(sealed)
    }

    fn tag(&self, header: &str, iv: &[u8], ciphertext: &[u8]) -> aws_lc_rs::hmac::Tag {
        let header_bits = u64::try_from(header.len())
            .unwrap_or(u64::MAX)
            .saturating_mul(8);
        let mut context = Context::with_key(&self.mac);
        for part in [
            header.as_bytes(),
            iv,
            ciphertext,
            &header_bits.to_be_bytes(),
        ] {
            context.update(part);
        }
        context.sign()
    }
}

/// The SHA-512 of the key as a JWK (RFC 7638).
fn thumbprint(key: &[u8]) -> String {
    let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(key));
    let jwk = Zeroizing::new(format!(r#"{{"k":"{}","kty":"oct"}}"#, *encoded));
    URL_SAFE_NO_PAD.encode(digest(&SHA512, jwk.as_bytes()))
}
