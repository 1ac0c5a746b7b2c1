//! Floor 1: storage for keys, users, logins and money.
//!
//! The rest of the crate knows engines only by these traits. An engine is a sibling folder that
//! implements them and knows only them and the domain.
//!
//! | trait | memory | SQLite | PostgreSQL | Redis |
//! |---|---|---|---|---|
//! | [`KeyLookup`], [`KeyStore`] | yes | yes | yes | no |
//! | [`UserStore`] | yes | yes | yes | no |
//! | [`SessionStore`] | yes | yes | yes | yes |
//! | [`Ledger`] | yes | yes | yes | yes |
//! | [`UsageLog`] | yes | yes | yes | no |
//! | [`LeaseStore`] | no | yes | yes | no |
//! | [`AuditLog`] | yes | yes | yes | no |
//! | [`RateStore`] | yes | no | no | yes |
//! | [`ConcurrencyStore`] | no | no | no | yes |
//! | [`Invalidations`] | no | no | yes | yes |
//!
//! Keys can also be kept in a file ([`FileKeyStore`]) or in the configuration ([`StaticKeys`]);
//! several key stores are queried in turn with [`KeyLookup::or`].
//!
//! [`LeasedLedger`] works in front of SQLite's or PostgreSQL's [`Ledger`]: it leases money from it
//! and spends that at the speed of memory.
//!
//! Redis holds what many processes need at once; each kind has a store type of its own, and
//! `RedisClient` says once for all of them how it is reached.
//!
//! # Custom stores
//!
//! Any of the traits can be implemented outside this crate. [`KeyLookup`] has the smallest example;
//! `tollgate::conformance` (feature `test-util`) has a complete one of keys, and all laws of stores
//! of keys, logins, rate limits, requests under way and leases as tests. What each method must do
//! in one step is documented at the method, with the domain function that decides it. These rules
//! hold for all of them:
//!
//! - **A change is one step.** It happens completely or not at all, whatever else happens at the
//!   same time, in this or other processes; when it is answered it is as durable as it will be.
//!   Every later read sees it.
//! - **A caller may give up.** It drops the [`StoreFuture`], at any await: whatever was begun then
//!   also happens completely or not at all. A future may also be kept without being polled; only
//!   operations documented as such ([`Ledger::settle`], [`Ledger::extend`]) are in progress before
//!   the first poll.
//! - **An answer comes in time.** Callers set no deadline: the store ends what takes too long, with
//!   `Unavailable`, and bounds what waits, with `Busy` beyond the bound.
//! - **An immediate answer is [ready](StoreFuture::ready)**: it doesn't allocate, and the warm path
//!   takes it without an await.
//! - **A missing record is not an error.** It is `None` or `false`, and never a failure of the
//!   store: failures are not cached, and are no reason to let anyone in.
//! - **Lists are newest first** (but [`UsageLog`]), by order of creation, and a cursor is a
//!   position in that order ([`Paged::from_rows`]).
//! - **A shared store announces changes** if it can ([`Invalidations`]): every [`Change`] by
//!   anyone, once it is durable.
//!
//! In a layer any failure is 503, because there no failure of authentication, counting or charging
//! is expected. For a change that a handler makes, the [`Denial`](crate::denial::Denial) made from
//! a [`StoreError`] has:
//!
//! | [`StoreErrorKind`] | for | status |
//! |---|---|---|
//! | `Unavailable`, `Busy`, `Internal` | the store is unreachable, overloaded, or defective | 503 |
//! | `Conflict`, `Full` | the name is taken, or the record was changed meanwhile; a limit is reached | 409 |
//! | `NotFound` | it doesn't exist, or isn't in the required state | 404 |
//! | `Refused` | the value can't be stored | 422 |
//!
//! `Unavailable` and `Internal` trigger the fail-open settings
//! ([`stale_if_error`](crate::keyring::KeyResolverBuilder::stale_if_error)); `Busy` doesn't, since
//! anyone can fill a queue. The text of an error is for operators; it must not contain secrets.

mod alerts;
mod audit;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod bounds;
mod changes;
mod concurrency;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
mod failure_detector;
mod file;
mod future;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod gauge;
mod held_keys;
mod keys;
mod late_holds;
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
#[cfg(feature = "redis")]
mod remote;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
mod rolling;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod settling;
mod statement;
mod static_keys;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
mod tenure;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
mod thresholds;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod unwritten;
mod usage_log;

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
    page::{InvalidPageLimit, Page, PageLimit, Paged},
};
pub use audit::AuditLog;
pub(crate) use changes::Audience;
pub use changes::{Change, ChangeListener, Invalidations};
pub use concurrency::{ConcurrencyStore, Slot};
pub use file::{FileKeyStore, FileKeyStoreBuilder};
pub use future::{StoreError, StoreErrorKind, StoreFuture};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
pub use gauge::StoreStatistics;
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
pub use postgres::{Migrations, PostgresStore, PostgresStoreBuilder};
pub use rate::{
    Correction, RateDecision, RateKey, RateOutcome, RateStore, Readings, TakenAt, WindowReading,
};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use rate::{Degraded, SharedRateStatistics};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use redis::{
    RedisClient, RedisConcurrency, RedisConcurrencyBuilder, RedisCredentials, RedisInvalidations,
    RedisInvalidationsBuilder, RedisLedger, RedisLedgerBuilder, RedisProtocol, RedisRateLimiter,
    RedisRateLimiterBuilder, RedisSessions, RedisSessionsBuilder,
};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use sqlite::{SqliteStore, SqliteStoreBuilder};
/// The library that [`PostgresStore`]'s pool comes from: an application that names it by this path
/// has the matching version.
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
#[doc(no_inline)]
pub use sqlx;
pub use statement::Statement;
pub use static_keys::{StaticKeyError, StaticKeys};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
pub use tenure::Tenure;
pub use usage_log::UsageLog;
