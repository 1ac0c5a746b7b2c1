//! A body that is returned if it was not read to its end.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::sync::lock;

/// Where a body is returned to.
pub(super) struct ReturnSlot<B>(Arc<Mutex<Option<Unread<B>>>>);

/// A body that wasn't read to its end.
pub(super) struct Unread<B> {
    pub(super) body: Pin<Box<B>>,
    /// Whether reading has begun.
    pub(super) is_begun: bool,
}

impl<B> ReturnSlot<B> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn lend(&self, body: B) -> DrainedBody<B>
    where
        B: Body,
    {
        let lent = LentBody {
            unread: Some(Unread {
                body: Box::pin(body),
                is_begun: false,
            }),
            slot: self.clone(),
        };
        DrainedBody {
            kind: Kind::Lent(lent),
        }
    }

    /// The returned body; `None` if it was read to its end or is still in use.
    pub(super) fn take(&self) -> Option<Unread<B>> {
        lock(&self.0).take()
    }

    fn put(&self, unread: Unread<B>) {
        *lock(&self.0) = Some(unread);
    }
}

impl<B> Clone for ReturnSlot<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The body of a request behind a [`DrainLayer`](super::DrainLayer); its frames are unchanged.
#[pin_project]
pub struct DrainedBody<B: Body> {
    #[pin]
    kind: Kind<B>,
}

#[pin_project(project = KindProjection)]
enum Kind<B: Body> {
    Given(#[pin] B),
    Lent(LentBody<B>),
}

struct LentBody<B: Body> {
    /// `None` once it has ended.
    unread: Option<Unread<B>>,
    slot: ReturnSlot<B>,
}

impl<B: Body> Drop for LentBody<B> {
    fn drop(&mut self) {
        let unread = self.unread.take();
        if let Some(unread) = unread.filter(|unread| !unread.body.is_end_stream()) {
            self.slot.put(unread);
        }
    }
}

impl<B: Body> DrainedBody<B> {
    pub(super) fn given(body: B) -> Self {
        Self {
            kind: Kind::Given(body),
        }
    }
}

impl<B: Body> Body for DrainedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Given(body) => body.poll_frame(context),
            KindProjection::Lent(lent) => {
                let Some(unread) = &mut lent.unread else {
                    return Poll::Ready(None);
                };
                unread.is_begun = true;
                let frame = unread.body.as_mut().poll_frame(context);
                if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
                    lent.unread = None;
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Given(body) => body.is_end_stream(),
            Kind::Lent(lent) => match &lent.unread {
                Some(unread) => unread.body.is_end_stream(),
                None => true,
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Given(body) => body.size_hint(),
            Kind::Lent(lent) => match &lent.unread {
                Some(unread) => unread.body.size_hint(),
                None => SizeHint::with_exact(0),
            },
        }
    }
}

impl<B: Body> fmt::Debug for DrainedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DrainedBody")
    }
}
