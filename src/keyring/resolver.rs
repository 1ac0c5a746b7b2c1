//! From a key in clear to who it stands for.

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
    hashing::Hashing,
    mixed::{Aliases, Upgrades},
    standings::Standings,
};
use crate::{
    cache::{CacheStatistics, Lookup, RevocableCache, Stamp},
    domain::{
        clock::Clock,
        key::{KeyDigest, KeyProof, KeyRecord},
    },
    store::{Change, ChangeListener, Invalidations, KeyLookup, StoreError, StoreErrorKind},
};

/// The answer to a key: there already, or waiting for the store.
#[derive(Debug)]
pub enum Resolution {
    /// There already.
    Ready(Result<Arc<ResolvedKey>, KeyRefusal>),
    /// The store is asked.
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

/// A key that the store is asked for.
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

/// Finds keys: in memory when they were used lately, else in the store. A clone is a reference count.
///
/// **When a key is revoked**: at once in this process, when it is revoked through the [`Keyring`](super::Keyring)
/// that this resolver was handed to; within `ttl` in any other, whatever fails, and much sooner where the store
/// tells of changes and the resolver [follows](Self::follow). A `ttl` never slides.
///
/// A thousand requests with the same unknown key ask the store once. Keys that don't exist are
/// remembered apart from those that do, for a shorter time and in a space of their own. A failing
/// store is never remembered.
#[derive(Clone)]
pub struct KeyResolver(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) store: Arc<dyn KeyLookup>,
    pub(super) cache: RevocableCache<Arc<ResolvedKey>>,
    pub(super) forms: Forms,
    pub(super) hashing: Hashing,
    pub(super) aliases: Aliases,
    pub(super) upgrades: Upgrades,
    pub(super) standings: Standings,
    pub(super) deadline: Duration,
    pub(super) touch_interval: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

impl KeyResolver {
    /// Begins a resolver of the keys in `store`.
    pub fn builder(store: impl KeyLookup) -> KeyResolverBuilder {
        KeyResolverBuilder::new(Arc::new(store))
    }

    /// Whether a text means to be a key: whether it begins like one. Without formats, and where weak keys are taken, everything
    /// does but what has the form of a signed token: where another layer takes bearer tokens that is the other's credential. Keys that have
    /// that form too are those of a [foreign format](KeyResolverBuilder::add_foreign_format).
    #[must_use]
    pub fn claims(&self, text: &str) -> bool {
        self.0.forms.claim(text)
    }

    /// Finds out who a key stands for. A key that was used lately costs a hash and a look into memory, and nothing is waited for: for
    /// a [`Policy`](crate::guard::Policy) of one's own; all else asks by [`find_from`](Self::find_from).
    ///
    /// Whether it comes from its [networks](ResolvedKey::networks) is for the caller to ask ([`ResolvedKey::check_address`]).
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

    /// Finds out who a key stands for, and waits for the store where it must. A key that is bound to networks is refused: of that
    /// one it has to be known where it comes from ([`find_from`](Self::find_from)).
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

    /// The same of a key that comes from that address: for a credential that no layer reads, as in the first message of a
    /// WebSocket. The address is the client's ([`ClientAddress`](crate::ClientAddress)), not that of a proxy.
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

    /// The key of that text, good or not; that it was looked at is no use of it.
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

    /// Forgets a key, so that the next request asks the store: call it after the store has changed.
    pub fn invalidate(&self, digest: &KeyDigest) {
        self.0.forget(digest);
    }

    /// Forgets all keys.
    pub fn invalidate_all(&self) {
        self.0.cache.invalidate_all();
    }

    /// Forgets what `changes` tells of, from now on: so a key that another process revoked is refused at once.
    pub fn follow(&self, changes: &(impl Invalidations + ?Sized)) {
        let listener: Weak<Inner> = Arc::downgrade(&self.0);
        changes.subscribe(listener);
    }

    /// Reads the keys that were used last, at most `keys`, so that the first requests after a start find them in memory. Says how many.
    /// None while there is a [next pepper](KeyResolverBuilder::add_next_pepper): by what another process may store a key meanwhile, and tell
    /// that it is revoked, only the clear key tells.
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
        // One of another scheme is in memory under a digest that only the clear key tells.
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

    /// What a secret that somebody chose is stored by, and how many of its characters may be shown; `None` where those are not taken.
    pub(super) async fn hash_weak(
        &self,
        key: &str,
    ) -> Result<Option<((KeyDigest, KeyProof), usize)>, StoreError> {
        let stored = self.0.hashing.hash_weak(key).await?;
        Ok(stored.zip(self.0.hashing.start_length()))
    }

    /// How the cache fares.
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
    /// By its digest in the store, which may not be the one in memory.
    fn forget(&self, stored: &KeyDigest) {
        self.cache.invalidate(stored);
        if let Some(known_by) = self.aliases.remove(stored) {
            self.cache.invalidate(&known_by);
        }
    }

    fn resolved(&self, record: KeyRecord, digest: KeyDigest, stamp: Stamp) -> Arc<ResolvedKey> {
        let touch_at = self.touch_at(&record);
        let standings = &self.standings;
        Arc::new(ResolvedKey::new(record, digest, stamp, standings, touch_at))
    }

    /// An interval after its last use, also where it has been forgotten and read anew since.
    fn touch_at(&self, record: &KeyRecord) -> Duration {
        let now = self.clock.now();
        let wait = record.last_used_at.map(|used| {
            let since = now.duration_since(used);
            // One that was used in the future has been used now, by another's clock.
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
