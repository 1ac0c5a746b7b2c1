//! The response future of every layer.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response, header::CONTENT_LENGTH, response};
use http_body::Body;
use pin_project::pin_project;
use tower_service::Service;

use super::{
    AllowedContent, BodyEnd, FixedBody, GateBody, Meter,
    body::log_failure,
    course::{Admission, Answer, Course, Progress, both},
    nesting, unwinding,
};
use crate::{store::StoreFuture, wire::is_grpc};

type MeterOf<C> = <<C as Course>::Admission as Admission>::Meter;

/// The response future of a [`Guard`](super::Guard).
#[pin_project]
pub struct GuardFuture<S, C, B, D>
where
    S: Service<Request<B>>,
    C: Course,
    D: Body,
{
    #[pin]
    state: State<S, C, B, D>,
}

/// Requests that wait for I/O or are refused are boxed: the future of an admitted request is moved,
/// and should be no larger than it has to be.
#[pin_project(project = StateProjection)]
enum State<S, C, B, D>
where
    S: Service<Request<B>>,
    C: Course,
    D: Body,
{
    /// A gate does I/O; the request and the ready service wait.
    Waiting(Option<Box<Waiting<S, C, B>>>),
    /// The inner service answers.
    Answering {
        #[pin]
        answer: S::Future,
        admission: C::Admission,
        allowed: AllowedContent,
    },
    /// There is a response, held back until its settlement is recorded.
    Answered(Box<Answered<D, MeterOf<C>>>),
}

pub(super) struct Waiting<S, C: Course, B> {
    pub(super) service: S,
    pub(super) course: C,
    pub(super) waiting: C::Waiting,
    pub(super) admission: C::Admission,
    pub(super) request: Request<B>,
}

struct Answered<D: Body, M> {
    settling: Option<StoreFuture<()>>,
    response: Option<Response<GateBody<D, M>>>,
}

impl<S, C, B, D> GuardFuture<S, C, B, D>
where
    S: Service<Request<B>, Response = Response<D>>,
    C: Course,
    D: Body,
{
    pub(super) fn waiting(waiting: Waiting<S, C, B>) -> Self {
        let state = State::Waiting(Some(Box::new(waiting)));
        Self { state }
    }

    pub(super) fn answering(
        answer: S::Future,
        admission: C::Admission,
        allowed: AllowedContent,
    ) -> Self {
        Self {
            state: State::Answering {
                answer,
                admission,
                allowed,
            },
        }
    }

    pub(super) fn stopped(
        response: Response<FixedBody>,
        admission: C::Admission,
        allowed: AllowedContent,
    ) -> Self {
        let state = State::stopped(response, admission, allowed);
        Self { state }
    }
}

impl<S, C, B, D> State<S, C, B, D>
where
    S: Service<Request<B>, Response = Response<D>>,
    C: Course,
    D: Body,
{
    fn stopped(
        response: Response<FixedBody>,
        mut admission: C::Admission,
        allowed: AllowedContent,
    ) -> Self {
        let (response, settling) = finish_stopped(response, &mut admission, allowed);
        Self::Answered(Box::new(Answered {
            settling,
            response: Some(response),
        }))
    }

    /// Resumes a waiting request, which may have to wait again.
    fn advance(waiting: Waiting<S, C, B>, context: &mut Context<'_>) -> Self {
        let Waiting {
            mut service,
            course,
            waiting,
            mut admission,
            mut request,
        } = waiting;
        let allowed = AllowedContent::for_method(request.method());
        match course.resume(waiting, &mut request, &mut admission, context) {
            Progress::Admitted => Self::Answering {
                answer: nesting::inside::<C::Admission, _>(|| service.call(request)),
                admission,
                allowed,
            },
            Progress::Stopped(response) => Self::stopped(*response, admission, allowed),
            Progress::Waiting(waiting) => Self::Waiting(Some(Box::new(Waiting {
                service,
                course,
                waiting,
                admission,
                request,
            }))),
        }
    }
}

impl<S, C, B, D> Future for GuardFuture<S, C, B, D>
where
    S: Service<Request<B>, Response = Response<D>>,
    C: Course,
    D: Body,
{
    type Output = Result<Response<GateBody<D, MeterOf<C>>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Waiting(slot) => {
                    let Some(waiting) = slot.take() else {
                        return Poll::Pending;
                    };
                    let next = State::advance(*waiting, context);
                    if let State::Waiting(_) = next {
                        state.set(next);
                        return Poll::Pending;
                    }
                    next
                }
                StateProjection::Answering {
                    answer,
                    admission,
                    allowed,
                } => {
                    let asked = unwinding::guarded(admission, C::Admission::inner_failed, || {
                        nesting::inside::<C::Admission, _>(|| answer.poll(context))
                    });
                    let answer = ready!(asked);
                    let response = match answer {
                        Ok(response) => response,
                        Err(error) => {
                            admission.inner_failed();
                            return Poll::Ready(Err(error));
                        }
                    };
                    match finish(response, admission, *allowed) {
                        (response, None) => return Poll::Ready(Ok(response)),
                        (response, settling) => State::Answered(Box::new(Answered {
                            settling,
                            response: Some(response),
                        })),
                    }
                }
                StateProjection::Answered(answered) => {
                    if let Some(settling) = &mut answered.settling {
                        log_failure(ready!(Pin::new(settling).poll(context)));
                    }
                    return match answered.response.take() {
                        Some(response) => Poll::Ready(Ok(response)),
                        None => Poll::Pending,
                    };
                }
            };
            state.set(next);
        }
    }
}

/// A response, and what it waits for if it has no body to wait with.
type Finished<D, M> = (Response<GateBody<D, M>>, Option<StoreFuture<()>>);

/// Lets the gates mark the response. If its body won't be polled, it ends here.
fn finish<D: Body, A: Admission>(
    response: Response<D>,
    admission: &mut A,
    allowed: AllowedContent,
) -> Finished<D, A::Meter> {
    let (mut head, body) = response.into_parts();
    // Reserve before the gates add fields, so that the existing ones are moved only once.
    if A::FIELDS > 0 {
        head.headers.reserve(A::FIELDS);
    }
    let mut answer = Answer::new(&mut head);
    let mut meter = A::Meter::default();
    admission.mark(&mut answer, &mut meter);
    let (status, settling) = (answer.status(), answer.settling.take());
    let is_metered = answer.is_metered;
    if let Some(bytes) = answer.replaced.take() {
        head.status = status;
        return finish_fixed(head, bytes.into(), (meter, settling), allowed);
    }
    if !is_metered {
        let body = allowed.inner(&mut head, body);
        return (Response::from_parts(head, body), settling);
    }
    let announced = announced(&head.headers, &body);
    // After an informational status the connection is handed over (an upgrade).
    let empty = allowed.omits_body(head.status)
        || head.status.is_informational()
        || announced == Some(0)
        || body.is_end_stream();
    if empty {
        let settling = both(settling, meter.end(BodyEnd::Complete));
        let body = allowed.inner(&mut head, body);
        (Response::from_parts(head, body), settling)
    } else {
        let body = GateBody::metered(body, meter, announced);
        (Response::from_parts(head, body), settling)
    }
}

/// Like [`finish`], for a response that didn't come from the inner service: its body is complete.
fn finish_stopped<D: Body, A: Admission>(
    response: Response<FixedBody>,
    admission: &mut A,
    allowed: AllowedContent,
) -> Finished<D, A::Meter> {
    let (mut head, body) = response.into_parts();
    let mut answer = Answer::new(&mut head);
    let mut meter = A::Meter::default();
    admission.mark(&mut answer, &mut meter);
    let (status, settling) = (answer.status(), answer.settling.take());
    let body = answer.replaced.take().map_or(body, FixedBody::from);
    head.status = status;
    finish_fixed(head, body, (meter, settling), allowed)
}

/// Shows the meter everything that is sent of a complete body.
fn finish_fixed<D: Body, M: Meter>(
    mut head: response::Parts,
    mut body: FixedBody,
    (mut meter, settling): (M, Option<StoreFuture<()>>),
    allowed: AllowedContent,
) -> Finished<D, M> {
    if !allowed.omits_body(head.status) {
        if !body.bytes().is_empty() {
            meter.data(body.bytes());
        }
        if let Some(trailers) = body.trailers_mut() {
            meter.trailers(trailers);
        }
    }
    let settling = both(settling, meter.end(BodyEnd::Complete));
    let body = allowed.fixed(&mut head, body);
    (Response::from_parts(head, body), settling)
}

/// The number of bytes after which a server stops polling; `None` if it polls until trailers or the
/// end, as it does for gRPC whatever the length: there the trailers hold the status of the call.
fn announced(headers: &HeaderMap, body: &impl Body) -> Option<u64> {
    if is_grpc(headers) {
        return None;
    }
    headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse().ok())
        .or_else(|| body.size_hint().exact())
}

impl<S, C, B, D> fmt::Debug for GuardFuture<S, C, B, D>
where
    S: Service<Request<B>>,
    C: Course,
    D: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardFuture").finish_non_exhaustive()
    }
}
