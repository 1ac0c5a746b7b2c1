//! What a request passes on its way in: one gate, or several one after the other in one guard.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response, StatusCode, response};

use super::{
    BodyEnd, Decision, Gate, Meter, PendingVerdict, Permit, Policy, ResponseMarks, Tail, Verdict,
    event, gate::Skip,
};
use crate::{store::StoreFuture, wire::RequestHead};

/// The gates that a request passes, in order: one ([`Gate`]), two courses ([`Then`]), perhaps one
/// (`Option`), or a shared one (`Arc`). Several gates in one [`Guard`](super::Guard) decide as they would in a guard each,
/// and the request and its answer are moved once.
pub trait Course: Clone + Send + Sync + 'static {
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
pub trait Admission: Default + Send + 'static {
    /// Where what they leave on the answer's body is kept. The default has nothing.
    type Meter: Meter + Default;

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

/// The permit of one gate; none where the gate was passed by.
#[derive(Debug)]
pub struct Passed<P>(Option<P>);

impl<P> Default for Passed<P> {
    fn default() -> Self {
        Self(None)
    }
}

impl<P: Permit> Admission for Passed<P> {
    type Meter = Option<P::Meter>;

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
    fn judge<B>(
        &self,
        verdict: Verdict<P::Permit>,
        request: &mut Request<B>,
        Passed(permit): &mut Passed<P::Permit>,
    ) -> Progress<PendingVerdict<P::Permit>> {
        let name = self.policy().name();
        let head = RequestHead::of(request);
        let denial = match verdict {
            Verdict::Answer(answer) if !self.is_shadow() => {
                event::admitted(name, &head, self.counted());
                return Progress::Stopped(answer);
            }
            Verdict::Answer(_) => None,
            Verdict::Admit(admitted) => {
                *permit = Some(admitted);
                None
            }
            Verdict::Refuse(denial) | Verdict::Abstain(denial) => Some(denial),
            Verdict::RefuseMarked(denial, marking) => {
                *permit = Some(marking);
                Some(denial)
            }
        };
        match denial {
            None if self.policy().judges() => event::admitted(name, &head, self.counted()),
            None => {}
            Some(denial) => {
                event::refused(name, &head, &denial, self.is_shadow());
                if !self.is_shadow() {
                    let response = self.denials().respond(&denial, &head);
                    return Progress::Stopped(Box::new(response));
                }
            }
        }
        if let Some(permit) = permit {
            permit.mark_request(request.extensions_mut());
        }
        Progress::Admitted
    }
}

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

/// One course, then another further in.
#[derive(Clone, Debug)]
pub struct Then<A, B> {
    /// The first.
    pub outer: A,
    /// Whoever is through the first comes to this.
    pub inner: B,
}

/// The proofs of a [`Then`].
#[derive(Debug, Default)]
pub struct Both<A, B> {
    // Dropped in this order: what the inner one counts when it goes, the outer one sees.
    inner: B,
    outer: A,
}

/// Which part of a [`Then`] waits.
#[derive(Debug)]
pub enum Either<W, V> {
    /// The first.
    Outer(W),
    /// The second.
    Inner(V),
}

impl<A: Course, B: Course> Then<A, B> {
    /// Whoever is through the outer course goes into the inner one.
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
                    // It has only begun to wait: nobody would wake it.
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

impl<A: Admission, B: Admission> Admission for Both<A, B> {
    type Meter = Meters<A::Meter, B::Meter>;

    fn mark(&mut self, answer: &mut Answer<'_>, meter: &mut Self::Meter) {
        self.inner.mark(answer, &mut meter.inner);
        let was_replaced = answer.replaced.is_some();
        self.outer.mark(answer, &mut meter.outer);
        if !was_replaced && answer.replaced.is_some() {
            // A body that is replaced further out is seen to its end by nobody.
            meter.inner = B::Meter::default();
        }
    }

    fn inner_failed(&mut self) {
        self.inner.inner_failed();
        self.outer.inner_failed();
    }
}

/// The meter of one gate, where it left one.
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

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(meter) = self {
            meter.trailers(trailers);
        }
    }

    fn end(self, how: BodyEnd) -> Option<StoreFuture<()>> {
        self?.end(how)
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

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.inner.trailers(trailers);
        self.outer.trailers(trailers);
    }

    fn end(self, how: BodyEnd) -> Option<StoreFuture<()>> {
        let inner = self.inner.end(how);
        let outer = self.outer.end(how);
        both(inner, outer)
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

/// A course that some requests are spared.
#[derive(Clone)]
pub struct Unless<C> {
    skips: Arc<[Skip]>,
    course: C,
}

impl<C> Unless<C> {
    /// Spares requests for which any of `skips` says so.
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

/// A course that may be left out.
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
