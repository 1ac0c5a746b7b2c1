//! Floor 1: where keys, users, logins and money are kept.
//!
//! The traits are what the rest of the crate knows of an engine; an engine is a folder beside this
//! file that implements them and knows nothing but them and the domain.
//!
//! | trait | memory | SQLite |
//! |---|---|---|
//! | [`KeyLookup`], [`KeyStore`] | yes | yes |
//! | [`UserStore`], [`SessionStore`] | yes | yes |
//! | [`Ledger`] | yes | yes |

mod alerts;
mod future;
mod keys;
mod ledger;
mod people;

mod memory;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
mod sqlite;

pub use crate::domain::{
    AccountId, BudgetId, InvalidId, KeyId, SessionId, UserId,
    page::{Page, Paged},
};
pub use future::{StoreError, StoreErrorKind, StoreFuture};
pub use keys::{KeyLookup, KeyStore};
pub use ledger::Ledger;
pub use memory::{MemoryRateLimiter, MemoryStore, MemoryStoreBuilder, RateDecision, WindowReading};
pub use people::{SessionStore, UserStore};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use sqlite::{SqliteStore, SqliteStoreBuilder};
