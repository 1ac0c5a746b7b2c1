//! Payment for calls, and limits on what is spent: [`SpendingLimitLayer`].
//!
//! - Holds the price before the request. When the answer's body has ended, it settles the real cost
//!   and writes the usage row, in one step and exactly once.
//! - Refuses with 402 if the balance or a spending limit doesn't cover the hold, with 404 or 405
//!   (and `Allow`) if the route isn't in the [`PriceTable`], with 503 if the ledger fails (never a
//!   free ride), and with 401 if nobody was authenticated. If the limit is that of a rolling window
//!   ([`RollingWindow`](crate::budget::RollingWindow)), `Retry-After` says when enough will have
//!   left it; if it is that of a day or a month, the refusal knows when that ends
//!   ([`limit_end`](crate::denial::Denial::limit_end)), for a format of your own to say.
//! - A 402 has `Retry-After: 1`, and in the formats that have it `x-should-retry: true`, if the
//!   call would fit were it not for what other calls hold: these may end at any moment, and most
//!   cost less than they hold. If the money is gone, `x-should-retry` is `false`.
//! - Refuses with 429 and `Retry-After: 1` if the account has as many calls under way as the ledger
//!   allows, so that one caller can't take all the capacity.
//! - Belongs innermost, so that what another layer refuses costs nothing.
//! - Charges answers below 400. By default, an error of the handler or of its body costs nothing; a
//!   stream that the client leaves costs what was counted by then or, if the count was incomplete,
//!   the most that can have been written: a token for each byte of its text
//!   ([`Charging::Counted`]); a call whose usage is unknown costs its hold. [`SpendingLimitLayer`]
//!   describes what a client could gain by that.
//! - Usage is reported by the handler ([`Charge`]), by a header of the answer, or by the `usage` in
//!   the answer's body ([`CostSource`]). If it is unknown, that is logged once per route, marked in
//!   the call's usage row ([`usage_is_missing`](crate::usage::Settlement::usage_is_missing)), and
//!   with the feature `metrics` counted (`tollgate_usage_missing_total`, by `route`).
//! - Holds for a price by tokens what the [`TokenPrice`] says, whatever the request asks for, and
//!   for one by model the dearest. With [`BodyDigestLayer::read_use`] further out it holds what the
//!   request asks for ([`RequestedUse`]), tells the handler ([`HeldUse`]), and refuses with 400
//!   what can't be read without doubt, whatever the price, or is more than is sold; and with 500
//!   where a price needs it ([`TokenPrice::requested_output_max`], [`Price::only_listed_models`])
//!   and nothing read it. Calls that cost more than was held are charged in full, logged once a
//!   minute per route, and with the feature `metrics` counted (`tollgate_hold_overruns_total`, by
//!   `route`).
//! - With [`IdempotencyKeys`] a client's retry is charged once: it gets the first call's answer
//!   again, or is refused with 409 (still under way, or the answer was not kept) or 422 (a
//!   different request). With a [`BodyDigestLayer`] further out, the body has to match too. The
//!   answer to a gRPC call is kept with its trailers, and so is one in several messages if it isn't
//!   too large.
//! - With a durable ledger the last frame of an answer waits until the settlement has been written,
//!   so that an answered call is not missing from the usage log. It waits for the ledger's deadline
//!   at most (5 seconds, with Redis 2, unless set otherwise); then it is sent, an error is logged,
//!   and the settlement is retried until it is written. Only if the process dies before that is the
//!   call left `abandoned`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::convert::Infallible;
//! use tollgate::{CredentialKind, Price, PriceTable, Principal, SpendingLimitLayer, money::Money};
//! use tollgate::store::{AccountId, Ledger, MemoryStore};
//! use tollgate::usage::Credit;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let ledger = MemoryStore::new();
//! let account = AccountId::new("user-1")?;
//! let amount = Money::from_nanos(3_000_000);
//! ledger.credit(Credit { account: account.clone(), amount, reference: "first".into() }).await?;
//!
//! let prices = PriceTable::new().route("POST", "/chat", Price::flat("0.0020".parse()?))?;
//! let chat = service_fn(async |_| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
//! let service = SpendingLimitLayer::new(ledger.clone(), prices).layer(chat);
//! let request = || {
//!     let mut request = http::Request::post("/chat").body(()).unwrap();
//!     request.extensions_mut().insert(Principal::builder("user-1", CredentialKind::ApiKey).build());
//!     request
//! };
//! let answer = service.clone().oneshot(request()).await?;
//! assert_eq!(answer.status(), 200);
//! http_body_util::BodyExt::collect(answer.into_body()).await?;
//! assert_eq!(ledger.balance(&account).await?.available(), "0.0010".parse()?);
//! assert_eq!(service.oneshot(request()).await?.status(), 402);
//! # Ok(()) }
//! ```

mod body_digest;
mod costing;
mod export;
mod idempotency;
mod kept_answers;
mod layer;
mod missing;
mod open_hold;
mod overrun;
mod permit;
mod policy;
mod price;
mod renewal;
mod requested_use;
mod table;
mod terms;

pub use crate::domain::charge::Charge;
pub use crate::wire::InvalidRoute;
pub use body_digest::{BodyDigestFuture, BodyDigestLayer, BodyDigestService, DigestedBody};
pub use export::UsageExport;
pub use idempotency::IdempotencyKeys;
pub use layer::SpendingLimitLayer;
pub use permit::{SpendingMeter, SpendingPermit};
pub use policy::SpendingLimitPolicy;
pub use price::{CostSource, InvalidPrice, LivePrice, Price, TokenBound, TokenPrice};
pub use requested_use::{HeldUse, RequestShape, RequestedUse};
pub use table::PriceTable;
pub use terms::{Charging, MissingUsage};
