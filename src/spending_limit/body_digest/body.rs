//! The body of a request that was read before it is passed on.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::guard::with_more;

pub(super) type Frames<B> = VecDeque<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>;

/// The body of a request behind a [`BodyDigestLayer`](super::BodyDigestLayer); its frames are
/// unchanged.
#[pin_project]
pub struct DigestedBody<B: Body> {
    #[pin]
    kind: Kind<B>,
}

#[pin_project(project = KindProjection)]
enum Kind<B: Body> {
    Unread(#[pin] B),
    Read {
        frames: Frames<B>,
        /// The part that was not read.
        rest: Pin<Box<B>>,
    },
}

impl<B: Body> DigestedBody<B> {
    pub(super) fn unread(body: B) -> Self {
        Self {
            kind: Kind::Unread(body),
        }
    }

    pub(super) fn read(frames: Frames<B>, rest: Pin<Box<B>>) -> Self {
        Self {
            kind: Kind::Read { frames, rest },
        }
    }
}

impl<B: Body> Body for DigestedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Unread(body) => body.poll_frame(context),
            KindProjection::Read { frames, rest } => match frames.pop_front() {
                Some(frame) => Poll::Ready(Some(frame)),
                None if rest.is_end_stream() => Poll::Ready(None),
                None => rest.as_mut().poll_frame(context),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Unread(body) => body.is_end_stream(),
            Kind::Read { frames, rest } => frames.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let (frames, rest) = match &self.kind {
            Kind::Unread(body) => return body.size_hint(),
            Kind::Read { frames, rest } => (frames, rest.size_hint()),
        };
        let kept = frames.iter().flatten().filter_map(Frame::data_ref);
        let kept = kept.map(Buf::remaining).fold(0, usize::saturating_add);
        with_more(&rest, u64::try_from(kept).unwrap_or(u64::MAX))
    }
}

impl<B: Body> fmt::Debug for DigestedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Unread(_) => "DigestedBody(unread)",
            Kind::Read { .. } => "DigestedBody(read)",
        })
    }
}
