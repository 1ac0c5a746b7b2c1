//! Connections whose writes are watched until the system takes them, and whose reads until there is a greeting.

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

/// A connection that a [`StallWatch`] watches. It ends by itself: then it reads and writes nothing but errors (`TimedOut`), at which a
/// server lets go of it. A server polls one or the other at any time.
#[pin_project]
pub struct WatchedIo<T> {
    #[pin]
    io: T,
    eye: Eye,
    /// Let go of with the connection.
    _kept: Option<Box<dyn Any + Send>>,
}

/// What watches.
struct Eye {
    watch: StallWatch,
    /// A write that the system takes nothing of.
    waiting: Option<Piece>,
    /// Over when the connection is.
    stalled: Clock,
    /// `None` when there was one.
    greeting: Option<(Greeting, Clock)>,
    /// Over when the server is.
    end: Option<Clock>,
    over: Option<&'static str>,
}

type Clock = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<T> WatchedIo<T> {
    pub(super) fn new(io: T, watch: StallWatch) -> Self {
        let (within, watched) = (watch.greeting_within, watch.clone());
        // A timer is made when it is first asked.
        let silent = Box::pin(async move { sleep(within).await });
        Self {
            io,
            eye: Eye {
                watch,
                waiting: None,
                stalled: Box::pin(async move { watched.stalled().await }),
                greeting: Some((Greeting::default(), silent)),
                end: None,
                over: None,
            },
            _kept: None,
        }
    }

    /// Lets go of `place` with the connection: of what bounds their number.
    #[must_use]
    pub fn keeping(mut self, place: impl Send + 'static) -> Self {
        self._kept = Some(Box::new(place));
        self
    }

    /// Ends the connection when `end` is over, whatever is under way on it: for a server that has waited long enough for its
    /// clients to finish. The bodies of its answers are dropped then, which settles what they have cost; a server that only lets go of the
    /// futures that accept leaves them to a runtime whose stores are closed already.
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
        self.eye.end = Some(Box::pin(end));
        self
    }

    /// What is watched: of a TLS stream, what the handshake brought.
    #[must_use]
    pub fn inner(&self) -> &T {
        &self.io
    }

    /// Who watches: for the extensions of each request that comes over the connection, where a [`StallLayer`](super::StallLayer) looks for
    /// it.
    #[must_use]
    pub fn watch(&self) -> &StallWatch {
        &self.eye.watch
    }
}

impl Eye {
    /// Fails when the connection is over.
    fn look(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.over.is_none() && self.stalled.as_mut().poll(context).is_ready() {
            self.end_for("an answer was left lying");
        }
        let asked = self.end.as_mut().filter(|_| self.over.is_none());
        if asked.is_some_and(|end| end.as_mut().poll(context).is_ready()) {
            self.end_for("the server waits no longer");
        }
        self.over
            .map_or(Ok(()), |why| Err(io::Error::new(ErrorKind::TimedOut, why)))
    }

    /// Notes what a read had, if anything.
    fn hear(&mut self, heard: Option<&[u8]>, context: &mut Context<'_>) -> io::Result<()> {
        let Some((greeting, silent)) = &mut self.greeting else {
            return Ok(());
        };
        match heard {
            Some(bytes) if greeting.hear(bytes) => self.greeting = None,
            Some(_) => {}
            None if silent.as_mut().poll(context).is_ready() => {
                self.greeting = None;
                self.end_for("a client said nothing");
            }
            None => {}
        }
        self.look(context)
    }

    fn end_for(&mut self, why: &'static str) {
        let peer = self.watch.peer.map(tracing::field::display);
        tracing::info!(target: "tollgate", peer, "{why}: the connection ends");
        self.over = Some(why);
    }

    /// Notes whether a write waits.
    fn noted<R>(&mut self, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.waiting = None;
        } else if self.waiting.is_none() {
            self.waiting = Some(self.watch.begin());
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
        this.eye.look(context)?;
        this.eye.noted(this.io.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        this.eye.look(context)?;
        this.eye.noted(this.io.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        this.eye.look(context)?;
        this.eye.noted(this.io.poll_shutdown(context))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        this.eye.look(context)?;
        this.eye.noted(this.io.poll_write_vectored(context, pieces))
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
        this.eye.look(context)?;
        let before = buffer.filled().len();
        let read = this.io.poll_read(context, buffer);
        let heard = buffer.filled().get(before..).filter(|_| read.is_ready());
        this.eye.hear(heard, context)?;
        read
    }
}

impl<T> fmt::Debug for WatchedIo<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedIo")
            .field("watch", &self.eye.watch)
            .finish_non_exhaustive()
    }
}
