//! A body that comes back where nobody read it to its end.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

/// Where a body comes back to.
pub(super) struct Home<B>(Arc<Mutex<Option<Left<B>>>>);

/// A body that wasn't read to its end.
pub(super) struct Left<B> {
    pub(super) body: Pin<Box<B>>,
    /// Whether somebody has begun to read it.
    pub(super) is_begun: bool,
}

impl<B> Home<B> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn lend(&self, body: B) -> DrainedBody<B>
    where
        B: Body,
    {
        let loan = Loan {
            left: Some(Left {
                body: Box::pin(body),
                is_begun: false,
            }),
            home: self.clone(),
        };
        DrainedBody {
            kind: Kind::Lent(loan),
        }
    }

    /// What came back; nothing where somebody read it to its end, or has it still.
    pub(super) fn take(&self) -> Option<Left<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, left: Left<B>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
    }
}

impl<B> Clone for Home<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The body of a request that goes through a [`DrainLayer`](super::DrainLayer): as it was.
#[pin_project]
pub struct DrainedBody<B: Body> {
    #[pin]
    kind: Kind<B>,
}

#[pin_project(project = KindProjection)]
enum Kind<B: Body> {
    Given(#[pin] B),
    Lent(Loan<B>),
}

struct Loan<B: Body> {
    /// `None` when it is over.
    left: Option<Left<B>>,
    home: Home<B>,
}

impl<B: Body> Drop for Loan<B> {
    fn drop(&mut self) {
        let left = self.left.take();
        if let Some(left) = left.filter(|left| !left.body.is_end_stream()) {
            self.home.put(left);
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
            KindProjection::Lent(loan) => {
                let Some(left) = &mut loan.left else {
                    return Poll::Ready(None);
                };
                left.is_begun = true;
                let frame = left.body.as_mut().poll_frame(context);
                if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
                    loan.left = None;
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Given(body) => body.is_end_stream(),
            Kind::Lent(loan) => match &loan.left {
                Some(left) => left.body.is_end_stream(),
                None => true,
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Given(body) => body.size_hint(),
            Kind::Lent(loan) => match &loan.left {
                Some(left) => left.body.size_hint(),
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
