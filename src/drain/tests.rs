use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::CONNECTION};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::{Instant, sleep};
use tower::{ServiceExt, service_fn};

use super::*;

/// Pieces of a KiB, each after a moment, and how many were asked for.
fn upload(
    pieces: usize,
    pause: Duration,
) -> (
    impl Body<Data = Bytes, Error = Infallible> + Unpin,
    Arc<AtomicUsize>,
) {
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&asked);
    let stream = futures_util::stream::unfold(0, move |number| {
        let asked = Arc::clone(&asked);
        async move {
            if number == pieces {
                return None;
            }
            sleep(pause).await;
            asked.fetch_add(1, Ordering::Relaxed);
            let piece = Frame::data(Bytes::from_static(&[0; 1_024]));
            Some((Ok::<_, Infallible>(piece), usize::saturating_add(number, 1)))
        }
    });
    (StreamBody::new(Box::pin(stream)), seen)
}

async fn refuse<B>(request: Request<DrainedBody<B>>) -> Result<Response<()>, Infallible>
where
    B: Body,
{
    drop(request);
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::UNAUTHORIZED;
    Ok(answer)
}

fn closes(answer: &Response<()>) -> bool {
    let connection = answer.headers().get(CONNECTION);
    connection.is_some_and(|value| value == "close")
}

const MOMENT: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn what_nobody_read_is_read_before_the_answer_goes_out() {
    let (body, asked) = upload(100, MOMENT);
    let service = DrainLayer::new().layer(service_fn(refuse));
    let answer = service.oneshot(Request::new(body)).await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(asked.load(Ordering::Relaxed), 100);
    assert!(!closes(&answer), "the next request may come");
}

#[tokio::test(start_paused = true)]
async fn it_is_read_within_bounds() {
    let layer = DrainLayer::new().bytes_max(10 * 1_024);
    let (body, asked) = upload(usize::MAX, MOMENT);
    let service = layer.layer(service_fn(refuse));
    let answer = service.oneshot(Request::new(body)).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 11, "one more is too much");
    assert!(closes(&answer));

    let (body, asked) = upload(usize::MAX, Duration::from_millis(300));
    let began = Instant::now();
    let service = DrainLayer::new().layer(service_fn(refuse));
    let answer = service.oneshot(Request::new(body)).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    assert!(closes(&answer));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_long_by_its_own_word_or_not_to_be_read_is_left() {
    let long = http_body_util::Full::new(Bytes::from_static(&[0; 1_025]));
    let layer = DrainLayer::new().bytes_max(1_024);
    let answer = layer.layer(service_fn(refuse)).oneshot(Request::new(long));
    let answer = answer.await.unwrap();
    assert!(answer.status() == 401 && closes(&answer));

    let (body, asked) = upload(9, MOMENT);
    let service = DrainLayer::new().layer(service_fn(refuse));
    let answer = service.oneshot(expecting(body)).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    assert!(closes(&answer));
}

fn expecting<B>(body: B) -> Request<B> {
    let mut request = Request::new(body);
    let continued = HeaderValue::from_static("100-continue");
    request.headers_mut().insert(EXPECT, continued);
    request
}

fn over_http2<B>(body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.version_mut() = Version::HTTP_2;
    request
}

#[tokio::test(start_paused = true)]
async fn over_http2_the_answer_goes_first_and_what_still_comes_is_read_after_it() {
    let (body, asked) = upload(100, MOMENT);
    let service = DrainLayer::new().layer(service_fn(refuse));
    let answer = service.oneshot(over_http2(body)).await.unwrap();
    assert!(answer.status() == 401 && !closes(&answer));
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 100);
}

/// Says when it is dropped, which resets a stream of HTTP/2.
struct Stream<B>(B, Arc<AtomicUsize>);

impl<B: Body + Unpin> Body for Stream<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }
}

impl<B> Drop for Stream<B> {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn over_http2_what_does_not_end_is_read_for_as_long_as_it_takes_the_answer_to_arrive() {
    let reset = Arc::new(AtomicUsize::new(0));
    let (body, asked) = upload(usize::MAX, MOMENT);
    let body = Stream(body, Arc::clone(&reset));
    // However much it is: what isn't read keeps others from sending.
    let layer = DrainLayer::new().bytes_max(10 * 1_024);
    let service = layer.layer(service_fn(refuse));
    service.oneshot(over_http2(body)).await.unwrap();
    sleep(Duration::from_millis(900)).await;
    assert!(asked.load(Ordering::Relaxed) > 100);
    assert_eq!(reset.load(Ordering::Relaxed), 0);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(reset.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn over_http2_a_body_that_has_all_come_leaves_others_their_turn() {
    let (body, asked) = upload(1_000, Duration::ZERO);
    let service = DrainLayer::new().layer(service_fn(refuse));
    service.oneshot(over_http2(body)).await.unwrap();
    assert!(asked.load(Ordering::Relaxed) <= 64);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1_000);
}

#[tokio::test(start_paused = true)]
async fn who_reads_it_gets_all_of_it_and_who_stops_leaves_the_rest() {
    let (body, asked) = upload(9, MOMENT);
    let service = DrainLayer::new().layer(service_fn(async |request: Request<_>| {
        let read = BodyExt::collect(Request::into_body(request)).await?;
        assert_eq!(read.to_bytes().len(), 9 * 1_024);
        Ok::<_, Infallible>(Response::new(()))
    }));
    service.oneshot(Request::new(body)).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 9);

    let (body, asked) = upload(9, MOMENT);
    let seen = Arc::clone(&asked);
    let service = DrainLayer::new().layer(service_fn(async |request: Request<_>| {
        let mut body: DrainedBody<_> = Request::into_body(request);
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(seen.load(Ordering::Relaxed), 1);
        Ok::<_, Infallible>(Response::new(()))
    }));
    // It was asked for by reading it, and is on its way.
    service.oneshot(expecting(body)).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 9);
}
