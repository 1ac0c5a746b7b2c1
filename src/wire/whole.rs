//! Reads whole bodies, for servers without a framework that does.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};

use super::Pace;
use crate::domain::denial::{Denial, DenialKind};

/// Reads a whole request body of at most `bytes_max` bytes. For axum there is `WholeBody`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use tollgate::{denial::DenialKind, read_body};
///
/// let read = read_body("hello".to_owned(), 5).await.expect("it is there, and no longer");
/// assert_eq!(read, "hello");
/// let refused = read_body("hello".to_owned(), 4).await.unwrap_err();
/// assert_eq!(refused.kind(), DenialKind::TooLarge);
/// # }
/// ```
///
/// # Errors
/// A refusal: 413 if the body is longer or declares to be, 408 if nothing arrives for 10 seconds or
/// it is not complete within 30, 400 if it breaks off.
pub async fn read_body<B: Body>(body: B, bytes_max: usize) -> Result<Bytes, Denial> {
    let long = || Denial::new(DenialKind::TooLarge).because("the body is too long");
    let announced = usize::try_from(body.size_hint().lower());
    if announced.map_or(true, |announced| announced > bytes_max) {
        return Err(long());
    }
    let (mut body, mut pace) = (pin!(body), Pace::default());
    let (mut read, mut room) = (BytesMut::new(), bytes_max);
    while let Some(frame) = poll_fn(|context| poll_next(body.as_mut(), &mut pace, context)).await {
        // Trailers are ignored.
        if let Ok(data) = frame?.into_data() {
            room = room.checked_sub(data.remaining()).ok_or_else(long)?;
            read.put(data);
        }
    }
    Ok(read.freeze())
}

fn poll_next<B: Body>(
    body: Pin<&mut B>,
    pace: &mut Pace,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<B::Data>, Denial>>> {
    let Poll::Ready(frame) = body.poll_frame(context) else {
        ready!(pace.poll_timeout(context));
        let slow = Denial::new(DenialKind::TooSlow).because("the body came too slowly");
        return Poll::Ready(Some(Err(slow)));
    };
    pace.made_progress();
    let broken = |_| Denial::new(DenialKind::Malformed).because("the body broke off");
    Poll::Ready(frame.map(|frame| frame.map_err(broken)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{StreamExt, stream};
    use http_body_util::StreamBody;
    use tokio::time::{Instant, sleep};

    use super::*;

    type Piece = Result<Frame<Bytes>, std::io::Error>;

    fn piece(text: &'static str) -> Piece {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    async fn refused(pieces: impl stream::Stream<Item = Piece>, bytes_max: usize) -> DenialKind {
        let refused = read_body(StreamBody::new(pieces), bytes_max).await;
        refused.expect_err("it isn't good").kind()
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_one_and_its_trailers_are_none_of_it() {
        let trailers = Ok(Frame::trailers(http::HeaderMap::new()));
        let pieces = stream::iter([piece("a"), piece(""), piece("bc"), trailers]);
        assert_eq!(read_body(StreamBody::new(pieces), 3).await.unwrap(), "abc");
        assert_eq!(read_body(String::new(), 0).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_or_breaks_off_is_told_apart() {
        let long = stream::iter([piece("ab"), piece("cd")]);
        assert_eq!(refused(long, 3).await, DenialKind::TooLarge);
        let broken = stream::iter([piece("ab"), Err(std::io::Error::other("gone"))]);
        assert_eq!(refused(broken, 3).await, DenialKind::Malformed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_falls_silent_or_comes_by_drops_is_given_up() {
        let silent = stream::iter([piece("a")]).chain(stream::pending());
        let began = Instant::now();
        assert_eq!(refused(silent, 3).await, DenialKind::TooSlow);
        assert_eq!(began.elapsed().as_secs(), 10);

        let drops = stream::repeat_with(|| piece("a")).then(async |piece| {
            sleep(Duration::from_secs(9)).await;
            piece
        });
        let began = Instant::now();
        assert_eq!(refused(drops, 100).await, DenialKind::TooSlow);
        assert_eq!(began.elapsed().as_secs(), 30);
    }
}
