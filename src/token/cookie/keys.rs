//! An application's secrets, and the keys that it derives from them.

use std::{
    fmt,
    sync::{Arc, RwLock},
};

use zeroize::Zeroizing;

use super::jwe::{CookieKey, Encryption, NOT_OURS, Segments, read_header};
use crate::{
    sync::{read, write},
    token::{TokenError, TokenErrorKind},
};

/// How many names of cookies have their keys kept; those of further names are derived each time.
const NAMES_MAX: usize = 16;
const NAME_LENGTH_MAX: usize = 256;

/// Whose cookies they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// NextAuth.js 4: one key, whatever the cookie is called.
    NextAuth,
    /// Auth.js 5: a key for each name of a cookie.
    AuthJs,
}

impl Scheme {
    /// The cookie's names: where the application is served over https, and where it isn't.
    pub(super) const fn cookie_names(self) -> [&'static str; 2] {
        match self {
            Self::NextAuth => [
                "__Secure-next-auth.session-token",
                "next-auth.session-token",
            ],
            Self::AuthJs => ["__Secure-authjs.session-token", "authjs.session-token"],
        }
    }

    /// What a key depends on besides the secret.
    pub(super) const fn salt(self, cookie_name: &str) -> &str {
        match self {
            Self::NextAuth => "",
            Self::AuthJs => cookie_name,
        }
    }

    const fn encryption(self) -> Encryption {
        match self {
            Self::NextAuth => Encryption::A256Gcm,
            Self::AuthJs => Encryption::A256CbcHs512,
        }
    }
}

/// The keys of the cookies of one name, the newest secret's first.
type Keys = Arc<[CookieKey]>;

pub(super) struct CookieKeys {
    scheme: Scheme,
    secrets: Box<[Zeroizing<Vec<u8>>]>,
    derived: RwLock<Vec<(Box<str>, Keys)>>,
}

impl CookieKeys {
    /// `None` if no keys can be derived.
    pub(super) fn new(scheme: Scheme, secrets: Vec<Zeroizing<Vec<u8>>>) -> Option<Self> {
        let keys = Self {
            scheme,
            secrets: secrets.into(),
            derived: RwLock::default(),
        };
        let can_be = |name| keys.of(name).is_some();
        scheme
            .cookie_names()
            .into_iter()
            .all(can_be)
            .then_some(keys)
    }

    pub(super) const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Decrypts a cookie of this name, if it was made with one of the secrets and not changed
    /// since.
    pub(super) fn open(
        &self,
        cookie_name: &str,
        cookie: &str,
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let segments = Segments::of(cookie)?;
        let kid = read_header(segments.header, self.scheme.encryption())?;
        let keys = self.of(cookie_name).ok_or(NO_KEY)?;
        for key in keys.iter().filter(|key| key.may_be(kid.as_deref())) {
            match key.open(&segments) {
                Err(error) if error.kind() == TokenErrorKind::BadSignature => {}
                outcome => return outcome,
            }
        }
        Err(NOT_OURS)
    }

    fn of(&self, cookie_name: &str) -> Option<Keys> {
        let salt = self.scheme.salt(cookie_name);
        let kept = read(&self.derived)
            .iter()
            .find(|(name, _)| **name == *salt)
            .map(|(_, keys)| Arc::clone(keys));
        kept.or_else(|| self.derive(salt))
    }

    fn derive(&self, salt: &str) -> Option<Keys> {
        if salt.len() > NAME_LENGTH_MAX {
            return None;
        }
        let key = |secret: &Zeroizing<Vec<u8>>| match self.scheme {
            Scheme::NextAuth => CookieKey::next_auth(secret),
            Scheme::AuthJs => CookieKey::auth_js(secret, salt),
        };
        let keys: Keys = self
            .secrets
            .iter()
            .map(key)
            .collect::<Option<Vec<_>>>()?
            .into();
        let mut derived = write(&self.derived);
        if derived.len() < NAMES_MAX && derived.iter().all(|(name, _)| **name != *salt) {
            derived.push((salt.into(), Arc::clone(&keys)));
        }
        Some(keys)
    }
}

const NO_KEY: TokenError = TokenError::new(
    TokenErrorKind::NoKeys,
    "no key can be derived for a cookie of this name",
);

impl fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieKeys")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}
