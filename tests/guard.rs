//! The machinery under every layer: what it hands on, what it waits for, what it costs.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    convert::Infallible,
    future::{Future, pending, ready},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::{Extensions, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tollgate::{
    RequestHead,
    denial::{Denial, DenialKind},
    guard::{BodyEnd, Decision, Gate, Meter, Permit, Policy, ResponseMarks, Tail, Verdict},
    store::StoreFuture,
};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Notes what happens to a request, in order.
#[derive(Clone, Debug, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Admits everything, and meters the body.
#[derive(Clone, Debug)]
struct Metering {
    diary: Diary,
    slow: bool,
    settles: bool,
}

struct Watch(Metering, bool);

impl Policy for Metering {
    type Permit = Watch;

    fn name(&self) -> &'static str {
        "metering"
    }

    fn decide(&self, _: &RequestHead<'_>) -> Decision<Watch> {
        let permit = Watch(self.clone(), false);
        if self.slow {
            return Decision::pending(async move {
                tokio::task::yield_now().await;
                Verdict::Admit(permit)
            });
        }
        Decision::Ready(Verdict::Admit(permit))
    }
}

impl Permit for Watch {
    type Meter = Self;

    fn mark_request(&mut self, extensions: &mut Extensions) {
        extensions.insert("marked");
    }

    fn mark_response(self, response: ResponseMarks<'_>) -> Tail<Self> {
        self.0
            .diary
            .note(format!("head {}", response.status.as_u16()));
        Tail::Metered(self)
    }

    fn inner_failed(mut self) {
        self.1 = true;
        self.0.diary.note("inner failed");
    }
}

impl Meter for Watch {
    fn data(&mut self, piece: &[u8]) {
        self.0.diary.note(format!("data {}", piece.len()));
    }

    fn end(mut self, how: BodyEnd) -> Option<StoreFuture<()>> {
        self.1 = true;
        self.0.diary.note(format!("end {how:?}"));
        let diary = self.0.diary.clone();
        self.0.settles.then(|| {
            StoreFuture::new(async move {
                tokio::task::yield_now().await;
                diary.note("settled");
                Ok(())
            })
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.1 {
            self.0.diary.note("dropped");
        }
    }
}

fn metering() -> (Gate<Metering>, Diary) {
    let diary = Diary::default();
    (
        Gate::new(Metering {
            diary: diary.clone(),
            slow: false,
            settles: false,
        }),
        diary,
    )
}

fn answering<B: Clone + Send>(
    body: B,
) -> impl Service<Request<()>, Response = Response<B>, Error = Infallible, Future: Send> + Clone {
    service_fn(move |_| ready(Ok(Response::new(body.clone()))))
}

type Pieces = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, &'static str>>>>;

fn pieces(pieces: Vec<Result<&'static str, &'static str>>) -> Pieces {
    let frames: Vec<_> = pieces
        .into_iter()
        .map(|piece| piece.map(|text| Frame::data(Bytes::from(text))))
        .collect();
    StreamBody::new(stream::iter(frames))
}

#[tokio::test]
async fn a_body_of_known_length_ends_with_its_last_piece() {
    let (gate, diary) = metering();
    let service = gate.layer(answering(Full::new(Bytes::from("hello"))));
    let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
    assert_eq!(body.size_hint().exact(), Some(5));
    assert!(!body.is_end_stream());
    // A server stops asking when it has all bytes; by then the meter must have ended.
    body.frame().await.unwrap().unwrap();
    assert_eq!(diary.read(), ["head 200", "data 5", "end Complete"]);
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn an_announced_length_counts_where_the_body_does_not_tell() {
    let (gate, diary) = metering();
    let service = gate.layer(service_fn(async |_: Request<()>| {
        let body = pieces(vec![Ok("he"), Ok("llo")]);
        Response::builder().header("content-length", 5).body(body)
    }));
    let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    body.frame().await.unwrap().unwrap();
    assert_eq!(
        diary.read(),
        ["head 200", "data 2", "data 3", "end Complete"]
    );
}

#[tokio::test]
async fn the_last_frame_waits_until_the_settlement_is_written() {
    let diary = Diary::default();
    let gate = Gate::new(Metering {
        diary: diary.clone(),
        slow: false,
        settles: true,
    });
    let service = gate.layer(answering(Full::new(Bytes::from("hello"))));
    let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
    assert!(
        body.frame().now_or_never().is_none(),
        "the settlement is not there yet"
    );
    assert_eq!(
        body.size_hint().exact(),
        Some(5),
        "the held frame still counts"
    );
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "hello"
    );
    assert_eq!(
        diary.read(),
        ["head 200", "data 5", "end Complete", "settled"]
    );
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn an_answer_without_a_body_waits_with_its_head() {
    for (method, status) in [
        (Method::HEAD, StatusCode::OK),
        (Method::GET, StatusCode::NO_CONTENT),
        (Method::GET, StatusCode::SWITCHING_PROTOCOLS),
    ] {
        let diary = Diary::default();
        let gate = Gate::new(Metering {
            diary: diary.clone(),
            slow: true,
            settles: true,
        });
        let service = gate.layer(service_fn(move |_: Request<()>| {
            let body = Full::new(Bytes::from("not asked for"));
            ready(Response::builder().status(status).body(body))
        }));
        let request = Request::builder().method(method).body(()).unwrap();
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(diary.read().last().unwrap(), "settled");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_end_its_error_or_its_reader() {
    let ends = [
        (vec![Ok("a"), Ok("b")], "end Complete", true),
        (vec![Ok("a"), Err("broken")], "end Failed", true),
        (vec![Ok("a"), Ok("b")], "dropped", false),
    ];
    for (frames, last, read_on) in ends {
        let (gate, diary) = metering();
        let service = gate.layer(service_fn(move |_: Request<()>| {
            ready(Ok::<_, Infallible>(Response::new(pieces(frames.clone()))))
        }));
        let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        while read_on && body.frame().await.is_some_and(|frame| frame.is_ok()) {}
        drop(body);
        assert_eq!(diary.read().last().unwrap(), last);
        assert_eq!(
            diary
                .read()
                .iter()
                .filter(|note| note.starts_with("end"))
                .count(),
            usize::from(read_on)
        );
    }
}

#[tokio::test]
async fn trailers_go_out_behind_the_end() {
    let (gate, diary) = metering();
    let service = gate.layer(service_fn(async |_: Request<()>| {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", 0.into());
        let frames = vec![
            Ok::<_, Infallible>(Frame::data(Bytes::from("a"))),
            Ok(Frame::trailers(trailers)),
        ];
        Ok::<_, Infallible>(Response::new(StreamBody::new(stream::iter(frames))))
    }));
    let body = service.oneshot(Request::new(())).await.unwrap().into_body();
    let collected = body.collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(diary.read(), ["head 200", "data 1", "end Complete"]);
}

#[tokio::test]
async fn a_client_that_leaves_and_a_panic_drop_the_permit() {
    let (gate, diary) = metering();
    let service = gate.layer(service_fn(|_: Request<()>| {
        pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    }));
    drop(service.oneshot(Request::new(())).now_or_never());
    assert_eq!(diary.read(), ["dropped"]);

    let (gate, diary) = metering();
    let service = gate.layer(service_fn(
        async |_: Request<()>| -> Result<Response<Empty<Bytes>>, Infallible> {
            panic!("in the handler")
        },
    ));
    assert!(
        tokio::spawn(service.oneshot(Request::new(())))
            .await
            .unwrap_err()
            .is_panic()
    );
    assert_eq!(diary.read(), ["inner failed"]);

    let (gate, diary) = metering();
    let service = gate.layer(service_fn(async |_: Request<()>| {
        Err::<Response<Empty<Bytes>>, _>("down")
    }));
    assert_eq!(service.oneshot(Request::new(())).await.unwrap_err(), "down");
    assert_eq!(diary.read(), ["inner failed"]);
}

/// Refuses everything.
#[derive(Clone, Debug)]
struct Closed;

impl Policy for Closed {
    type Permit = ();

    fn name(&self) -> &'static str {
        "closed"
    }

    fn decide(&self, _: &RequestHead<'_>) -> Decision<()> {
        Decision::Ready(Verdict::Refuse(Denial::new(DenialKind::NotPermitted)))
    }
}

#[tokio::test]
async fn a_refusal_has_a_body_whatever_the_inner_body_is() {
    async fn refused<B>(body: B) -> usize
    where
        B: Body + Clone + Send,
        B::Data: 'static,
        B::Error: std::fmt::Debug,
    {
        let response = Gate::new(Closed)
            .layer(answering(body))
            .oneshot(Request::new(()))
            .await
            .unwrap();
        assert_eq!(response.status(), 403);
        assert!(
            response.extensions().get::<Denial>().is_some(),
            "outer layers can see it"
        );
        let announced = response.body().size_hint().exact().unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(u64::try_from(bytes.len()).unwrap(), announced);
        bytes.len()
    }
    assert!(refused(Full::new(Bytes::new())).await > 10);
    assert!(refused(Empty::<Bytes>::new()).await > 10);
    assert!(refused(Full::new(std::collections::VecDeque::<u8>::new())).await > 10);
    assert!(refused(String::new()).await > 10);
    assert!(refused(Full::new(bytes::BytesMut::new())).await > 10);
    // What its pieces can't be made of is not announced either: a server would wait for it.
    assert_eq!(refused(Full::new(b"hello".as_slice())).await, 0);
}

#[tokio::test]
async fn the_service_that_was_ready_is_the_one_that_is_called() {
    let (mock, mut handle) = tower_test::mock::pair::<Request<()>, Response<String>>();
    let diary = Diary::default();
    let gate = Gate::new(Metering {
        diary,
        slow: true,
        settles: false,
    });
    let mut service = gate.layer(mock);
    handle.allow(1);
    service.ready().await.unwrap();
    let answer = tokio::spawn(service.call(Request::new(())));
    let (request, respond) = handle.next_request().await.unwrap();
    assert_eq!(request.extensions().get::<&str>(), Some(&"marked"));
    respond.send_response(Response::new("done".into()));
    assert_eq!(answer.await.unwrap().unwrap().status(), 200);
}

#[derive(Debug, Default)]
struct Counted(Arc<AtomicUsize>);

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Service<Request<()>> for Counted {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(Empty::new())))
    }
}

#[tokio::test]
async fn a_ready_decision_clones_nothing_and_a_pending_one_clones_once() {
    for (slow, clones) in [(false, 0), (true, 1)] {
        let counted = Counted::default();
        let count = Arc::clone(&counted.0);
        let gate = Gate::new(Metering {
            diary: Diary::default(),
            slow,
            settles: false,
        });
        let mut service = gate.layer(counted);
        service
            .ready()
            .await
            .unwrap()
            .call(Request::new(()))
            .await
            .unwrap();
        assert_eq!(count.load(Ordering::Relaxed), clones);
    }
}

#[tokio::test]
async fn shadow_and_skip_let_through() {
    let inner = answering(Full::new(Bytes::from("hello")));
    let shadow = Gate::new(Closed).shadow().layer(inner.clone());
    assert_eq!(
        shadow.oneshot(Request::new(())).await.unwrap().status(),
        200
    );

    let skipping = Gate::new(Closed)
        .skip_paths(["/healthz"])
        .skip_preflight()
        .layer(inner);
    let at = |path: &str| {
        skipping
            .clone()
            .oneshot(Request::get(path).body(()).unwrap())
    };
    assert_eq!(at("/healthz").await.unwrap().status(), 200);
    for path in ["/healthz/", "/Healthz", "/healthz2", "/%68ealthz", "/"] {
        assert_eq!(at(path).await.unwrap().status(), 403, "{path}");
    }
    let preflight = Request::options("/x")
        .header("origin", "https://a.example")
        .header("access-control-request-method", "POST")
        .body(())
        .unwrap();
    assert_eq!(
        skipping.clone().oneshot(preflight).await.unwrap().status(),
        200
    );
    let bare = Request::options("/x").body(()).unwrap();
    assert_eq!(skipping.oneshot(bare).await.unwrap().status(), 403);
}

#[test]
fn a_ready_answer_takes_one_poll() {
    let mut service = Gate::new(Closed).layer(answering(Empty::<Bytes>::new()));
    let answer = pin!(service.call(Request::new(())));
    assert!(
        answer
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    );
}

#[test]
fn futures_and_bodies_can_be_sent() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let (gate, _) = metering();
    let mut service = sendable(gate.layer(answering(Full::new(Bytes::from("hello")))));
    let answer: Pin<Box<dyn Future<Output = _> + Send>> =
        Box::pin(sendable(service.call(Request::new(()))));
    drop(sendable(answer.now_or_never()));
    drop(stream::empty::<()>().collect::<Vec<_>>());
}
