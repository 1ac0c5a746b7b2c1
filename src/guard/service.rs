//! The service of every layer.

use std::{
    fmt, mem,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    AllowedContent, GateBody, GuardFuture,
    course::{Admission, Course, Progress},
    future::Waiting,
    nesting,
};
use crate::domain::clock;

/// A service with gates in front of it. Cloning it clones the inner service and increments a
/// reference count.
pub struct Guard<S, C> {
    inner: S,
    course: C,
}

impl<S, C: Course> Guard<S, C> {
    /// Puts the gates of `course` in front of `inner`.
    pub fn new(inner: S, course: C) -> Self {
        Self { inner, course }
    }
}

impl<S: Clone, C: Clone> Clone for Guard<S, C> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            course: self.course.clone(),
        }
    }
}

impl<S: fmt::Debug, C: fmt::Debug> fmt::Debug for Guard<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("inner", &self.inner)
            .field("course", &self.course)
            .finish()
    }
}

impl<S, C, B, D> Service<Request<B>> for Guard<S, C>
where
    S: Service<Request<B>, Response = Response<D>> + Clone,
    C: Course,
    D: Body,
{
    type Response = Response<GateBody<D, <C::Admission as Admission>::Meter>>;
    type Error = S::Error;
    type Future = GuardFuture<S, C, B, D>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let mut admission = C::Admission::default();
        let entered = clock::at_one_moment(|| self.course.enter(&mut request, &mut admission));
        match entered {
            Progress::Admitted => {
                let allowed = AllowedContent::for_method(request.method());
                let answer = nesting::inside::<C::Admission, _>(|| self.inner.call(request));
                GuardFuture::answering(answer, admission, allowed)
            }
            Progress::Stopped(response) => GuardFuture::stopped(
                *response,
                admission,
                AllowedContent::for_method(request.method()),
            ),
            Progress::Waiting(waiting) => {
                // Call the instance that reported readiness, not its clone.
                let fresh = self.inner.clone();
                GuardFuture::waiting(Waiting {
                    service: mem::replace(&mut self.inner, fresh),
                    course: self.course.clone(),
                    waiting,
                    admission,
                    request,
                })
            }
        }
    }
}
