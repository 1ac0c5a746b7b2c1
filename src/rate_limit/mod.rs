//! How often may they come: [`RateLimitLayer`].
//!
//! - Refuses with 429 and `retry-after`. Every answer says what is left: `RateLimit`,
//!   `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10) and `X-RateLimit-*`. Of several limiters the
//!   innermost tells, which knows the caller best; fields of these names that a handler sends are written over.
//! - Stands outside authentication when it counts by address, and inside when it counts by principal. A
//!   limit per principal without a principal refuses with 401 and says so in the log; a limit by
//!   address refuses with 503 where the server tells no address, and with 400 where a trusted proxy
//!   tells an unreadable one.
//! - Several quotas are one decision: a refused request has consumed nothing from any. A request that
//!   costs more than a quota ever holds is refused with 413.
//! - The counts are in this process's memory, unless [`RateLimitLayer::with_store`] shares them. A shared
//!   store that can't be asked is answered for as it is set up to: by this process alone, by letting
//!   everything through, or with 503.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{convert::Infallible, net::SocketAddr};
//! use tollgate::{PeerAddress, RateLimitLayer, quota::Quota};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let hello = service_fn(async |_| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
//! let service = RateLimitLayer::per_client_ip(Quota::per_minute(2)).layer(hello);
//! let request = |peer: SocketAddr| {
//!     let mut request = http::Request::new(());
//!     request.extensions_mut().insert(PeerAddress(peer));
//!     request
//! };
//! let (one, other) = ("192.0.2.1:99".parse()?, "192.0.2.2:99".parse()?);
//! let answer = service.clone().oneshot(request(one)).await?;
//! assert_eq!(answer.headers()["ratelimit"], "\"minute\";r=1;t=30");
//! assert_eq!(service.clone().oneshot(request(one)).await?.status(), 200);
//! let refused = service.clone().oneshot(request(one)).await?;
//! assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"30".parse()?));
//! assert_eq!(service.oneshot(request(other)).await?.status(), 200);
//! # Ok(()) }
//! ```
//!
//! Quotas may differ from caller to caller ([`Plans`]), requests may differ in weight
//! ([`RateLimitLayer::cost`]) or be counted in tokens ([`RateLimitLayer::tokens`]), and callers may be
//! told apart by more than an address ([`RateLimitKey`]). Guesses at credentials are limited, and nothing else, by
//! [`RateLimitLayer::failed_attempts`]. How many requests are under way at once is
//! limited by [`ConcurrencyLimitLayer`].

mod attempts;
mod concurrency;
mod handle;
mod key;
mod layer;
mod permit;
mod plans;
mod policy;

pub use concurrency::{ConcurrencyLimitLayer, ConcurrencyLimitPolicy, InFlight};
pub use handle::{RateLimits, RateLimitsError};
pub use key::RateLimitKey;
pub use layer::RateLimitLayer;
pub use permit::{RateLimitMeter, RateLimitPermit};
pub use plans::Plans;
pub use policy::RateLimitPolicy;

#[cfg(test)]
mod tests;
