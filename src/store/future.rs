//! What a store answers with: a future that may be ready, and an error.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// The answer of a store: there already, or on its way.
///
/// An engine in this process answers with [`StoreFuture::ready`], which costs no allocation and can be
/// taken out without awaiting it; one that does I/O answers with [`StoreFuture::new`].
pub struct StoreFuture<T>(State<T>);

enum State<T> {
    Ready(Option<Result<T, StoreError>>),
    Pending(Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>),
}

impl<T> StoreFuture<T> {
    /// An answer that is there.
    #[must_use]
    pub fn ready(answer: Result<T, StoreError>) -> Self {
        Self(State::Ready(Some(answer)))
    }

    /// An answer on its way.
    pub fn new(answer: impl Future<Output = Result<T, StoreError>> + Send + 'static) -> Self {
        Self(State::Pending(Box::pin(answer)))
    }

    /// The answer if it is there, or else the future back.
    ///
    /// # Errors
    /// The future itself, when the answer is still on its way.
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

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store can't be reached, or didn't answer in time.
    Unavailable,
    /// The store's waiting line is full.
    Busy,
    /// There is one of that name already.
    Conflict,
    /// There is none of that name, or it isn't in the state that the change needs.
    NotFound,
    /// The store refuses the value: an amount out of range.
    Refused,
    /// There are as many of the kind already as there may be.
    Full,
    /// The store answered what it never should: corruption, or a defect.
    Internal,
}

/// A store failed. The text is for operators; it holds no secret and no client sees it.
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

    /// A limit below zero.
    pub(crate) fn negative_limit() -> Self {
        Self::new(
            StoreErrorKind::Refused,
            "a spending limit can't be below zero",
        )
    }

    /// A payment or a correction of nothing, below what it may be, or beyond what an account holds.
    pub(crate) fn amount_out_of_range() -> Self {
        Self::new(StoreErrorKind::Refused, "amount out of range")
    }

    /// A payment or a correction without a name, or with too long a one.
    pub(crate) fn no_reference() -> Self {
        let text = "a reference has 1 to 255 bytes";
        Self::new(StoreErrorKind::Refused, text)
    }

    /// A reference that names another movement of money.
    pub(crate) fn reference_taken() -> Self {
        let text = "the reference was used for another payment";
        Self::new(StoreErrorKind::Conflict, text)
    }

    /// What kind of failure.
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
