//! Settings of a [`KeyResolver`](super::KeyResolver) and their defaults.

use std::{sync::Arc, time::Duration};

use super::{
    KeyResolver, Pepper,
    forms::Forms,
    hash_migration::{Aliases, Upgrades},
    hashing::Hashing,
    interner::StandingInterner,
    resolver::Inner,
};
use crate::{
    cache::{CacheBounds, RevocableCache},
    domain::{
        clock::{Clock, SystemClock},
        key::{ForeignFormat, KeyFormat},
    },
    login::Passwords,
    store::KeyLookup,
};

/// How many look-ups of unknown keys per second reach the store by default.
const UNKNOWN_KEYS_PER_SECOND: u32 = 10_000;

/// Builds a [`KeyResolver`].
#[derive(Debug)]
#[must_use]
pub struct KeyResolverBuilder {
    store: Arc<dyn KeyLookup>,
    forms: Forms,
    hashing: Hashing,
    bounds: CacheBounds,
    stale: Duration,
    unknown_rate: u32,
    deadline: Duration,
    touch_interval: Duration,
    clock: Arc<dyn Clock>,
}

impl KeyResolverBuilder {
    pub(super) fn new(store: Arc<dyn KeyLookup>) -> Self {
        Self {
            store,
            forms: Forms::default(),
            hashing: Hashing::default(),
            bounds: CacheBounds {
                capacity: 100_000,
                ttl: Duration::from_secs(30),
                negative_capacity: 100_000,
                negative_ttl: Duration::from_secs(5),
            },
            stale: Duration::ZERO,
            unknown_rate: UNKNOWN_KEYS_PER_SECOND,
            deadline: Duration::from_secs(3),
            touch_interval: Duration::from_secs(1),
            clock: SystemClock::shared(),
        }
    }

    /// Adds a format of keys; texts of no known format are refused without a look-up. Without any
    /// format every text of up to 512 bytes is looked up.
    pub fn add_format(mut self, format: KeyFormat) -> Self {
        self.forms.add(format);
        self
    }

    /// Adds a format of keys that were made elsewhere and [imported](super::Keyring::import).
    pub fn add_foreign_format(mut self, format: ForeignFormat) -> Self {
        self.forms.add_foreign(format);
        self
    }

    /// Stores keys as HMAC-SHA-256 under this pepper, so that a leaked store reveals nothing. Keys
    /// that are stored as SHA-256, or under an old pepper, stay valid, and are migrated when they
    /// are used.
    ///
    /// **If several processes share a store**, introduce a pepper (even the first) in two steps,
    /// because a process that doesn't know it refuses the keys that another has migrated to it:
    ///
    /// 1. every process learns of it by [`add_next_pepper`](Self::add_next_pepper), and keeps using
    ///    the previous one;
    /// 2. once every process knows it, set it here in one process after the other, and pass the
    ///    previous one to [`add_old_pepper`](Self::add_old_pepper).
    ///
    /// ```
    /// # use tollgate::{keyring::{KeyResolver, Pepper}, store::MemoryStore};
    /// # fn main() -> Result<(), tollgate::keyring::InvalidPepper> {
    /// # let store = MemoryStore::new();
    /// let old = Pepper::new("2025", b"thirty-two bytes or more, please!")?;
    /// let new = Pepper::new("2026", b"thirty-two others, or a few more.")?;
    /// let step_1 = KeyResolver::builder(store.clone()).pepper(old.clone()).add_next_pepper(new.clone());
    /// let step_2 = KeyResolver::builder(store).pepper(new).add_old_pepper(old);
    /// # Ok(()) }
    /// ```
    pub fn pepper(mut self, pepper: Pepper) -> Self {
        self.hashing.set_pepper(pepper);
        self
    }

    /// Adds a pepper that stored keys may still have. Each costs another look-up for a key that
    /// isn't in memory. Remove it once no stored key names it any more
    /// ([`KeyRecord::proof`](crate::key::KeyRecord::proof)).
    pub fn add_old_pepper(mut self, pepper: Pepper) -> Self {
        self.hashing.add_old_pepper(pepper);
        self
    }

    /// Adds a pepper that another process may already store keys under: they are found, and left as
    /// they are. See [`pepper`](Self::pepper). Each costs another look-up for a key that isn't in
    /// memory.
    pub fn add_next_pepper(mut self, pepper: Pepper) -> Self {
        self.hashing.add_next_pepper(pepper);
        self
    }

    /// Also accepts secrets that people chose, imported by
    /// [`Keyring::import_weak`](super::Keyring::import_weak): they are found by their first `start`
    /// characters, which are not secret, and compared by Argon2id in the bounded pool of
    /// `passwords`. At least eight more characters must be secret. With a `start` of 0 there is
    /// nothing to find them by, and none is accepted. A text with the prefix of a known format is
    /// never compared this way, and refused without a look-up if it isn't a key; without a format
    /// every unknown key is compared.
    pub fn weak_keys(mut self, passwords: Passwords, start: usize) -> Self {
        if start > 0 {
            self.hashing.set_weak(passwords, start);
            self.forms.accept_chosen();
        }
        self
    }

    /// How long a key is cached before the store is asked again; 30 s unless set. With zero, every
    /// request asks the store.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.bounds.ttl = ttl;
        self
    }

    /// How long the absence of a key is cached; 5 s unless set. With zero, it isn't.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.bounds.negative_ttl = ttl;
        self
    }

    /// How many keys are cached; 100,000 unless set.
    pub fn capacity(mut self, keys: u64) -> Self {
        self.bounds.capacity = keys;
        self
    }

    /// How many absent keys are cached; 100,000 unless set.
    pub fn negative_capacity(mut self, keys: u64) -> Self {
        self.bounds.negative_capacity = keys;
        self
    }

    /// How long beyond its `ttl` a cached key is still accepted while the store fails; not at all
    /// unless set. A key that was revoked elsewhere may then work for that much longer:
    /// availability against prompt revocation, for you to decide. A full queue, the store's or
    /// ours, is no failure: the answer is then 503.
    pub fn stale_if_error(mut self, beyond_ttl: Duration) -> Self {
        self.stale = beyond_ttl;
        self
    }

    /// How many look-ups of unknown keys per second reach the store, and as many at once; 10,000
    /// unless set. Beyond that, a key that isn't in memory is briefly refused with 503. A look-up
    /// counts until the key is found, so this also limits concurrent look-ups; one that fails
    /// counts as unknown. A checksum rejects mistyped or guessed keys, but anyone who knows the
    /// format can compute it. A store that answers at once, from memory, isn't limited.
    pub fn unknown_keys_per_second(mut self, limit: u32) -> Self {
        self.unknown_rate = limit;
        self
    }

    /// How long the store may take before the request is refused with 503; 3 s unless set. Zero is
    /// enough for a store that answers at once, from memory, and for no other.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How often the use of a key is recorded in the store; once a second unless set. With zero,
    /// each use is.
    pub fn touch_interval(mut self, interval: Duration) -> Self {
        self.touch_interval = interval;
        self
    }

    /// Another source of time.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The resolver.
    #[must_use]
    pub fn build(self) -> KeyResolver {
        KeyResolver(Arc::new(Inner {
            cache: RevocableCache::new(self.bounds, Arc::clone(&self.clock))
                .stale_if_error(self.stale)
                .absences_per_second(self.unknown_rate),
            store: self.store,
            forms: self.forms,
            hashing: self.hashing,
            aliases: Aliases::new(self.bounds.capacity),
            upgrades: Upgrades::default(),
            interner: StandingInterner::default(),
            deadline: self.deadline,
            touch_interval: self.touch_interval,
            clock: self.clock,
        }))
    }
}
