//! Bodies whose pieces are tracked until they are sent.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::{Piece, StallWatch};

/// The largest piece, in bytes: the default frame size of HTTP/2 (RFC 9113, 6.5.2), so that pieces
/// are not split further just for this.
pub(super) const PIECE_MAX: usize = 16 * 1_024;

/// The body of an answer, tracked if its connection has a [`StallWatch`].
#[pin_project]
pub struct WatchedBody<B> {
    #[pin]
    body: B,
    watch: Option<StallWatch>,
    /// The rest of a larger piece.
    rest: Bytes,
}

impl<B> WatchedBody<B> {
    pub(super) fn new(body: B, watch: Option<StallWatch>) -> Self {
        Self {
            body,
            watch,
            rest: Bytes::new(),
        }
    }
}

impl<B: Body<Data = Bytes>> Body for WatchedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let Some(watch) = this.watch else {
            return this.body.poll_frame(context);
        };
        if !this.rest.is_empty() {
            let piece = watched(this.rest, watch);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let frame = this.body.poll_frame(context);
        frame.map_ok(|frame| {
            frame.map_data(|data| {
                *this.rest = data;
                watched(this.rest, watch)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.body.size_hint(), self.rest.len());
        let rest = u64::try_from(rest).unwrap_or(u64::MAX);
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(inner.lower().saturating_add(rest));
        hint
    }
}

/// The next piece of `rest`. The server drops it once it is sent, which is how that is noticed.
fn watched(rest: &mut Bytes, watch: &StallWatch) -> Bytes {
    let data = rest.split_to(rest.len().min(PIECE_MAX));
    if data.is_empty() {
        return data;
    }
    Bytes::from_owner(WatchedData {
        data,
        _piece: watch.track(),
    })
}

struct WatchedData {
    data: Bytes,
    _piece: Piece,
}

impl AsRef<[u8]> for WatchedData {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl<B> fmt::Debug for WatchedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchedBody")
    }
}
