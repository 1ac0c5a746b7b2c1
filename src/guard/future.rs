//! The one response future.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::Body;
use pin_project::pin_project;
use tower_service::Service;

use super::{
    BodyEnd, Gate, GateBody, Meter, PendingVerdict, Permit, Policy, ResponseMarks, Tail, Verdict,
    event,
};
use crate::{
    store::StoreFuture,
    wire::{RequestHead, is_grpc},
};

type MeterOf<P> = <<P as Policy>::Permit as Permit>::Meter;

/// The answer of a [`Guard`](super::Guard), on its way.
#[pin_project]
pub struct GuardFuture<S, P, B, C>
where
    S: Service<Request<B>>,
    P: Policy,
    C: Body,
{
    #[pin]
    state: State<S, P, B, C>,
}

#[pin_project(project = StateProjection)]
enum State<S, P, B, C>
where
    S: Service<Request<B>>,
    P: Policy,
    C: Body,
{
    /// The policy does I/O; the request and the ready service wait.
    Deciding {
        verdict: PendingVerdict<P::Permit>,
        waiting: Option<Waiting<S, P, B>>,
    },
    /// The inner service answers.
    Answering {
        #[pin]
        answer: S::Future,
        permit: Option<P::Permit>,
        bodiless: bool,
    },
    /// An answer without a body is held back until its settlement is written down.
    Settling {
        settling: StoreFuture<()>,
        response: Option<Response<GateBody<C, MeterOf<P>>>>,
    },
    /// Refused, or answered, without the inner service.
    Refused(Option<Response<Bytes>>),
}

struct Waiting<S, P, B> {
    service: S,
    gate: Gate<P>,
    request: Request<B>,
}

impl<S, P, B, C> GuardFuture<S, P, B, C>
where
    S: Service<Request<B>, Response = Response<C>>,
    P: Policy,
    C: Body,
{
    pub(super) fn pass(answer: S::Future) -> Self {
        Self {
            state: State::Answering {
                answer,
                permit: None,
                bodiless: false,
            },
        }
    }

    pub(super) fn pending(
        gate: Gate<P>,
        verdict: PendingVerdict<P::Permit>,
        request: Request<B>,
        service: S,
    ) -> Self {
        let waiting = Some(Waiting {
            service,
            gate,
            request,
        });
        Self {
            state: State::Deciding { verdict, waiting },
        }
    }

    pub(super) fn decided(
        gate: &Gate<P>,
        verdict: Verdict<P::Permit>,
        request: Request<B>,
        call: impl FnOnce(Request<B>) -> S::Future,
    ) -> Self {
        Self {
            state: State::decided(gate, verdict, request, call),
        }
    }
}

impl<S, P, B, C> State<S, P, B, C>
where
    S: Service<Request<B>, Response = Response<C>>,
    P: Policy,
    C: Body,
{
    fn decided(
        gate: &Gate<P>,
        verdict: Verdict<P::Permit>,
        mut request: Request<B>,
        call: impl FnOnce(Request<B>) -> S::Future,
    ) -> Self {
        let name = gate.policy().name();
        let (denial, permit) = match verdict {
            Verdict::Answer(answer) if !gate.is_shadow() => {
                event::admitted(name, &RequestHead::of(&request), gate.counted());
                return Self::Refused(Some(*answer));
            }
            Verdict::Answer(_) => (None, None),
            Verdict::Admit(permit) => (None, Some(permit)),
            Verdict::Refuse(denial) | Verdict::Abstain(denial) => (Some(denial), None),
            Verdict::RefuseMarked(denial, permit) => (Some(denial), Some(permit)),
        };
        let head = RequestHead::of(&request);
        match denial {
            None if gate.policy().judges() => event::admitted(name, &head, gate.counted()),
            None => {}
            Some(denial) => {
                event::refused(name, &head, &denial, gate.is_shadow());
                if !gate.is_shadow() {
                    let response = gate.denials().respond(&denial, &head);
                    return Self::Refused(Some(marked(response, permit)));
                }
            }
        }
        let mut permit = permit;
        if let Some(permit) = &mut permit {
            permit.mark_request(request.extensions_mut());
        }
        let bodiless = request.method() == Method::HEAD;
        Self::Answering {
            answer: call(request),
            permit,
            bodiless,
        }
    }
}

impl<S, P, B, C> Future for GuardFuture<S, P, B, C>
where
    S: Service<Request<B>, Response = Response<C>>,
    P: Policy,
    C: Body,
{
    type Output = Result<Response<GateBody<C, MeterOf<P>>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Deciding { verdict, waiting } => {
                    let verdict = ready!(Pin::new(verdict).poll(context));
                    let Some(Waiting {
                        mut service,
                        gate,
                        request,
                    }) = waiting.take()
                    else {
                        return Poll::Pending;
                    };
                    State::decided(&gate, verdict, request, |request| service.call(request))
                }
                StateProjection::Answering {
                    answer,
                    permit,
                    bodiless,
                } => {
                    let answer = ready!(answer.poll(context));
                    let permit = permit.take();
                    let response = match (answer, permit) {
                        (Ok(response), Some(permit)) => (response, permit),
                        (Ok(response), None) => {
                            return Poll::Ready(Ok(response.map(GateBody::inner)));
                        }
                        (Err(error), permit) => {
                            if let Some(permit) = permit {
                                permit.inner_failed();
                            }
                            return Poll::Ready(Err(error));
                        }
                    };
                    match finish(response.0, response.1, *bodiless) {
                        (response, None) => return Poll::Ready(Ok(response)),
                        (response, Some(settling)) => State::Settling {
                            settling,
                            response: Some(response),
                        },
                    }
                }
                StateProjection::Settling { settling, response } => {
                    if let Err(error) = ready!(Pin::new(settling).poll(context)) {
                        tracing::error!(target: "tollgate", %error, "an answer went out whose settlement failed");
                    }
                    return match response.take() {
                        Some(response) => Poll::Ready(Ok(response)),
                        None => Poll::Pending,
                    };
                }
                StateProjection::Refused(response) => {
                    return match response.take() {
                        Some(response) => Poll::Ready(Ok(response.map(GateBody::fixed))),
                        None => Poll::Pending,
                    };
                }
            };
            state.set(next);
        }
    }
}

/// A refusal, with what the permit has to tell. Its body stays the refusal's.
fn marked<P: Permit>(response: Response<Bytes>, permit: Option<P>) -> Response<Bytes> {
    let Some(permit) = permit else {
        return response;
    };
    let (mut head, body) = response.into_parts();
    let marks = ResponseMarks {
        status: head.status,
        headers: &mut head.headers,
        extensions: &mut head.extensions,
    };
    drop(permit.mark_response(marks));
    Response::from_parts(head, body)
}

/// An answer, and what it waits for where it has no body to wait with.
type Finished<C, M> = (Response<GateBody<C, M>>, Option<StoreFuture<()>>);

/// Lets the permit mark the answer. Where nobody will ask for a body, its end is now.
fn finish<C: Body, P: Permit>(
    response: Response<C>,
    permit: P,
    bodiless: bool,
) -> Finished<C, P::Meter> {
    let (mut head, body) = response.into_parts();
    let marks = ResponseMarks {
        status: head.status,
        headers: &mut head.headers,
        extensions: &mut head.extensions,
    };
    match permit.mark_response(marks) {
        Tail::Body => (Response::from_parts(head, GateBody::inner(body)), None),
        Tail::Settled(settling) => (
            Response::from_parts(head, GateBody::inner(body)),
            Some(settling),
        ),
        Tail::Replaced(status, bytes) => {
            head.status = status;
            (Response::from_parts(head, GateBody::fixed(bytes)), None)
        }
        Tail::Metered(meter) => {
            let announced = announced(&head.headers, &body);
            let empty = bodiless
                || is_bodiless(head.status)
                || announced == Some(0)
                || body.is_end_stream();
            if empty {
                let settling = meter.end(BodyEnd::Complete);
                (Response::from_parts(head, GateBody::inner(body)), settling)
            } else {
                (
                    Response::from_parts(head, GateBody::metered(body, meter, announced)),
                    None,
                )
            }
        }
    }
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

/// Statuses whose answers have no body, or hand the connection over (RFC 9110, 6.4.1).
fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

impl<S, P, B, C> fmt::Debug for GuardFuture<S, P, B, C>
where
    S: Service<Request<B>>,
    P: Policy,
    C: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardFuture").finish_non_exhaustive()
    }
}
