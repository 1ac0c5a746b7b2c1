//! Floor 1: where keys, users, logins and money are kept.
//!
//! The traits are what the rest of the crate knows of an engine; an engine is a folder beside this
//! file that implements them and knows nothing but them and the domain.
//!
//! | trait | memory | SQLite | PostgreSQL | Redis |
//! |---|---|---|---|---|
//! | [`KeyLookup`], [`KeyStore`] | yes | yes | yes | no |
//! | [`UserStore`] | yes | yes | yes | no |
//! | [`SessionStore`] | yes | yes | yes | yes |
//! | [`Ledger`] | yes | yes | yes | yes |
//! | [`LeaseStore`] | no | yes | yes | no |
//! | [`AuditLog`] | yes | yes | yes | no |
//! | [`RateStore`] | yes | no | no | yes |
//! | [`Invalidations`] | no | no | yes | yes |
//!
//! Keys alone are also kept in a file ([`FileKeyStore`]) and in the configuration ([`StaticKeys`]); several stores of keys are
//! asked in order with [`KeyLookup::or`].
//!
//! [`LeasedLedger`] stands in front of SQLite's or PostgreSQL's [`Ledger`], and spends money that it has leased at the
//! speed of memory.
//!
//! Redis keeps what many processes need at once, each in a store of its own.

mod alerts;
mod audit;
mod changes;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
mod failure_detector;
mod file;
mod future;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod gauge;
mod held_keys;
mod keys;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
mod leased;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
mod leasing;
mod ledger;
mod open_holds;
mod people;
mod rate;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
mod rolling;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod settling;
mod statement;
mod static_keys;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
mod tenure;

mod memory;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
mod postgres;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
mod redis;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
mod sqlite;

pub use crate::domain::{
    AccountId, BudgetId, InvalidId, KeyId, SessionId, UserId,
    page::{Page, Paged},
};
pub use audit::AuditLog;
pub(crate) use changes::Audience;
pub use changes::{Change, ChangeListener, Invalidations};
pub use file::{FileKeyStore, FileKeyStoreBuilder};
pub use future::{StoreError, StoreErrorKind, StoreFuture};
pub use keys::{KeyLookup, KeyStore, OrKeys};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
pub use leased::{LeaseStatistics, LeasedLedger, LeasedLedgerBuilder};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
pub use leasing::LeaseStore;
pub use ledger::Ledger;
pub use memory::{MemoryRateLimiter, MemoryStore, MemoryStoreBuilder, RateLimiterStatistics};
pub use people::{SessionStore, UserStore};
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use postgres::{PostgresStore, PostgresStoreBuilder};
pub use rate::{
    Correction, RateDecision, RateKey, RateOutcome, RateStore, Readings, TakenAt, WindowReading,
};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use rate::{Degraded, SharedRateStatistics};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use redis::{
    RedisInvalidations, RedisInvalidationsBuilder, RedisLedger, RedisLedgerBuilder,
    RedisRateLimiter, RedisRateLimiterBuilder, RedisSessions, RedisSessionsBuilder,
};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use sqlite::{SqliteStore, SqliteStoreBuilder};
pub use statement::Statement;
pub use static_keys::{StaticKeyError, StaticKeys};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
pub use tenure::Tenure;
