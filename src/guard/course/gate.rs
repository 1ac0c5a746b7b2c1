//! A course of one gate: a policy decides, and its permit is kept.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request};

use super::{Admission, Answer, Course, Progress, sealed};
use crate::{
    domain::denial::Denial,
    guard::{BodyEnd, Decision, Gate, Meter, PendingVerdict, Permit, Policy, Verdict, event},
    store::StoreFuture,
    wire::RequestHead,
};

/// The permit of one gate; none if the gate was skipped.
#[derive(Debug)]
pub struct Passed<P>(Option<P>);

impl<P> Default for Passed<P> {
    fn default() -> Self {
        Self(None)
    }
}

impl<P> sealed::Sealed for Passed<P> {}

impl<P: Permit> Admission for Passed<P> {
    type Meter = Option<P::Meter>;

    const TELLS_LIMITS: bool = P::TELLS_LIMITS;
    const FIELDS: usize = P::FIELDS;

    fn mark(&mut self, answer: &mut Answer<'_>, meter: &mut Option<P::Meter>) {
        if let Some(permit) = self.0.take() {
            answer.marked_by(permit, meter);
        }
    }

    fn inner_failed(&mut self) {
        if let Some(permit) = self.0.take() {
            permit.inner_failed();
        }
    }
}

impl<P: Policy> Gate<P> {
    /// An admission is kept apart from refusals, so that it moves no denial.
    pub(super) fn judge<B>(
        &self,
        verdict: Verdict<P::Permit>,
        request: &mut Request<B>,
        Passed(permit): &mut Passed<P::Permit>,
    ) -> Progress<PendingVerdict<P::Permit>> {
        match verdict {
            Verdict::Admit(admitted) => *permit = Some(admitted),
            Verdict::Answer(answer) if self.is_shadow() => {
                drop(answer);
                self.policy().mark_unadmitted(request.extensions_mut());
            }
            Verdict::Answer(answer) => {
                let head = RequestHead::of(request);
                event::admitted(self.policy().name(), &head, self.counted());
                return Progress::Stopped(answer);
            }
            Verdict::Refuse(denial) | Verdict::Abstain(denial) => {
                return self.refuse(&denial, request, permit);
            }
            Verdict::RefuseMarked(denial, marking) => {
                *permit = Some(marking);
                return self.refuse(&denial, request, permit);
            }
        }
        self.let_through(request, permit);
        // Reported last, so that the event names a caller who has just been identified.
        if self.policy().judges() {
            let head = RequestHead::of(request);
            event::admitted(self.policy().name(), &head, self.counted());
        }
        Progress::Admitted
    }

    #[cold]
    fn refuse<B>(
        &self,
        denial: &Denial,
        request: &mut Request<B>,
        permit: &mut Option<P::Permit>,
    ) -> Progress<PendingVerdict<P::Permit>> {
        let head = RequestHead::of(request);
        event::refused(self.policy().name(), &head, denial, self.is_shadow());
        if !self.is_shadow() {
            let response = self.denials().respond(denial, &head);
            return Progress::Stopped(Box::new(response.map(Into::into)));
        }
        self.policy().mark_unadmitted(request.extensions_mut());
        self.let_through(request, permit);
        Progress::Admitted
    }

    fn let_through<B>(&self, request: &mut Request<B>, permit: &mut Option<P::Permit>) {
        if let Some(permit) = permit {
            permit.mark_request(request.extensions_mut());
        }
        self.hide_in(request.headers_mut());
    }
}

impl<P> sealed::Sealed for Gate<P> {}

impl<P: Policy> Course for Gate<P> {
    type Admission = Passed<P::Permit>;
    type Waiting = PendingVerdict<P::Permit>;

    fn enter<B>(
        &self,
        request: &mut Request<B>,
        admission: &mut Self::Admission,
    ) -> Progress<Self::Waiting> {
        let head = RequestHead::of(request);
        if self.skips(&head) {
            return Progress::Admitted;
        }
        match self.policy().decide(&head) {
            Decision::Ready(verdict) => self.judge(verdict, request, admission),
            Decision::Pending(verdict) => Progress::Waiting(verdict),
        }
    }

    fn resume<B>(
        &self,
        mut waiting: Self::Waiting,
        request: &mut Request<B>,
        admission: &mut Self::Admission,
        context: &mut Context<'_>,
    ) -> Progress<Self::Waiting> {
        match Pin::new(&mut waiting).poll(context) {
            Poll::Ready(verdict) => self.judge(verdict, request, admission),
            Poll::Pending => Progress::Waiting(waiting),
        }
    }
}

/// The meter of one gate, if it attached one.
impl<M: Meter> Meter for Option<M> {
    fn data(&mut self, piece: &[u8]) {
        if let Some(meter) = self {
            meter.data(piece);
        }
    }

    fn unseen(&mut self, bytes: usize) {
        if let Some(meter) = self {
            meter.unseen(bytes);
        }
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        if let Some(meter) = self {
            meter.trailers(trailers);
        }
    }

    fn end(self, how: BodyEnd) -> Option<StoreFuture<()>> {
        self?.end(how)
    }
}
