//! Floor 3: the machinery under every layer: one [`Service`](tower_service::Service), one response
//! future, one body.
//!
//! A layer of this crate is a [`Policy`] in a [`Guard`]. The policy borrows the request's head and
//! decides: admit with a [`Permit`], refuse with a [`Denial`](crate::denial::Denial), or abstain.
//! The permit travels with the request, marks request and response, and may attach a [`Meter`] to
//! the response body.
//!
//! ```
//! use tollgate::denial::{Denial, DenialKind};
//! use tollgate::guard::{Decision, Gate, Policy, Verdict};
//! use tollgate::RequestHead;
//!
//! /// Admits requests of polite clients.
//! #[derive(Clone, Debug)]
//! struct Courtesy;
//!
//! impl Policy for Courtesy {
//!     type Permit = ();
//!
//!     fn name(&self) -> &'static str {
//!         "courtesy"
//!     }
//!
//!     fn decide(&self, head: &RequestHead<'_>) -> Decision<()> {
//!         Decision::Ready(match head.headers.get("x-please") {
//!             Some(_) => Verdict::Admit(()),
//!             None => Verdict::Refuse(Denial::new(DenialKind::NotPermitted).because("rude")),
//!         })
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower::{Layer, ServiceExt, service_fn};
//! let hello = service_fn(async |_: http::Request<()>| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())));
//! let service = Gate::new(Courtesy).layer(hello);
//! let polite = http::Request::builder().header("x-please", "1").body(())?;
//! assert_eq!(service.clone().oneshot(polite).await?.status(), 200);
//! assert_eq!(service.oneshot(http::Request::new(())).await?.status(), 403);
//! # Ok(()) }
//! ```

mod body;
mod content;
pub mod course;
mod event;
mod exclusive;
mod future;
mod gate;
mod nesting;
mod or;
mod policy;
mod service;
mod unwinding;

pub use crate::wire::CredentialPlaces;
pub use body::{BodyEnd, FixedBody, GateBody, Meter, NoMeter};
pub use future::GuardFuture;
pub use gate::Gate;
pub use or::{Authenticator, Identified, Or, OrLayer};
pub use policy::{Decision, PendingVerdict, Permit, Policy, ResponseMarks, Tail, Verdict};
pub use service::Guard;

pub(crate) use body::{show, with_more};
pub(crate) use content::AllowedContent;
#[cfg(feature = "axum")]
pub(crate) use event::refused_by_handler;
pub(crate) use event::refused_outside;
pub(crate) use gate::{Skip, is_preflight, layer, on_paths};
pub(crate) use nesting::is_inside;
