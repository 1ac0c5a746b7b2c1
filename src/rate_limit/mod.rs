//! Limits on how often clients may call: [`RateLimitLayer`].
//!
//! - Refuses with 429 and `retry-after`. Every answer says what is left: `RateLimit`,
//!   `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10) and `X-RateLimit-*`. With several
//!   limiters the innermost one's figures are sent, since it knows the caller best; a handler's own
//!   fields of these names are replaced.
//! - Belongs outside authentication if it counts by address, and inside if it counts by principal.
//!   A limit per principal refuses with 401 if there is none, and logs that; a limit by address
//!   refuses with 503 if the server provides no address, and with 400 if a trusted proxy sends an
//!   unreadable one.
//! - Several quotas are decided together: a refused request consumes nothing from any of them. A
//!   request that costs more than a quota can ever hold is refused with 413.
//! - The counts are in this process's memory, unless [`RateLimitLayer::with_store`] shares them.
//!   What happens if a shared store does not answer is configurable: this process counts by itself,
//!   admits everything, or refuses with 503.
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
//! Quotas may differ between callers ([`Plans`]), requests may have different costs
//! ([`RateLimitLayer::cost`]) or be counted in tokens ([`RateLimitLayer::tokens`]), of which a
//! limit may count a part ([`CountedTokens`]), and callers may be distinguished by more than an
//! address ([`RateLimitKey`]). [`RateLimitLayer::failed_attempts`] limits only guesses at
//! credentials. [`ConcurrencyLimitLayer`] limits how many requests are under way at once, also over
//! several processes, and [`ConnectionLimit`] how many connections are open.

mod attempts;
mod concurrency;
mod connections;
mod counted;
mod handle;
mod key;
mod layer;
mod permit;
mod plans;
mod policy;

pub use concurrency::{ConcurrencyLimitLayer, ConcurrencyLimitPolicy, InFlight};
pub use connections::{ConnectionLimit, ConnectionPlace};
pub use counted::CountedTokens;
pub use handle::{RateLimits, RateLimitsError};
pub use key::RateLimitKey;
pub use layer::RateLimitLayer;
pub use permit::{RateLimitMeter, RateLimitPermit};
pub use plans::Plans;
pub use policy::RateLimitPolicy;

#[cfg(test)]
mod tests;
