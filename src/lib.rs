//! Tower layers that stand in front of a service and ask every caller: **who are you, may you do
//! this, and can you pay?**
//!
//! | question | layer | refuses with |
//! |---|---|---|
//! | are you calling too often? | [`RateLimitLayer`] | 429 |
//! | who are you? | [`ApiKeyLayer`], [`JwtLayer`], [`SessionCookieLayer`], [`AuthenticateLayer`] by a rule of your own, combined by [`.or`](ApiKeyLayer::or) | 401 |
//! | who are you, on an unknown route? | [`FallbackLayer`] around a router's fallbacks | 404, and 429 |
//! | where do you come from? | [`IpAllowLayer`] | 403 |
//! | may you do this? | [`RbacLayer`] | 403 |
//! | can you pay? | [`SpendingLimitLayer`] | 402 |
//! | what was done? | [`AuditLayer`] | nothing |
//! | which request is it? | [`RequestIdLayer`] | nothing |
//! | what do refusals look like? | [`DenialsLayer`] | nothing |
//! | does a refused client get its answer? | [`DrainLayer`] | nothing |
//! | does the client read its answer? | [`StallLayer`], over connections with a [`StallWatch`] | nothing |
//! | does the server stop without losing an answer? | [`Shutdown`], and its [`ShutdownLayer`] | nothing |
//! | does the answer begin in time? | [`DeadlineLayer`] | 503, or `DEADLINE_EXCEEDED` |
//!
//! Each layer works alone, on any stack of Tower services. [`Tollgate::builder`] makes the whole
//! stack, in the right order, as one layer.
//!
//! # A key and a limit in front of any service
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tollgate::{ApiKeyLayer, RateLimitLayer, key::KeyFormat, quota::Quota, store::MemoryStore};
//! use tollgate::keyring::{KeyResolver, Keyring, NewKey};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let (store, format) = (MemoryStore::new(), KeyFormat::builder("acme").build()?);
//! let keys = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
//! let (key, _) = Keyring::new(store, format, keys.clone()).create("user-1", NewKey::default()).await?;
//!
//! let service = ServiceBuilder::new()
//!     .layer(ApiKeyLayer::new(keys))
//!     .layer(RateLimitLayer::per_principal(Quota::per_minute(1)))
//!     .service(service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned()))));
//! let request = || http::Request::builder().header("x-api-key", key.expose()).body(()).unwrap();
//! assert_eq!(service.clone().oneshot(request()).await?.status(), 200);
//! assert_eq!(service.clone().oneshot(request()).await?.status(), 429);
//! assert_eq!(service.oneshot(http::Request::new(())).await?.status(), 401);
//! # Ok(()) }
//! ```
//!
//! Layers that count or compare client addresses need a server that provides them. Serve an axum
//! router with `axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())`;
//! tonic provides addresses by itself; with any other server, put a [`PeerAddress`] into the
//! extensions of each request. A request without one is refused with 503.
//!
//! CORS belongs outside the gate (`ServiceBuilder::new().layer(cors).layer(gate)`): preflights
//! carry no credentials, and a refusal that doesn't pass through the CORS layer lacks
//! `access-control-allow-origin`, so a page can't tell whether it is a 401, a 402 or a 429.
//!
//! # A login, and a token that ends with it
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use tollgate::{JwtLayer, login::{Logins, NewUser}, store::MemoryStore, token::{TokenIssuer, TokenVerifier}};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let (secret, store) = (b"thirty-two bytes or more, please!", Arc::new(MemoryStore::new()));
//! let logins = Logins::builder(store.clone(), store, TokenIssuer::hs256(secret).build()?).build()?;
//! logins.register(NewUser::new("me@example.com", "correct horse battery")).await?;
//! let login = logins.login("me@example.com", "correct horse battery").await?;
//!
//! let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())));
//! let service = JwtLayer::new(TokenVerifier::hs256(secret).build()?)
//!     .sessions(logins.resolver().clone())
//!     .layer(hello);
//! let bearer = format!("Bearer {}", login.token.expose());
//! let request = || http::Request::builder().header("authorization", &bearer).body(()).unwrap();
//! assert_eq!(service.clone().oneshot(request()).await?.status(), 200);
//! logins.logout(&login.session).await?;
//! assert_eq!(service.oneshot(request()).await?.status(), 401);
//! # Ok(()) }
//! ```
//!
//! # What an operator sees
//!
//! Every decision of a layer is one `tracing` event with the target `tollgate`: admissions at level
//! `DEBUG`, refusals at `INFO`. Its fields are `layer`, `decision` (`admit`, `refuse`,
//! `shadow_refuse`), `principal` (the [subject](Principal::subject), once known), `request_id`,
//! `method` and `path`; refusals also have `kind` and `reason`. Store events use the targets
//! `tollgate::ledger`, `tollgate::sqlite`, `tollgate::postgres`, `tollgate::redis` and
//! `tollgate::audit`. None of them contains a credential. A failure that an outage repeats with
//! every call is logged at once, then at most every ten seconds, with how many were left out
//! (`left_out`), and the end of the outage once.
//!
//! Layers open no spans of their own: a request already has one, for example from tower-http's
//! `TraceLayer`, further out. If it declares the fields `principal`, `credential` or `denial`
//! (`tracing::field::Empty`), they are filled in.
//!
//! With the feature `metrics` there are three counters and a gauge (`describe_metrics` tells your
//! recorder what they are). Their labels are bounded by the program, not by its clients:
//!
//! | metric | counts | labels |
//! |---|---|---|
//! | `tollgate_decisions_total` | decisions | `layer`; `decision`, as above; `kind` of the [denial](denial::DenialKind), empty where there is none |
//! | `tollgate_usage_missing_total` | calls that reported no usage ([`MissingUsage`]) | `route`, a pattern of the price table |
//! | `tollgate_hold_overruns_total` | calls that cost more than was held for them ([`TokenPrice`]) | `route`, a pattern of the price table |
//! | `tollgate_unwritten_settlements` (a gauge) | charges that SQLite or PostgreSQL failed to write and retries, those of an outage included: check the log if they don't go away | |
//!
//! Everything else is a figure to query whenever gauges are read:
//! [`KeyResolver::statistics`](keyring::KeyResolver::statistics) and
//! [`SessionResolver::statistics`](login::SessionResolver::statistics) (hits, loads, entries),
//! [`MemoryRateLimiter::statistics`](store::MemoryRateLimiter::statistics),
//! [`AuditTrail::lost`](audit::AuditTrail::lost); and for the stores `SqliteStore::statistics` and
//! `PostgresStore::statistics` (pending work, open holds), `RedisRateLimiter::statistics` and
//! `LeasedLedger::statistics`.
//!
//! # Features
//!
//! None is on by default. Without any, all layers and the in-memory store are available.
//!
//! | feature | adds |
//! |---|---|
//! | `axum` | extractors, refusals as handler results, axum's peer address, and the full path inside nested routers; without it, route tables see only what the outer router leaves of the path |
//! | `tonic` | an interceptor for permissions, the caller of a tonic request, status details, tonic's peer address |
//! | `jwks` | `JwksUrl`: keys of token issuers from an address, or by OpenID Connect discovery |
//! | `redis` | `RedisClient` and what it leads to, `RedisRateLimiter`, `RedisConcurrency`, `RedisLedger`, `RedisSessions`, `RedisInvalidations`: rate limits, requests under way, money, logins and change notifications that several processes share |
//! | `redis-cluster` | `redis` on a cluster: `RedisClient::cluster` |
//! | `redis-tls` | `redis` over TLS: `rediss://…` |
//! | `postgres` | `PostgresStore`: keys, users, logins and money for many processes, and change notifications |
//! | `sqlite` | `SqliteStore`: keys, users, logins and money in one file |
//! | `metrics` | [three counters and a gauge](#what-an-operator-sees) |
//! | `test-util` | `ManualClock`, and `conformance`: tests of the laws that [a store of your own](store#a-store-of-ones-own) must keep, unless it is a `Ledger` |
//! | `full` | all of them but `test-util` |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
mod cache;
mod change;
mod domain;
#[cfg(test)]
#[path = "../tests/support/log.rs"]
mod log;
#[cfg(feature = "metrics")]
mod metric;
mod recent;
mod repeats;
mod sync;
mod trail;

pub mod api_key;
pub mod audit;
pub mod authenticate;
#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "test-util")]
pub mod conformance;
pub mod deadline;
pub mod denials;
pub mod drain;
pub mod fallback;
pub mod guard;
pub mod ip_allow;
pub mod jwt;
pub mod keyring;
pub mod login;
pub mod rate_limit;
pub mod rbac;
pub mod request_id;
pub mod session_cookie;
pub mod shutdown;
pub mod spending_limit;
pub mod stall;
pub mod store;
pub mod token;
#[cfg(feature = "tonic")]
pub mod tonic;
mod wire;

pub use api_key::ApiKeyLayer;
pub use audit::AuditLayer;
pub use authenticate::AuthenticateLayer;
pub use builder::{
    NoAuthentication, ReadingTollgateLayer, Tollgate, TollgateBuilder, TollgateError, TollgateLayer,
};
pub use cache::CacheStatistics;
pub use deadline::DeadlineLayer;
pub use denials::DenialsLayer;
pub use domain::{
    RequestId, books, budget, clock,
    credential::CredentialKind,
    denial, key, money, network,
    principal::{Principal, PrincipalBuilder},
    quota, role, usage, user,
};
pub use drain::{DrainLayer, DrainedBody};
pub use fallback::FallbackLayer;
pub use ip_allow::IpAllowLayer;
pub use jwt::JwtLayer;
#[cfg(feature = "metrics")]
pub use metric::describe_metrics;
pub use rate_limit::RateLimitLayer;
pub use rbac::RbacLayer;
pub use request_id::RequestIdLayer;
pub use session_cookie::SessionCookieLayer;
pub use shutdown::{Shutdown, ShutdownLayer};
pub use spending_limit::{
    BodyDigestLayer, Charge, Charging, CostSource, HeldUse, IdempotencyKeys, InvalidPrice,
    LivePrice, MissingUsage, Price, PriceTable, RequestShape, RequestedUse, SpendingLimitLayer,
    TokenBound, TokenPrice, UsageExport,
};
pub use stall::{StallLayer, StallWatch};
pub use wire::{
    AddressError, ClientAddress, ClientIp, DenialBody, DenialContext, DenialFormat, Denials,
    ForwardedHeader, InvalidOrigin, Origin, PeerAddress, RateHeaderDialect, RenderDenial,
    RequestHead, read_body,
};

/// The README's code compiles.
#[cfg(all(doctest, feature = "axum", feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct Readme;
