use std::{convert::Infallible, future::poll_fn, io::ErrorKind, pin::pin, task::Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    time::{Instant, timeout},
};
use tower::{Layer, ServiceExt, service_fn};

use super::{body::PIECE_MAX, *};
use crate::wire::{PeerAddress, RequestHead};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The only piece of an answer.
async fn piece(watch: &StallWatch, text: &'static str) -> Bytes {
    let mut body = pin!(watch.body(Full::new(Bytes::from_static(text.as_bytes()))));
    let frame = poll_fn(|context| body.as_mut().poll_frame(context)).await;
    frame.unwrap().unwrap().into_data().unwrap()
}

/// After how long it is to be ended, if it is within ten minutes.
async fn ended(watch: &StallWatch) -> Option<Duration> {
    let began = Instant::now();
    let stalled = timeout(secs(600), watch.stalled()).await;
    stalled.is_ok().then(|| began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_nobody_takes_ends_the_connection() {
    let watch = StallWatch::new();
    let kept = piece(&watch, "an answer").await;
    let after = ended(&watch).await.unwrap();
    assert!(after >= secs(30) && after <= secs(38), "after {after:?}");
    drop(kept);
    assert_eq!(ended(&watch).await, None);
}

#[tokio::test(start_paused = true)]
async fn who_reads_on_may_take_as_long_as_it_takes() {
    let watch = StallWatch::new();
    let large: Bytes = (0..=u8::MAX).cycle().take(10 * PIECE_MAX + 1).collect();
    let mut body = watch.body(Full::new(large.clone()));
    let reader = async {
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let left = body.size_hint().exact().unwrap();
            let piece = frame.unwrap().into_data().unwrap();
            sleep(secs(29)).await;
            read.extend_from_slice(&piece);
            assert_eq!(usize::try_from(left).unwrap() + read.len(), large.len());
            assert_eq!(body.is_end_stream(), left == 0);
        }
        read
    };
    tokio::select! {
        read = reader => assert_eq!(read, large),
        () = watch.stalled() => panic!("it went on"),
    }
    assert_eq!(ended(&watch).await, None, "all of it was taken");
}

/// As long as something refers to a part of a piece it isn't sent.
#[tokio::test(start_paused = true)]
async fn a_part_of_a_piece_is_none() {
    let watch = StallWatch::new();
    let mut piece = piece(&watch, "an answer").await;
    drop(piece.split_to(3));
    assert!(ended(&watch).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_is_empty_or_only_waited_for_stands_for_nothing() {
    let watch = StallWatch::new();
    let frame = Frame::data(Bytes::new());
    let empty = StreamBody::new(tokio_stream::once(Ok::<_, Infallible>(frame)));
    let mut empty = pin!(watch.body(empty));
    let frame = poll_fn(|context| empty.as_mut().poll_frame(context)).await;
    let silent = StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let mut silent = pin!(watch.body(silent));
    let waited = poll_fn(|context| Poll::Ready(silent.as_mut().poll_frame(context))).await;
    assert!(waited.is_pending());
    assert_eq!(ended(&watch).await, None);
    drop(frame);
}

#[tokio::test(start_paused = true)]
async fn trailers_pass() {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let told = trailers.clone();
    let body = Full::new(Bytes::from(vec![7; PIECE_MAX + 1]));
    let body = body.with_trailers(std::future::ready(Some(Ok(told))));
    let whole = StallWatch::new().body(body).collect().await.unwrap();
    assert_eq!(whole.trailers(), Some(&trailers));
    assert_eq!(whole.to_bytes(), vec![7; PIECE_MAX + 1]);
}

#[tokio::test(start_paused = true)]
async fn one_that_goes_on_keeps_the_others() {
    let watch = StallWatch::new().time_max(secs(8));
    let _kept = piece(&watch, "an answer").await;
    let others = async {
        for _ in 0..60 {
            sleep(secs(7)).await;
            drop(piece(&watch, "another").await);
        }
        Instant::now()
    };
    let went_on_until = tokio::select! {
        () = watch.stalled() => panic!("another went on"),
        until = others => until,
    };
    watch.stalled().await;
    let after = went_on_until.elapsed();
    assert!(after >= secs(8) && after <= secs(10), "after {after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_the_system_takes_nothing_of_ends_the_connection() {
    let (near, _far) = duplex(4);
    let (mut near, began) = (StallWatch::new().io(near), Instant::now());
    let failed = near.write_all(b"an answer").await.unwrap_err();
    let after = began.elapsed();
    assert_eq!(failed.kind(), ErrorKind::TimedOut);
    assert!(after >= secs(30) && after <= secs(38), "after {after:?}");
    for _ in 0..2 {
        assert!(near.write_all(b"more").await.is_err(), "it stays ended");
        assert!(near.read_u8().await.is_err(), "for both sides");
    }

    let (near, mut far) = duplex(4);
    let (mut near, mut read) = (StallWatch::new().io(near), [0; 9]);
    let reader = async {
        for byte in &mut read {
            sleep(secs(20)).await;
            *byte = far.read_u8().await.unwrap();
        }
    };
    let (written, ()) = tokio::join!(near.write_all(b"an answer"), reader);
    written.expect("it went on");
    assert_eq!(&read, b"an answer");
}

/// A server of HTTP/2 waits for what the client says next while it waits for room.
#[tokio::test(start_paused = true)]
async fn who_leaves_a_piece_lying_is_not_listened_to_either() {
    let (near, mut far) = duplex(64);
    let watch = StallWatch::new();
    let mut near = watch.io(near);
    far.write_all(b"GET").await.unwrap();
    near.read_exact(&mut [0; 3]).await.unwrap();
    let (kept, began) = (piece(&watch, "an answer").await, Instant::now());
    let failed = near.read_u8().await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::TimedOut);
    assert!(began.elapsed() >= secs(30) && began.elapsed() <= secs(38));
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_waited_for() {
    for said in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let (near, mut far) = duplex(64);
        let place = std::sync::Arc::new(());
        let mut near = StallWatch::new()
            .io(near)
            .keeping(std::sync::Arc::clone(&place));
        far.write_all(said.as_bytes()).await.unwrap();
        let (mut heard, began) = (Vec::new(), Instant::now());
        let failed = near.read_to_end(&mut heard).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::TimedOut);
        assert_eq!(
            (heard.as_slice(), began.elapsed()),
            (said.as_bytes(), secs(10))
        );
        assert_eq!(std::sync::Arc::strong_count(&place), 2);
        drop(near);
        assert_eq!(std::sync::Arc::strong_count(&place), 1, "its place is free");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_said_something_may_think() {
    let (near, mut far) = duplex(64);
    let mut near = StallWatch::new().greeting_within(secs(1)).io(near);
    far.write_all(b"GET").await.unwrap();
    near.read_exact(&mut [0; 3]).await.unwrap();
    let thinking = async {
        sleep(secs(600)).await;
        far.write_u8(7).await.unwrap();
    };
    let (heard, ()) = tokio::join!(near.read_u8(), thinking);
    assert_eq!(heard.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_layer_tells_whose_connection_it_is_and_watches_the_answer() {
    let hello = service_fn(async |request: Request<()>| {
        let peer = RequestHead::of(&request).peer();
        let text = peer.map_or_else(String::new, |peer| peer.to_string());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
    });
    let service = StallLayer::new().layer(hello);
    let watch = StallWatch::new().peer(([192, 0, 2, 1], 7).into());
    let mut request = Request::new(());
    request.extensions_mut().insert(watch.clone());
    // Whatever somebody said before.
    let other = PeerAddress(([192, 0, 2, 2], 8).into());
    request.extensions_mut().insert(other);
    let mut answer = service.clone().oneshot(request).await.unwrap();
    let frame = answer.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.data_ref().unwrap(), "192.0.2.1:7");
    assert!(ended(&watch).await.is_some());
    drop(frame);
    assert_eq!(ended(&watch).await, None);

    let unwatched = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(
        unwatched.into_body().collect().await.unwrap().to_bytes(),
        ""
    );
}
