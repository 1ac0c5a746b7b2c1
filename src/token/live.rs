//! The sources of a verifier's keys: fixed ones, or keys that change.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, RwLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::{
    IssueError, KeyError, SigningKey, TokenError, TokenErrorKind, VerifyingKey, VerifyingKeys,
    key::Unfit, verifier::TOKEN_LENGTH_MAX,
};
use crate::{
    domain::clock::Timestamp,
    sync::{lock, read, write},
};

/// The source of a [`TokenVerifier`](super::TokenVerifier)'s keys.
#[derive(Clone, Debug)]
pub struct TokenKeys(pub(super) Source);

#[derive(Clone, Debug)]
pub(super) enum Source {
    Fixed(VerifyingKeys),
    Live(Arc<dyn KeySource>),
}

/// Keys that change while they are used.
pub(super) trait KeySource: fmt::Debug + Send + Sync {
    /// The current generation of keys; this may trigger a look for new ones. Called on every use of
    /// a token.
    fn generation(&self, now: Timestamp) -> u64;

    /// The keys with their generation; `None` until the first ones are loaded.
    fn keys(&self) -> (Option<VerifyingKeys>, u64);

    /// Whether there may be newer keys that are currently unavailable.
    fn is_failing(&self) -> bool {
        false
    }

    /// A wait for keys that are long overdue. Called on every use of a token, after
    /// [`generation`](Self::generation).
    fn overdue(&self) -> Option<Wait> {
        None
    }

    /// Whether newer keys may fit a token that none of the generation `judged_by` does.
    ///
    /// # Errors
    /// If that can't be determined.
    fn wait_for(&self, kid: Option<&str>, judged_by: u64) -> Result<KeyRefresh, TokenError> {
        let _ = (kid, judged_by);
        Ok(KeyRefresh::None)
    }
}

/// Completes when the keys are loaded, or are known to be unavailable.
pub(crate) type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whether newer keys may fit a token.
#[cfg_attr(
    not(feature = "jwks"),
    expect(dead_code, reason = "other sources have all of their keys at hand")
)]
pub(super) enum KeyRefresh {
    /// No other keys will come.
    None,
    /// The keys have changed since it was judged.
    Done,
    /// Other keys may arrive.
    Pending(Wait),
}

impl Source {
    pub(super) fn generation(&self, now: Timestamp) -> u64 {
        match self {
            Self::Fixed(_) => 0,
            Self::Live(source) => source.generation(now),
        }
    }

    /// While newer keys are unavailable, it isn't certain that none fits.
    pub(super) fn explain(&self, unfit: &Unfit) -> TokenError {
        match self {
            Self::Live(source) if unfit.others_may_fit && source.is_failing() => TokenError::new(
                TokenErrorKind::NoKeys,
                "none of the keys fits, and newer ones can't be had",
            ),
            _ => unfit.error,
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

/// Shared keys, with the number of times that they were replaced.
#[derive(Debug, Default)]
pub(super) struct Shared {
    keys: RwLock<Option<VerifyingKeys>>,
    generation: AtomicU64,
}

impl Shared {
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The generation is read first: if the keys are newer, the only effect is that tokens are
    /// verified once more.
    pub(super) fn keys(&self) -> (Option<VerifyingKeys>, u64) {
        let generation = self.generation();
        let keys = read(&self.keys);
        (keys.clone(), generation)
    }

    pub(super) fn replace(&self, keys: VerifyingKeys) {
        *write(&self.keys) = Some(keys);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// The keys of an issuer: the one that signs, and those that verify its tokens.
pub(super) struct Signing {
    current: RwLock<Arc<Signer>>,
    others: Mutex<Others>,
    shared: Shared,
    /// When the next retired key ends, in milliseconds since 1970.
    ends_at: AtomicI64,
}

/// A key with the header of the tokens that it signs.
#[derive(Debug)]
pub(super) struct Signer {
    pub(super) key: SigningKey,
    pub(super) header: String,
}

#[derive(Clone, Debug, Default)]
struct Others {
    /// Keys that used to sign, with the moment from which they no longer verify.
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

    /// Whether verifiers accept a token with claims of that length.
    pub(super) fn check_length(&self, claims: usize) -> Result<(), IssueError> {
        let parts = [claims, self.key.signature_length()];
        let parts = parts.map(|length| base64::encoded_len(length, false));
        let length = parts
            .into_iter()
            // Each preceded by a dot.
            .try_fold(self.header.len(), |sum, part| {
                sum.checked_add(part?)?.checked_add(1)
            });
        match length {
            Some(0..=TOKEN_LENGTH_MAX) => Ok(()),
            _ => Err(IssueError::TooLong),
        }
    }
}

impl Signing {
    /// `retired` are the keys that used to sign, each with the moment from which it no longer
    /// verifies.
    pub(super) fn new(
        key: SigningKey,
        retired: Vec<(VerifyingKey, Timestamp)>,
        now: Timestamp,
    ) -> Result<Self, KeyError> {
        let signing = Self {
            current: RwLock::new(Arc::new(Signer::new(key)?)),
            others: Mutex::default(),
            shared: Shared::default(),
            ends_at: AtomicI64::new(i64::MAX),
        };
        let mut others = Others {
            retired,
            announced: None,
        };
        others.end(now);
        let keys = others.with(signing.current().key.verifying())?;
        signing.publish(&mut signing.others(), others, keys);
        Ok(signing)
    }

    pub(super) fn current(&self) -> Arc<Signer> {
        Arc::clone(&read(&self.current))
    }

    pub(super) fn rotate(
        &self,
        next: SigningKey,
        overlap: Duration,
        now: Timestamp,
    ) -> Result<(), KeyError> {
        let mut place = self.others();
        let mut others = place.clone();
        let end = now.saturating_add(overlap).unwrap_or(Timestamp::MAX);
        others
            .retired
            .push((self.current().key.verifying().clone(), end));
        // Removes the previous key too, if it has no overlap.
        others.end(now);
        others
            .announced
            .take_if(|key| key.name() == next.verifying().name());
        let keys = others.with(next.verifying())?;
        let signer = Arc::new(Signer::new(next)?);
        // Verifiers first, so that nothing is signed that they would refuse.
        self.publish(&mut place, others, keys);
        *write(&self.current) = signer;
        Ok(())
    }

    pub(super) fn announce(&self, next: &SigningKey, now: Timestamp) -> Result<(), KeyError> {
        let mut place = self.others();
        let mut others = place.clone();
        others.end(now);
        others.announced = Some(next.verifying().clone());
        let keys = others.with(self.current().key.verifying())?;
        self.publish(&mut place, others, keys);
        Ok(())
    }

    pub(super) fn jwks(&self, now: Timestamp) -> String {
        self.end(now);
        match self.shared.keys() {
            (Some(keys), _) => keys.to_jwks(),
            (None, _) => json!({ "keys": [] }).to_string(),
        }
    }

    /// Removes the keys that have ended; one comparison if there are none.
    fn end(&self, now: Timestamp) {
        if now.as_millisecond() < self.ends_at.load(Ordering::Acquire) {
            return;
        }
        let mut place = self.others();
        // Another thread may have been faster; and keys that end within this millisecond are still
        // there.
        if place.retired.iter().all(|(_, end)| *end > now) {
            return;
        }
        let mut others = place.clone();
        others.end(now);
        // A subset of the previous keys, which were a valid set.
        if let Ok(keys) = others.with(self.current().key.verifying()) {
            self.publish(&mut place, others, keys);
        }
    }

    fn publish(&self, place: &mut MutexGuard<'_, Others>, others: Others, keys: VerifyingKeys) {
        let ends = others.retired.iter().map(|(_, end)| end.as_millisecond());
        let ends_at = ends.min().unwrap_or(i64::MAX);
        **place = others;
        self.shared.replace(keys);
        self.ends_at.store(ends_at, Ordering::Release);
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        lock(&self.others)
    }
}

impl Others {
    /// Removes the keys that have ended.
    fn end(&mut self, now: Timestamp) {
        self.retired.retain(|(_, end)| *end > now);
    }

    /// All keys that verify, including the one that signs.
    fn with(&self, current: &VerifyingKey) -> Result<VerifyingKeys, KeyError> {
        let retired = self.retired.iter().map(|(key, _)| key);
        let keys = [current].into_iter().chain(retired).chain(&self.announced);
        VerifyingKeys::with_one_nameless(keys.cloned())
    }
}

impl KeySource for Signing {
    fn generation(&self, now: Timestamp) -> u64 {
        self.end(now);
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
