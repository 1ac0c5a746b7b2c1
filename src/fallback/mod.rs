//! Knows and counts callers where there is nothing: [`FallbackLayer`].
//!
//! A gate on a router's routes leaves its 404 and its 405 to everybody. There whoever sends a good key would come without being counted and hear
//! nothing of its limit, and whoever guesses at keys would do so unseen.
//!
//! - Around a router's fallbacks, with the layers that authenticate and limit its routes. Who is known is counted by those limits, as
//!   anywhere else: refused with 429 where nothing is left, and told with the fallback's answer what is.
//! - Who isn't known hears the fallback's own answer, with a bad credential as without any: what there isn't is no news. But a bad one is
//!   recorded as anywhere else (in the audit log, the events and the counters), and counts as one of
//!   [`failed_attempts`](RateLimitLayer::failed_attempts) for a limit further out. So nothing is to be tried there that would cost more elsewhere.
//! - Refuses with 503 when the store of keys or logins fails: a credential was sent, and nobody can say whose it is. What happens when a
//!   limit's store fails, the limit says.
//! - Asks nobody what they may, and takes no money.
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

/// Knows and counts whoever asks where there is nothing. See the [module](self).
pub struct FallbackLayer<A> {
    caller: Gate<A>,
    limits: Vec<Gate<RateLimitPolicy>>,
}

impl<A: Policy<Permit = Identified> + Clone> FallbackLayer<A> {
    /// Knows whom `caller` knows, which is one layer that authenticates, or several by `or`.
    #[must_use]
    pub fn new(caller: impl Authenticator<Policy = A>) -> Self {
        Self {
            caller: caller.into_gate(),
            limits: Vec::new(),
        }
    }

    /// Counts known callers by `layer` as well, and nobody else: a clone of the layer that stands before the routes counts on. A limit of
    /// [failed attempts](RateLimitLayer::failed_attempts), or by address, stands outside of this layer.
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
