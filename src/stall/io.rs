//! Connections whose writes are watched until the system takes them.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Piece, StallWatch};

/// A connection that a [`StallWatch`] watches.
#[pin_project]
pub struct WatchedIo<T> {
    #[pin]
    io: T,
    watch: StallWatch,
    /// A write that the system takes nothing of.
    waiting: Option<Piece>,
}

impl<T> WatchedIo<T> {
    pub(super) fn new(io: T, watch: StallWatch) -> Self {
        Self {
            io,
            watch,
            waiting: None,
        }
    }
}

/// Notes whether a write waits.
fn noted<R>(
    written: Poll<io::Result<R>>,
    waiting: &mut Option<Piece>,
    watch: &StallWatch,
) -> Poll<io::Result<R>> {
    if written.is_ready() {
        *waiting = None;
    } else if waiting.is_none() {
        *waiting = Some(watch.begin());
    }
    written
}

impl<T: AsyncWrite> AsyncWrite for WatchedIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        noted(this.io.poll_write(context, bytes), this.waiting, this.watch)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        noted(this.io.poll_flush(context), this.waiting, this.watch)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        noted(this.io.poll_shutdown(context), this.waiting, this.watch)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = this.io.poll_write_vectored(context, pieces);
        noted(written, this.waiting, this.watch)
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
        self.project().io.poll_read(context, buffer)
    }
}

impl<T> fmt::Debug for WatchedIo<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchedIo")
    }
}
