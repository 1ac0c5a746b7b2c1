//! Reads what is left of a refused request's body before the answer goes out: [`DrainLayer`].
//!
//! - Refuses nothing. Stands outside everything that refuses, next to the server.
//! - Over HTTP/1.1 a server that answers before it has read all of the body closes the connection, and what the client still
//!   sends is met with a reset, which may overtake the answer (RFC 9112, 9.6). The client then sees a broken connection
//!   instead of the 401 or 402, and sends everything again. So an answer waits until the rest was read and thrown away: at most 4 MiB,
//!   and one second, unless set.
//! - Leaves alone what doesn't need it: a request without a body; one over HTTP/2, where only the stream ends; and one whose client
//!   waits to be asked for its body (`expect: 100-continue`).
//! - Asks no store. It costs two allocations per body.
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

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Buf;
use http::{Request, Version, header::EXPECT};
use http_body::Body;
use pin_project::pin_project;
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

pub use body::DrainedBody;
use body::ReturnSlot;

/// Reads what is left of a refused request's body. See the [module](self).
#[derive(Clone, Copy, Debug)]
#[must_use = "it does nothing until it is a layer of a service"]
pub struct DrainLayer {
    bytes_max: u64,
    time_max: Duration,
}

impl DrainLayer {
    /// Reads up to 4 MiB, for up to a second.
    pub const fn new() -> Self {
        Self {
            bytes_max: 4 * 1_024 * 1_024,
            time_max: Duration::from_secs(1),
        }
    }

    /// How much is read and thrown away, in bytes. Of a body that is said to be longer nothing is.
    pub const fn bytes_max(mut self, bytes: u64) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// For how long an answer waits at most.
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

/// A service whose requests are read to their end, by itself or by a [`DrainLayer`].
#[derive(Clone, Debug)]
pub struct Drained<S> {
    inner: S,
    layer: DrainLayer,
}

impl<S, B> Service<Request<B>> for Drained<S>
where
    S: Service<Request<DrainedBody<B>>>,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = DrainFuture<S::Future, B>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let ends_alone = request.version() >= Version::HTTP_2;
        let comes_unasked = !request.headers().contains_key(EXPECT);
        let (slot, request) = if ends_alone || request.body().is_end_stream() {
            (None, request.map(DrainedBody::given))
        } else {
            let slot = ReturnSlot::new();
            (Some(slot.clone()), request.map(|body| slot.lend(body)))
        };
        DrainFuture {
            answer: self.inner.call(request),
            slot,
            comes_unasked,
            draining: None,
            layer: self.layer,
        }
    }
}

/// The answer of a [`Drained`] service, on its way.
#[pin_project]
pub struct DrainFuture<F: Future, B> {
    #[pin]
    answer: F,
    /// Where the body comes back to that nobody read to its end.
    slot: Option<ReturnSlot<B>>,
    /// Whether the client sends its body unasked. One that doesn't is asked by reading it (RFC 9110, 10.1.1).
    comes_unasked: bool,
    draining: Option<Box<Draining<F::Output, B>>>,
    layer: DrainLayer,
}

struct Draining<T, B> {
    answer: Option<T>,
    body: Pin<Box<B>>,
    room: u64,
    clock: Pin<Box<Sleep>>,
}

impl<F: Future, B: Body> Future for DrainFuture<F, B> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let draining = match this.draining {
            Some(draining) => draining,
            None => {
                let answer = ready!(this.answer.poll(context));
                let unread = this.slot.take().and_then(|slot| slot.take());
                let unread = unread.filter(|unread| unread.is_begun || *this.comes_unasked);
                let (unread, room) = (unread.map(|unread| unread.body), this.layer.bytes_max);
                match unread.filter(|body| body.size_hint().lower() <= room) {
                    None => return Poll::Ready(answer),
                    Some(body) => this.draining.insert(Box::new(Draining {
                        answer: Some(answer),
                        body,
                        room,
                        clock: Box::pin(sleep(this.layer.time_max)),
                    })),
                }
            }
        };
        if draining.poll_end(context).is_pending()
            && draining.clock.as_mut().poll(context).is_pending()
        {
            return Poll::Pending;
        }
        match draining.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}

impl<T, B: Body> Draining<T, B> {
    /// Reads on, until there is no more, or no room for more.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(Ok(frame)) = ready!(self.body.as_mut().poll_frame(context)) else {
                return Poll::Ready(());
            };
            let length = frame.data_ref().map_or(0, Buf::remaining);
            let length = u64::try_from(length).unwrap_or(u64::MAX);
            match self.room.checked_sub(length) {
                // A frame without a byte is none to go on for without end.
                Some(room) if length > 0 => self.room = room,
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl<F: Future, B> fmt::Debug for DrainFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DrainFuture")
    }
}
