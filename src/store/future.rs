//! A store's answer: a future that may be ready, and its error.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::domain::books::RefundRefusal;

/// A store's answer, ready or pending.
///
/// An engine in this process answers with [`StoreFuture::ready`], which doesn't allocate and can be
/// taken without awaiting; one that does I/O answers with [`StoreFuture::new`].
pub struct StoreFuture<T>(State<T>);

enum State<T> {
    Ready(Option<Result<T, StoreError>>),
    Pending(Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>),
}

impl<T> StoreFuture<T> {
    /// An answer that is ready.
    #[must_use]
    pub fn ready(answer: Result<T, StoreError>) -> Self {
        Self(State::Ready(Some(answer)))
    }

    /// An answer that is pending.
    pub fn new(answer: impl Future<Output = Result<T, StoreError>> + Send + 'static) -> Self {
        Self(State::Pending(Box::pin(answer)))
    }

    /// The answer if it is ready, otherwise the future itself.
    ///
    /// # Errors
    /// The future, when the answer is still pending.
    pub fn into_ready(self) -> Result<Result<T, StoreError>, Self> {
        match self.0 {
            State::Ready(Some(answer)) => Ok(answer),
            state => Err(Self(state)),
        }
    }
}

impl<T: Unpin> Future for StoreFuture<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(answer) => match answer.take() {
                Some(answer) => Poll::Ready(answer),
                None => Poll::Ready(Err(StoreError::internal(
                    "polled after the answer was taken",
                ))),
            },
            State::Pending(answer) => answer.as_mut().poll(context),
        }
    }
}

impl<T> fmt::Debug for StoreFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Ready(_) => "StoreFuture(ready)",
            State::Pending(_) => "StoreFuture(pending)",
        })
    }
}

/// Of payments and other corrections too: an amount of zero, with the wrong sign, or beyond what an
/// account can hold.
impl From<RefundRefusal> for StoreError {
    fn from(refusal: RefundRefusal) -> Self {
        Self::new(StoreErrorKind::Refused, &refusal.to_string())
    }
}

/// The kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store can't be reached, or didn't answer in time.
    Unavailable,
    /// The store's queue is full.
    Busy,
    /// Something with that name already exists.
    Conflict,
    /// Nothing has that name, or it isn't in the state that the change needs.
    NotFound,
    /// The store refuses the value, such as an amount out of range.
    Refused,
    /// The limit for this kind of thing is reached.
    Full,
    /// The store returned something invalid: corruption, or a defect.
    Internal,
}

/// A failure of a store. The text is for operators; it contains no secret and no client sees it.
#[derive(Clone, Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    text: Arc<str>,
}

impl StoreError {
    /// A failure of that kind.
    #[must_use]
    pub fn new(kind: StoreErrorKind, text: &str) -> Self {
        Self {
            kind,
            text: Arc::from(text),
        }
    }

    /// A defect, or corruption.
    #[must_use]
    pub fn internal(text: &str) -> Self {
        Self::new(StoreErrorKind::Internal, text)
    }

    /// A negative limit.
    pub(crate) fn negative_limit() -> Self {
        Self::new(
            StoreErrorKind::Refused,
            "a spending limit can't be below zero",
        )
    }

    /// A payment or a correction without a reference, or with one that is too long.
    pub(crate) fn no_reference() -> Self {
        let text = "a reference has 1 to 255 bytes";
        Self::new(StoreErrorKind::Refused, text)
    }

    /// A refund of a call whose row is another account's, or another call's, or gone.
    pub(crate) fn unknown_call() -> Self {
        let text = "the account's usage log has no such call";
        Self::new(StoreErrorKind::NotFound, text)
    }

    /// A reference that belongs to another movement of money.
    pub(crate) fn reference_taken() -> Self {
        let text = "the reference was used for another payment";
        Self::new(StoreErrorKind::Conflict, text)
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for StoreError {}
