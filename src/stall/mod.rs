//! Ends connections whose client takes nothing of what it asked for: [`StallWatch`].
//!
//! - Refuses nothing, and is no layer: it belongs to a server's own loop, one to a connection, since it takes a connection to be
//!   ended.
//! - An answer stays in the server's memory until it is sent, and it isn't sent before the client makes room for it. Whoever asks over
//!   HTTP/2 with a window of nothing, or doesn't read what comes over HTTP/1.1, keeps as many answers there as there may be
//!   requests under way. So a connection ends on which there are pieces of bodies, or a write, and nothing of any of them went on for
//!   30 seconds, unless set.
//! - An answer that is waited for is nobody's fault: a stream without an event stays, and a client that reads on, however
//!   slowly, too. How many answers a client may have under way at all is a
//!   [`ConcurrencyLimitLayer`](crate::rate_limit::ConcurrencyLimitLayer)'s to say.
//! - Over HTTP/2 it is enough that one answer goes on: how many others may stand still meanwhile is the server's number of streams.
//! - The system says that it can take more when a good part of its own buffer is free again, which may have megabytes: give the
//!   sockets a send buffer of some hundred kilobytes, or somebody who reads slowly is taken for one who doesn't.
//! - Asks no store. A piece of a body costs a short lock of the connection's own, once for each time that something of it is sent.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! use http_body::Body;
//! use std::{future::poll_fn, pin::pin, time::Duration};
//! use tollgate::stall::StallWatch;
//!
//! let watch = StallWatch::new().time_max(Duration::from_secs(5));
//! let mut body = pin!(watch.body("an answer".to_owned()));
//! let frame = poll_fn(|context| body.as_mut().poll_frame(context)).await;
//! let piece = frame.expect("there is one").expect("it doesn't fail").into_data().expect("data");
//! // A server selects between this and the connection.
//! watch.stalled().await;
//!
//! drop(piece);
//! let taken = tokio::time::timeout(Duration::from_secs(60), watch.stalled()).await;
//! assert!(taken.is_err(), "nothing stands still any more");
//! # }
//! ```

mod body;
mod io;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

pub use self::{
    body::{WatchedBody, WatchedData},
    io::WatchedIo,
};

/// How long something may stand still, unless set.
const TIME_MAX: Duration = Duration::from_secs(30);
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
}

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
        }
    }

    /// How long something may stand still before the connection is to be ended: it is at the soonest after that time, and at
    /// the latest after a quarter more.
    #[must_use]
    pub fn time_max(mut self, time: Duration) -> Self {
        self.time_max = time;
        self
    }

    /// An answer's body on the connection: as it was, but that its pieces are watched.
    #[must_use]
    pub fn body<B>(&self, body: B) -> WatchedBody<B> {
        WatchedBody::new(body, self.clone())
    }

    /// The connection: as it was, but that its writes are watched.
    #[must_use]
    pub fn io<T>(&self, io: T) -> WatchedIo<T> {
        WatchedIo::new(io, self.clone())
    }

    /// Waits until all that is under way stands still for too long. The connection is then to be dropped: nobody takes what it sends.
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
            .finish()
    }
}

/// Something that is to be sent. Dropped, it was, or never will be.
struct Piece(StallWatch);

impl Piece {
    /// Some of it went out.
    fn went_on(&self) {
        self.0.lock().looks = 0;
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut under_way = self.0.lock();
        under_way.pieces = under_way.pieces.saturating_sub(1);
        under_way.looks = 0;
    }
}
