//! Money in Redis or Valkey (6.2 and later): budgets that many instances spend from at once.
//!
//! - One script a call, one round trip: the books of an account are a few keys with one hash tag, and a script changes
//!   them in one step. A process's first hold in an account, and every payment, take two.
//! - The scripts keep the rules of [`books`](crate::books), in exact arithmetic over all of an `i64`; a test compares
//!   the two.
//! - A call that fails, or whose answer is lost, is `Unavailable`, which the layer answers with 503. A hold of which
//!   nobody knows whether it was opened is given back, and can't be opened any more.

mod builder;
mod calls;
mod codec;
mod holding;
mod in_flight;
mod listing;
mod maintenance;
mod names;
mod question;
mod registry;
mod server;
mod shared;

use std::{fmt, sync::Arc};

use shared::Shared;

pub use builder::RedisLedgerBuilder;

use super::Place;
use crate::store::StoreError;

/// Keeps money in Redis, so that many processes spend from one balance and one budget. A clone is a reference count.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::{Price, PriceTable, SpendingLimitLayer, store::RedisLedger};
///
/// let ledger = RedisLedger::open("redis://127.0.0.1/").await?;
/// let prices = PriceTable::new().route("POST", "/search", Price::flat("0.0020".parse()?))?;
/// let layer = SpendingLimitLayer::new(ledger.clone(), prices);
/// // … serve, and then
/// ledger.close().await?;
/// # Ok(()) }
/// ```
///
/// # What it keeps to
///
/// - However many processes there are: no hold beyond the balance or a limit, no settlement twice.
/// - Holds of a process that died are given back, or charged, as [`Expiry`](crate::usage::Expiry) says, a few seconds
///   later.
/// - It is as durable as its server. With `appendonly yes` and `appendfsync always` what was answered is on disk. With
///   `everysec` a server that ends may forget its last second: holds and settlements of calls that were answered, and
///   payments too. Without `appendonly` everything goes. A replica that is promoted may be behind. When it is opened it
///   warns of these by `tracing`, and of a `maxmemory-policy` that may throw books away, where the server tells.
/// - On a cluster all of an account is in one slot, and accounts are spread over the nodes.
/// - A payment that is refused because the account can't hold so much keeps its reference: that can be used for the
///   same payment alone.
///
/// TLS (`rediss://`) needs one of redis-rs's TLS features, switched on by the application.
#[derive(Clone)]
pub struct RedisLedger(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
}

impl RedisLedger {
    /// Opens the ledger on the server at `url`, `redis://user:password@host:port/database`, with default settings.
    ///
    /// # Errors
    /// Those of [`RedisLedgerBuilder::open`].
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        Self::builder(url).open().await
    }

    /// Begins a ledger on the server at `url`: `redis://user:password@host:port/database`.
    pub fn builder(url: &str) -> RedisLedgerBuilder {
        RedisLedgerBuilder::new(Place::Server(url.to_owned()))
    }

    /// Begins a ledger on a cluster, of which these are some nodes: the others are found through them. While a part of
    /// it is gone, so is the ledger.
    #[cfg(feature = "redis-cluster")]
    pub fn cluster<'a>(nodes: impl IntoIterator<Item = &'a str>) -> RedisLedgerBuilder {
        let nodes = nodes.into_iter().map(str::to_owned);
        RedisLedgerBuilder::new(Place::Cluster(nodes.collect()))
    }

    /// Writes what is on its way, resolves what is still held and ends. Calls fail with `Unavailable` from then on.
    ///
    /// # Errors
    /// `Unavailable` when what is on its way isn't written within three deadlines, or the server doesn't answer. It is
    /// tried on for a while in the background, and closing can be tried again; what is held then is resolved by other
    /// processes, as if this one had died.
    pub async fn close(&self) -> Result<(), StoreError> {
        let left = maintenance::leave(&self.0.shared).await;
        left.map_err(|failure| failure.error)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.closing.notify_one();
    }
}

impl fmt::Debug for RedisLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLedger").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers in tests are small")]
mod tests;
