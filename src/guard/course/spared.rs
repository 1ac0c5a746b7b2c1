//! Courses that can be skipped, absent or shared.

use std::{fmt, sync::Arc, task::Context};

use http::Request;

use super::{Course, Progress, sealed};
use crate::{guard::Skip, wire::RequestHead};

/// A course that some requests skip.
#[derive(Clone)]
pub struct Unless<C> {
    skips: Arc<[Skip]>,
    course: C,
}

impl<C> Unless<C> {
    /// Skips requests for which any of `skips` returns true.
    pub(crate) fn new(skips: Vec<Skip>, course: C) -> Self {
        Self {
            skips: skips.into(),
            course,
        }
    }
}

impl<C: fmt::Debug> fmt::Debug for Unless<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.course.fmt(f)
    }
}

impl<C> sealed::Sealed for Unless<C> {}

impl<C: Course> Course for Unless<C> {
    type Admission = C::Admission;
    type Waiting = C::Waiting;

    fn enter<B>(
        &self,
        request: &mut Request<B>,
        admission: &mut C::Admission,
    ) -> Progress<C::Waiting> {
        let head = RequestHead::of(request);
        if self.skips.iter().any(|skip| skip(&head)) {
            return Progress::Admitted;
        }
        self.course.enter(request, admission)
    }

    fn resume<B>(
        &self,
        waiting: C::Waiting,
        request: &mut Request<B>,
        admission: &mut C::Admission,
        context: &mut Context<'_>,
    ) -> Progress<C::Waiting> {
        self.course.resume(waiting, request, admission, context)
    }
}

impl<C> sealed::Sealed for Option<C> {}

/// An optional course.
impl<C: Course> Course for Option<C> {
    type Admission = C::Admission;
    type Waiting = C::Waiting;

    fn enter<B>(
        &self,
        request: &mut Request<B>,
        admission: &mut C::Admission,
    ) -> Progress<C::Waiting> {
        match self {
            Some(course) => course.enter(request, admission),
            None => Progress::Admitted,
        }
    }

    fn resume<B>(
        &self,
        waiting: C::Waiting,
        request: &mut Request<B>,
        admission: &mut C::Admission,
        context: &mut Context<'_>,
    ) -> Progress<C::Waiting> {
        match self {
            Some(course) => course.resume(waiting, request, admission, context),
            None => Progress::Admitted,
        }
    }
}

impl<C> sealed::Sealed for Arc<C> {}

impl<C: Course> Course for Arc<C> {
    type Admission = C::Admission;
    type Waiting = C::Waiting;

    fn enter<B>(
        &self,
        request: &mut Request<B>,
        admission: &mut C::Admission,
    ) -> Progress<C::Waiting> {
        C::enter(self, request, admission)
    }

    fn resume<B>(
        &self,
        waiting: C::Waiting,
        request: &mut Request<B>,
        admission: &mut C::Admission,
        context: &mut Context<'_>,
    ) -> Progress<C::Waiting> {
        C::resume(self, waiting, request, admission, context)
    }
}
