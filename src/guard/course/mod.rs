//! What a request passes on its way in: one gate, or several one after the other in one guard.
//!
//! Machinery that shows in the types of services: a gate of your own is a [`Policy`](super::Policy) in a
//! [`Gate`](super::Gate), and several of them are put together with [`Then`]. The traits can't be implemented elsewhere.

mod gate;
mod optional;
mod several;
mod spared;
mod then;

use std::task::Context;

use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response, StatusCode, response};

use super::{Meter, Permit, ResponseMarks, Tail};
use crate::{store::StoreFuture, wire::ToldLimits};

pub use gate::Passed;
pub(crate) use optional::FailedAttempt;
pub use optional::{Asked, OptionalAuthentication};
pub use several::{AllMeters, AllPassed, Several};
pub use spared::Unless;
pub use then::{Both, Either, Meters, Then};

/// The gates that a request passes, in order: one ([`Gate`](super::Gate)), two courses ([`Then`]), perhaps one
/// (`Option`), a shared one (`Arc`), or [`Several`] of one kind. Several gates in one [`Guard`](super::Guard) decide as they would in a guard each,
/// and the request and its answer are moved once.
pub trait Course: sealed::Sealed + Clone + Send + Sync + 'static {
    /// Where the proofs of admission of all gates are kept.
    type Admission: Admission;
    /// A gate that waits for I/O.
    type Waiting: Send;

    /// Leads a request in, until it is through, stopped, or has to wait. The proofs are put into `admission`, which
    /// is empty before.
    fn enter<B>(
        &self,
        request: &mut Request<B>,
        admission: &mut Self::Admission,
    ) -> Progress<Self::Waiting>;

    /// Goes on where it waited, when the I/O is done.
    fn resume<B>(
        &self,
        waiting: Self::Waiting,
        request: &mut Request<B>,
        admission: &mut Self::Admission,
        context: &mut Context<'_>,
    ) -> Progress<Self::Waiting>;
}

mod sealed {
    #[expect(
        unnameable_types,
        reason = "so that nobody else implements what asks for it"
    )]
    pub trait Sealed {}
}

/// How far a request has come.
#[derive(Debug)]
pub enum Progress<W> {
    /// Through all gates.
    Admitted,
    /// It is answered without the inner service; the gates before have their say about the answer.
    Stopped(Box<Response<Bytes>>),
    /// It waits.
    Waiting(W),
}

/// The proofs of a course, and what they have to say when there is an answer. The default has none.
pub trait Admission: sealed::Sealed + Default + Send + 'static {
    /// Where what they leave on the answer's body is kept. The default has nothing.
    type Meter: Meter + Default;

    /// Whether one of the permits tells what is left of a limit.
    const TELLS_LIMITS: bool;

    /// As many header fields as the permits usually add to an answer.
    const FIELDS: usize;

    /// Marks the answer, the innermost first, and puts into `meter` what is to watch the body.
    fn mark(&mut self, answer: &mut Answer<'_>, meter: &mut Self::Meter);

    /// The inner service failed with an error of its own instead of answering.
    fn inner_failed(&mut self);
}

/// An answer while the gates mark it.
#[derive(Debug)]
pub struct Answer<'a> {
    status: StatusCode,
    headers: &'a mut HeaderMap,
    extensions: &'a mut Extensions,
    /// Limits that gates further in have told.
    told: ToldLimits,
    /// Another body in place of the inner service's.
    pub(super) replaced: Option<Bytes>,
    /// What has to be written down before the head goes out.
    pub(super) settling: Option<StoreFuture<()>>,
    /// Whether the body is watched.
    pub(super) is_metered: bool,
}

impl<'a> Answer<'a> {
    pub(super) fn new(head: &'a mut response::Parts) -> Self {
        Self {
            status: head.status,
            headers: &mut head.headers,
            extensions: &mut head.extensions,
            told: ToldLimits::default(),
            replaced: None,
            settling: None,
            is_metered: false,
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    fn marked_by<P: Permit>(&mut self, permit: P, meter: &mut Option<P::Meter>) {
        let marks = ResponseMarks {
            status: self.status,
            headers: self.headers,
            extensions: self.extensions,
            told: &mut self.told,
        };
        match permit.mark_response(marks) {
            Tail::Body => {}
            Tail::Settled(settling) => self.settling = both(self.settling.take(), Some(settling)),
            Tail::Metered(metering) => {
                self.is_metered = true;
                *meter = Some(metering);
            }
            Tail::Replaced(status, body) => {
                self.status = status;
                self.replaced = Some(body);
            }
        }
    }
}

/// Both are awaited, whether or not the first fails.
pub(super) fn both(
    first: Option<StoreFuture<()>>,
    second: Option<StoreFuture<()>>,
) -> Option<StoreFuture<()>> {
    match (first, second) {
        (Some(first), Some(second)) => Some(StoreFuture::new(async move {
            let first = first.await;
            second.await.and(first)
        })),
        (first, second) => first.or(second),
    }
}
