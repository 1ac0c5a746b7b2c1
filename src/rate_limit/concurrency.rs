//! Limits on requests under way at the same time.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hash},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use hashbrown::HashTable;

use super::{RateLimitKey, key::Counted};
use crate::{
    domain::denial::{Denial, DenialKind},
    guard::{self, BodyEnd, Decision, Gate, Meter, Permit, Policy, ResponseMarks, Tail, Verdict},
    store::{ConcurrencyStore, Slot, StoreError, StoreFuture},
    sync::lock,
    wire::{ClientAddress, RequestHead},
};

/// When a client that has too many requests under way may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The number of locks that clients are spread over.
const SHARDS: usize = 64;

/// The number of clients per shard for which memory is always kept.
const CLIENTS_KEPT: usize = 16;

/// Limits how many requests of each client are under way at once, from the decision to the last
/// byte of the answer. If the connection is handed over (101, CONNECT), the request ends with its
/// head. Excess requests are refused with 429, not queued.
///
/// It counts in this process, unless a store is [shared](Self::with_store). Memory use is
/// proportional to the requests under way.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::rate_limit::ConcurrencyLimitLayer;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())));
/// let service = ConcurrencyLimitLayer::global(1).layer(hello);
/// let under_way = service.clone().oneshot(http::Request::new(())).await?;
/// assert_eq!(service.clone().oneshot(http::Request::new(())).await?.status(), 429);
/// drop(under_way);
/// assert_eq!(service.oneshot(http::Request::new(())).await?.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ConcurrencyLimitLayer {
    gate: Gate<ConcurrencyLimitPolicy>,
}

guard::layer!(ConcurrencyLimitLayer, ConcurrencyLimitPolicy);

impl ConcurrencyLimitLayer {
    /// At most `most` per client address: IPv4 addresses, and /64 prefixes of IPv6.
    #[must_use]
    pub fn per_client_ip(most: u32) -> Self {
        Self::per(RateLimitKey::client_ip(ClientAddress::peer()), most)
    }

    /// At most `most` per principal.
    #[must_use]
    pub fn per_principal(most: u32) -> Self {
        Self::per(RateLimitKey::principal(), most)
    }

    /// At most `most` in total.
    #[must_use]
    pub fn global(most: u32) -> Self {
        Self::per(RateLimitKey::everybody(), most)
    }

    /// At most `most` per value of `key`. 0 counts as 1.
    #[must_use]
    pub fn per(key: RateLimitKey, most: u32) -> Self {
        Self {
            gate: Gate::new(ConcurrencyLimitPolicy {
                key,
                most: most.max(1),
                counts: Arc::default(),
                shared: None,
            }),
        }
    }

    /// Counts in `store`, so that several processes share one limit. `scope` is the limit's name
    /// there: the same in all processes, and different for every limit. While the store fails,
    /// requests are refused with 503, unless it decides by itself as `RedisConcurrency` does.
    #[must_use]
    pub fn with_store(self, scope: &str, store: impl ConcurrencyStore) -> Self {
        let shared = Shared {
            scope: scope.into(),
            store: Arc::new(store),
        };
        Self {
            gate: self.gate.map_policy(|policy| policy.shared = Some(shared)),
        }
    }

    pub(crate) fn into_gate(self) -> Gate<ConcurrencyLimitPolicy> {
        self.gate
    }

    /// How the client address is determined, if the key uses it; the peer's by default.
    #[must_use]
    pub fn client_address(self, address: ClientAddress) -> Self {
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.key.set_address(address)),
        }
    }
}

/// The decision of a [`ConcurrencyLimitLayer`].
#[derive(Clone, Debug)]
pub struct ConcurrencyLimitPolicy {
    key: RateLimitKey,
    most: u32,
    counts: Arc<Counts>,
    shared: Option<Shared>,
}

#[derive(Clone, Debug)]
struct Shared {
    scope: Arc<str>,
    store: Arc<dyn ConcurrencyStore>,
}

impl Shared {
    fn decide(&self, counted: &Counted<'_>, most: u32) -> Decision<InFlight> {
        let key = counted.name(&self.scope);
        match self.store.acquire(&key, most).into_ready() {
            Ok(answer) => Decision::Ready(verdict(answer)),
            Err(pending) => Decision::pending(async { verdict(pending.await) }),
        }
    }
}

fn verdict(answer: Result<Option<Slot>, StoreError>) -> Verdict<InFlight> {
    match answer {
        Ok(Some(slot)) => Verdict::Admit(InFlight(Place::Shared(slot))),
        Ok(None) => Verdict::Refuse(too_many()),
        Err(error) => Verdict::Refuse(
            Denial::new(DenialKind::Unavailable)
                .retry_after(RETRY_AFTER)
                .because(format!("requests under way can't be counted: {error}")),
        ),
    }
}

fn too_many() -> Denial {
    Denial::new(DenialKind::RateLimited)
        .retry_after(RETRY_AFTER)
        .because("too many requests under way")
}

impl Policy for ConcurrencyLimitPolicy {
    type Permit = InFlight;

    fn name(&self) -> &'static str {
        "concurrency_limit"
    }

    fn inherit_address(&mut self, address: &ClientAddress) {
        self.key.inherit_address(address);
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<InFlight> {
        let counted = match self.key.of(head) {
            Ok(counted) => counted,
            Err(denial) => return Decision::Ready(Verdict::Refuse(denial)),
        };
        if let Some(shared) = &self.shared {
            return shared.decide(&counted, self.most);
        }
        Decision::Ready(match InFlight::begin(&self.counts, &counted, self.most) {
            Some(under_way) => Verdict::Admit(under_way),
            None => Verdict::Refuse(too_many()),
        })
    }
}

/// What is under way, by a keyed hash of the client. A hash is as good as the name; see
/// [`MemoryRateLimiter`](crate::store::MemoryRateLimiter).
pub(super) struct Counts {
    hasher: RandomState,
    shards: [Mutex<HashTable<Count>>; SHARDS],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: [const { Mutex::new(HashTable::new()) }; SHARDS],
        }
    }
}

/// The count of one client.
struct Count {
    key: u64,
    under_way: u32,
}

impl Counts {
    /// The shard of a client. The hash table uses the other bits of the key.
    #[expect(clippy::indexing_slicing, reason = "there are 64")]
    fn lock(&self, key: u64) -> MutexGuard<'_, HashTable<Count>> {
        let [_, _, _, byte, ..] = key.to_be_bytes();
        lock(&self.shards[usize::from(byte & 63)])
    }
}

/// A request or a connection under way, until this is dropped.
pub struct InFlight(#[expect(dead_code, reason = "it is freed when it is dropped")] Place);

enum Place {
    Here(#[expect(dead_code, reason = "it is freed when it is dropped")] OwnPlace),
    Shared(#[expect(dead_code, reason = "it is freed when it is dropped")] Slot),
}

/// A place in this process's counts.
struct OwnPlace {
    counts: Arc<Counts>,
    key: u64,
}

impl InFlight {
    /// Counts one more for `counted`; `None` if the limit is reached.
    pub(super) fn begin(counts: &Arc<Counts>, counted: &impl Hash, most: u32) -> Option<Self> {
        let key = counts.hasher.hash_one(counted);
        let mut under_way = counts.lock(key);
        let place = under_way.entry(key, |count| count.key == key, |count| count.key);
        let place = place.or_insert(Count { key, under_way: 0 });
        let count = place.into_mut();
        if count.under_way >= most {
            return None;
        }
        count.under_way = count.under_way.saturating_add(1);
        drop(under_way);
        let counts = Arc::clone(counts);
        Some(Self(Place::Here(OwnPlace { counts, key })))
    }
}

impl Drop for OwnPlace {
    fn drop(&mut self) {
        let mut under_way = self.counts.lock(self.key);
        if let Ok(mut place) = under_way.find_entry(self.key, |count| count.key == self.key) {
            let count = place.get_mut();
            count.under_way = count.under_way.saturating_sub(1);
            if count.under_way == 0 {
                place.remove();
            }
        }
        // Release a burst's memory once its requests are over.
        let clients = under_way.len().max(CLIENTS_KEPT);
        if clients.saturating_mul(8) < under_way.capacity() {
            under_way.shrink_to(clients.saturating_mul(2), |count| count.key);
        }
    }
}

impl Permit for InFlight {
    type Meter = Self;

    fn mark_response(self, _: ResponseMarks<'_>) -> Tail<Self> {
        Tail::Metered(self)
    }
}

impl Meter for InFlight {
    fn end(self, _: BodyEnd) -> Option<StoreFuture<()>> {
        drop(self);
        None
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients: usize = self.shards.iter().map(|shard| lock(shard).len()).sum();
        f.debug_struct("Counts")
            .field("clients", &clients)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlight")
    }
}
