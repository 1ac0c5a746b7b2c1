//! One course after another.

use std::task::Context;

use http::{HeaderMap, Request};

use super::{Admission, Answer, Course, Progress, both, sealed};
use crate::{
    guard::{BodyEnd, Meter},
    store::StoreFuture,
};

/// One course, then another further in.
#[derive(Clone, Debug)]
pub struct Then<A, B> {
    /// The outer course.
    pub outer: A,
    /// The inner course, for requests that the outer one admits.
    pub inner: B,
}

/// The permits of a [`Then`].
#[derive(Debug, Default)]
pub struct Both<A, B> {
    // Dropped in this order, so that the outer permit sees what the inner one counts in `Drop`.
    inner: B,
    outer: A,
}

/// Which part of a [`Then`] waits.
#[derive(Debug)]
pub enum Either<W, V> {
    /// The outer course.
    Outer(W),
    /// The inner course.
    Inner(V),
}

impl<A: Course, B: Course> Then<A, B> {
    /// Leads a request that the outer course admits into the inner one.
    fn go_on<R>(
        &self,
        progress: Progress<A::Waiting>,
        request: &mut Request<R>,
        admission: &mut B::Admission,
    ) -> Progress<Either<A::Waiting, B::Waiting>> {
        match progress {
            Progress::Admitted => inside(self.inner.enter(request, admission)),
            Progress::Stopped(response) => Progress::Stopped(response),
            Progress::Waiting(waiting) => Progress::Waiting(Either::Outer(waiting)),
        }
    }
}

fn inside<W, V>(progress: Progress<V>) -> Progress<Either<W, V>> {
    match progress {
        Progress::Admitted => Progress::Admitted,
        Progress::Stopped(response) => Progress::Stopped(response),
        Progress::Waiting(waiting) => Progress::Waiting(Either::Inner(waiting)),
    }
}

impl<A, B> sealed::Sealed for Then<A, B> {}

impl<A: Course, B: Course> Course for Then<A, B> {
    type Admission = Both<A::Admission, B::Admission>;
    type Waiting = Either<A::Waiting, B::Waiting>;

    fn enter<R>(
        &self,
        request: &mut Request<R>,
        admission: &mut Self::Admission,
    ) -> Progress<Self::Waiting> {
        let progress = self.outer.enter(request, &mut admission.outer);
        self.go_on(progress, request, &mut admission.inner)
    }

    fn resume<R>(
        &self,
        waiting: Self::Waiting,
        request: &mut Request<R>,
        admission: &mut Self::Admission,
        context: &mut Context<'_>,
    ) -> Progress<Self::Waiting> {
        let Both { inner, outer } = admission;
        match waiting {
            Either::Outer(waiting) => {
                let progress = self.outer.resume(waiting, request, outer, context);
                match self.go_on(progress, request, inner) {
                    // It has just started to wait: poll it, or nothing would wake it.
                    Progress::Waiting(Either::Inner(waiting)) => {
                        inside(self.inner.resume(waiting, request, inner, context))
                    }
                    progress => progress,
                }
            }
            Either::Inner(waiting) => inside(self.inner.resume(waiting, request, inner, context)),
        }
    }
}

impl<A, B> sealed::Sealed for Both<A, B> {}

impl<A: Admission, B: Admission> Admission for Both<A, B> {
    type Meter = Meters<A::Meter, B::Meter>;

    const TELLS_LIMITS: bool = A::TELLS_LIMITS || B::TELLS_LIMITS;
    /// If both report limits, only the inner one adds fields.
    const FIELDS: usize = if A::TELLS_LIMITS && B::TELLS_LIMITS && A::FIELDS < B::FIELDS {
        B::FIELDS
    } else if A::TELLS_LIMITS && B::TELLS_LIMITS {
        A::FIELDS
    } else {
        A::FIELDS.saturating_add(B::FIELDS)
    };

    fn mark(&mut self, answer: &mut Answer<'_>, meter: &mut Self::Meter) {
        self.inner.mark(answer, &mut meter.inner);
        let was_replaced = answer.replaced.is_some();
        self.outer.mark(answer, &mut meter.outer);
        if !was_replaced && answer.replaced.is_some() {
            // The end of a body that is replaced further out is never seen.
            meter.inner = B::Meter::default();
        }
    }

    fn inner_failed(&mut self) {
        self.inner.inner_failed();
        self.outer.inner_failed();
    }
}

/// The meters of a [`Then`] on one body; the inner one sees everything first.
#[derive(Debug, Default)]
pub struct Meters<A, B> {
    inner: B,
    outer: A,
}

impl<A: Meter, B: Meter> Meter for Meters<A, B> {
    fn data(&mut self, piece: &[u8]) {
        self.inner.data(piece);
        self.outer.data(piece);
    }

    fn unseen(&mut self, bytes: usize) {
        self.inner.unseen(bytes);
        self.outer.unseen(bytes);
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        self.inner.trailers(trailers);
        self.outer.trailers(trailers);
    }

    fn end(self, how: BodyEnd) -> Option<StoreFuture<()>> {
        let inner = self.inner.end(how);
        let outer = self.outer.end(how);
        both(inner, outer)
    }
}
