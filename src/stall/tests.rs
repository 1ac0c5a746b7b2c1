use std::{convert::Infallible, future::poll_fn, pin::pin, task::Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use http_body_util::{Full, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    time::{Instant, timeout},
};

use super::*;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The only piece of an answer.
async fn piece(watch: &StallWatch, text: &'static str) -> WatchedData<Bytes> {
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
    let mut slow = piece(&watch, "an answer").await;
    let reader = async {
        while slow.has_remaining() {
            sleep(secs(29)).await;
            slow.advance(1);
        }
        slow
    };
    tokio::select! {
        read = reader => assert!(!read.has_remaining()),
        () = watch.stalled() => panic!("it went on"),
    }
    assert_eq!(ended(&watch).await, None, "all of it was taken");
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
    let watch = StallWatch::new();
    let (near, _far) = duplex(4);
    let mut near = watch.io(near);
    let after = tokio::select! {
        after = ended(&watch) => after.unwrap(),
        written = near.write_all(b"an answer") => panic!("{written:?}"),
    };
    assert!(after >= secs(30) && after <= secs(38), "after {after:?}");

    let watch = StallWatch::new();
    let (near, mut far) = duplex(4);
    let (mut near, mut read) = (watch.io(near), [0; 9]);
    let reader = async {
        for byte in &mut read {
            sleep(secs(20)).await;
            *byte = far.read_u8().await.unwrap();
        }
    };
    let both = async { tokio::join!(near.write_all(b"an answer"), reader) };
    tokio::select! {
        (written, ()) = both => written.unwrap(),
        () = watch.stalled() => panic!("it went on"),
    }
    assert_eq!(&read, b"an answer");
}
