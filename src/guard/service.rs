//! The one service.

use std::{
    fmt, mem,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{Decision, Gate, GateBody, GuardFuture, Permit, Policy};
use crate::wire::RequestHead;

/// A service with a policy in front of it. A clone is the inner service's clone and a reference count.
pub struct Guard<S, P> {
    inner: S,
    gate: Gate<P>,
}

impl<S, P> Guard<S, P> {
    pub(crate) fn new(inner: S, gate: Gate<P>) -> Self {
        Self { inner, gate }
    }
}

impl<S: Clone, P> Clone for Guard<S, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            gate: self.gate.clone(),
        }
    }
}

impl<S: fmt::Debug, P: fmt::Debug> fmt::Debug for Guard<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("inner", &self.inner)
            .field("gate", &self.gate)
            .finish()
    }
}

impl<S, P, B, C> Service<Request<B>> for Guard<S, P>
where
    S: Service<Request<B>, Response = Response<C>> + Clone,
    P: Policy,
    C: Body,
{
    type Response = Response<GateBody<C, <P::Permit as Permit>::Meter>>;
    type Error = S::Error;
    type Future = GuardFuture<S, P, B, C>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let head = RequestHead::of(&request);
        if self.gate.skips(&head) {
            return GuardFuture::pass(self.inner.call(request));
        }
        match self.gate.policy().decide(&head) {
            Decision::Ready(verdict) => {
                GuardFuture::decided(&self.gate, verdict, request, |request| {
                    self.inner.call(request)
                })
            }
            Decision::Pending(verdict) => {
                // The service that said it was ready is the one that is called.
                let fresh = self.inner.clone();
                let ready = mem::replace(&mut self.inner, fresh);
                GuardFuture::pending(self.gate.clone(), verdict, request, ready)
            }
        }
    }
}
