//! The unread rest of a body.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http_body::Body;
use tokio::time::{Sleep, sleep};

use super::DrainLayer;

/// How many frames are read before yielding to other tasks.
const FRAMES_AT_ONCE: u32 = 64;

/// The unread rest of an HTTP/1.1 body, with the limits for reading it.
pub(super) struct Rest<B> {
    body: Pin<Box<B>>,
    /// How many more bytes may be read; `None` if the limit was exceeded.
    room: Option<u64>,
    clock: Pin<Box<Sleep>>,
}

/// How reading it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The end of the body.
    Reached,
    /// There may be more, but it isn't read.
    GivenUp,
}

impl<B: Body> Rest<B> {
    pub(super) fn new(body: Pin<Box<B>>, layer: DrainLayer) -> Self {
        let room = Some(layer.bytes_max).filter(|room| body.size_hint().lower() <= *room);
        Self {
            body,
            room,
            clock: Box::pin(sleep(layer.time_max)),
        }
    }

    /// Reads until the end, the size limit or the time limit.
    pub(super) fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<End> {
        while let Some(room) = self.room {
            match self.body.as_mut().poll_frame(context) {
                Poll::Pending => {
                    ready!(self.clock.as_mut().poll(context));
                    break;
                }
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(End::Reached),
                Poll::Ready(Some(Ok(frame))) => {
                    let length = frame.data_ref().map_or(0, Buf::remaining);
                    let length = u64::try_from(length).unwrap_or(u64::MAX);
                    // Empty frames could go on forever, so they count as over the limit; nothing
                    // follows trailers.
                    let is_more = length > 0 || frame.is_trailers();
                    self.room = room.checked_sub(length).filter(|_| is_more);
                }
            }
        }
        Poll::Ready(End::GivenUp)
    }
}

/// Reads the rest of an HTTP/2 body in the background, until the end or the time limit. There is no
/// size limit: unread data would take window space from the connection's other streams, a reset is
/// noticed only by reading, and the connection's window limits how much can arrive.
pub(super) struct Discarding<B> {
    body: Pin<Box<B>>,
    clock: Pin<Box<Sleep>>,
}

impl<B> Discarding<B> {
    pub(super) fn new(body: Pin<Box<B>>, layer: DrainLayer) -> Self {
        Self {
            body,
            clock: Box::pin(sleep(layer.time_max)),
        }
    }
}

impl<B: Body> Future for Discarding<B> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.clock.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        for _ in 0..FRAMES_AT_ONCE {
            match ready!(self.body.as_mut().poll_frame(context)) {
                None | Some(Err(_)) => return Poll::Ready(()),
                Some(Ok(_)) => {}
            }
        }
        // Yield to other tasks.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
