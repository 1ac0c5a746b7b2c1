//! Authenticates and counts callers of unknown routes: [`FallbackLayer`].
//!
//! A gate on a router's routes doesn't cover its 404 and 405. There a valid key would not be
//! counted or told its limit, and guesses at keys would go unnoticed.
//!
//! - Put it around a router's fallbacks, with the layers that authenticate and limit its routes.
//!   Authenticated callers are counted by those limits as anywhere else: refused with 429 if
//!   nothing is left, and otherwise told what is left on the fallback's answer.
//! - Anyone else gets the fallback's own answer, with an invalid credential as without any: that a
//!   route doesn't exist is no secret. But an invalid credential is recorded as anywhere else (in
//!   the audit log, the events and the counters), and counts as a failed attempt
//!   ([`failed_attempts`](RateLimitLayer::failed_attempts)) for a limit further out. So guessing
//!   here is no cheaper than elsewhere.
//! - Refuses with 503 if the store of keys or logins fails, because a credential was sent and can't
//!   be checked. A limit decides itself what happens if its store fails.
//! - Checks no permissions, and charges nothing.
//!
//! ```
//! # #[cfg(feature = "axum")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, body::Body, handler::Handler, http::StatusCode, routing::get};
//! use tollgate::{ApiKeyLayer, FallbackLayer, RateLimitLayer, quota::Quota, store::StaticKeys};
//! use tollgate::keyring::KeyResolver;
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let keys = StaticKeys::new().add_key("ann", "a-key-of-at-least-thirty-two-bytes", ["reader"])?;
//! let keys = ApiKeyLayer::new(KeyResolver::builder(keys).build());
//! let per_caller = RateLimitLayer::per_principal(Quota::per_hour(2));
//! let gate = ServiceBuilder::new().layer(keys.clone()).layer(per_caller.clone());
//! let nothing = FallbackLayer::new(keys).add_rate_limit(per_caller);
//!
//! let router: Router = Router::new()
//!     .route("/hello", get("hello").route_layer(gate))
//!     .fallback((async || StatusCode::NOT_FOUND).layer(nothing.clone()))
//!     .method_not_allowed_fallback((async || StatusCode::METHOD_NOT_ALLOWED).layer(nothing));
//! let ask = async |path: &str, key: &str| {
//!     let request = http::Request::get(path).header("x-api-key", key).body(Body::empty());
//!     router.clone().oneshot(request.unwrap()).await
//! };
//! let ann = "a-key-of-at-least-thirty-two-bytes";
//! assert_eq!(ask("/hello", ann).await?.status(), 200);
//! let answer = ask("/nothing", ann).await?;
//! assert_eq!((answer.status().as_u16(), &answer.headers()["x-ratelimit-remaining"]), (404, &"0".parse()?));
//! assert_eq!(ask("/nothing", ann).await?.status(), 429);
//!
//! let answer = ask("/nothing", "a-guess").await?;
//! assert!(answer.status() == 404 && !answer.headers().contains_key("x-ratelimit-remaining"));
//! # Ok(()) }
//! # #[cfg(not(feature = "axum"))] fn main() {}
//! ```

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use tower_layer::Layer;

use crate::{
    domain::principal::Principal,
    guard::{
        Authenticator, Gate, Guard, Identified, Policy,
        course::{OptionalAuthentication, Several, Then, Unless},
    },
    rate_limit::{RateLimitLayer, RateLimitPolicy},
    wire::RequestHead,
};

/// Authenticates and counts callers of unknown routes. See the [module](self).
pub struct FallbackLayer<A> {
    caller: Gate<A>,
    limits: Vec<Gate<RateLimitPolicy>>,
}

impl<A: Policy<Permit = Identified> + Clone> FallbackLayer<A> {
    /// Authenticates by `caller`: an authenticating layer, or several combined by `or`.
    #[must_use]
    pub fn new(caller: impl Authenticator<Policy = A>) -> Self {
        Self {
            caller: caller.into_gate(),
            limits: Vec::new(),
        }
    }

    /// Also counts authenticated callers by `layer`, and only those: a clone of the layer that is
    /// in front of the routes shares its counts. A limit of [failed
    /// attempts](RateLimitLayer::failed_attempts), or by address, belongs outside of this layer.
    #[must_use]
    pub fn add_rate_limit(mut self, layer: RateLimitLayer) -> Self {
        self.limits.push(layer.into_gate());
        self
    }
}

impl<S, A: Policy<Permit = Identified>> Layer<S> for FallbackLayer<A> {
    type Service = Guard<S, Then<OptionalAuthentication<A>, Unless<Several<RateLimitPolicy>>>>;

    fn layer(&self, inner: S) -> Self::Service {
        let limits = Several::new(self.limits.iter().cloned());
        let course = Then {
            outer: OptionalAuthentication::new(self.caller.clone()),
            inner: Unless::new(vec![Arc::new(is_unknown)], limits),
        };
        Guard::new(inner, course)
    }
}

fn is_unknown(head: &RequestHead<'_>) -> bool {
    head.extensions.get::<Principal>().is_none()
}

impl<A> Clone for FallbackLayer<A> {
    fn clone(&self) -> Self {
        Self {
            caller: self.caller.clone(),
            limits: self.limits.clone(),
        }
    }
}

impl<A: fmt::Debug> fmt::Debug for FallbackLayer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackLayer")
            .field("caller", &self.caller)
            .field("limits", &self.limits)
            .finish()
    }
}
