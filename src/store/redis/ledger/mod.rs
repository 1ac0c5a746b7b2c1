//! Money in Redis or Valkey (6.2 and later): budgets that many instances spend from at once.
//!
//! - One script, and one round trip, per call: the books of an account are a few keys with one hash
//!   tag, which a script changes in one step. A process's first hold in an account takes two, as
//!   does every payment.
//! - The scripts implement the rules of [`books`](crate::books), in arithmetic that is exact over
//!   all of an `i64`; a test compares the two.
//! - A call that fails, or whose answer is lost, is `Unavailable`, which the layer answers with
//!   503. A hold whose outcome is unknown is given back, and can't be opened any more.

mod builder;
mod calls;
mod codec;
mod holding;
mod in_flight;
mod listing;
mod maintenance;
mod names;
mod payments;
mod redis_call;
mod registry;
mod server;
mod shared;

use std::{fmt, sync::Arc};

use shared::Shared;

pub use builder::RedisLedgerBuilder;

use super::RedisClient;
use crate::store::StoreError;

/// Keeps money in Redis, so that many processes spend from one balance and one budget. A clone is a
/// reference count.
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
/// # Guarantees
///
/// - Redis or Valkey, 6.2 and later. One script, and one round trip, per call; a process's first
///   hold in an account takes two, as does every payment.
/// - A call that fails, or whose answer is lost, is `Unavailable`, which the layer answers with
///   503. A hold whose outcome is unknown is given back, and can't be opened any more. Open holds,
///   and with them the settlements that wait, are bounded: beyond that, `Busy`
///   ([`open_holds_max`](RedisLedgerBuilder::open_holds_max)).
/// - However many processes there are: no hold beyond the balance or a limit, no settlement twice.
/// - Holds of a dead process are released or charged a few seconds later, as
///   [`Expiry`](crate::usage::Expiry) says. If that process was only cut off, its calls are charged
///   when it settles them, within a day.
/// - It is as durable as its server. With `appendonly yes` and `appendfsync always` everything
///   acknowledged is on disk. With `everysec` a server that crashes may lose its last second:
///   acknowledged holds and settlements, and payments too. Without `appendonly` everything is lost.
///   A promoted replica may be behind. On opening, the ledger warns of these by `tracing`, and of a
///   `maxmemory-policy` that may evict the books, if the server reveals its settings.
/// - On a cluster everything of an account is in one slot, and accounts are spread over the nodes.
/// - A payment that is refused because it would exceed the account's range keeps its reference,
///   which can then be used only for that same payment.
///
/// How the server, a cluster or sentinels are reached: see [`RedisClient`]. All processes that
/// share the books have the same [`prefix`](RedisClient::prefix).
#[derive(Clone)]
pub struct RedisLedger(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
}

impl RedisLedger {
    /// Opens the ledger in the Redis that this client, or address, leads to, with default settings.
    ///
    /// # Errors
    /// Those of [`RedisLedgerBuilder::open`].
    pub async fn open(client: impl Into<RedisClient>) -> Result<Self, StoreError> {
        Self::builder(client).open().await
    }

    /// A builder for a ledger in the Redis that this client, or address, leads to. While part of a
    /// cluster is down, the ledger is unavailable.
    pub fn builder(client: impl Into<RedisClient>) -> RedisLedgerBuilder {
        RedisLedgerBuilder::new(client.into())
    }

    /// Finishes the calls in progress, resolves what is still held and shuts down. Calls fail with
    /// `Unavailable` from then on.
    ///
    /// # Errors
    /// `Unavailable` when the calls in progress don't finish within three deadlines, or the server
    /// doesn't answer. Retries continue in the background for a while, and closing can be tried
    /// again; anything still held then is resolved by other processes, as if this one had died.
    pub async fn close(&self) -> Result<(), StoreError> {
        let left = maintenance::shut_down(&self.0.shared).await;
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
