//! The body of every response: the inner one, a refusal, or the inner one with a meter on it.

use std::{
    any::Any,
    fmt,
    future::Future,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::{exclusive::Exclusive, unwinding};
use crate::{
    domain::clock::{Clock, SystemClock},
    repeats::{LogLine, Repeats},
    store::{StoreError, StoreFuture},
};

/// The most pieces of one buffer that are shown to a meter; the buffers used with HTTP have one or
/// two.
const PIECES_MAX: usize = 16;

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyEnd {
    /// Its last frame was reached.
    Complete,
    /// The inner body returned an error.
    Failed,
}

/// Watches a response body. If the client disconnects early, it is dropped without
/// [`end`](Self::end): whatever must happen then belongs in `Drop`.
pub trait Meter: Send + 'static {
    /// A piece of the body is about to be sent.
    fn data(&mut self, piece: &[u8]) {
        let _ = piece;
    }

    /// This many bytes are about to be sent that can't be shown, because a buffer with several
    /// pieces exposes only the first. The standard buffers expose all.
    fn unseen(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// Trailers are about to be sent. Layers further out see them as they are left here.
    fn trailers(&mut self, trailers: &mut HeaderMap) {
        let _ = trailers;
    }

    /// The body has ended. The returned future is awaited before the last frame is sent, so that a
    /// client that has the whole response can rely on the settlement.
    fn end(self, how: BodyEnd) -> Option<StoreFuture<()>>;
}

/// No meter: this type has no values.
#[derive(Debug)]
pub enum NoMeter {}

impl Meter for NoMeter {
    fn end(self, _: BodyEnd) -> Option<StoreFuture<()>> {
        match self {}
    }
}

/// A whole body, and the trailers that follow it, if any.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use tollgate::guard::FixedBody;
///
/// let mut trailers = HeaderMap::new();
/// trailers.insert("grpc-status", HeaderValue::from_static("0"));
/// let body = FixedBody::new("hello").with_trailers(trailers);
/// assert_eq!(body.bytes(), "hello");
/// ```
#[derive(Clone, Debug, Default)]
pub struct FixedBody {
    bytes: Bytes,
    /// Boxed, because few bodies have some and all are moved.
    trailers: Option<Box<HeaderMap>>,
}

impl FixedBody {
    /// A body without trailers.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            trailers: None,
        }
    }

    /// Sends these trailers after it. The length of such a body is not announced.
    #[must_use]
    pub fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(Box::new(trailers));
        self
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn trailers_mut(&mut self) -> Option<&mut HeaderMap> {
        self.trailers.as_deref_mut()
    }

    /// The next frame, as far as there are bytes that can be sent as `D`.
    fn next<D: 'static>(&mut self) -> Option<Frame<D>> {
        let bytes = std::mem::take(&mut self.bytes);
        let data = Some(bytes).filter(|bytes| !bytes.is_empty());
        if let Some(data) = data.and_then(into_data) {
            return Some(Frame::data(data));
        }
        let trailers = self.trailers.take();
        trailers.map(|trailers| Frame::trailers(*trailers))
    }

    /// How many bytes can be sent as `D`.
    fn length<D: 'static>(&self) -> u64 {
        if self.bytes.is_empty() || !is_standard::<D>() {
            return 0;
        }
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }
}

impl From<Bytes> for FixedBody {
    fn from(bytes: Bytes) -> Self {
        Self::new(bytes)
    }
}

/// The body of a response that passed through a [`Guard`](super::Guard). It requires nothing of the
/// inner body beyond [`Body`], and is `Send` and `Sync` if the inner body is.
///
/// A refusal's bytes are returned as the inner body's own `Data` if that is `Bytes`, `Vec<u8>` or
/// another of the standard buffers; with a custom `Data` a refusal has a head and no body.
#[pin_project]
pub struct GateBody<B: Body, M = Option<NoMeter>> {
    #[pin]
    kind: Kind<B, M>,
}

#[pin_project(project = KindProjection)]
enum Kind<B: Body, M> {
    Inner(#[pin] B),
    Metered(#[pin] Metered<B, M>),
    Fixed(FixedBody),
    /// Nothing, in place of content whose length isn't known.
    Omitted,
}

#[pin_project]
struct Metered<B: Body, M> {
    #[pin]
    inner: B,
    meter: Option<Exclusive<M>>,
    /// Bytes left until the announced length: a server stops polling there.
    remaining: Option<u64>,
    /// Boxed, because few responses wait but all are moved.
    held: Option<Box<Held<B>>>,
}

/// The end of a body, held back until its settlement is recorded.
struct Held<B: Body> {
    waiting: Exclusive<Waiting<B>>,
    /// The size of the last frame, in bytes.
    length: u64,
}

struct Waiting<B: Body> {
    settling: StoreFuture<()>,
    last: Option<Result<Frame<B::Data>, B::Error>>,
}

impl<B: Body> Held<B> {
    fn new(settling: StoreFuture<()>, last: Option<Result<Frame<B::Data>, B::Error>>) -> Self {
        let length = match &last {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Buf::remaining),
            _ => 0,
        };
        Self {
            waiting: Exclusive::new(Waiting { settling, last }),
            length: u64::try_from(length).unwrap_or(u64::MAX),
        }
    }
}

impl<B: Body, M: Meter> GateBody<B, M> {
    pub(crate) fn inner(body: B) -> Self {
        Self {
            kind: Kind::Inner(body),
        }
    }

    /// A metered body; `announced` is the length, if any, after which the body is no longer polled.
    pub(super) fn metered(body: B, meter: M, announced: Option<u64>) -> Self {
        let metered = Metered {
            inner: body,
            meter: Some(Exclusive::new(meter)),
            remaining: announced,
            held: None,
        };
        Self {
            kind: Kind::Metered(metered),
        }
    }

    pub(super) fn omitted() -> Self {
        Self {
            kind: Kind::Omitted,
        }
    }

    pub(crate) fn fixed(body: FixedBody) -> Self {
        Self {
            kind: Kind::Fixed(body),
        }
    }
}

impl<B, M> Body for GateBody<B, M>
where
    B: Body,
    B::Data: 'static,
    M: Meter,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Inner(body) => body.poll_frame(context),
            KindProjection::Metered(metered) => metered.poll_frame(context),
            KindProjection::Fixed(body) => Poll::Ready(body.next().map(Ok)),
            KindProjection::Omitted => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner(body) => body.is_end_stream(),
            Kind::Metered(metered) => metered.is_over() && metered.inner.is_end_stream(),
            Kind::Fixed(body) => body.trailers.is_none() && body.length::<B::Data>() == 0,
            Kind::Omitted => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner(body) => body.size_hint(),
            Kind::Metered(metered) => metered.size_hint(),
            // A server of HTTP/1 sends no trailers after a body of an announced length.
            Kind::Fixed(body) if body.trailers.is_some() => SizeHint::new(),
            Kind::Fixed(body) => SizeHint::with_exact(body.length::<B::Data>()),
            // A length of 0 would be sent as that of the content.
            Kind::Omitted => SizeHint::new(),
        }
    }
}

/// The result of polling a body for a frame.
type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

impl<B: Body, M: Meter> Metered<B, M> {
    fn is_over(&self) -> bool {
        self.meter.is_none() && self.held.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.as_ref().map_or(0, |held| held.length);
        with_more(&self.inner.size_hint(), held)
    }

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled<B> {
        let mut this = self.as_mut().project();
        let held = match this.held {
            Some(held) => held,
            None => {
                if this.meter.is_none() {
                    return this.inner.poll_frame(context);
                }
                let fail = |meter: &mut Option<Exclusive<M>>| {
                    // The settlement is already under way when the future is dropped; there is
                    // nothing left to wait with.
                    drop(meter.take().and_then(|meter| meter.end(BodyEnd::Failed)));
                };
                let asked = unwinding::guarded(this.meter, fail, || {
                    this.inner.as_mut().poll_frame(context)
                });
                let mut frame = ready!(asked);
                let end = match &mut frame {
                    None => Some(BodyEnd::Complete),
                    Some(Err(_)) => Some(BodyEnd::Failed),
                    Some(Ok(frame)) => {
                        observe(this.meter, frame, this.remaining);
                        let over = frame.is_trailers()
                            || *this.remaining == Some(0)
                            || this.inner.is_end_stream();
                        over.then_some(BodyEnd::Complete)
                    }
                };
                let settling = match end {
                    Some(end) => this.meter.take().and_then(|meter| meter.end(end)),
                    None => None,
                };
                match settling.map(StoreFuture::into_ready) {
                    None => return Poll::Ready(frame),
                    Some(Ok(settled)) => {
                        log_failure(settled);
                        return Poll::Ready(frame);
                    }
                    Some(Err(settling)) => this.held.insert(Box::new(Held::new(settling, frame))),
                }
            }
        };
        let waiting = held.waiting.get_mut();
        log_failure(ready!(Pin::new(&mut waiting.settling).poll(context)));
        let held = this.held.take();
        Poll::Ready(held.and_then(|held| held.waiting.into_inner().last))
    }
}

/// The size of the `rest` plus `kept` bytes that are held back before it.
pub(crate) fn with_more(rest: &SizeHint, kept: u64) -> SizeHint {
    let mut hint = SizeHint::new();
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper.saturating_add(kept));
    }
    hint.set_lower(rest.lower().saturating_add(kept));
    hint
}

/// The engines say when they can be written again.
pub(super) fn log_failure(settled: Result<(), StoreError>) {
    static FAILURES: Repeats = Repeats::new();
    if let Err(error) = settled
        && let Some(LogLine { left_out }) = FAILURES.failed(&error, SystemClock.elapsed())
    {
        tracing::error!(target: "tollgate", %error, left_out, "could not record the settlement of a response; it is sent anyway");
    }
}

/// Shows a frame to the meter, and counts it against the announced length.
fn observe<D: Buf>(
    meter: &mut Option<impl Meter>,
    frame: &mut Frame<D>,
    remaining: &mut Option<u64>,
) {
    if let Some(data) = frame.data_ref() {
        let length = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
        if let Some(remaining) = remaining {
            *remaining = remaining.saturating_sub(length);
        }
        let unseen = show(data, |piece| meter.data(piece));
        if unseen > 0 {
            meter.unseen(unseen);
        }
    }
    if let Some(trailers) = frame.trailers_mut() {
        meter.trailers(trailers);
    }
}

/// Passes a buffer's content to `look` without consuming it, and returns how many bytes could not
/// be shown: some buffers with several pieces expose only the first.
pub(crate) fn show(data: &impl Buf, mut look: impl FnMut(&[u8])) -> usize {
    if data.chunk().len() == data.remaining() {
        look(data.chunk());
        return 0;
    }
    let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
    let count = data.chunks_vectored(&mut pieces);
    let mut unseen = data.remaining();
    for piece in pieces.iter().take(count) {
        unseen = unseen.saturating_sub(piece.len());
        look(piece);
    }
    unseen
}

/// Whether `D` is one of the standard buffers that bytes can be returned as.
fn is_standard<D: 'static>() -> bool {
    into_data::<D>(Bytes::new()).is_some()
}

/// Returns `bytes` as a `D`, if `D` is one of the standard buffers.
fn into_data<D: 'static>(bytes: Bytes) -> Option<D> {
    let mut slot: Option<D> = None;
    let place: &mut dyn Any = &mut slot;
    if let Some(place) = place.downcast_mut::<Option<Bytes>>() {
        *place = Some(bytes);
    } else if let Some(place) = place.downcast_mut::<Option<BytesMut>>() {
        *place = Some(bytes.into());
    } else if let Some(place) = place.downcast_mut::<Option<Vec<u8>>>() {
        *place = Some(bytes.into());
    } else if let Some(place) = place.downcast_mut::<Option<std::collections::VecDeque<u8>>>() {
        *place = Some(Vec::from(bytes).into());
    } else if let Some(place) = place.downcast_mut::<Option<std::io::Cursor<Bytes>>>() {
        *place = Some(std::io::Cursor::new(bytes));
    } else if let Some(place) = place.downcast_mut::<Option<std::io::Cursor<Vec<u8>>>>() {
        *place = Some(std::io::Cursor::new(bytes.into()));
    } else if let Some(place) = place.downcast_mut::<Option<Box<dyn Buf + Send>>>() {
        *place = Some(Box::new(bytes));
    }
    slot
}

impl<B: Body, M> fmt::Debug for GateBody<B, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Inner(_) => "GateBody(inner)",
            Kind::Metered(_) => "GateBody(metered)",
            Kind::Fixed(_) => "GateBody(fixed)",
            Kind::Omitted => "GateBody(omitted)",
        })
    }
}
