//! Authentication that lets unauthenticated callers through.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::Request;

use super::{Admission, Answer, Course, Passed, Progress, sealed};
use crate::{
    domain::denial::{Denial, DenialKind},
    guard::{Decision, Gate, Identified, NoMeter, PendingVerdict, Policy, Verdict, event},
    wire::RequestHead,
};

/// Identifies the caller, and lets unauthenticated requests through without a principal: whatever
/// is further in answers them as strangers. A bad credential is still logged and counted as a
/// failed attempt, but the caller isn't told. Refusals that aren't about the caller (503, too many
/// requests) do stop the request.
pub struct OptionalAuthentication<P>(Gate<P>);

impl<P> OptionalAuthentication<P> {
    pub(crate) fn new(gate: Gate<P>) -> Self {
        Self(gate)
    }
}

/// Marks a response, which doesn't otherwise show it, as that to a request with a bad credential.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedAttempt;

/// The permit of a request whose caller was looked for, found or not.
#[derive(Debug, Default)]
pub struct Asked {
    caller: Passed<Identified>,
    has_failed: bool,
}

impl sealed::Sealed for Asked {}

impl Admission for Asked {
    type Meter = Option<NoMeter>;

    const TELLS_LIMITS: bool = false;
    const FIELDS: usize = 0;

    fn mark(&mut self, answer: &mut Answer<'_>, meter: &mut Self::Meter) {
        if self.has_failed {
            answer.extensions.insert(FailedAttempt);
        }
        self.caller.mark(answer, meter);
    }

    fn inner_failed(&mut self) {
        self.caller.inner_failed();
    }
}

impl<P: Policy<Permit = Identified>> OptionalAuthentication<P> {
    fn judge<B>(
        &self,
        verdict: Verdict<Identified>,
        request: &mut Request<B>,
        asked: &mut Asked,
    ) -> Progress<PendingVerdict<Identified>> {
        let denial = match verdict {
            Verdict::Refuse(denial) | Verdict::Abstain(denial) if is_of_the_caller(&denial) => {
                denial
            }
            verdict => return self.0.judge(verdict, request, &mut asked.caller),
        };
        if denial.kind() != DenialKind::CredentialMissing {
            let (name, is_shadow) = (self.0.policy().name(), self.0.is_shadow());
            event::refused(name, &RequestHead::of(request), &denial, is_shadow);
            asked.has_failed = denial.kind().is_authentication();
        }
        self.0.hide_in(request.headers_mut());
        Progress::Admitted
    }
}

/// Whether the refusal is about the caller's credential or address.
fn is_of_the_caller(denial: &Denial) -> bool {
    let kind = denial.kind();
    let is_forbidden = matches!(kind, DenialKind::NotPermitted | DenialKind::AddressRefused);
    kind.is_authentication() || is_forbidden
}

impl<P> sealed::Sealed for OptionalAuthentication<P> {}

impl<P: Policy<Permit = Identified>> Course for OptionalAuthentication<P> {
    type Admission = Asked;
    type Waiting = PendingVerdict<Identified>;

    fn enter<B>(&self, request: &mut Request<B>, asked: &mut Asked) -> Progress<Self::Waiting> {
        let head = RequestHead::of(request);
        if self.0.skips(&head) {
            return Progress::Admitted;
        }
        match self.0.policy().decide(&head) {
            Decision::Ready(verdict) => self.judge(verdict, request, asked),
            Decision::Pending(verdict) => Progress::Waiting(verdict),
        }
    }

    fn resume<B>(
        &self,
        mut waiting: Self::Waiting,
        request: &mut Request<B>,
        asked: &mut Asked,
        context: &mut Context<'_>,
    ) -> Progress<Self::Waiting> {
        match Pin::new(&mut waiting).poll(context) {
            Poll::Ready(verdict) => self.judge(verdict, request, asked),
            Poll::Pending => Progress::Waiting(waiting),
        }
    }
}

impl<P> Clone for OptionalAuthentication<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: fmt::Debug> fmt::Debug for OptionalAuthentication<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OptionalAuthentication")
            .field(&self.0)
            .finish()
    }
}
