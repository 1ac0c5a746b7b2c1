//! The gates that a request passes: one, or several one after the other in one guard.
//!
//! Machinery that appears in the types of services. A gate of your own is a
//! [`Policy`](super::Policy) in a [`Gate`](super::Gate), and several are combined with [`Then`].
//! The traits can't be implemented elsewhere.

mod gate;
mod optional;
mod several;
mod spared;
mod then;

use std::task::Context;

use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response, StatusCode, response};

use super::{FixedBody, Meter, Permit, ResponseMarks, Tail};
use crate::{store::StoreFuture, wire::ToldLimits};

pub use gate::Passed;
pub(crate) use optional::FailedAttempt;
pub use optional::{Asked, OptionalAuthentication};
pub use several::{AllMeters, AllPassed, Several};
pub use spared::Unless;
pub use then::{Both, Either, Meters, Then};

/// The gates that a request passes, in order: one ([`Gate`](super::Gate)), two courses ([`Then`]),
/// an optional one (`Option`), a shared one (`Arc`), or [`Several`] of one kind. Several gates in
/// one [`Guard`](super::Guard) decide as they would in a guard each, but the request and its
/// response are moved only once.
pub trait Course: sealed::Sealed + Clone + Send + Sync + 'static {
    /// The permits of all gates.
    type Admission: Admission;
    /// The state of a gate that waits for I/O.
    type Waiting: Send;

    /// Leads a request through the gates until it is admitted, stopped, or has to wait. The permits
    /// are put into `admission`, which is empty before.
    fn enter<B>(
        &self,
        request: &mut Request<B>,
        admission: &mut Self::Admission,
    ) -> Progress<Self::Waiting>;

    /// Continues where it waited, once the I/O is done.
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

/// How far a request has got.
#[derive(Debug)]
pub enum Progress<W> {
    /// Through all gates.
    Admitted,
    /// It is answered without the inner service; the gates that it has passed still mark the
    /// response.
    Stopped(Box<Response<FixedBody>>),
    /// It waits for I/O.
    Waiting(W),
}

/// The permits of a course, which mark the response. The default has none.
pub trait Admission: sealed::Sealed + Default + Send + 'static {
    /// The meters that they attach to the response body. The default has none.
    type Meter: Meter + Default;

    /// Whether one of the permits reports what is left of a limit.
    const TELLS_LIMITS: bool;

    /// The number of header fields that the permits usually add to a response.
    const FIELDS: usize;

    /// Marks the response, the innermost gate first, and puts the meters of its body into `meter`.
    fn mark(&mut self, answer: &mut Answer<'_>, meter: &mut Self::Meter);

    /// The inner service failed with an error of its own instead of answering.
    fn inner_failed(&mut self);
}

/// A response while the gates mark it.
#[derive(Debug)]
pub struct Answer<'a> {
    status: StatusCode,
    headers: &'a mut HeaderMap,
    extensions: &'a mut Extensions,
    /// Limits that inner gates have reported.
    told: ToldLimits,
    /// Another body in place of the inner service's.
    pub(super) replaced: Option<Bytes>,
    /// What must be recorded before the head is sent.
    pub(super) settling: Option<StoreFuture<()>>,
    /// Whether the body has a meter.
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

/// Both are awaited, whether or not the first fails. Inlined, since usually one or none is there.
#[inline]
pub(super) fn both(
    first: Option<StoreFuture<()>>,
    second: Option<StoreFuture<()>>,
) -> Option<StoreFuture<()>> {
    match (first, second) {
        (Some(first), Some(second)) => Some(one_after_the_other(first, second)),
        (None, second) => second,
        (first, None) => first,
    }
}

fn one_after_the_other(first: StoreFuture<()>, second: StoreFuture<()>) -> StoreFuture<()> {
    StoreFuture::new(async move {
        let first = first.await;
        second.await.and(first)
    })
}
