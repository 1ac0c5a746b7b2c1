//! What nobody read of a body.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http_body::Body;
use tokio::time::{Sleep, sleep};

use super::DrainLayer;

/// Frames that are read before others have a turn.
const FRAMES_AT_ONCE: u32 = 64;

/// What nobody read of a body, with the bounds within which it is read.
pub(super) struct Rest<B> {
    body: Pin<Box<B>>,
    /// How much more is read, in bytes; `None` where it was too much.
    room: Option<u64>,
    clock: Pin<Box<Sleep>>,
}

/// How reading it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There is no more.
    Reached,
    /// There may be, and it isn't read.
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

    /// Reads on, until there is no more, or no room for more, or no time.
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
                    // A frame without a byte is none to go on for without end; behind trailers is none.
                    let is_more = length > 0 || frame.is_trailers();
                    self.room = room.checked_sub(length).filter(|_| is_more);
                }
            }
        }
        Poll::Ready(End::GivenUp)
    }

    /// Reads on, until there is no more or no time. What isn't read takes room from the connection's other streams, and what was reset
    /// is seen by reading alone; how much may come is the connection's window to say.
    pub(super) fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.clock.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        for _ in 0..FRAMES_AT_ONCE {
            match ready!(self.body.as_mut().poll_frame(context)) {
                None | Some(Err(_)) => return Poll::Ready(()),
                Some(Ok(_)) => {}
            }
        }
        // Others have a turn.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Lingers on, with nobody waiting for it.
pub(super) struct Lingering<B>(pub(super) Rest<B>);

impl<B: Body> Future for Lingering<B> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_linger(context)
    }
}
