//! Reads what is left of a refused request's body: [`DrainLayer`].
//!
//! - Refuses nothing. Belongs outside everything that refuses, next to the server.
//! - Over HTTP/1.1 a server that answers before it has read the whole body closes the connection,
//!   and what the client still sends triggers a reset, which may overtake the answer (RFC 9112,
//!   9.6). The client then sees a broken connection instead of the 401 or 402, and sends everything
//!   again. So the answer waits until the rest has been read and discarded: at most 4 MiB and one
//!   second by default. If there is more, or if the client waits to be asked for its body (`expect:
//!   100-continue`), the answer says `connection: close`.
//! - Over HTTP/2 the answer is sent at once. What the client still sends is read and discarded
//!   afterwards, for up to a second, however much it is (unread data would block the connection's
//!   other streams), and only then is its stream released. Some clients treat a reset as an error
//!   even though it says there is none (RFC 9113, 8.1), and discard the answer that they have. This
//!   takes a tokio task if the body has not arrived completely.
//! - Requests without a body pass through untouched.
//! - Uses no store. It costs two allocations per body, also if the service reads the body to its
//!   end.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::convert::Infallible;
//! use tollgate::{DrainLayer, DrainedBody, RbacLayer, role::RoleSet};
//! use http_body_util::{BodyExt, StreamBody};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let (client, body) = tokio::sync::mpsc::channel(1);
//! let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
//! let upload = async move {
//!     for _ in 0..100 {
//!         let piece = http_body::Frame::data(bytes::Bytes::from_static(&[0; 1_024]));
//!         client.send(Ok::<_, Infallible>(piece)).await.expect("it is read, whatever the answer");
//!     }
//! };
//! let service = ServiceBuilder::new()
//!     .layer(DrainLayer::new())
//!     .layer(RbacLayer::require(&RoleSet::viewer_operator_admin(), "write"))
//!     .service(service_fn(async |request: http::Request<DrainedBody<_>>| {
//!         let read = request.into_body().collect().await?.to_bytes();
//!         Ok::<_, Infallible>(http::Response::new(read.len().to_string()))
//!     }));
//! let (answer, ()) = tokio::join!(service.oneshot(http::Request::new(body)), upload);
//! assert_eq!(answer?.status(), 401);
//! # Ok(()) }
//! ```

mod body;
mod rest;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response, Version, header::EXPECT};
use http_body::Body;
use pin_project::pin_project;
use tokio::runtime::Handle;
use tower_layer::Layer;
use tower_service::Service;

pub use body::DrainedBody;
use body::ReturnSlot;
use rest::{Discarding, End, Rest};

use crate::wire::closing;

/// Reads what is left of a refused request's body. See the [module](self).
#[derive(Clone, Copy, Debug)]
#[must_use = "it does nothing until it is a layer of a service"]
pub struct DrainLayer {
    bytes_max: u64,
    time_max: Duration,
}

impl DrainLayer {
    /// A layer that reads up to 4 MiB, for up to a second.
    pub const fn new() -> Self {
        Self {
            bytes_max: 4 * 1_024 * 1_024,
            time_max: Duration::from_secs(1),
        }
    }

    /// How much is read and discarded over HTTP/1.1, in bytes. A body that is declared to be longer
    /// is not read at all.
    pub const fn bytes_max(mut self, bytes: u64) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// How long an answer waits at most, or how long an answered HTTP/2 stream is kept open.
    pub const fn time_max(mut self, time: Duration) -> Self {
        self.time_max = time;
        self
    }
}

impl Default for DrainLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for DrainLayer {
    type Service = Drained<S>;

    fn layer(&self, inner: S) -> Drained<S> {
        Drained {
            inner,
            layer: *self,
        }
    }
}

/// A service whose request bodies are read to their end, by itself or by a [`DrainLayer`].
#[derive(Clone, Debug)]
pub struct Drained<S> {
    inner: S,
    layer: DrainLayer,
}

impl<S, B, D> Service<Request<B>> for Drained<S>
where
    S: Service<Request<DrainedBody<B>>, Response = Response<D>>,
    B: Body + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = DrainFuture<S::Future, B>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let arrival = if request.version() >= Version::HTTP_2 {
            Arrival::OwnStream
        } else if request.headers().contains_key(EXPECT) {
            Arrival::OnRequest
        } else {
            Arrival::Unprompted
        };
        let (slot, request) = if request.body().is_end_stream() {
            (None, request.map(DrainedBody::given))
        } else {
            let slot = ReturnSlot::new();
            (Some(slot.clone()), request.map(|body| slot.lend(body)))
        };
        DrainFuture {
            answer: self.inner.call(request),
            slot,
            arrival,
            draining: None,
            layer: self.layer,
        }
    }
}

/// How a body arrives.
#[derive(Clone, Copy)]
enum Arrival {
    /// On its own HTTP/2 stream.
    OwnStream,
    /// On a connection of its own.
    Unprompted,
    /// The same, but only once it is requested, by reading it (RFC 9110, 10.1.1).
    OnRequest,
}

/// The response future of a [`Drained`] service.
#[pin_project]
pub struct DrainFuture<F: Future, B> {
    #[pin]
    answer: F,
    /// Where the body is returned to if it is not read to its end.
    slot: Option<ReturnSlot<B>>,
    arrival: Arrival,
    draining: Option<Box<Draining<F::Output, B>>>,
    layer: DrainLayer,
}

struct Draining<T, B> {
    answer: Option<T>,
    rest: Rest<B>,
}

impl<F, B, D, E> Future for DrainFuture<F, B>
where
    F: Future<Output = Result<Response<D>, E>>,
    B: Body + Send + 'static,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let draining = match this.draining {
            Some(draining) => draining,
            None => {
                let answer = ready!(this.answer.poll(context));
                let Some(unread) = this.slot.take().and_then(|slot| slot.take()) else {
                    return Poll::Ready(answer);
                };
                match this.arrival {
                    Arrival::OwnStream => {
                        discard_rest(unread.body, *this.layer, context);
                        return Poll::Ready(answer);
                    }
                    Arrival::OnRequest if !unread.is_begun => {
                        return Poll::Ready(answer.map(closing));
                    }
                    Arrival::OnRequest | Arrival::Unprompted => {
                        this.draining.insert(Box::new(Draining {
                            answer: Some(answer),
                            rest: Rest::new(unread.body, *this.layer),
                        }))
                    }
                }
            }
        };
        let end = ready!(draining.rest.poll_end(context));
        match draining.answer.take() {
            Some(answer) if end == End::GivenUp => Poll::Ready(answer.map(closing)),
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}

/// Reads what has already arrived, which usually is everything, without a task. Outside a runtime
/// nothing more is read.
fn discard_rest<B>(body: Pin<Box<B>>, layer: DrainLayer, context: &mut Context<'_>)
where
    B: Body + Send + 'static,
{
    if let Ok(runtime) = Handle::try_current() {
        let mut discarding = Discarding::new(body, layer);
        if Pin::new(&mut discarding).poll(context).is_pending() {
            drop(runtime.spawn(discarding));
        }
    }
}

impl<F: Future, B> fmt::Debug for DrainFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DrainFuture")
    }
}
