//! Connections whose writes are tracked until the system accepts them, and whose reads are tracked
//! until there is a greeting.

use std::{
    any::Any,
    fmt,
    future::Future,
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};

use super::{Piece, StallWatch, greeting::Greeting};

/// A connection with a [`StallWatch`]. When it stalls it ends itself: from then on reads and writes
/// only return errors (`TimedOut`), and the server drops it. A server polls at least one of the two
/// at any time.
#[pin_project]
pub struct WatchedIo<T> {
    #[pin]
    io: T,
    monitor: ConnectionMonitor,
    /// Dropped with the connection.
    _kept: Option<Box<dyn Any + Send>>,
}

/// Checks the connection for stalls.
struct ConnectionMonitor {
    watch: StallWatch,
    /// A pending write that the system does not accept.
    waiting: Option<Piece>,
    /// Completes when the connection has stalled.
    stalled: Timer,
    /// `None` once it is complete.
    greeting: Option<(Greeting, Timer)>,
    /// Completes when the server stops waiting.
    end: Option<Timer>,
    closed_for: Option<&'static str>,
}

type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<T> WatchedIo<T> {
    pub(super) fn new(io: T, watch: StallWatch) -> Self {
        let (within, watched) = (watch.greeting_within, watch.clone());
        // The timer is created when it is first polled.
        let silent = Box::pin(async move { sleep(within).await });
        Self {
            io,
            monitor: ConnectionMonitor {
                watch,
                waiting: None,
                stalled: Box::pin(async move { watched.stalled().await }),
                greeting: Some((Greeting::default(), silent)),
                end: None,
                closed_for: None,
            },
            _kept: None,
        }
    }

    /// Drops `place` with the connection: for a permit that limits the number of connections.
    #[must_use]
    pub fn keeping(mut self, place: impl Send + 'static) -> Self {
        self._kept = Some(Box::new(place));
        self
    }

    /// Ends the connection when `end` completes, whatever is under way on it: for a server that has
    /// waited long enough for its clients to finish. The bodies of its answers are dropped then,
    /// which settles their cost. A server that only drops its accept futures leaves them to a
    /// runtime whose stores are already closed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// use std::time::Duration;
    /// use tokio::{io::AsyncReadExt, time::sleep};
    /// use tollgate::stall::StallWatch;
    ///
    /// let (near, _far) = tokio::io::duplex(1_024);
    /// let mut connection = StallWatch::new().io(near).ending(sleep(Duration::from_secs(3)));
    /// let error = connection.read_u8().await.expect_err("it ends");
    /// assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    /// # }
    /// ```
    #[must_use]
    pub fn ending(mut self, end: impl Future<Output = ()> + Send + 'static) -> Self {
        self.monitor.end = Some(Box::pin(end));
        self
    }

    /// The watched connection: for a TLS stream, the results of the handshake.
    #[must_use]
    pub fn inner(&self) -> &T {
        &self.io
    }

    /// The connection's watch, to be put into the extensions of each request on it, where a
    /// [`StallLayer`](super::StallLayer) looks for it.
    #[must_use]
    pub fn watch(&self) -> &StallWatch {
        &self.monitor.watch
    }
}

impl ConnectionMonitor {
    /// Fails once the connection is to end.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.closed_for.is_none() && self.stalled.as_mut().poll(context).is_ready() {
            self.close("the client stopped reading an answer");
        }
        let end = self.end.as_mut().filter(|_| self.closed_for.is_none());
        if end.is_some_and(|end| end.as_mut().poll(context).is_ready()) {
            self.close("the server stopped waiting");
        }
        self.closed_for
            .map_or(Ok(()), |why| Err(io::Error::new(ErrorKind::TimedOut, why)))
    }

    /// Notes what a read returned, if anything.
    fn observe_read(
        &mut self,
        received: Option<&[u8]>,
        context: &mut Context<'_>,
    ) -> io::Result<()> {
        let Some((greeting, silent)) = &mut self.greeting else {
            return Ok(());
        };
        match received {
            Some(bytes) if greeting.receive(bytes) => self.greeting = None,
            Some(_) => {}
            None if silent.as_mut().poll(context).is_ready() => {
                self.greeting = None;
                self.close("the client sent no greeting");
            }
            None => {}
        }
        self.check(context)
    }

    fn close(&mut self, why: &'static str) {
        let peer = self.watch.peer.map(tracing::field::display);
        tracing::info!(target: "tollgate", peer, "closing a connection: {why}");
        self.closed_for = Some(why);
    }

    /// Notes whether a write is pending.
    fn track_write<R>(&mut self, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.waiting = None;
        } else if self.waiting.is_none() {
            self.waiting = Some(self.watch.track());
        }
        written
    }
}

impl<T: AsyncWrite> AsyncWrite for WatchedIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        this.monitor.check(context)?;
        this.monitor.track_write(this.io.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        this.monitor.check(context)?;
        this.monitor.track_write(this.io.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        this.monitor.check(context)?;
        this.monitor.track_write(this.io.poll_shutdown(context))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        this.monitor.check(context)?;
        this.monitor
            .track_write(this.io.poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<T: AsyncRead> AsyncRead for WatchedIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        this.monitor.check(context)?;
        let before = buffer.filled().len();
        let read = this.io.poll_read(context, buffer);
        let received = buffer.filled().get(before..).filter(|_| read.is_ready());
        this.monitor.observe_read(received, context)?;
        read
    }
}

impl<T> fmt::Debug for WatchedIo<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedIo")
            .field("watch", &self.monitor.watch)
            .finish_non_exhaustive()
    }
}
