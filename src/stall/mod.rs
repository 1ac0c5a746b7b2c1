//! Ends connections whose client takes nothing of what it asked for, or asks for nothing at all: [`StallWatch`] and [`StallLayer`].
//!
//! - Refuses nothing. A server that lets you hand it its connections is given watched ones ([`StallWatch::io`]), which end by themselves;
//!   the layer stands outside of all others, where it sees the bodies of answers as they go out. On tonic's own server that is
//!   `Server::builder().layer(StallLayer::new())` over watched connections and nothing else; a loop of one's own puts the
//!   connection's watch into the extensions of each request.
//! - An answer stays in the server's memory until it is sent, and it isn't sent before the client makes room for it. Whoever asks over
//!   HTTP/2 with a window of nothing, or doesn't read what comes over HTTP/1.1, keeps as many answers there as there may be
//!   requests under way. So a connection ends on which there are pieces of bodies, or a write, and none of them was sent for
//!   30 seconds, unless set. A piece is 16 KiB, or what is left of less: that much a client has to read in the time.
//! - Waiting for the next piece of an answer is not a stall: a stream without events stays, and so does a client that reads slowly.
//!   How many answers a client may have under way at all is a
//!   [`ConcurrencyLimitLayer`](crate::rate_limit::ConcurrencyLimitLayer)'s to say.
//! - Over HTTP/2 it is enough that one answer makes progress: how many others may stand still meanwhile is bounded by the server's
//!   number of streams.
//! - For a client that has not even said which protocol it speaks, no protocol's own timeout runs. Its connection ends after
//!   10 seconds, unless set; of HTTP/2 its part of the greeting is waited for (RFC 9113, 3.4), after which pings say whether it lives.
//! - TLS belongs inside of the watched connection ([`StallWatch::io`] around the stream that was accepted, and its handshake under a time limit of
//!   its own). Outside of it, as where tonic's own server does it, nothing but the handshake is seen: the first encrypted record of the
//!   client counts as a greeting then, whatever is in it.
//! - The system says that it can take more when a good part of its own buffer is free again, which may have megabytes: give the
//!   sockets a send buffer of some hundred kilobytes, or somebody who reads slowly is taken for one who doesn't.
//! - Asks no store. A piece of a body costs an allocation, and twice a short lock of the connection's own.
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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Extensions;
use tokio::time::sleep;

pub use self::{
    body::WatchedBody,
    io::WatchedIo,
    layer::{StallLayer, Watched, WatchedFuture},
};

use crate::wire::PeerAddress;

/// How long something may stand still, and how long a client may take to say what it speaks, unless set.
const TIME_MAX: Duration = Duration::from_secs(30);
const GREETING_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked at in that time.
const LOOKS: u8 = 4;
/// A time of nothing would be looked at without end.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(1);

/// Sees whether a client takes what it is sent. One belongs to one connection; a clone is the same one. See the
/// [module](self).
#[derive(Clone)]
pub struct StallWatch {
    under_way: Arc<Mutex<UnderWay>>,
    time_max: Duration,
    greeting_within: Duration,
    peer: Option<SocketAddr>,
    /// What else a server that knows the connection by its watch would have told of it.
    told: Option<Told>,
}

/// Puts it into the extensions of a request.
type Told = Arc<dyn Fn(&mut Extensions) + Send + Sync>;

/// What was handed out and isn't sent yet.
#[derive(Default)]
struct UnderWay {
    pieces: usize,
    /// How often it was looked at since something of it was sent.
    looks: u8,
}

impl StallWatch {
    /// Things may stand still for 30 seconds.
    #[must_use]
    pub fn new() -> Self {
        Self {
            under_way: Arc::default(),
            time_max: TIME_MAX,
            greeting_within: GREETING_WITHIN,
            peer: None,
            told: None,
        }
    }

    /// How long something may stand still before the connection is to be ended: it is at the soonest after that time, and at
    /// the latest after a quarter more.
    #[must_use]
    pub fn time_max(mut self, time: Duration) -> Self {
        self.time_max = time;
        self
    }

    /// How long a client may take to say what it speaks: 10 seconds, unless set.
    #[must_use]
    pub fn greeting_within(mut self, time: Duration) -> Self {
        self.greeting_within = time;
        self
    }

    /// Whose connection it is. A [`StallLayer`] tells it to the layers inside of it.
    #[must_use]
    pub fn peer(mut self, peer: SocketAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Has this told of each request too.
    #[cfg(feature = "tonic")]
    pub(crate) fn telling(
        mut self,
        told: impl Fn(&mut Extensions) + Send + Sync + 'static,
    ) -> Self {
        self.told = Some(Arc::new(told));
        self
    }

    fn tell(&self, extensions: &mut Extensions) {
        if let Some(peer) = self.peer {
            PeerAddress(peer).tell(extensions);
        }
        if let Some(told) = &self.told {
            told(extensions);
        }
    }

    /// An answer's body on the connection: as it was, but that its pieces are watched. What a [`StallLayer`] does with each.
    #[must_use]
    pub fn body<B>(&self, body: B) -> WatchedBody<B> {
        WatchedBody::new(body, Some(self.clone()))
    }

    /// The connection: as it was, but that its writes are watched, and that it fails (`TimedOut`) once it is to be ended.
    #[must_use]
    pub fn io<T>(&self, io: T) -> WatchedIo<T> {
        WatchedIo::new(io, self.clone())
    }

    /// Waits until all that is under way stands still for too long. The connection is then to be dropped: nobody takes what it sends. For
    /// connections that aren't tokio's.
    pub async fn stalled(&self) {
        let every = self.time_max.checked_div(LOOKS.into());
        let every = every.unwrap_or_default().max(LOOK_EVERY_MIN);
        loop {
            sleep(every).await;
            if self.look() {
                return;
            }
        }
    }

    /// Whether all stood still for longer than it may. The first look may come at once after something began.
    fn look(&self) -> bool {
        let mut under_way = self.lock();
        under_way.looks = match under_way.pieces {
            0 => 0,
            _ => under_way.looks.saturating_add(1),
        };
        under_way.looks > LOOKS
    }

    fn begin(&self) -> Piece {
        let mut under_way = self.lock();
        under_way.pieces = under_way.pieces.saturating_add(1);
        drop(under_way);
        Piece(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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

/// Something that is to be sent. Dropped, it was, or never will be.
struct Piece(StallWatch);

impl Drop for Piece {
    fn drop(&mut self) {
        let mut under_way = self.0.lock();
        under_way.pieces = under_way.pieces.saturating_sub(1);
        under_way.looks = 0;
    }
}
