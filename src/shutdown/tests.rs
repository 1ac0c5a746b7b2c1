use std::{convert::Infallible, future::pending};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode, Version, header::CONNECTION};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{client::conn::http2 as client, server::conn::http1, server::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::advance,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::{Layer, ServiceExt, service_fn};

use super::*;

const MOMENT: Duration = Duration::from_millis(1);

fn millis(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// A connection over HTTP/1 to a service that says hello.
fn connect(shutdown: &Shutdown) -> (DuplexStream, JoinHandle<()>) {
    let hello = service_fn(async |_: Request<_>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
    });
    let (near, far) = duplex(64 * 1_024);
    let open = shutdown.connection();
    let service = TowerToHyperService::new(open.layer(hello));
    let http = http1::Builder::new().serve_connection(TokioIo::new(near), service);
    let served = tokio::spawn(async move {
        let ended = open.serve(http, |http| http.graceful_shutdown()).await;
        ended.expect("a clean end");
    });
    (far, served)
}

async fn ask(client: &mut DuplexStream) -> String {
    let ask = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.write_all(ask).await.expect("it is open");
    let mut answer = vec![0; 1_024];
    let read = client.read(&mut answer).await.expect("an answer");
    answer.truncate(read);
    String::from_utf8(answer).expect("text")
}

/// How long it takes until the connection ends.
async fn end_of(client: &mut DuplexStream) -> Duration {
    let began = Instant::now();
    assert_eq!(client.read(&mut [0; 64]).await.expect("an end"), 0);
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn every_clone_sees_the_stop_and_its_time() {
    let shutdown = Shutdown::new();
    let waiting = shutdown.clone().stopping();
    let mut waiting = pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none() && !shutdown.is_stopping());
    shutdown.clone().stop();
    assert!(shutdown.is_stopping());
    assert_eq!(waiting.now_or_never(), Some(()));
    assert_eq!(shutdown.stopping().now_or_never(), Some(()));

    // Another stop begins no other time, and who asks late waits for what is left.
    advance(Duration::from_secs(20)).await;
    shutdown.stop();
    let began = Instant::now();
    shutdown.over().await;
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    assert_eq!(shutdown.over().now_or_never(), Some(()));
}

#[tokio::test(start_paused = true)]
async fn what_already_waits_is_accepted_after_the_stop_for_a_moment() {
    let shutdown = Shutdown::new();
    assert_eq!(shutdown.accept(async { 1 }).await, Some(1));
    shutdown.stop();
    assert_eq!(shutdown.accept(async { 2 }).await, Some(2));
    let began = Instant::now();
    assert_eq!(shutdown.accept(pending::<()>()).await, None);
    assert_eq!(began.elapsed(), millis(100));
    // However many are waiting.
    assert_eq!(shutdown.accept(async { 3 }).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_has_time_for_one_more_request() {
    let shutdown = Shutdown::new();
    let (mut client, served) = connect(&shutdown);
    for _ in 0..2 {
        let answer = ask(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("connection: close"));
    }
    shutdown.stop();
    sleep(millis(490)).await;
    let answer = ask(&mut client).await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(end_of(&mut client).await < MOMENT, "it said so");
    served.await.expect("no panic");
    assert!(shutdown.finished().now_or_never().is_some());
}

#[tokio::test]
async fn a_server_that_accepts_by_itself_answers_what_lies_in_a_socket() {
    let shutdown = Shutdown::new().linger(millis(200));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let app = axum::Router::new()
        .route("/", axum::routing::get(async || "hello"))
        .layer(shutdown.layer());
    let serving = axum::serve(listener, app).with_graceful_shutdown(shutdown.leaving());
    let of = shutdown.clone();
    let server = tokio::spawn(async move { of.run(serving).await });
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut kept = TcpStream::connect(address).await.expect("a connection");
    kept.write_all(request).await.expect("it is open");
    let mut answer = vec![0; 1_024];
    assert!(kept.read(&mut answer).await.expect("an answer") > 0);
    kept.write_all(request).await.expect("it is open");
    // One that waits to be accepted: nothing else runs before the stop.
    let mut waiting = std::net::TcpStream::connect(address).expect("a connection");
    std::io::Write::write_all(&mut waiting, request).expect("it is open");
    shutdown.stop();
    waiting.set_nonblocking(true).expect("a socket");
    let mut waiting = TcpStream::from_std(waiting).expect("a socket");
    for client in [&mut kept, &mut waiting] {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("an end");
        assert!(
            answer.contains("connection: close") && answer.ends_with("hello"),
            "{answer}"
        );
    }
    let served = server.await.expect("no panic").expect("its end");
    served.expect("no failure");
}

#[tokio::test(start_paused = true)]
async fn an_idle_one_is_asked_to_leave_after_the_stop() {
    let shutdown = Shutdown::new().linger(millis(700));
    let (mut client, _served) = connect(&shutdown);
    ask(&mut client).await;
    shutdown.stop();
    sleep(millis(300)).await;
    let (mut late, _served) = connect(&shutdown);
    let (early, late) = tokio::join!(end_of(&mut client), end_of(&mut late));
    assert!((400..=402).contains(&early.as_millis()), "{early:?}");
    assert!((700..=702).contains(&late.as_millis()), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_uses_is_asked_to_leave_while_the_server_goes_on() {
    let shutdown = Shutdown::new();
    let (mut client, _served) = connect(&shutdown);
    for _ in 0..4 {
        sleep(Duration::from_secs(50)).await;
        ask(&mut client).await;
    }
    let after = end_of(&mut client).await;
    assert!((60..=75).contains(&after.as_secs()), "{after:?}");
    assert!(!shutdown.is_stopping());
    shutdown.finished().await;
}

#[tokio::test(start_paused = true)]
async fn over_http2_a_stream_under_way_keeps_its_connection_until_its_end() {
    let (events, stream) = mpsc::unbounded_channel();
    let stream = std::sync::Mutex::new(Some(UnboundedReceiverStream::new(stream)));
    let stream = Arc::new(stream);
    let service = service_fn(move |_: Request<_>| {
        let stream = stream.lock().unwrap().take().expect("one request");
        async move { Ok::<_, Infallible>(Response::new(StreamBody::new(stream))) }
    });
    let shutdown = Shutdown::new();
    let (near, far) = duplex(64 * 1_024);
    let open = shutdown.connection();
    let service = TowerToHyperService::new(open.layer(service));
    let http = http2::Builder::new(TokioExecutor::new());
    let http = http.serve_connection(TokioIo::new(near), service);
    let served = tokio::spawn(open.serve(http, |http| http.graceful_shutdown()));
    let (mut sender, connection) = client::handshake(TokioExecutor::new(), TokioIo::new(far))
        .await
        .expect("a greeting");
    tokio::spawn(connection);

    let event = |text: &'static str| Ok::<_, Infallible>(Frame::data(Bytes::from(text)));
    events.send(event("one")).expect("it is read");
    let request = Request::new(Full::<Bytes>::default());
    let mut answer = sender.send_request(request).await.expect("an answer");
    assert!(answer.body_mut().frame().await.is_some());
    // Longer than an idle one may stay, and after the stop.
    sleep(Duration::from_secs(200)).await;
    shutdown.stop();
    sleep(Duration::from_secs(5)).await;
    assert!(shutdown.finished().now_or_never().is_none());
    events.send(event("two")).expect("it is read");
    drop(events);
    assert!(!answer.headers().contains_key(CONNECTION));
    let rest = answer.into_body().collect().await.expect("all of it");
    assert_eq!(rest.to_bytes(), "two");
    served.await.expect("no panic").expect("a clean end");
    shutdown.finished().await;
}

async fn answer_of(version: Version, status: StatusCode, shutdown: &Shutdown) -> Response<()> {
    let service = service_fn(move |_: Request<()>| {
        let answer = Response::builder().status(status).body(());
        async move { Ok::<_, Infallible>(answer.expect("an answer")) }
    });
    let mut request = Request::new(());
    *request.version_mut() = version;
    let answer = shutdown.layer().layer(service).oneshot(request).await;
    answer.expect("it never fails").map(|_| ())
}

#[tokio::test]
async fn only_answers_over_http1_end_their_connection_and_none_that_hands_it_over() {
    let shutdown = Shutdown::new();
    let closes = async |version, status| {
        let answer = answer_of(version, status, &shutdown).await;
        answer.headers().contains_key(CONNECTION)
    };
    assert!(!closes(Version::HTTP_11, StatusCode::OK).await);
    shutdown.stop();
    assert!(closes(Version::HTTP_11, StatusCode::OK).await);
    assert!(closes(Version::HTTP_10, StatusCode::NOT_FOUND).await);
    assert!(!closes(Version::HTTP_2, StatusCode::OK).await);
    assert!(!closes(Version::HTTP_11, StatusCode::SWITCHING_PROTOCOLS).await);
}

#[tokio::test]
async fn a_request_is_under_way_until_its_answer_is_dropped() {
    let shutdown = Shutdown::new();
    let layer = shutdown.layer();
    let is_finished = || shutdown.finished().now_or_never().is_some();
    assert!(is_finished());
    let hello = || service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(())));
    let asking = layer.layer(hello()).oneshot(Request::new(()));
    let other = layer.layer(hello()).oneshot(Request::new(()));
    let (first, second) = tokio::join!(asking, other);
    drop(first);
    assert!(!is_finished());
    drop(second);
    assert!(is_finished());

    let never = service_fn(|_: Request<()>| pending::<Result<Response<()>, Infallible>>());
    let mut asking = Box::pin(layer.layer(never).oneshot(Request::new(())));
    assert!(asking.as_mut().now_or_never().is_none() && !is_finished());
    drop(asking);
    assert!(is_finished());

    let fails = service_fn(async |_: Request<()>| Err::<Response<()>, _>("broken"));
    assert!(layer.layer(fails).oneshot(Request::new(())).await.is_err());
    assert!(is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_by_itself_stops_everything() {
    let shutdown = Shutdown::new();
    let (mut client, _served) = connect(&shutdown);
    ask(&mut client).await;
    let failed = shutdown.run(async { Err::<(), _>("no listener") }).await;
    assert_eq!(failed, Some(Err("no listener")));
    assert!(end_of(&mut client).await < MOMENT, "it was waited for");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_finish_is_waited_for_within_bounds() {
    let shutdown = Shutdown::new();
    let began = Instant::now();
    shutdown.stop();
    assert_eq!(shutdown.run(pending::<()>()).await, None);
    assert_eq!(began.elapsed(), Duration::from_secs(32));

    let shutdown = Shutdown::new().time_max(Duration::from_secs(7));
    let (open, began) = (shutdown.connection(), Instant::now());
    shutdown.stop();
    assert_eq!(shutdown.run(async { "ended" }).await, Some("ended"));
    assert_eq!(began.elapsed(), Duration::from_secs(9));
    drop(open);

    // What is cut off has a moment to be dropped.
    let shutdown = Shutdown::new();
    let (open, over, began) = (shutdown.connection(), shutdown.over(), Instant::now());
    shutdown.stop();
    let cut_off = open.serve(over, |_| {});
    let (ended, ()) = tokio::join!(shutdown.run(async { "ended" }), cut_off);
    assert_eq!(ended, Some("ended"));
    assert_eq!(began.elapsed(), Duration::from_secs(30));
}
