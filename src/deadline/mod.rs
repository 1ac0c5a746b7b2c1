//! A limit on the time until an answer begins: [`DeadlineLayer`].
//!
//! - Refuses with 503 a call whose answer does not begin in time; a gRPC call with
//!   `DEADLINE_EXCEEDED`. A gRPC client may state how long it will wait (`grpc-timeout`); the
//!   shorter time counts. When that is over the client gives up, and tonic's server does so on its
//!   behalf, without giving a reason. So the refusal is sent a tenth of that time earlier, but at
//!   most 100 milliseconds.
//! - Belongs inside all other layers, next to the service, so that its refusal has a request id and
//!   limit headers, has the configured format, and costs nothing. A server's own timeout (tonic's
//!   `Server::timeout`, for one) is outside all layers, and its answer has none of that.
//! - The handler is dropped mid-flight, along with what it holds of the request, before the refusal
//!   is sent. The time after the head, as of a stream, is not limited.
//! - Uses no store. It costs one timer per call.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{convert::Infallible, time::Duration};
//! use tollgate::DeadlineLayer;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let handler = service_fn(async |request: http::Request<u64>| {
//!     tokio::time::sleep(Duration::from_secs(request.into_body())).await;
//!     Ok::<_, Infallible>(http::Response::new("hello".to_owned()))
//! });
//! let service = DeadlineLayer::new(Duration::from_secs(30)).layer(handler);
//! assert_eq!(service.clone().oneshot(http::Request::new(29)).await?.status(), 200);
//! assert_eq!(service.oneshot(http::Request::new(31)).await?.status(), 503);
//! # Ok(()) }
//! ```

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    domain::denial::{Denial, DenialKind},
    guard::{self, AllowedContent, GateBody},
    wire::{Denials, Dialect, RefusedRequest, RequestHead, grpc_timeout},
};

/// How much earlier than the client's own timeout it is refused: a tenth of that time, and at most
/// 100 ms.
const SOONER_PART: u32 = 10;
const SOONER_MAX: Duration = Duration::from_millis(100);

/// Refuses calls whose answer does not begin in time. See the [module](self).
#[derive(Clone, Copy, Debug)]
#[must_use = "it does nothing until it is a layer of a service"]
pub struct DeadlineLayer {
    head_within: Duration,
}

impl DeadlineLayer {
    /// A layer that requires the head of an answer within that time.
    pub const fn new(head_within: Duration) -> Self {
        Self { head_within }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        Timed {
            inner,
            layer: *self,
        }
    }
}

/// A service with a limit on the time until its answers begin.
#[derive(Clone, Debug)]
pub struct Timed<S> {
    inner: S,
    layer: DeadlineLayer,
}

impl<S, B, D> Service<Request<B>> for Timed<S>
where
    S: Service<Request<B>, Response = Response<D>>,
    D: Body,
{
    type Response = Response<GateBody<D>>;
    type Error = S::Error;
    type Future = TimedFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> TimedFuture<S::Future> {
        let head = RequestHead::of(&request);
        let asked = match head.dialect() {
            Dialect::Http => None,
            Dialect::Grpc | Dialect::Web | Dialect::WebText => grpc_timeout(head.headers),
        };
        let time = asked.map_or(self.layer.head_within, |asked| {
            sooner(asked).min(self.layer.head_within)
        });
        TimedFuture {
            request: RefusedRequest::of(&head),
            allowed: AllowedContent::for_method(request.method()),
            answer: Some(self.inner.call(request)),
            clock: sleep(time),
        }
    }
}

/// When to refuse a client with this timeout, so that the refusal is settled and sent in time.
fn sooner(asked: Duration) -> Duration {
    let part = asked.checked_div(SOONER_PART).unwrap_or_default();
    asked.saturating_sub(part.min(SOONER_MAX))
}

/// The response future of a [`Timed`] service.
#[pin_project]
pub struct TimedFuture<F> {
    /// `None` once it has completed.
    #[pin]
    answer: Option<F>,
    #[pin]
    clock: Sleep,
    request: RefusedRequest,
    allowed: AllowedContent,
}

impl<F, D, E> Future for TimedFuture<F>
where
    F: Future<Output = Result<Response<D>, E>>,
    D: Body,
{
    type Output = Result<Response<GateBody<D>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(answer) = this.answer.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        if let Poll::Ready(answer) = answer.poll(context) {
            this.answer.set(None);
            return Poll::Ready(answer.map(|answer| {
                let (mut head, body) = answer.into_parts();
                let body = this.allowed.inner(&mut head, body);
                Response::from_parts(head, body)
            }));
        }
        ready!(this.clock.poll(context));
        // Dropping the handler returns the rest of the request's body to the layer that drains it.
        this.answer.set(None);
        let denial = too_late(this.request.dialect);
        guard::refused_outside("deadline", this.request.request_id(), &denial);
        let answer = Denials::default().respond_to(&denial, this.request, HeaderMap::new());
        let (mut head, body) = answer.into_parts();
        let body = this.allowed.fixed(&mut head, body.into());
        Poll::Ready(Ok(Response::from_parts(head, body)))
    }
}

/// A 408 over HTTP would blame the client for the delay.
fn too_late(dialect: Dialect) -> Denial {
    let kind = match dialect {
        Dialect::Http => DenialKind::Unavailable,
        Dialect::Grpc | Dialect::Web | Dialect::WebText => DenialKind::TooSlow,
    };
    // The next attempt would take as long, and cost the service as much.
    Denial::new(kind)
        .without_wait()
        .with_message("The answer did not begin in time")
        .because("no answer in time")
}

impl<F> fmt::Debug for TimedFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TimedFuture")
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;

    /// What becomes of a call that takes ten seconds.
    async fn called(request: http::request::Builder) -> Response<GateBody<String>> {
        let handler = service_fn(async |_: Request<()>| {
            sleep(Duration::from_secs(10)).await;
            Ok::<_, Infallible>(Response::new(String::new()))
        });
        let service = DeadlineLayer::new(Duration::from_secs(20)).layer(handler);
        let answer = service.oneshot(request.body(()).unwrap()).await;
        answer.unwrap()
    }

    fn grpc(timeout: &str) -> http::request::Builder {
        Request::post("/demo.Echo/Say")
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("grpc-timeout", timeout)
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_comes_before_its_client_gives_up() {
        for (timeout, after) in [("5S", 4_900), ("500m", 450), ("10m", 9)] {
            let began = tokio::time::Instant::now();
            assert_eq!(called(grpc(timeout)).await.headers()["grpc-status"], "4");
            assert_eq!(began.elapsed(), Duration::from_millis(after), "{timeout}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_grpc_client_says_itself_how_long_it_waits() {
        for timeout in ["9S", "9000m", "9000000u"] {
            let answer = called(grpc(timeout)).await;
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["grpc-status"], "4", "{timeout}");
        }
        // It is no time, or longer than the call takes.
        for timeout in ["11S", "1H", "9", "S", "9s", "-1S", "123456789n", ""] {
            let answer = called(grpc(timeout)).await;
            let in_time = !answer.headers().contains_key("grpc-status");
            assert!(in_time, "{timeout}");
        }
        let plain = Request::get("/").header("grpc-timeout", "1S");
        assert_eq!(called(plain).await.status(), 200, "it means nothing here");
    }
}
