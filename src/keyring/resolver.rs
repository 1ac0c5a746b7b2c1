//! From a clear key to the principal it stands for.

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use zeroize::Zeroizing;

use super::{
    KeyRefusal, KeyResolverBuilder, ResolvedKey,
    forms::{Form, Forms},
    hash_migration::{Aliases, Upgrades},
    hashing::Hashing,
    interner::StandingInterner,
};
use crate::{
    cache::{CacheStatistics, Lookup, RevocableCache, Stamp},
    domain::{
        clock::Clock,
        key::{KeyDigest, KeyProof, KeyRecord},
    },
    store::{Change, ChangeListener, Invalidations, KeyLookup, StoreError, StoreErrorKind},
};

/// The answer for a key: available at once, or waiting for the store.
#[derive(Debug)]
pub enum Resolution {
    /// Available at once.
    Ready(Result<Arc<ResolvedKey>, KeyRefusal>),
    /// Waiting for the store.
    Pending(PendingKey),
}

impl Resolution {
    async fn answer(self) -> Result<Arc<ResolvedKey>, KeyRefusal> {
        match self {
            Self::Ready(answer) => answer,
            Self::Pending(answer) => answer.await,
        }
    }
}

/// A key that is being looked up in the store.
pub struct PendingKey(Pin<Box<dyn Future<Output = Result<Arc<ResolvedKey>, KeyRefusal>> + Send>>);

impl Future for PendingKey {
    type Output = Result<Arc<ResolvedKey>, KeyRefusal>;

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for PendingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PendingKey")
    }
}

/// Finds keys: in memory if they were used recently, or else in the store. Cloning it increments a
/// reference count.
///
/// **When a revocation takes effect**: at once in this process, if the key is revoked through the
/// [`Keyring`](super::Keyring) that was given this resolver; within `ttl` in any other, whatever
/// fails, and much sooner if the store announces changes and the resolver [follows](Self::follow)
/// them. A `ttl` is never extended by use.
///
/// A thousand requests with the same unknown key cause one look-up. Absent keys are cached
/// separately, for a shorter time and with their own capacity. Failures of the store are never
/// cached.
#[derive(Clone)]
pub struct KeyResolver(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) store: Arc<dyn KeyLookup>,
    pub(super) cache: RevocableCache<Arc<ResolvedKey>>,
    pub(super) forms: Forms,
    pub(super) hashing: Hashing,
    pub(super) aliases: Aliases,
    pub(super) upgrades: Upgrades,
    pub(super) interner: StandingInterner,
    pub(super) deadline: Duration,
    pub(super) touch_interval: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

impl KeyResolver {
    /// Builds a resolver of the keys in `store`.
    pub fn builder(store: impl KeyLookup) -> KeyResolverBuilder {
        KeyResolverBuilder::new(Arc::new(store))
    }

    /// Whether a text is meant as a key: whether it has the prefix of one. Without formats, and if
    /// weak keys are accepted, that is every text except one with the form of a signed token, which
    /// belongs to another layer if one takes bearer tokens. To accept keys with that form as well,
    /// add a [foreign format](KeyResolverBuilder::add_foreign_format).
    #[must_use]
    pub fn claims(&self, text: &str) -> bool {
        self.0.forms.claim(text)
    }

    /// Finds the principal of a key. A recently used key costs a hash and a look-up in memory,
    /// without waiting. This is meant for a [`Policy`](crate::guard::Policy) of your own; otherwise
    /// use [`find_from`](Self::find_from).
    ///
    /// The caller must check the client's address against the key's
    /// [networks](ResolvedKey::networks) itself ([`ResolvedKey::check_address`]).
    #[must_use]
    pub fn resolve(&self, key: &str) -> Resolution {
        if self.0.forms.of(key) == Form::Malformed {
            return Resolution::Ready(Err(KeyRefusal::Malformed));
        }
        let digest = self.0.hashing.digest(key);
        let now = self.0.clock.elapsed();
        match self.0.cache.peek_at(&digest, now) {
            Lookup::Hit(found) => Resolution::Ready(self.0.admit(found, now)),
            Lookup::KnownAbsent => Resolution::Ready(Err(KeyRefusal::Unknown)),
            Lookup::Unknown => {
                let inner = Arc::clone(&self.0);
                let mixed = inner.hashing.is_mixed();
                let clear = mixed.then(|| Zeroizing::new(key.to_owned()));
                Resolution::Pending(PendingKey(Box::pin(async move {
                    inner
                        .load(digest, clear.as_ref().map(|key| key.as_str()))
                        .await
                })))
            }
        }
    }

    /// Finds the principal of a key, waiting for the store if necessary. A key that is bound to
    /// networks is refused, because its client's address must be known: see
    /// [`find_from`](Self::find_from).
    ///
    /// # Errors
    /// [`KeyRefusal`], which becomes a [`Denial`](crate::denial::Denial).
    pub async fn find(&self, key: &str) -> Result<Arc<ResolvedKey>, KeyRefusal> {
        let found = self.resolve(key).answer().await?;
        if found.networks().is_empty() {
            return Ok(found);
        }
        Err(KeyRefusal::Elsewhere { key: found })
    }

    /// Like [`find`](Self::find), for a key that is used from `address`: for a credential that no
    /// layer reads, as in the first message of a WebSocket. The address is the client's
    /// ([`ClientAddress`](crate::ClientAddress)), not that of a proxy.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{denial::{Denial, DenialKind}, keyring::{KeyResolver, Keyring, NewKey}};
    /// use tollgate::{key::KeyFormat, store::MemoryStore};
    ///
    /// let (store, format) = (MemoryStore::new(), KeyFormat::builder("acme").build()?);
    /// let resolver = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
    /// let office = NewKey { networks: vec!["192.0.2.0/24".parse()?], ..NewKey::default() };
    /// let (key, _) = Keyring::new(store, format, resolver.clone()).create("ann", office).await?;
    ///
    /// let found = resolver.find_from(key.expose(), "192.0.2.7".parse()?).await?;
    /// assert_eq!(found.principal().subject(), "ann");
    /// let refusal = resolver.find_from(key.expose(), "198.51.100.1".parse()?).await.unwrap_err();
    /// assert_eq!(Denial::from(refusal).kind(), DenialKind::AddressRefused);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`KeyRefusal`], which becomes a [`Denial`](crate::denial::Denial).
    pub async fn find_from(
        &self,
        key: &str,
        address: IpAddr,
    ) -> Result<Arc<ResolvedKey>, KeyRefusal> {
        let found = self.resolve(key).answer().await?;
        found.check_address(address)?;
        Ok(found)
    }

    /// Finds a key whether valid or not, without counting it as used.
    pub(super) async fn known(&self, key: &str) -> Result<Option<Arc<ResolvedKey>>, StoreError> {
        let inner = &self.0;
        if inner.forms.of(key) == Form::Malformed {
            return Ok(None);
        }
        let digest = inner.hashing.digest(key);
        match inner.cache.peek_at(&digest, inner.clock.elapsed()) {
            Lookup::Hit(found) => Ok(Some(found)),
            Lookup::KnownAbsent => Ok(None),
            Lookup::Unknown => {
                let clear = inner.hashing.is_mixed().then_some(key);
                inner.look(digest, clear).await
            }
        }
    }

    /// Removes a key from memory, so that the next request asks the store: call it after the store
    /// has changed.
    pub fn invalidate(&self, digest: &KeyDigest) {
        self.0.forget(digest);
    }

    /// Removes all keys from memory.
    pub fn invalidate_all(&self) {
        self.0.cache.invalidate_all();
    }

    /// From now on removes from memory what `changes` announces, so that a key that another process
    /// has revoked is refused at once.
    pub fn follow(&self, changes: &(impl Invalidations + ?Sized)) {
        let listener: Weak<Inner> = Arc::downgrade(&self.0);
        changes.subscribe(listener);
    }

    /// Loads the `keys` most recently used keys, so that the first requests after a start find them
    /// in memory, and returns how many were loaded. Loads none while there is a [next
    /// pepper](KeyResolverBuilder::add_next_pepper): another process may migrate a key and announce
    /// its revocation by a digest that can be computed only from the clear key.
    ///
    /// # Errors
    /// [`StoreError`]; a store that takes more than ten times the `deadline` is too slow.
    pub async fn warm_up(&self, keys: u16) -> Result<usize, StoreError> {
        let inner = &self.0;
        if inner.hashing.has_next() {
            return Ok(0);
        }
        let before = inner.cache.before_fill();
        let recent = inner.store.recently_used(keys);
        let deadline = inner.deadline.saturating_mul(10);
        let records = tokio::time::timeout(deadline, recent)
            .await
            .unwrap_or_else(|_| {
                let text = "the store did not answer in time";
                Err(StoreError::new(StoreErrorKind::Unavailable, text))
            })?;
        // A key of another scheme is cached under a digest that can be computed only from the clear
        // key.
        let today = inner.hashing.proof();
        let records: Vec<_> = records
            .into_iter()
            .filter(|record| record.proof == today)
            .collect();
        let count = records.len();
        for record in records {
            let digest = record.digest;
            if let Some(stamp) = inner.cache.stamp_after(&before, &digest) {
                inner.cache.fill(inner.resolved(record, digest, stamp));
            }
        }
        Ok(count)
    }

    pub(super) fn form_of(&self, text: &str) -> Form {
        self.0.forms.of(text)
    }

    /// What a new key is stored by.
    pub(super) fn hash(&self, key: &str) -> (KeyDigest, KeyProof) {
        (self.0.hashing.digest(key), self.0.hashing.proof())
    }

    /// What a chosen secret is stored by, and how many of its characters may be shown; `None` if
    /// those are not accepted.
    pub(super) async fn hash_weak(
        &self,
        key: &str,
    ) -> Result<Option<((KeyDigest, KeyProof), usize)>, StoreError> {
        let stored = self.0.hashing.hash_weak(key).await?;
        Ok(stored.zip(self.0.hashing.start_length()))
    }

    /// The statistics of the cache.
    #[must_use]
    pub fn statistics(&self) -> CacheStatistics {
        self.0.cache.statistics()
    }
}

impl ChangeListener for Inner {
    fn changed(&self, change: &Change) {
        match change {
            Change::Key(digest) => self.forget(digest),
            Change::Everything => self.cache.invalidate_all(),
            Change::Session(_) | Change::User(_) => {}
        }
    }
}

impl Inner {
    /// Takes the digest in the store, which may differ from the one in memory.
    fn forget(&self, stored: &KeyDigest) {
        self.cache.invalidate(stored);
        if let Some(known_by) = self.aliases.remove(stored) {
            self.cache.invalidate(&known_by);
        }
    }

    fn resolved(&self, record: KeyRecord, digest: KeyDigest, stamp: Stamp) -> Arc<ResolvedKey> {
        let touch_at = self.touch_at(&record);
        let interner = &self.interner;
        Arc::new(ResolvedKey::new(record, digest, stamp, interner, touch_at))
    }

    /// One interval after the last use, even if the key was dropped from memory and loaded again
    /// since.
    fn touch_at(&self, record: &KeyRecord) -> Duration {
        let now = self.clock.now();
        let wait = record.last_used_at.map(|used| {
            let since = now.duration_since(used);
            // A use in the future was just now, by another machine's clock.
            let since = Duration::try_from(since).unwrap_or_default();
            self.touch_interval.saturating_sub(since)
        });
        self.clock
            .elapsed()
            .saturating_add(wait.unwrap_or_default())
    }

    async fn load(
        &self,
        digest: KeyDigest,
        clear: Option<&str>,
    ) -> Result<Arc<ResolvedKey>, KeyRefusal> {
        match self.look(digest, clear).await? {
            Some(found) => self.admit(found, self.clock.elapsed()),
            None => Err(KeyRefusal::Unknown),
        }
    }

    async fn look(
        &self,
        digest: KeyDigest,
        clear: Option<&str>,
    ) -> Result<Option<Arc<ResolvedKey>>, StoreError> {
        let fetch = |stamp| async move {
            let record = self.find(&digest, clear).await?;
            Ok(record.map(|record| self.resolved(record, digest, stamp)))
        };
        self.cache.load(&digest, self.deadline, fetch).await
    }

    fn admit(
        &self,
        found: Arc<ResolvedKey>,
        now: Duration,
    ) -> Result<Arc<ResolvedKey>, KeyRefusal> {
        let clock = self.clock.as_ref();
        found.judge(clock)?;
        if let Some(id) = found.note_use(now, self.touch_interval) {
            self.store.touch(id, clock.now());
        }
        Ok(found)
    }
}

impl fmt::Debug for KeyResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyResolver")
            .field("store", &self.0.store)
            .finish_non_exhaustive()
    }
}
