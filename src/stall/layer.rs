//! The layer that ties each answer to the watch of its connection.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Once,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{StallWatch, WatchedBody};

/// Tracks the answers on connections with a [`StallWatch`], and provides the peer's address to the
/// inner layers. Belongs outside of all other layers. See the [module](crate::stall).
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "it does nothing until it is a layer of a service"]
pub struct StallLayer;

impl StallLayer {
    /// A layer that takes the connection's [`StallWatch`] from the extensions of the request.
    pub const fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for StallLayer {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner }
    }
}

/// A service whose answers are tracked.
#[derive(Clone, Debug)]
pub struct Watched<S> {
    inner: S,
}

impl<S, B, D> Service<Request<B>> for Watched<S>
where
    S: Service<Request<B>, Response = Response<D>>,
    D: Body<Data = Bytes>,
{
    type Response = Response<WatchedBody<D>>;
    type Error = S::Error;
    type Future = WatchedFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> WatchedFuture<S::Future> {
        let extensions = request.extensions_mut();
        let watch = extensions.get::<StallWatch>().cloned();
        match &watch {
            None => warn_unwatched(),
            Some(watch) => watch.insert_into(extensions),
        }
        WatchedFuture {
            answer: self.inner.call(request),
            watch,
        }
    }
}

/// Logged once: a server provides a watch with every request or with none.
fn warn_unwatched() {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            target: "tollgate",
            "a StallLayer has nobody to watch for: the server's connections are to be `StallWatch::io`, and the watch of each is to be in the \
             extensions of its requests"
        );
    });
}

/// The response future of a [`Watched`] service.
#[pin_project]
pub struct WatchedFuture<F> {
    #[pin]
    answer: F,
    watch: Option<StallWatch>,
}

impl<F, D, E> Future for WatchedFuture<F>
where
    F: Future<Output = Result<Response<D>, E>>,
{
    type Output = Result<Response<WatchedBody<D>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(context));
        let watch = this.watch.take();
        Poll::Ready(answer.map(|answer| answer.map(|body| WatchedBody::new(body, watch))))
    }
}

impl<F> fmt::Debug for WatchedFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchedFuture")
    }
}
