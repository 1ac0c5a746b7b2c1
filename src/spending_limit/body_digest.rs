//! Reads bodies before passing their requests on: those of requests with an `Idempotency-Key`, and
//! those of undeclared length.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{Extensions, Request, header::CONTENT_LENGTH, request};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use sha2::{Digest, Sha256};
use tower_layer::Layer;
use tower_service::Service;

use super::idempotency::IDEMPOTENCY_KEY;
use crate::{
    domain::{
        denial::{Denial, DenialKind},
        principal::Principal,
    },
    guard::{show, with_more},
    wire::Pace,
};

/// Every frame costs memory, whatever its size. The number of frames is limited to one per this
/// many bytes of the maximum, plus a few.
const FRAME_BYTES: u64 = 256;
const FRAMES_MIN: u64 = 16;

/// What is known about a request's body; stored in its extensions.
#[derive(Clone, Copy, Debug)]
enum BodyDigest {
    Whole(WholeRead),
    TooLong,
    TooSlow,
    BrokenOff,
}

/// A body that was read to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct WholeRead {
    pub(super) bytes: u64,
    /// Its SHA-256.
    pub(super) digest: [u8; 32],
}

/// The result of reading a request's body, if it was read.
///
/// # Errors
/// If it could not be read to its end.
pub(super) fn read(extensions: &Extensions) -> Result<Option<&WholeRead>, Denial> {
    let (kind, why) = match extensions.get() {
        None => return Ok(None),
        Some(BodyDigest::Whole(read)) => return Ok(Some(read)),
        Some(BodyDigest::TooLong) => (DenialKind::TooLarge, "the body is longer than is read"),
        Some(BodyDigest::TooSlow) => (DenialKind::TooSlow, "the body came too slowly"),
        Some(BodyDigest::BrokenOff) => {
            let why = "The request's body broke off";
            let denial = Denial::new(DenialKind::Malformed).with_message(why);
            return Err(denial.because(why));
        }
    };
    Err(Denial::new(kind).because(why))
}

/// Makes the request body part of what must match when an `Idempotency-Key` is reused: with a
/// different body the request is refused with 422 (draft-ietf-httpapi-idempotency-key-header, 2.4)
/// instead of getting the first request's answer. In a [`Tollgate`](crate::Tollgate) it has a place
/// of its own: [`build_reading_bodies`](crate::TollgateBuilder::build_reading_bodies).
///
/// A [`SpendingLimitLayer`](crate::SpendingLimitLayer) decides on the head alone, before any of the
/// body is read, and every instance must know what the first call's body was. So this layer goes
/// further out, inside authentication if possible. It reads the whole body of a request that has
/// the header, buffers its frames, passes them on when all have arrived, and adds their SHA-256 to
/// the fingerprint that the ledger keeps. Requests without the header pass through untouched,
/// unless it also [measures](Self::measure).
///
/// The spending limit, where money would be held, refuses a body above
/// [`bytes_max`](Self::bytes_max) with 413, one that breaks off with 400, and one that sends
/// nothing for 10 seconds or is not complete within 30 with 408. A client that wants an answer
/// before it has sent its whole body (a bidirectional stream) must not send the header, and a
/// service with such clients must not measure.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::convert::Infallible;
/// use tollgate::store::{AccountId, Ledger, MemoryStore};
/// use tollgate::{BodyDigestLayer, CredentialKind, IdempotencyKeys, Price, PriceTable, Principal, SpendingLimitLayer, usage::Credit};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let ledger = MemoryStore::new();
/// let (account, amount) = (AccountId::new("user-1")?, "1".parse()?);
/// ledger.credit(Credit { account, amount, reference: "first".into() }).await?;
/// let prices = PriceTable::new().route("POST", "/chat", Price::flat("0.0020".parse()?))?;
/// let chat = service_fn(async |_: http::Request<_>| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
///
/// let charged = SpendingLimitLayer::new(ledger, prices).idempotency_keys(IdempotencyKeys::new());
/// let service = BodyDigestLayer::new().layer(charged.layer(chat));
/// let call = |body: &str| {
///     let request = http::Request::post("/chat").header("idempotency-key", "a");
///     let mut request = request.body(body.to_owned()).unwrap();
///     request.extensions_mut().insert(Principal::builder("user-1", CredentialKind::ApiKey).build());
///     service.clone().oneshot(request)
/// };
/// let answer = call("one").await?;
/// assert_eq!(answer.status(), 200);
/// http_body_util::BodyExt::collect(answer.into_body()).await?;
/// assert_eq!(call("one").await?.headers()["idempotency-replayed"], "true");
/// assert_eq!(call("two").await?.status(), 422);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "it does nothing until it is a layer of a service"]
pub struct BodyDigestLayer {
    bytes_max: u64,
    measures: bool,
    /// Whether it reads only the bodies of callers who are known.
    only_known: bool,
}

impl BodyDigestLayer {
    /// Reads up to 1 MiB.
    pub const fn new() -> Self {
        Self {
            bytes_max: 1_048_576,
            measures: false,
            only_known: false,
        }
    }

    /// Also reads the bodies of requests that don't declare their length (`transfer-encoding:
    /// chunked`, or HTTP/2 without a `content-length`), so that a call that is priced [by what it
    /// sends](crate::TokenBound::BodyBytes) is held for by what arrived, and not by the most that
    /// could have. Such a body is held in memory until it is complete, within the same limits.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::convert::Infallible;
    /// use http_body_util::StreamBody;
    /// use tollgate::store::{AccountId, Ledger, MemoryStore};
    /// use tollgate::{BodyDigestLayer, CredentialKind, Price, PriceTable, Principal, SpendingLimitLayer, usage::Credit};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let ledger = MemoryStore::new();
    /// let (account, amount) = (AccountId::new("user-1")?, "0.10".parse()?);
    /// ledger.credit(Credit { account, amount, reference: "first".into() }).await?;
    /// let price = Price::per_million_tokens("0.50".parse()?, "1.50".parse()?);
    /// let charged = SpendingLimitLayer::new(ledger, PriceTable::new().route("POST", "/chat", price)?);
    /// let chat = service_fn(async |_: http::Request<_>| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
    ///
    /// for (layer, status) in [(BodyDigestLayer::new(), 402), (BodyDigestLayer::new().measure(), 200)] {
    ///     let piece = Ok::<_, Infallible>(http_body::Frame::data(bytes::Bytes::from_static(b"a few bytes")));
    ///     let mut request = http::Request::post("/chat").body(StreamBody::new(tokio_stream::iter([piece])))?;
    ///     request.extensions_mut().insert(Principal::builder("user-1", CredentialKind::ApiKey).build());
    ///     let answer = layer.layer(charged.layer(chat.clone())).oneshot(request).await?;
    ///     assert_eq!(answer.status(), status);
    /// }
    /// # Ok(()) }
    /// ```
    pub const fn measure(mut self) -> Self {
        self.measures = true;
        self
    }

    /// Leaves the requests alone that have no [`Principal`], for a place inside of authentication.
    pub(crate) const fn of_known_callers(mut self) -> Self {
        self.only_known = true;
        self
    }

    /// The longest body that is read, in bytes. It may have one frame per 256 of them. A request
    /// whose body is read may take about that much memory until it is complete.
    pub const fn bytes_max(mut self, bytes: u64) -> Self {
        self.bytes_max = bytes;
        self
    }
}

impl BodyDigestLayer {
    fn reads<B>(&self, request: &Request<B>) -> bool {
        let headers = request.headers();
        let is_unmeasured = self.measures && !headers.contains_key(CONTENT_LENGTH);
        let is_left = self.only_known && request.extensions().get::<Principal>().is_none();
        (is_unmeasured || headers.contains_key(IDEMPOTENCY_KEY)) && !is_left
    }
}

impl Default for BodyDigestLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for BodyDigestLayer {
    type Service = BodyDigestService<S>;

    fn layer(&self, inner: S) -> BodyDigestService<S> {
        let layer = *self;
        BodyDigestService { inner, layer }
    }
}

/// The service of a [`BodyDigestLayer`].
#[derive(Clone, Debug)]
pub struct BodyDigestService<S> {
    inner: S,
    layer: BodyDigestLayer,
}

impl<S, B> Service<Request<B>> for BodyDigestService<S>
where
    S: Service<Request<DigestedBody<B>>> + Clone,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BodyDigestFuture<S, B>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let state = if self.layer.reads(&request) {
            // Call the service that reported ready, not its clone.
            let fresh = self.inner.clone();
            let (head, body) = request.into_parts();
            State::Reading(Some(Box::new(Reading {
                service: mem::replace(&mut self.inner, fresh),
                head,
                body: Box::pin(body),
                pace: Pace::default(),
                frames: VecDeque::new(),
                hash: Sha256::new(),
                bytes: 0,
                bytes_max: self.layer.bytes_max,
                frames_left: (self.layer.bytes_max / FRAME_BYTES).saturating_add(FRAMES_MIN),
            })))
        } else {
            State::Calling(self.inner.call(request.map(DigestedBody::unread)))
        };
        BodyDigestFuture { state }
    }
}

/// The response future of a [`BodyDigestService`].
#[pin_project]
pub struct BodyDigestFuture<S, B>
where
    S: Service<Request<DigestedBody<B>>>,
    B: Body,
{
    #[pin]
    state: State<S, B>,
}

#[pin_project(project = StateProjection)]
enum State<S, B>
where
    S: Service<Request<DigestedBody<B>>>,
    B: Body,
{
    Reading(Option<Box<Reading<S, B>>>),
    Calling(#[pin] S::Future),
}

struct Reading<S, B: Body> {
    service: S,
    head: request::Parts,
    body: Pin<Box<B>>,
    pace: Pace,
    frames: Frames<B>,
    hash: Sha256,
    /// How many bytes have arrived.
    bytes: u64,
    bytes_max: u64,
    /// How many frames may still arrive.
    frames_left: u64,
}

type Frames<B> = VecDeque<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>;

impl<S, B: Body> Reading<S, B> {
    /// Reads to the end, or up to the limits.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<BodyDigest> {
        if self.body.size_hint().lower() > self.bytes_max.saturating_sub(self.bytes) {
            return Poll::Ready(BodyDigest::TooLong);
        }
        loop {
            let Poll::Ready(frame) = self.body.as_mut().poll_frame(context) else {
                ready!(self.pace.poll_timeout(context));
                return Poll::Ready(BodyDigest::TooSlow);
            };
            self.pace.made_progress();
            let Some(frame) = frame else {
                return Poll::Ready(BodyDigest::Whole(WholeRead {
                    bytes: self.bytes,
                    digest: mem::take(&mut self.hash).finalize().into(),
                }));
            };
            let failure = match &frame {
                Ok(frame) => self.note(frame),
                Err(_) => Some(BodyDigest::BrokenOff),
            };
            self.frames.push_back(frame);
            if let Some(failure) = failure {
                return Poll::Ready(failure);
            }
        }
    }

    /// Counts and hashes a frame; `Some` if the body can't be read any further.
    fn note(&mut self, frame: &Frame<B::Data>) -> Option<BodyDigest> {
        let data = frame.data_ref();
        let length = data.map_or(0, Buf::remaining);
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        let bytes = self.bytes.saturating_add(length);
        let frames = self.frames_left.checked_sub(1);
        let Some(frames) = frames.filter(|_| bytes <= self.bytes_max) else {
            return Some(BodyDigest::TooLong);
        };
        (self.bytes, self.frames_left) = (bytes, frames);
        let unseen = data.map_or(0, |data| show(data, |piece| self.hash.update(piece)));
        (unseen > 0).then_some(BodyDigest::TooLong)
    }
}

impl<S, B> Future for BodyDigestFuture<S, B>
where
    S: Service<Request<DigestedBody<B>>>,
    B: Body,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let reading = match state.as_mut().project() {
                StateProjection::Calling(answer) => return answer.poll(context),
                StateProjection::Reading(reading) => reading,
            };
            let Some(digest) = reading.as_mut().map(|reading| reading.poll(context)) else {
                return Poll::Pending;
            };
            let digest = ready!(digest);
            if let Some(mut reading) = reading.take().map(|reading| *reading) {
                reading.head.extensions.insert(digest);
                let body = DigestedBody::read(reading.frames, reading.body);
                let request = Request::from_parts(reading.head, body);
                state.set(State::Calling(reading.service.call(request)));
            }
        }
    }
}

/// The body of a request behind a [`BodyDigestService`]; its frames are unchanged.
#[pin_project]
pub struct DigestedBody<B: Body> {
    #[pin]
    kind: Kind<B>,
}

#[pin_project(project = KindProjection)]
enum Kind<B: Body> {
    Unread(#[pin] B),
    Read {
        frames: Frames<B>,
        /// The part that was not read.
        rest: Pin<Box<B>>,
    },
}

impl<B: Body> DigestedBody<B> {
    fn unread(body: B) -> Self {
        Self {
            kind: Kind::Unread(body),
        }
    }

    fn read(frames: Frames<B>, rest: Pin<Box<B>>) -> Self {
        Self {
            kind: Kind::Read { frames, rest },
        }
    }
}

impl<B: Body> Body for DigestedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Unread(body) => body.poll_frame(context),
            KindProjection::Read { frames, rest } => match frames.pop_front() {
                Some(frame) => Poll::Ready(Some(frame)),
                None if rest.is_end_stream() => Poll::Ready(None),
                None => rest.as_mut().poll_frame(context),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Unread(body) => body.is_end_stream(),
            Kind::Read { frames, rest } => frames.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let (frames, rest) = match &self.kind {
            Kind::Unread(body) => return body.size_hint(),
            Kind::Read { frames, rest } => (frames, rest.size_hint()),
        };
        let kept = frames.iter().flatten().filter_map(Frame::data_ref);
        let kept = kept.map(Buf::remaining).fold(0, usize::saturating_add);
        with_more(&rest, u64::try_from(kept).unwrap_or(u64::MAX))
    }
}

impl<S, B> fmt::Debug for BodyDigestFuture<S, B>
where
    S: Service<Request<DigestedBody<B>>>,
    B: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyDigestFuture").finish_non_exhaustive()
    }
}

impl<B: Body> fmt::Debug for DigestedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Unread(_) => "DigestedBody(unread)",
            Kind::Read { .. } => "DigestedBody(read)",
        })
    }
}
