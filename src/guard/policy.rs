//! What a layer decides, and what stays of the decision.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, Response, StatusCode};

use super::{Meter, NoMeter};
use crate::{
    domain::denial::Denial,
    store::StoreFuture,
    wire::{ClientAddress, RequestHead, ToldLimits},
};

/// Decides about requests by their heads.
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// The proof of admission.
    type Permit: Permit;

    /// The layer's name in events and metrics: `api_key`, `rate_limit`.
    fn name(&self) -> &'static str;

    /// Whether it judges at all. One that only marks requests makes no events and no counts.
    fn judges(&self) -> bool {
        true
    }

    /// Takes over the way in which the gate around it finds a client's address, unless it has one of its own. Most look at
    /// no address.
    fn inherit_address(&mut self, address: &ClientAddress) {
        let _ = address;
    }

    /// The header fields in which it expects a key or a token.
    fn key_headers(&self) -> Vec<HeaderName> {
        Vec::new()
    }

    /// Is told where the policies that it stands in line with expect keys ([`key_headers`](Self::key_headers)): a credential
    /// there that disagrees with its own makes the request nobody's.
    fn inherit_key_headers(&mut self, headers: &[HeaderName]) {
        let _ = headers;
    }

    /// Leaves on a request that a [`shadow`](super::Gate::shadow) lets through, and that wasn't admitted, what handlers count
    /// on: a handle that settles nothing, say. Most leave nothing.
    fn mark_unadmitted(&self, extensions: &mut Extensions) {
        let _ = extensions;
    }

    /// Decides. What needs no I/O answers [`Decision::Ready`], and costs no allocation for that.
    fn decide(&self, head: &RequestHead<'_>) -> Decision<Self::Permit>;
}

/// A decision: there already, or waiting for I/O.
#[derive(Debug)]
pub enum Decision<P> {
    /// There already.
    Ready(Verdict<P>),
    /// It takes I/O.
    Pending(PendingVerdict<P>),
}

impl<P> Decision<P> {
    /// A decision that takes I/O. It owns what it needs: the head is not lent for so long.
    pub fn pending(verdict: impl Future<Output = Verdict<P>> + Send + 'static) -> Self {
        Self::Pending(PendingVerdict(Box::pin(verdict)))
    }
}

/// What was decided.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict<P> {
    /// The request goes on, with this permit.
    Admit(P),
    /// The request goes no further.
    Refuse(Denial),
    /// The request goes no further, and this is its answer: it was served before.
    Answer(Box<Response<Bytes>>),
    /// The request goes no further, and the permit marks the refusal: a limiter tells what is left.
    RefuseMarked(Box<Denial>, P),
    /// Not mine to judge: the request carries nothing of my kind. Another policy may take it
    /// ([`.or`](crate::ApiKeyLayer::or)); if none does, it is refused like this.
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

/// The part of an answer that a permit may mark.
#[derive(Debug)]
pub struct ResponseMarks<'a> {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: &'a mut HeaderMap,
    /// What outer layers may read: a refusal's [`Denial`] is there.
    pub extensions: &'a mut Extensions,
    /// Limits that were told further in, in this guard.
    pub(crate) told: &'a mut ToldLimits,
}

/// What follows the head of an answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Tail<M> {
    /// The inner service's body, as it is.
    Body,
    /// The inner service's body, as it is. The head waits until this is written down: for an answer of
    /// which it is known by its head what becomes of it, and whose body an outer layer may replace.
    Settled(StoreFuture<()>),
    /// The inner service's body, with a meter on it.
    Metered(M),
    /// Another answer in its place: a status and a body; header fields were set by the permit.
    Replaced(StatusCode, Bytes),
}

/// The proof that a request was admitted. It is dropped when the request is: whatever must happen in
/// any case (a client that leaves, a panic) happens in `Drop`.
pub trait Permit: Send + 'static {
    /// What it may leave on the response body; [`NoMeter`] for most.
    type Meter: Meter;

    /// Whether it tells what is left of a limit.
    const TELLS_LIMITS: bool = false;

    /// As many header fields as it usually adds to an answer.
    const FIELDS: usize = 0;

    /// Leaves on the request what inner layers and the handler may read.
    fn mark_request(&mut self, extensions: &mut Extensions) {
        let _ = extensions;
    }

    /// Marks the answer on its way out, and says what follows it.
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

    fn mark_response(self, _: ResponseMarks<'_>) -> Tail<NoMeter> {
        Tail::Body
    }
}
