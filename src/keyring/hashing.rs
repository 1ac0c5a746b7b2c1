//! From a clear key to what the store knows it by.

use std::{fmt, time::Duration};

use aws_lc_rs::hmac;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use tokio::time::timeout;

use crate::{
    domain::key::{KeyDigest, KeyProof},
    login::{PasswordCheck, PasswordError, Passwords},
    store::{StoreError, StoreErrorKind},
};

const PEPPER_LENGTH_MIN: usize = 32;
const PEPPER_NAME_LENGTH_MAX: usize = 64;
/// The least length of the secret part of a chosen key, in bytes; the rest is shown publicly.
const SECRET_LENGTH_MIN: usize = 8;

/// A secret that keys are hashed with, kept apart from the store: access to the store alone is not
/// enough to tell whether a key is in it. Redacted in `Debug`.
///
/// ```
/// use tollgate::keyring::Pepper;
///
/// let pepper = Pepper::new("2026", b"thirty-two bytes or more, please!")?;
/// assert_eq!(pepper.name(), "2026");
/// assert!(Pepper::new("2026", b"short").is_err());
/// # Ok::<(), tollgate::keyring::InvalidPepper>(())
/// ```
#[derive(Clone)]
pub struct Pepper {
    name: Box<str>,
    key: hmac::Key,
}

/// The pepper is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a pepper has at least {PEPPER_LENGTH_MIN} bytes, and a name of 1 to {PEPPER_NAME_LENGTH_MAX} letters, digits, `-` and `_`"
)]
pub struct InvalidPepper;

impl Pepper {
    /// A pepper of at least 32 bytes. The name is stored with every key that is hashed with it, so
    /// each pepper needs its own.
    ///
    /// # Errors
    /// [`InvalidPepper`].
    pub fn new(name: &str, secret: &[u8]) -> Result<Self, InvalidPepper> {
        let speakable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let named =
            (1..=PEPPER_NAME_LENGTH_MAX).contains(&name.len()) && name.bytes().all(speakable);
        if !named || secret.len() < PEPPER_LENGTH_MIN {
            return Err(InvalidPepper);
        }
        Ok(Self {
            name: name.into(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        })
    }

    /// The pepper's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn digest(&self, key: &str) -> Option<KeyDigest> {
        let tag = hmac::sign(&self.key, key.as_bytes());
        let bytes: [u8; 32] = tag.as_ref().try_into().ok()?;
        Some(KeyDigest::from_bytes(bytes))
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pepper({})", self.name)
    }
}

/// Secrets that people chose, imported from elsewhere.
#[derive(Clone, Debug)]
struct Weak {
    passwords: Passwords,
    /// How many characters are public.
    start: usize,
}

/// The schemes of a resolver: one for new keys, and those that stored keys may still have.
#[derive(Clone, Debug, Default)]
pub(super) struct Hashing {
    pepper: Option<Pepper>,
    old_peppers: Vec<Pepper>,
    next_peppers: Vec<Pepper>,
    weak: Option<Weak>,
}

/// A digest that a key may be stored by, other than the current one.
pub(super) struct Other {
    pub(super) digest: KeyDigest,
    /// Whether a key found by it is migrated to the current scheme.
    pub(super) is_outdated: bool,
}

impl Hashing {
    pub(super) fn set_pepper(&mut self, pepper: Pepper) {
        self.pepper = Some(pepper);
    }

    pub(super) fn add_old_pepper(&mut self, pepper: Pepper) {
        self.old_peppers.push(pepper);
    }

    pub(super) fn add_next_pepper(&mut self, pepper: Pepper) {
        self.next_peppers.push(pepper);
    }

    pub(super) fn set_weak(&mut self, passwords: Passwords, start: usize) {
        self.weak = Some(Weak { passwords, start });
    }

    pub(super) fn start_length(&self) -> Option<usize> {
        self.weak.as_ref().map(|weak| weak.start)
    }

    /// Whether a key may be stored under another scheme than new ones.
    pub(super) fn is_mixed(&self) -> bool {
        self.pepper.is_some()
            || !self.old_peppers.is_empty()
            || !self.next_peppers.is_empty()
            || self.weak.is_some()
    }

    /// Whether another process may already store keys under a later scheme.
    pub(super) fn has_next(&self) -> bool {
        !self.next_peppers.is_empty()
    }

    /// What a key is stored by under the current scheme, and cached under in memory.
    pub(super) fn digest(&self, key: &str) -> KeyDigest {
        let peppered = self.pepper.as_ref().and_then(|pepper| pepper.digest(key));
        peppered.unwrap_or_else(|| KeyDigest::of(key))
    }

    /// The current scheme.
    pub(super) fn proof(&self) -> KeyProof {
        match &self.pepper {
            Some(pepper) => KeyProof::HmacSha256 {
                pepper: pepper.name.clone(),
            },
            None => KeyProof::Sha256,
        }
    }

    /// What the key would be stored by under the previous and the next schemes.
    pub(super) fn others(&self, key: &str) -> SmallVec<[Other; 2]> {
        let under = |peppers: &[Pepper], is_outdated| {
            let digests = peppers.iter().filter_map(|pepper| pepper.digest(key));
            let others = digests.map(|digest| Other {
                digest,
                is_outdated,
            });
            others.collect::<SmallVec<[Other; 2]>>()
        };
        let plain = self.pepper.as_ref().map(|_| Other {
            digest: KeyDigest::of(key),
            is_outdated: true,
        });
        let mut others = under(&self.old_peppers, true);
        others.extend(plain);
        others.extend(under(&self.next_peppers, false));
        others
    }

    /// The digest that a chosen secret is looked up by: that of its public start. `None` if too
    /// little remains as the secret part.
    pub(super) fn start(&self, key: &str) -> Option<KeyDigest> {
        let (start, secret) = key.split_at_checked(self.weak.as_ref()?.start)?;
        if secret.len() < SECRET_LENGTH_MIN {
            return None;
        }
        // Kept distinct from the digests of whole keys: a start is not secret.
        let digest = Sha256::new_with_prefix(b"start of a key\0").chain_update(start);
        Some(KeyDigest::from_bytes(digest.finalize().into()))
    }

    /// The hash to store for a chosen secret; `None` if those are not accepted, or it is hardly
    /// longer than its start.
    pub(super) async fn hash_weak(
        &self,
        key: &str,
    ) -> Result<Option<(KeyDigest, KeyProof)>, StoreError> {
        let (Some(weak), Some(digest)) = (&self.weak, self.start(key)) else {
            return Ok(None);
        };
        let hash = weak.passwords.hash(key).await.map_err(busy)?;
        Ok(Some((digest, KeyProof::Argon2id { hash: hash.into() })))
    }

    /// Compares with a stored hash, or with none in the same time. Gives up if it waits longer than
    /// `deadline` for a permit.
    pub(super) async fn compare(
        &self,
        key: &str,
        proof: Option<&KeyProof>,
        deadline: Duration,
    ) -> Result<PasswordCheck, StoreError> {
        let Some(weak) = &self.weak else {
            return Ok(PasswordCheck::Mismatch);
        };
        let hash = match proof {
            Some(KeyProof::Argon2id { hash }) => Some(hash.as_ref()),
            _ => None,
        };
        let check = timeout(deadline, weak.passwords.verify(key, hash)).await;
        check.unwrap_or(Err(PasswordError::Busy)).map_err(busy)
    }
}

/// Whatever the reason, the store is not to blame.
fn busy(_: PasswordError) -> StoreError {
    StoreError::new(
        StoreErrorKind::Busy,
        "a key could not be hashed or compared by Argon2id",
    )
}
