//! The trait of usage logs that can be read as a whole.

use std::{fmt, sync::Arc};

use super::{Page, Paged, StoreFuture};
use crate::domain::usage::UsageEntry;

/// The usage of all accounts in one order, for invoices, exports and data warehouses.
///
/// Redis's ledger has none: it keeps each account's usage apart, perhaps on another server.
///
/// ```
/// use tollgate::store::{MemoryStore, Page, UsageLog};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// // The position of the last row that the reader has dealt with; 0 if there is none.
/// let mut seen = 0;
/// loop {
///     let page = store.usage_of_all(Page::first(500).after(seen)).await?;
///     for row in &page.items {
///         println!("{} owes {}", row.call.account.as_str(), row.settlement.charged);
///         seen = row.position;
///     }
///     if page.next_cursor.is_none() {
///         break; // Until the next run, which goes on after `seen`.
///     }
/// }
/// # Ok(()) }
/// ```
pub trait UsageLog: fmt::Debug + Send + Sync + 'static {
    /// The rows after the [cursor](Page::after), or from the oldest on that the log still has;
    /// **oldest first**, unlike other lists.
    ///
    /// Rows that are returned are final: none appears later before them. So a reader that keeps the
    /// position of the last one, and goes on after it the next time, sees each row once, as long as
    /// the log keeps them. What a [`LeasedLedger`](super::LeasedLedger) has served counts once it
    /// is reported, and what is settled too late has a row of its own, at the end. A database that
    /// lost what it had committed (a failover without the last transactions, a restored backup) may
    /// give out positions again: begin anew then.
    ///
    /// # Errors
    /// `Busy` when something that is being written takes too long to be waited for, and whatever
    /// the store fails with.
    fn usage_of_all(&self, page: Page) -> StoreFuture<Paged<UsageEntry>>;
}

impl<T: UsageLog + ?Sized> UsageLog for Arc<T> {
    fn usage_of_all(&self, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        T::usage_of_all(self, page)
    }
}
