//! Stops a server without losing an answer: [`Shutdown`].
//!
//! - Refuses nothing. [`Shutdown`] is the handle: [`stop`](Shutdown::stop) begins the end, and
//!   every clone sees it. Stopping happens in steps, with a bound for each:
//!   1. For a moment connections are still accepted, since those already waiting would be lost with
//!      the listener ([`accept`](Shutdown::accept), 100 ms by default).
//!   2. A kept connection stays open a little longer, because a request sent before the stop may
//!      not have been read yet ([`linger`](Shutdown::linger), 500 ms). Over HTTP/1 its answers say
//!      `connection: close` (RFC 9112, 9.6).
//!   3. Then each connection is asked to leave ([`OpenConnection::serve`]), and the requests that
//!      are under way finish ([`time_max`](Shutdown::time_max), 30 s).
//!   4. What is left is cut off, if connections end [`over`](Shutdown::over) that time.
//! - Belongs outside of all other layers ([`OpenConnection`], [`ShutdownLayer`]), where it sees the
//!   bodies of answers until they are dropped: the end of a body settles what the call costs. Over
//!   HTTP/2 a body may outlive its connection by a moment.
//! - A connection that nobody uses is asked to leave while the server goes on
//!   ([`idle_max`](Shutdown::idle_max), 60 s). HTTP/1's own timer does that for the head of the
//!   next request, HTTP/2 has none.
//! - Not waited for: what follows an upgrade (101, CONNECT), whose connection is no longer HTTP's.
//! - Needs a tokio runtime with its timer: without it, what waits for a time panics.
//! - Uses no store. A request costs two counts on its own connection, and its body no allocation.
//!
//! With hyper, in an accept loop of your own:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use std::{convert::Infallible, time::Duration};
//! use http_body_util::Full;
//! use hyper_util::{rt::{TokioExecutor, TokioIo}, server::conn::auto, service::TowerToHyperService};
//! use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};
//! use tollgate::{Shutdown, StallWatch};
//! use tower::{Layer, service_fn};
//!
//! let hello = service_fn(async |_| {
//!     Ok::<_, Infallible>(http::Response::new(Full::<bytes::Bytes>::from("hello")))
//! });
//! let shutdown = Shutdown::new();
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! let accepting = async {
//!     while let Some(accepted) = shutdown.accept(listener.accept()).await {
//!         let Ok((stream, _)) = accepted else {
//!             // Too many files are open, for example: that passes.
//!             tokio::time::sleep(Duration::from_millis(100)).await;
//!             continue;
//!         };
//!         let io = StallWatch::new().io(stream).ending(shutdown.over());
//!         let open = shutdown.connection();
//!         let service = TowerToHyperService::new(open.layer(hello));
//!         let http = auto::Builder::new(TokioExecutor::new());
//!         let http = http.serve_connection(TokioIo::new(io), service).into_owned();
//!         tokio::spawn(open.serve(http, |http| http.graceful_shutdown()));
//!     }
//! };
//! let client = async {
//!     let mut client = TcpStream::connect(address).await?;
//!     client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
//!     // In a server a signal does this.
//!     shutdown.stop();
//!     let mut answer = String::new();
//!     client.read_to_string(&mut answer).await?;
//!     Ok::<_, std::io::Error>(answer)
//! };
//! let (served, answer) = tokio::join!(shutdown.run(accepting), client);
//! served.expect("everything has ended in time");
//! let answer = answer?;
//! assert!(answer.contains("connection: close") && answer.ends_with("hello"), "{answer}");
//! # Ok(()) }
//! ```
//!
//! A server that accepts by itself and asks its connections to leave takes
//! [`leaving`](Shutdown::leaving) as its signal, and the [layer](Shutdown::layer) for what is under
//! way: `axum::serve(…).with_graceful_shutdown(shutdown.leaving())`, or tonic's
//! `serve_with_incoming_shutdown(incoming, shutdown.leaving())`, each inside of
//! [`run`](Shutdown::run). Until then it accepts connections and serves them. It has no
//! [`idle_max`](Shutdown::idle_max).

mod connection;
mod count;
mod layer;
mod uses;

#[cfg(test)]
mod tests;

use std::{fmt, future::Future, pin::pin, sync::Arc, task::Poll, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use self::uses::Uses;
pub use self::{
    connection::OpenConnection,
    layer::{Awaited, AwaitedBody, AwaitedFuture, ShutdownLayer},
};

/// The defaults.
const LAST_CALL: Duration = Duration::from_millis(100);
const LINGER: Duration = Duration::from_millis(500);
const IDLE_MAX: Duration = Duration::from_secs(60);
const TIME_MAX: Duration = Duration::from_secs(30);
/// How long connections that are cut off may take to drop what is on them.
const ENDING_MAX: Duration = Duration::from_secs(2);

/// Tells a server to stop, and waits for what is under way. Clones share that; the times are those
/// that each was given. See the [module](self).
#[derive(Clone)]
pub struct Shutdown {
    state: Arc<State>,
    last_call: Duration,
    linger: Duration,
    idle_max: Duration,
    time_max: Duration,
}

struct State {
    stopped_at: watch::Sender<Option<Instant>>,
    /// How many connections are open, and how many layers have requests under way.
    in_use: watch::Sender<usize>,
}

impl Shutdown {
    /// A handle for one server, or for several that stop together.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::new(State {
                stopped_at: watch::Sender::new(None),
                in_use: watch::Sender::new(0),
            }),
            last_call: LAST_CALL,
            linger: LINGER,
            idle_max: IDLE_MAX,
            time_max: TIME_MAX,
        }
    }

    /// How long connections are still accepted after the stop; 100 ms by default.
    #[must_use]
    pub fn last_call(mut self, time: Duration) -> Self {
        self.last_call = time;
        self
    }

    /// How long after the stop a connection is asked to leave; 500 ms by default. One that is
    /// accepted after the stop has that time, too.
    #[must_use]
    pub fn linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// How long a connection may have no request before it is asked to leave: at the earliest after
    /// that time, and at the latest a quarter of it later. 60 s by default.
    #[must_use]
    pub fn idle_max(mut self, time: Duration) -> Self {
        self.idle_max = time;
        self
    }

    /// How long requests may take to finish after the stop; 30 s by default.
    #[must_use]
    pub fn time_max(mut self, time: Duration) -> Self {
        self.time_max = time;
        self
    }

    /// Begins to stop. Only the first call does anything.
    pub fn stop(&self) {
        let at = Instant::now();
        self.state.stopped_at.send_if_modified(|stopped| {
            let is_first = stopped.is_none();
            stopped.get_or_insert(at);
            is_first
        });
    }

    /// Whether the server is to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.state.is_stopping()
    }

    /// Completes when the server is to stop.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        self.since_stop(Duration::ZERO)
    }

    /// Completes when connections are to be asked to leave: [`linger`](Self::linger) after the
    /// stop.
    pub fn leaving(&self) -> impl Future<Output = ()> + Send + use<> {
        self.since_stop(self.linger)
    }

    /// Completes when the requests have had their time: [`time_max`](Self::time_max) after the
    /// stop. Connections that end then, whatever is under way on them
    /// ([`WatchedIo::ending`](crate::stall::WatchedIo::ending)), drop the bodies of their answers,
    /// which settles their cost while the stores are still open.
    pub fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        self.since_stop(self.time_max)
    }

    fn since_stop(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        let state = Arc::clone(&self.state);
        async move {
            let mut stopped = state.stopped_at.subscribe();
            // It fails only without a sender, which `state` is.
            let at = stopped.wait_for(Option::is_some).await.ok();
            let passed = at.and_then(|at| *at).map(|at| at.elapsed());
            let left = time.saturating_sub(passed.unwrap_or_default());
            if !left.is_zero() {
                sleep(left).await;
            }
        }
    }

    /// The result of `next`, such as an accepted connection, or `None` when the server is to accept
    /// no more. `next` is dropped then: it has to be cancel safe, as tokio's `accept` is.
    pub async fn accept<T>(&self, next: impl Future<Output = T>) -> Option<T> {
        unless(self.since_stop(self.last_call), next).await
    }

    /// A connection that was accepted. The server waits for it until it is dropped.
    pub fn connection(&self) -> OpenConnection {
        OpenConnection::new(self.clone())
    }

    /// For a server that accepts by itself: a layer for all of its connections. It waits for
    /// answers alone, as the server does for the connections.
    pub fn layer(&self) -> ShutdownLayer {
        ShutdownLayer::new(Uses::new(Arc::clone(&self.state)))
    }

    /// Completes when no connection is open, and no answer under way, of those that this handle
    /// knows ([`connection`](Self::connection), [`layer`](Self::layer)).
    pub async fn finished(&self) {
        let mut in_use = self.state.in_use.subscribe();
        // It fails only without a sender, which `self` has.
        let _ = in_use.wait_for(|count| *count == 0).await;
    }

    /// Waits for a server that ends once it is to stop, and for what is under way then: a future,
    /// or what becomes one, as `axum::serve(…)` does. A server that ends by itself stops
    /// everything. Both may take [`time_max`](Self::time_max) after the stop, and two seconds more
    /// to drop what is then cut off. `None` if the server hasn't ended by then.
    pub async fn run<T>(&self, server: impl IntoFuture<Output = T>) -> Option<T> {
        let mut ended = None;
        {
            let mut all = pin!(async {
                ended = Some(server.await);
                self.stop();
                self.finished().await;
            });
            if unless(self.over(), all.as_mut()).await.is_none() {
                tracing::warn!(target: "tollgate", "some requests did not finish in time");
                let _ = timeout(ENDING_MAX, all).await;
            }
        }
        ended
    }
}

impl State {
    fn begin_use(&self) {
        self.in_use
            .send_modify(|count| *count = count.saturating_add(1));
    }

    fn end_use(&self) {
        self.in_use
            .send_modify(|count| *count = count.saturating_sub(1));
    }

    fn is_stopping(&self) -> bool {
        self.stopped_at.borrow().is_some()
    }
}

/// The result of `other`, unless `end` comes first.
async fn unless<T>(end: impl Future<Output = ()>, other: impl Future<Output = T>) -> Option<T> {
    let (mut end, mut other) = (pin!(end), pin!(other));
    std::future::poll_fn(|context| {
        if end.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        other.as_mut().poll(context).map(Some)
    })
    .await
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown")
            .field("is_stopping", &self.is_stopping())
            .field("in_use", &*self.state.in_use.borrow())
            .field("last_call", &self.last_call)
            .field("linger", &self.linger)
            .field("idle_max", &self.idle_max)
            .field("time_max", &self.time_max)
            .finish()
    }
}
