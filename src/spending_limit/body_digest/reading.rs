//! Reads a body to its end, within limits, and then calls the service.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{Request, request};
use http_body::{Body, Frame};
use pin_project::pin_project;
use sha2::{Digest, Sha256};
use tower_service::Service;

use super::{BodyDigest, DigestedBody, WholeRead, body::Frames};
use crate::{
    guard::show,
    spending_limit::requested_use::{self, Reader},
    wire::Pace,
};

/// Every frame costs memory, whatever its size. The number of frames is limited to one per this
/// many bytes of the maximum, plus a few.
const FRAME_BYTES: u64 = 256;
const FRAMES_MIN: u64 = 16;

/// How much of a body is read, and what for.
pub(super) struct Extent {
    pub(super) bytes_max: u64,
    /// Only a request with a key is compared with others.
    pub(super) is_hashed: bool,
    pub(super) reader: Option<Reader>,
}

/// The response future behind a [`BodyDigestLayer`](super::BodyDigestLayer).
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
    hash: Option<Sha256>,
    reader: Option<Reader>,
    /// How many bytes have arrived.
    bytes: u64,
    bytes_max: u64,
    /// How many frames may still arrive.
    frames_left: u64,
}

impl<S, B> BodyDigestFuture<S, B>
where
    S: Service<Request<DigestedBody<B>>>,
    B: Body,
{
    pub(super) fn calling(answer: S::Future) -> Self {
        let state = State::Calling(answer);
        Self { state }
    }

    pub(super) fn reading(service: S, request: Request<B>, extent: Extent) -> Self {
        let (head, body) = request.into_parts();
        let state = State::Reading(Some(Box::new(Reading {
            service,
            head,
            body: Box::pin(body),
            pace: Pace::default(),
            frames: VecDeque::new(),
            hash: extent.is_hashed.then(Sha256::new),
            reader: extent.reader,
            bytes: 0,
            bytes_max: extent.bytes_max,
            frames_left: (extent.bytes_max / FRAME_BYTES).saturating_add(FRAMES_MIN),
        })));
        Self { state }
    }
}

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
                    digest: self.hash.take().map(|hash| hash.finalize().into()),
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
        let hash = &mut self.hash;
        let hash_piece = |piece: &[u8]| hash.iter_mut().for_each(|hash| hash.update(piece));
        let unseen = data.map_or(0, |data| show(data, hash_piece));
        (unseen > 0).then_some(BodyDigest::TooLong)
    }

    /// Looks at a whole body for what its request asks for; of another, that isn't known.
    fn read_use(&mut self, digest: &BodyDigest) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        match digest.whole() {
            Ok(_) => reader.note(&mut self.head, &whole(&self.frames)),
            Err(denial) => requested_use::mark_unreadable(&mut self.head.extensions, denial),
        }
    }
}

/// The bytes of a body whose frames were all seen; copied if there are several.
fn whole<D: Buf, E>(frames: &VecDeque<Result<Frame<D>, E>>) -> Cow<'_, [u8]> {
    let mut pieces = frames.iter().flatten().filter_map(Frame::data_ref);
    match (pieces.next(), pieces.next()) {
        (None, _) => Cow::Borrowed(&[]),
        (Some(only), None) if only.chunk().len() == only.remaining() => Cow::Borrowed(only.chunk()),
        _ => {
            let pieces = || frames.iter().flatten().filter_map(Frame::data_ref);
            let mut whole = Vec::with_capacity(pieces().map(Buf::remaining).sum());
            for piece in pieces() {
                show(piece, |bytes| whole.extend_from_slice(bytes));
            }
            Cow::Owned(whole)
        }
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
                reading.read_use(&digest);
                reading.head.extensions.insert(digest);
                let body = DigestedBody::read(reading.frames, reading.body);
                let request = Request::from_parts(reading.head, body);
                state.set(State::Calling(reading.service.call(request)));
            }
        }
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
