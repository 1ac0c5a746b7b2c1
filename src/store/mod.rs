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
//! Keys can also be kept in a file ([`FileKeyStore`]) and in the configuration ([`StaticKeys`]); several stores of keys are
//! asked in turn with [`KeyLookup::or`].
//!
//! [`LeasedLedger`] stands in front of SQLite's or PostgreSQL's [`Ledger`]: it leases money from it, and spends that at the
//! speed of memory.
//!
//! Redis holds what many processes need at once: each kind has a store type of its own.
//!
//! # A store of one's own
//!
//! Any of the traits can be implemented outside of this crate; [`KeyLookup`] has the smallest example, and for keys and logins
//! `tollgate::conformance` (feature `test-util`) has a whole one, and all laws of a store as tests. What each method must do in one
//! step stands at it, with the function that decides it. What holds for all of them:
//!
//! - **A change is one step.** It is done wholly or not at all, whatever else is done at once, also by other processes; when it
//!   is answered it is as durable as it will be. What is read after that, by whomever, has it.
//! - **An answer may be given up.** A caller that leaves drops the [`StoreFuture`], at any await: what was begun is then done wholly or
//!   not at all too. A future may also be kept without being polled; only what says so ([`Ledger::settle`], [`Ledger::extend`]) is on
//!   its way before that.
//! - **An answer comes in time.** Nobody else has a deadline for it: the store ends what takes too long, with `Unavailable`, and what
//!   waits has a bound, beyond which it is `Busy`.
//! - **An answer that is there is [ready](StoreFuture::ready)**: it costs no allocation, and the warm path takes it without an await.
//! - **There is no error for what isn't there.** It is `None` or `false`, and never a failure of the store: one is not remembered, and
//!   is no reason to let anybody in.
//! - **Lists are newest first**, by the order in which things were made, and a cursor is a place in it ([`Paged::from_rows`]).
//! - **What many processes share tells of changes** where it can ([`Invalidations`]): every [`Change`] that anybody makes, after it is
//!   durable.
//!
//! In a layer any failure is 503: where somebody is authenticated, counted or charged there is none that is expected. Of a change that
//! a handler makes, the [`Denial`](crate::denial::Denial) that is made of a [`StoreError`] has:
//!
//! | [`StoreErrorKind`] | for | status |
//! |---|---|---|
//! | `Unavailable`, `Busy`, `Internal` | the store is away, full of waiting work, or defect | 503 |
//! | `Conflict`, `Full` | the name is taken, or what it names was changed meanwhile; there are as many as may be | 409 |
//! | `NotFound` | it isn't there, or not in the state that it must have | 404 |
//! | `Refused` | the value can't be kept | 422 |
//!
//! `Unavailable` and `Internal` open what was told to open where a store fails
//! ([`stale_if_error`](crate::keyring::KeyResolverBuilder::stale_if_error)); `Busy` doesn't, since anybody can fill a line. The text of an
//! error is for operators: no secret belongs there.

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
    RedisInvalidations, RedisInvalidationsBuilder, RedisLedger, RedisLedgerBuilder,
    RedisRateLimiter, RedisRateLimiterBuilder, RedisSessions, RedisSessionsBuilder,
};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use sqlite::{SqliteStore, SqliteStoreBuilder};
/// What [`PostgresStore`] takes its pool of: an application that names it by this path has the version that fits.
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
#[doc(no_inline)]
pub use sqlx;
pub use statement::Statement;
pub use static_keys::{StaticKeyError, StaticKeys};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
pub use tenure::Tenure;
