//! Where a verifier's keys come from: fixed ones, or those of a source that changes.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::{KeyError, SigningKey, TokenError, TokenErrorKind, VerifyingKey, VerifyingKeys};
use crate::domain::clock::Timestamp;

/// Where a [`TokenVerifier`](super::TokenVerifier) has its keys from.
#[derive(Clone, Debug)]
pub struct TokenKeys(pub(super) Source);

#[derive(Clone, Debug)]
pub(super) enum Source {
    Fixed(VerifyingKeys),
    Live(Arc<dyn KeySource>),
}

/// Keys that change while they are used.
pub(super) trait KeySource: fmt::Debug + Send + Sync {
    /// Which generation of keys is the present one; it may look whether there is a new one. Asked on every use of a token.
    fn generation(&self, now: Timestamp) -> u64;

    /// The keys, with their generation; `None` while there were never any.
    fn keys(&self) -> (Option<VerifyingKeys>, u64);

    /// Whether there may be newer keys that can't be had at present.
    fn is_failing(&self) -> bool {
        false
    }

    /// A wait for keys that may come, for a token that names one which isn't there; `None` when that is in vain.
    fn wait_for(&self, kid: Option<&str>) -> Option<Wait> {
        let _ = kid;
        None
    }
}

/// Is over when there are keys, or none to be had.
pub(super) type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Source {
    pub(super) fn generation(&self, now: Timestamp) -> u64 {
        match self {
            Self::Fixed(_) => 0,
            Self::Live(source) => source.generation(now),
        }
    }

    /// While newer keys can't be had, nobody can say that a key is unknown.
    pub(super) fn explain(&self, error: TokenError) -> TokenError {
        match self {
            Self::Live(source) if error.kind() == TokenErrorKind::UnknownKey => {
                if source.is_failing() {
                    return TokenError::new(
                        TokenErrorKind::NoKeys,
                        "there is no key of that kid, and newer keys can't be had",
                    );
                }
                error
            }
            _ => error,
        }
    }

    pub(super) fn keys(&self) -> (Option<VerifyingKeys>, u64) {
        match self {
            Self::Fixed(keys) => (Some(keys.clone()), 0),
            Self::Live(source) => source.keys(),
        }
    }
}

impl From<VerifyingKeys> for TokenKeys {
    fn from(keys: VerifyingKeys) -> Self {
        Self(Source::Fixed(keys))
    }
}

impl From<VerifyingKey> for TokenKeys {
    fn from(key: VerifyingKey) -> Self {
        Self(Source::Fixed(key.into()))
    }
}

impl From<Arc<Signing>> for TokenKeys {
    fn from(keys: Arc<Signing>) -> Self {
        Self(Source::Live(keys))
    }
}

/// Keys in one place, with the number of times that they were replaced.
#[derive(Debug, Default)]
pub(super) struct Shared {
    keys: RwLock<Option<VerifyingKeys>>,
    generation: AtomicU64,
}

impl Shared {
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The generation is read first: keys that are newer than it are only verified by once more.
    pub(super) fn keys(&self) -> (Option<VerifyingKeys>, u64) {
        let generation = self.generation();
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        (keys.clone(), generation)
    }

    pub(super) fn replace(&self, keys: VerifyingKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// The keys of an issuer: one that signs, and those by which its tokens are verified.
pub(super) struct Signing {
    current: RwLock<Arc<Signer>>,
    others: Mutex<Others>,
    shared: Shared,
}

/// A key with the header of what it signs.
#[derive(Debug)]
pub(super) struct Signer {
    pub(super) key: SigningKey,
    pub(super) header: String,
}

#[derive(Debug, Default)]
struct Others {
    /// Keys that signed before, with the moment from which on nobody needs them.
    retired: Vec<(VerifyingKey, Timestamp)>,
    announced: Option<VerifyingKey>,
}

impl Signer {
    fn new(key: SigningKey) -> Result<Self, KeyError> {
        let (algorithm, kid) = (key.verifying().algorithm(), key.verifying().name());
        let header = match kid {
            Some(kid) => {
                let kid = serde_json::to_string(kid).map_err(|_| KeyError::Kid)?;
                format!(r#"{{"alg":"{algorithm}","typ":"JWT","kid":{kid}}}"#)
            }
            None => format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#),
        };
        Ok(Self {
            key,
            header: URL_SAFE_NO_PAD.encode(header),
        })
    }
}

impl Signing {
    pub(super) fn new(key: SigningKey) -> Result<Self, KeyError> {
        let shared = Shared::default();
        shared.replace(key.verifying().clone().into());
        Ok(Self {
            current: RwLock::new(Arc::new(Signer::new(key)?)),
            others: Mutex::default(),
            shared,
        })
    }

    pub(super) fn current(&self) -> Arc<Signer> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn rotate(
        &self,
        next: SigningKey,
        overlap: Duration,
        now: Timestamp,
    ) -> Result<(), KeyError> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current();
        let mut retired = others.retired.clone();
        retired.retain(|(_, end)| *end > now);
        let end = now.saturating_add(overlap).unwrap_or(Timestamp::MAX);
        retired.push((before.key.verifying().clone(), end));
        let announced = others
            .announced
            .take_if(|key| key.name() == next.verifying().name());
        let keys = [next.verifying().clone()].into_iter();
        let keys = keys.chain(retired.iter().map(|(key, _)| key.clone()));
        let keys = match VerifyingKeys::new(keys.chain(others.announced.clone())) {
            Ok(keys) => keys,
            Err(error) => {
                others.announced = others.announced.take().or(announced);
                return Err(error);
            }
        };
        let signer = Arc::new(Signer::new(next)?);
        others.retired = retired;
        // Verifiers first: nothing is signed that they would refuse.
        self.shared.replace(keys);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = signer;
        Ok(())
    }

    pub(super) fn announce(&self, next: &SigningKey, now: Timestamp) -> Result<(), KeyError> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let next = next.verifying().clone();
        let keys = self.standing(&others, now).chain([next.clone()]);
        let keys = VerifyingKeys::new(keys)?;
        others.announced = Some(next);
        self.shared.replace(keys);
        Ok(())
    }

    pub(super) fn jwks(&self, now: Timestamp) -> String {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let announced = others.announced.clone();
        match VerifyingKeys::new(self.standing(&others, now).chain(announced)) {
            Ok(keys) => keys.to_jwks(),
            Err(_) => json!({ "keys": [] }).to_string(),
        }
    }

    /// The key that signs, and those that did not long ago.
    fn standing(&self, others: &Others, now: Timestamp) -> impl Iterator<Item = VerifyingKey> {
        let retired = others.retired.iter().filter(|(_, end)| *end > now);
        let retired: Vec<_> = retired.map(|(key, _)| key.clone()).collect();
        [self.current().key.verifying().clone()]
            .into_iter()
            .chain(retired)
    }
}

impl KeySource for Signing {
    fn generation(&self, _: Timestamp) -> u64 {
        self.shared.generation()
    }

    fn keys(&self) -> (Option<VerifyingKeys>, u64) {
        self.shared.keys()
    }
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing")
            .field("key", &self.current().key)
            .finish_non_exhaustive()
    }
}
