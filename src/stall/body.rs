//! Bodies whose pieces are watched until they are sent.

use std::{
    fmt,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::{Piece, StallWatch};

/// The body of an answer on a connection that a [`StallWatch`] watches.
#[pin_project]
pub struct WatchedBody<B> {
    #[pin]
    body: B,
    watch: StallWatch,
}

impl<B> WatchedBody<B> {
    pub(super) fn new(body: B, watch: StallWatch) -> Self {
        Self { body, watch }
    }
}

impl<B: Body> Body for WatchedBody<B> {
    type Data = WatchedData<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, B::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(context);
        frame.map_ok(|frame| frame.map_data(|data| WatchedData::new(data, this.watch)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for WatchedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchedBody")
    }
}

/// A piece of a [`WatchedBody`]: a server advances it by what it has sent.
pub struct WatchedData<D> {
    data: D,
    /// `None` when all of it is sent.
    piece: Option<Piece>,
}

impl<D: Buf> WatchedData<D> {
    fn new(data: D, watch: &StallWatch) -> Self {
        let piece = data.has_remaining().then(|| watch.begin());
        Self { data, piece }
    }

    fn went_on(&mut self) {
        if !self.data.has_remaining() {
            self.piece = None;
        } else if let Some(piece) = &self.piece {
            piece.went_on();
        }
    }
}

impl<D: Buf> Buf for WatchedData<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, pieces: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(pieces)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
        if count > 0 {
            self.went_on();
        }
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        let bytes = self.data.copy_to_bytes(length);
        if length > 0 {
            self.went_on();
        }
        bytes
    }
}

impl<D> fmt::Debug for WatchedData<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchedData")
    }
}
