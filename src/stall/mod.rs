//! Ends connections whose client doesn't read its answers, or never sends a request: [`StallWatch`]
//! and [`StallLayer`].
//!
//! - Refuses nothing. Give the server watched connections ([`StallWatch::io`]), which end
//!   themselves, if it accepts connections from you. The layer belongs outside of all others, where
//!   it sees the bodies of answers as they are sent. On tonic's own server that is just
//!   `Server::builder().layer(StallLayer::new())` over watched connections; your own accept loop
//!   puts the connection's watch into the extensions of each request.
//! - An answer stays in the server's memory until it is sent, and it isn't sent until the client
//!   makes room for it. A client that uses HTTP/2 with a window of zero, or doesn't read its
//!   HTTP/1.1 connection, can keep as many answers in memory as it may have requests under way. So
//!   a connection is closed if it has unsent pieces of bodies, or a pending write, and none of them
//!   was sent for 30 seconds (by default). A piece is at most 16 KiB: that much a client has to
//!   read in that time.
//! - Waiting for the next piece of an answer is not a stall: a stream without events stays open,
//!   and so does a slow reader. To limit how many answers a client may have under way, use a
//!   [`ConcurrencyLimitLayer`](crate::rate_limit::ConcurrencyLimitLayer).
//! - Over HTTP/2 it is enough that one answer makes progress; how many others may stand still
//!   meanwhile is limited by the server's maximum number of streams.
//! - No protocol timeout applies to a client that has not even shown which protocol it speaks. Its
//!   connection is closed after 10 seconds (by default). For HTTP/2 this waits for the client's
//!   part of the greeting (RFC 9113, 3.4); after that, pings show whether it is alive.
//! - TLS belongs inside of the watched connection ([`StallWatch::io`] around the accepted stream,
//!   with a separate time limit for its handshake). If it is outside, as with tonic's own server,
//!   only the handshake is visible: the client's first encrypted record then counts as its
//!   greeting, whatever it contains.
//! - The system reports that it can accept more once a good part of its send buffer is free, and
//!   that buffer may hold megabytes. Give the sockets a send buffer of a few hundred kilobytes, or
//!   a slow reader may be mistaken for a stalled one.
//! - Uses no store. A piece of a body costs one allocation, and briefly takes the connection's own
//!   lock twice.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! use http_body::Body;
//! use std::{future::poll_fn, pin::pin, time::Duration};
//! use http_body_util::Full;
//! use tokio::io::AsyncReadExt;
//! use tollgate::stall::StallWatch;
//!
//! let watch = StallWatch::new().time_max(Duration::from_secs(5));
//! let (near, mut far) = tokio::io::duplex(1_024);
//! let mut connection = watch.io(near);
//! let mut body = pin!(watch.body(Full::<bytes::Bytes>::from("an answer")));
//! let frame = poll_fn(|context| body.as_mut().poll_frame(context)).await;
//! let piece = frame.expect("there is one").expect("it doesn't fail").into_data().expect("data");
//!
//! tokio::io::AsyncWriteExt::write_all(&mut far, b"GET / HTTP/1.1\r\n").await.expect("there is room");
//! assert_eq!(connection.read_u8().await.expect("it is there"), b'G');
//! // Nobody sends the piece, and the next question takes too long.
//! assert!(connection.read_to_end(&mut Vec::new()).await.is_err());
//! drop(piece);
//! # }
//! ```

mod body;
mod greeting;
mod io;
mod layer;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use http::Extensions;
use tokio::time::sleep;

pub use self::{
    body::WatchedBody,
    io::WatchedIo,
    layer::{StallLayer, Watched, WatchedFuture},
};

use crate::{sync::lock, wire::PeerAddress};

/// The defaults: how long a connection may stand still, and how long a client may take to show
/// which protocol it speaks.
const TIME_MAX: Duration = Duration::from_secs(30);
const GREETING_WITHIN: Duration = Duration::from_secs(10);
/// How often a connection is checked in that time.
const CHECKS: u8 = 4;
/// The shortest interval: with a time of zero, checking would loop without pause.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Detects whether a client reads what it is sent. Each connection has its own; clones share it.
/// See the [module](self).
#[derive(Clone)]
pub struct StallWatch {
    under_way: Arc<Mutex<UnderWay>>,
    time_max: Duration,
    greeting_within: Duration,
    peer: Option<SocketAddr>,
    /// Further data about the connection, for servers that know it only by its watch.
    provided: Option<Told>,
}

/// Adds it to the extensions of a request.
type Told = Arc<dyn Fn(&mut Extensions) + Send + Sync>;

/// What was handed to the server and isn't sent yet.
#[derive(Default)]
struct UnderWay {
    pieces: usize,
    /// The number of checks since something was last sent.
    checks: u8,
}

impl StallWatch {
    /// A watch that allows a connection to stand still for 30 seconds.
    #[must_use]
    pub fn new() -> Self {
        Self {
            under_way: Arc::default(),
            time_max: TIME_MAX,
            greeting_within: GREETING_WITHIN,
            peer: None,
            provided: None,
        }
    }

    /// How long a connection may stand still before it is closed: at the earliest after that time,
    /// and at the latest a quarter of it later.
    #[must_use]
    pub fn time_max(mut self, time: Duration) -> Self {
        self.time_max = time;
        self
    }

    /// How long a client may take to show which protocol it speaks; 10 seconds by default.
    #[must_use]
    pub fn greeting_within(mut self, time: Duration) -> Self {
        self.greeting_within = time;
        self
    }

    /// The peer's address. A [`StallLayer`] provides it to the inner layers.
    #[must_use]
    pub fn peer(mut self, peer: SocketAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Also adds this to each request.
    #[cfg(feature = "tonic")]
    pub(crate) fn providing(
        mut self,
        provided: impl Fn(&mut Extensions) + Send + Sync + 'static,
    ) -> Self {
        self.provided = Some(Arc::new(provided));
        self
    }

    fn insert_into(&self, extensions: &mut Extensions) {
        if let Some(peer) = self.peer {
            PeerAddress(peer).insert_into(extensions);
        }
        if let Some(provided) = &self.provided {
            provided(extensions);
        }
    }

    /// Wraps an answer's body on the connection: unchanged, but its pieces are tracked.
    /// [`StallLayer`] does this for every answer.
    #[must_use]
    pub fn body<B>(&self, body: B) -> WatchedBody<B> {
        WatchedBody::new(body, Some(self.clone()))
    }

    /// Wraps the connection: unchanged, but its writes are tracked, and it fails (`TimedOut`) once
    /// it has stalled.
    #[must_use]
    pub fn io<T>(&self, io: T) -> WatchedIo<T> {
        WatchedIo::new(io, self.clone())
    }

    /// Completes when everything under way has stood still for too long. The connection should then
    /// be dropped: the client reads nothing. For connections that aren't tokio's.
    pub async fn stalled(&self) {
        let interval = self.time_max.checked_div(CHECKS.into());
        let interval = interval.unwrap_or_default().max(CHECK_INTERVAL_MIN);
        loop {
            sleep(interval).await;
            if self.check() {
                return;
            }
        }
    }

    /// Whether everything has stood still for too long. One extra check is needed, because the
    /// first may come right after something began.
    fn check(&self) -> bool {
        let mut under_way = self.lock();
        under_way.checks = match under_way.pieces {
            0 => 0,
            _ => under_way.checks.saturating_add(1),
        };
        under_way.checks > CHECKS
    }

    fn track(&self) -> Piece {
        let mut under_way = self.lock();
        under_way.pieces = under_way.pieces.saturating_add(1);
        drop(under_way);
        Piece(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        lock(&self.under_way)
    }
}

impl Default for StallWatch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StallWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StallWatch")
            .field("under_way", &self.lock().pieces)
            .field("time_max", &self.time_max)
            .field("greeting_within", &self.greeting_within)
            .field("peer", &self.peer)
            .finish()
    }
}

/// Something to be sent. It is dropped when it was sent, or never will be.
struct Piece(StallWatch);

impl Drop for Piece {
    fn drop(&mut self) {
        let mut under_way = self.0.lock();
        under_way.pieces = under_way.pieces.saturating_sub(1);
        under_way.checks = 0;
    }
}
