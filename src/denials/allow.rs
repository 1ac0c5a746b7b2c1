//! Who learns the methods of a route.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response, StatusCode, header::ALLOW};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

/// Removes `allow` from refusals other than 405. Put it around the whole router, not in a layer
/// *of* it: axum adds a route's methods to any layer's response to an unsupported method, so a 401
/// would tell strangers which routes exist.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, body::Body, routing::get};
/// use tollgate::{RbacLayer, denials::AllowLayer, role::RoleSet};
/// use tower::{Layer, ServiceExt};
///
/// let gate = RbacLayer::require(&RoleSet::viewer_operator_admin(), "read");
/// let router = Router::new().route("/secret", get("it is here")).layer(gate);
/// let put = || http::Request::put("/secret").body(Body::empty());
///
/// let answer = router.clone().oneshot(put()?).await?;
/// assert!(answer.status() == 401 && answer.headers().contains_key("allow"));
/// let answer = AllowLayer::new().layer(router).oneshot(put()?).await?;
/// assert!(answer.status() == 401 && !answer.headers().contains_key("allow"));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "it does nothing until it is a layer of a service"]
pub struct AllowLayer;

impl AllowLayer {
    /// It has no settings.
    pub const fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for AllowLayer {
    type Service = Allowing<S>;

    fn layer(&self, inner: S) -> Allowing<S> {
        Allowing { inner }
    }
}

/// A service whose refusals other than 405 have no `allow`.
#[derive(Clone, Debug)]
pub struct Allowing<S> {
    inner: S,
}

impl<S, B, D> Service<Request<B>> for Allowing<S>
where
    S: Service<Request<B>, Response = Response<D>>,
{
    type Response = Response<D>;
    type Error = S::Error;
    type Future = AllowFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        AllowFuture {
            answer: self.inner.call(request),
        }
    }
}

/// The response future of an [`Allowing`] service.
#[pin_project]
pub struct AllowFuture<F> {
    #[pin]
    answer: F,
}

impl<F, D, E> Future for AllowFuture<F>
where
    F: Future<Output = Result<Response<D>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let answer = ready!(self.project().answer.poll(context));
        Poll::Ready(answer.map(|mut answer| {
            let status = answer.status();
            if status.is_client_error() || status.is_server_error() {
                hide_methods(status, answer.headers_mut());
            }
            answer
        }))
    }
}

/// Removes the allowed methods from a refusal whose reason isn't the method (RFC 9110, 10.2.1).
pub(super) fn hide_methods(status: StatusCode, headers: &mut HeaderMap) {
    if status != StatusCode::METHOD_NOT_ALLOWED {
        headers.remove(ALLOW);
    }
}

impl<F> fmt::Debug for AllowFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AllowFuture")
    }
}
