//! The one body: the inner one, a refusal, or the inner one with a meter on it.

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
use crate::store::{StoreError, StoreFuture};

/// Pieces of one buffer that a meter sees; those in use with HTTP have one or two.
const PIECES_MAX: usize = 16;

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyEnd {
    /// To its last frame.
    Complete,
    /// With an error of the inner body.
    Failed,
}

/// Watches a response body. It is dropped unended when the client leaves early: what must be done then
/// is done in `Drop`.
pub trait Meter: Send + 'static {
    /// A piece of the body is about to go out.
    fn data(&mut self, piece: &[u8]) {
        let _ = piece;
    }

    /// So many bytes are about to go out that can't be shown: of a buffer with many pieces of which it only shows the
    /// first. The standard buffers show all.
    fn unseen(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// Trailers are about to go out. Who stands further out sees them as they are left here.
    fn trailers(&mut self, trailers: &mut HeaderMap) {
        let _ = trailers;
    }

    /// The body is over. What this returns is awaited before the last frame goes out, so that a client
    /// that has all of the answer can rely on what was written down.
    fn end(self, how: BodyEnd) -> Option<StoreFuture<()>>;
}

/// No meter: there is no value of this type.
#[derive(Debug)]
pub enum NoMeter {}

impl Meter for NoMeter {
    fn end(self, _: BodyEnd) -> Option<StoreFuture<()>> {
        match self {}
    }
}

/// The body of an answer that went through a [`Guard`](super::Guard). It asks nothing of the inner
/// body but that it is one, and is `Send` and `Sync` where that is.
///
/// A refusal's bytes are handed out as the inner body's own `Data` when that is `Bytes`, `Vec<u8>`, or
/// another of the standard buffers; with a `Data` of one's own a refusal has a head and no body.
#[pin_project]
pub struct GateBody<B: Body, M = Option<NoMeter>> {
    #[pin]
    kind: Kind<B, M>,
}

#[pin_project(project = KindProjection)]
enum Kind<B: Body, M> {
    Inner(#[pin] B),
    Metered(#[pin] Metered<B, M>),
    Fixed(Option<Bytes>),
    /// Nothing, in place of content of a length that isn't known.
    LeftOut,
}

#[pin_project]
struct Metered<B: Body, M> {
    #[pin]
    inner: B,
    meter: Option<Exclusive<M>>,
    /// Bytes until the announced length is reached: a server stops asking there.
    remaining: Option<u64>,
    /// In a box, because few answers wait, and all are moved.
    held: Option<Box<Held<B>>>,
}

/// The end of a body, held back until it is written down what became of it.
struct Held<B: Body> {
    waiting: Exclusive<Waiting<B>>,
    /// Of the last frame, in bytes.
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

    /// A metered body; `announced` is the length after which nobody asks for more, where there is one.
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

    pub(super) fn left_out() -> Self {
        Self {
            kind: Kind::LeftOut,
        }
    }

    pub(crate) fn fixed(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Fixed(Some(bytes).filter(|bytes| !bytes.is_empty())),
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
            KindProjection::Fixed(bytes) => {
                let data = bytes.take().and_then(into_data);
                Poll::Ready(data.map(|data| Ok(Frame::data(data))))
            }
            KindProjection::LeftOut => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner(body) => body.is_end_stream(),
            Kind::Metered(metered) => metered.is_over() && metered.inner.is_end_stream(),
            Kind::Fixed(bytes) => bytes.is_none() || !is_standard::<B::Data>(),
            Kind::LeftOut => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner(body) => body.size_hint(),
            Kind::Metered(metered) => metered.size_hint(),
            Kind::Fixed(bytes) => {
                let told = bytes.as_ref().filter(|_| is_standard::<B::Data>());
                let length = told.map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            // A length of nothing would be told as that of the content.
            Kind::LeftOut => SizeHint::new(),
        }
    }
}

/// What a body is asked for, one after the other.
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
                    // On its way when it is dropped; nobody can wait.
                    drop(meter.take().and_then(|meter| meter.end(BodyEnd::Failed)));
                };
                let asked =
                    unwinding::asked(this.meter, fail, || this.inner.as_mut().poll_frame(context));
                let mut frame = ready!(asked);
                let end = match &mut frame {
                    None => Some(BodyEnd::Complete),
                    Some(Err(_)) => Some(BodyEnd::Failed),
                    Some(Ok(frame)) => {
                        note(this.meter, frame, this.remaining);
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
                        told(settled);
                        return Poll::Ready(frame);
                    }
                    Some(Err(settling)) => this.held.insert(Box::new(Held::new(settling, frame))),
                }
            }
        };
        let waiting = held.waiting.get_mut();
        told(ready!(Pin::new(&mut waiting.settling).poll(context)));
        let held = this.held.take();
        Poll::Ready(held.and_then(|held| held.waiting.into_inner().last))
    }
}

/// The size of what is to come and of so many bytes that are kept back before it.
pub(crate) fn with_more(rest: &SizeHint, kept: u64) -> SizeHint {
    let mut hint = SizeHint::new();
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper.saturating_add(kept));
    }
    hint.set_lower(rest.lower().saturating_add(kept));
    hint
}

fn told(settled: Result<(), StoreError>) {
    if let Err(error) = settled {
        tracing::error!(target: "tollgate", %error, "an answer went out whose settlement failed");
    }
}

/// Shows a frame to the meter, and counts it against the announced length.
fn note<D: Buf>(meter: &mut Option<impl Meter>, frame: &mut Frame<D>, remaining: &mut Option<u64>) {
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

/// Shows what is in a buffer without taking it out, and returns how many bytes it doesn't show: some of many pieces
/// show only the first.
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

/// Whether `D` is one of the buffers that bytes are handed out as.
fn is_standard<D: 'static>() -> bool {
    into_data::<D>(Bytes::new()).is_some()
}

/// Hands `bytes` out as a `D`, if `D` is one of the standard buffers.
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
            Kind::LeftOut => "GateBody(left out)",
        })
    }
}
