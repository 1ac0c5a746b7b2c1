//! The response future of every layer.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header::CONTENT_LENGTH, response};
use http_body::Body;
use pin_project::pin_project;
use tower_service::Service;

use super::{
    BodyEnd, GateBody, Meter, Wanted,
    course::{Admission, Answer, Course, Progress, both},
    nesting, unwinding,
};
use crate::{store::StoreFuture, wire::is_grpc};

type MeterOf<C> = <<C as Course>::Admission as Admission>::Meter;

/// The answer of a [`Guard`](super::Guard), on its way.
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

/// Whatever takes I/O, and whatever is refused, is in a box: the future of an admitted request is moved, and should
/// be no larger than it has to be.
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
        wanted: Wanted,
    },
    /// There is an answer; it is held back until its settlement is written down.
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

    pub(super) fn answering(answer: S::Future, admission: C::Admission, wanted: Wanted) -> Self {
        Self {
            state: State::Answering {
                answer,
                admission,
                wanted,
            },
        }
    }

    pub(super) fn stopped(
        response: Response<Bytes>,
        admission: C::Admission,
        wanted: Wanted,
    ) -> Self {
        let state = State::stopped(response, admission, wanted);
        Self { state }
    }
}

impl<S, C, B, D> State<S, C, B, D>
where
    S: Service<Request<B>, Response = Response<D>>,
    C: Course,
    D: Body,
{
    fn stopped(response: Response<Bytes>, mut admission: C::Admission, wanted: Wanted) -> Self {
        let (response, settling) = finish_stopped(response, &mut admission, wanted);
        Self::Answered(Box::new(Answered {
            settling,
            response: Some(response),
        }))
    }

    /// Goes on with a request that waits; perhaps it waits on.
    fn advance(waiting: Waiting<S, C, B>, context: &mut Context<'_>) -> Self {
        let Waiting {
            mut service,
            course,
            waiting,
            mut admission,
            mut request,
        } = waiting;
        let wanted = Wanted::by(request.method());
        match course.resume(waiting, &mut request, &mut admission, context) {
            Progress::Admitted => Self::Answering {
                answer: nesting::inside::<C::Admission, _>(|| service.call(request)),
                admission,
                wanted,
            },
            Progress::Stopped(response) => Self::stopped(*response, admission, wanted),
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
                    wanted,
                } => {
                    let asked = unwinding::asked(admission, C::Admission::inner_failed, || {
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
                    match finish(response, admission, *wanted) {
                        (response, None) => return Poll::Ready(Ok(response)),
                        (response, settling) => State::Answered(Box::new(Answered {
                            settling,
                            response: Some(response),
                        })),
                    }
                }
                StateProjection::Answered(answered) => {
                    if let Some(settling) = &mut answered.settling
                        && let Err(error) = ready!(Pin::new(settling).poll(context))
                    {
                        tracing::error!(target: "tollgate", %error, "an answer went out whose settlement failed");
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

/// An answer, and what it waits for where it has no body to wait with.
type Finished<D, M> = (Response<GateBody<D, M>>, Option<StoreFuture<()>>);

/// Lets the gates mark the answer. Where nobody will ask for a body, its end is now.
fn finish<D: Body, A: Admission>(
    response: Response<D>,
    admission: &mut A,
    wanted: Wanted,
) -> Finished<D, A::Meter> {
    let (mut head, body) = response.into_parts();
    // Those that are there are moved once, while they are few.
    head.headers.reserve(A::FIELDS);
    let mut answer = Answer::new(&mut head);
    let mut meter = A::Meter::default();
    admission.mark(&mut answer, &mut meter);
    let (status, settling) = (answer.status(), answer.settling.take());
    let is_metered = answer.is_metered;
    if let Some(bytes) = answer.replaced.take() {
        head.status = status;
        return finish_fixed(head, bytes, (meter, settling), wanted);
    }
    if !is_metered {
        let body = wanted.inner(&mut head, body);
        return (Response::from_parts(head, body), settling);
    }
    let announced = announced(&head.headers, &body);
    // With an informational status the connection is handed over.
    let empty = wanted.leaves_out(head.status)
        || head.status.is_informational()
        || announced == Some(0)
        || body.is_end_stream();
    if empty {
        let settling = both(settling, meter.end(BodyEnd::Complete));
        let body = wanted.inner(&mut head, body);
        (Response::from_parts(head, body), settling)
    } else {
        let body = GateBody::metered(body, meter, announced);
        (Response::from_parts(head, body), settling)
    }
}

/// The same with an answer that didn't come from the inner service: all of its body is there.
fn finish_stopped<D: Body, A: Admission>(
    response: Response<Bytes>,
    admission: &mut A,
    wanted: Wanted,
) -> Finished<D, A::Meter> {
    let (mut head, body) = response.into_parts();
    let mut answer = Answer::new(&mut head);
    let mut meter = A::Meter::default();
    admission.mark(&mut answer, &mut meter);
    let (status, settling) = (answer.status(), answer.settling.take());
    let body = answer.replaced.take().unwrap_or(body);
    head.status = status;
    finish_fixed(head, body, (meter, settling), wanted)
}

/// Shows the meter all that goes out of a body that is there.
fn finish_fixed<D: Body, M: Meter>(
    mut head: response::Parts,
    bytes: Bytes,
    (mut meter, settling): (M, Option<StoreFuture<()>>),
    wanted: Wanted,
) -> Finished<D, M> {
    if !bytes.is_empty() && !wanted.leaves_out(head.status) {
        meter.data(&bytes);
    }
    let settling = both(settling, meter.end(BodyEnd::Complete));
    let body = wanted.fixed(&mut head, bytes);
    (Response::from_parts(head, body), settling)
}

/// After how many bytes a server stops asking for more; `None` where it asks until there are trailers or no
/// more, as it does for gRPC whatever the length: there the trailers say whether the call went well.
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
