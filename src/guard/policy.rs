//! What a layer decides, and what remains of the decision.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Response, StatusCode};

use super::{FixedBody, Meter, NoMeter};
use crate::{
    domain::denial::Denial,
    store::StoreFuture,
    token::Issuers,
    wire::{ClientAddress, CredentialPlaces, RequestHead, ToldLimits},
};

/// Decides on requests by their heads.
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// The proof of admission.
    type Permit: Permit;

    /// The layer's name in events and metrics: `api_key`, `rate_limit`.
    fn name(&self) -> &'static str;

    /// Whether it decides anything. A policy that only marks requests makes no events and no
    /// counts.
    fn judges(&self) -> bool {
        true
    }

    /// Adopts the way in which the surrounding gate finds a client's address, unless the policy has
    /// one of its own. Most policies look at no address.
    fn inherit_address(&mut self, address: &ClientAddress) {
        let _ = address;
    }

    /// Where this policy looks for credentials. [Anywhere](CredentialPlaces::ANYWHERE) unless it
    /// says otherwise.
    fn places(&self) -> CredentialPlaces {
        CredentialPlaces::ANYWHERE
    }

    /// Learns where a policy that judges the same requests ([`.or`](super::Authenticator::or))
    /// looks for credentials. One there that disagrees with this policy's own makes the request
    /// nobody's; a bearer token that doesn't look like this policy's own is left to one that takes
    /// them.
    fn stand_beside(&mut self, others: &CredentialPlaces) {
        let _ = others;
    }

    /// The issuers (`iss`) whose tokens in `authorization` this policy judges.
    fn bearer_issuers(&self) -> Issuers {
        Issuers::default()
    }

    /// Learns the [issuers](Self::bearer_issuers) of a policy that is asked after it: their tokens,
    /// unless they are this policy's own, are left to the other.
    fn leave_bearers_of(&mut self, issuers: &Issuers) {
        let _ = issuers;
    }

    /// Adds what handlers rely on (a handle that settles nothing, for example) to a request that
    /// wasn't admitted but that a [`shadow`](super::Gate::shadow) lets through. Most policies add
    /// nothing.
    fn mark_unadmitted(&self, extensions: &mut Extensions) {
        let _ = extensions;
    }

    /// Decides. A decision that needs no I/O is [`Decision::Ready`], and costs no allocation for
    /// being one.
    fn decide(&self, head: &RequestHead<'_>) -> Decision<Self::Permit>;
}

/// A decision: made, or waiting for I/O.
#[derive(Debug)]
pub enum Decision<P> {
    /// Made at once.
    Ready(Verdict<P>),
    /// Waiting for I/O.
    Pending(PendingVerdict<P>),
}

impl<P> Decision<P> {
    /// A decision that takes I/O. It owns what it needs, because the head is borrowed only for the
    /// call.
    pub fn pending(verdict: impl Future<Output = Verdict<P>> + Send + 'static) -> Self {
        Self::Pending(PendingVerdict(Box::pin(verdict)))
    }
}

/// The outcome of a decision.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict<P> {
    /// The request proceeds, with this permit.
    Admit(P),
    /// The request is refused.
    Refuse(Denial),
    /// The request is answered with this response, because it was served before.
    Answer(Box<Response<FixedBody>>),
    /// The request is refused, and the permit marks the refusal: a rate limit reports what is left.
    RefuseMarked(Box<Denial>, P),
    /// The request carries nothing that concerns this policy. Another policy may take it
    /// ([`.or`](crate::ApiKeyLayer::or)); if none does, it is refused with this denial. Only a
    /// policy that abstains at once is followed by another: after I/O the request's head, which is
    /// borrowed, isn't there any more to ask the next one about, and abstaining refuses. Where one
    /// policy needs I/O to find out whether a request concerns it, it is the last.
    Abstain(Denial),
}

/// A verdict that waits for I/O.
pub struct PendingVerdict<P>(Pin<Box<dyn Future<Output = Verdict<P>> + Send>>);

impl<P> Future for PendingVerdict<P> {
    type Output = Verdict<P>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Verdict<P>> {
        self.0.as_mut().poll(context)
    }
}

impl<P> fmt::Debug for PendingVerdict<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PendingVerdict")
    }
}

/// The part of a response that a permit may mark.
#[derive(Debug)]
pub struct ResponseMarks<'a> {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: &'a mut HeaderMap,
    /// What outer layers may read; a refusal's [`Denial`] is there.
    pub extensions: &'a mut Extensions,
    /// Limits that were reported further in, in this guard.
    pub(crate) told: &'a mut ToldLimits,
}

/// What follows the head of a response.
#[derive(Debug)]
#[non_exhaustive]
pub enum Tail<M> {
    /// The inner service's body, unchanged.
    Body,
    /// The inner service's body, unchanged. The head
    Settled(StoreFuture<()>),
    /// The inner service's body, with a meter on it.
    Metered(M),
    /// Another status and body instead; the permit has set the header fields.
    Replaced(StatusCode, Bytes),
}

/// The proof that a request was admitted. It is dropped with the request: whatever must happen in
/// any case (a client that disconnects, a panic) belongs in `Drop`.
pub trait Permit: Send + 'static {
    /// The meter that it may attach to the response body; [`NoMeter`] for most.
    type Meter: Meter;

    /// Whether it reports what is left of a limit.
    const TELLS_LIMITS: bool = false;

    /// The number of header fields that it usually adds to a response.
    const FIELDS: usize = 0;

    /// Marks the request with what inner layers and the handler may read.
    fn mark_request(&mut self, extensions: &mut Extensions) {
        let _ = extensions;
    }

    /// Marks the response on its way out, and says what follows its head.
    fn mark_response(self, response: ResponseMarks<'_>) -> Tail<Self::Meter>;

    /// The inner service failed with an error of its own instead of answering.
    fn inner_failed(self)
    where
        Self: Sized,
    {
        drop(self);
    }
}

/// Nothing to mark.
impl Permit for () {
    type Meter = NoMeter;

    #[inline]
    fn mark_response(self, _: ResponseMarks<'_>) -> Tail<NoMeter> {
        Tail::Body
    }
}
