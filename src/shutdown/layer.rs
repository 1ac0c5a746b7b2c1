//! The layer that counts requests until their whole answers are sent.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::uses::{Use, Uses};
use crate::wire::closing;

/// Counts requests until the bodies of their answers are dropped, so that a
/// [`Shutdown`](super::Shutdown) waits for them. While the server stops, answers over HTTP/1 say
/// that their connection ends. Belongs outside of all other layers.
#[derive(Clone)]
#[must_use = "it does nothing until it is a layer of a service"]
pub struct ShutdownLayer {
    uses: Arc<Uses>,
}

impl ShutdownLayer {
    pub(super) fn new(uses: Arc<Uses>) -> Self {
        Self { uses }
    }
}

impl<S> Layer<S> for ShutdownLayer {
    type Service = Awaited<S>;

    fn layer(&self, inner: S) -> Awaited<S> {
        Awaited {
            inner,
            uses: Arc::clone(&self.uses),
        }
    }
}

/// A service whose answers are waited for.
#[derive(Clone)]
pub struct Awaited<S> {
    inner: S,
    uses: Arc<Uses>,
}

impl<S, B, D> Service<Request<B>> for Awaited<S>
where
    S: Service<Request<B>, Response = Response<D>>,
{
    type Response = Response<AwaitedBody<D>>;
    type Error = S::Error;
    type Future = AwaitedFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> AwaitedFuture<S::Future> {
        let under_way = self.uses.begin();
        let is_http1 = request.version() < Version::HTTP_2;
        AwaitedFuture {
            answer: self.inner.call(request),
            under_way: Some(under_way),
            is_http1,
        }
    }
}

/// The response future of an [`Awaited`] service.
#[pin_project]
pub struct AwaitedFuture<F> {
    #[pin]
    answer: F,
    under_way: Option<Use>,
    is_http1: bool,
}

impl<F, D, E> Future for AwaitedFuture<F>
where
    F: Future<Output = Result<Response<D>, E>>,
{
    type Output = Result<Response<AwaitedBody<D>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(context));
        let under_way = this.under_way.take();
        Poll::Ready(answer.map(|answer| {
            let is_last = under_way.as_ref().is_some_and(|of| of.of().is_stopping());
            let answer = if *this.is_http1 && is_last {
                closing(answer)
            } else {
                answer
            };
            answer.map(|body| AwaitedBody {
                body,
                _under_way: under_way,
            })
        }))
    }
}

/// The body of an answer, which is waited for until it is dropped.
#[pin_project]
pub struct AwaitedBody<B> {
    #[pin]
    body: B,
    _under_way: Option<Use>,
}

impl<B: Body> Body for AwaitedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for ShutdownLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShutdownLayer")
    }
}

impl<S: fmt::Debug> fmt::Debug for Awaited<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaited")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for AwaitedFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitedFuture")
    }
}

impl<B> fmt::Debug for AwaitedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitedBody")
    }
}
