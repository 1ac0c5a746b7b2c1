//! Connections that say nothing, calls that take too long, and the end of the server.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    connect,
    pb::demo::echo_client::EchoClient,
    reason, say,
    support::{Demo, Server, silent},
    with_key,
};

/// A call that is written by hand: what becomes of it.
async fn called<B>(server: &Server, key: &str, timeout: Option<&str>, body: B) -> Status
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<B>();
    let url = format!("http://{}/tollgate.demo.v1.Echo/Say", server.address);
    let mut request = http::Request::post(url)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-api-key", key);
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let answer = client.request(request.body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("x-request-id"));
    assert!(answer.headers().contains_key("ratelimit"));
    let status = Status::from_header_map(answer.headers()).expect("in the head");
    drop(answer.into_body().collect().await);
    status
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_ended_and_holds_up_no_end() {
    let example = Demo::of("grpc");
    let server = example.start(&[]).await;
    let starts: [&[u8]; 3] = [
        b"",
        b"PRI * HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    let ends = starts.map(|start| silent(&server, start));
    let ended = timeout(
        Duration::from_secs(20),
        futures_util::future::join_all(ends),
    )
    .await;
    ended.expect("each is ended");

    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(TcpStream::connect(server.address).await.unwrap());
    }
    let told = Instant::now();
    server.stop().await.without_panic();
    assert!(
        told.elapsed() < Duration::from_secs(15),
        "{:?}",
        told.elapsed()
    );
}

/// More than there is room for: they wait with the system until there is, and the server neither
/// spins nor dies.
#[tokio::test]
async fn silent_connections_do_not_take_the_whole_server() {
    let example = Demo::of("grpc");
    let key = example.key("viewer").await;
    let launch = example.home().launch().with_descriptors(64);
    // All of them are of one address, which may have them all here.
    let launch = launch.env("CONNECTIONS_PER_ADDRESS", "1000");
    let server = launch.start().await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(TcpStream::connect(server.address).await.unwrap());
    }
    let body = Full::new(Bytes::from_static(&[0, 0, 0, 0, 2, 0xff, 0xff]));
    let status = timeout(Duration::from_secs(40), called(&server, &key, None, body)).await;
    assert_eq!(status.expect("it has its turn").code(), Code::Internal);
    server.stop().await.without_panic();
}

/// A connection of HTTP/2 with such a window for each answer.
async fn connection(
    server: &Server,
    window: u32,
) -> (
    hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    tokio::task::JoinHandle<hyper::Result<()>>,
) {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let client = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream));
    let (client, connection) = client.await.unwrap();
    (client, tokio::spawn(connection))
}

/// Says "hi" by hand.
fn said(server: &Server, key: &str) -> http::Request<Full<Bytes>> {
    let url = format!("http://{}/tollgate.demo.v1.Echo/Say", server.address);
    let message = Bytes::from_static(b"\0\0\0\0\x04\x0a\x02hi");
    let request = http::Request::post(url)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-api-key", key);
    request.body(Full::new(message)).unwrap()
}

/// Who asks and makes no room for the answer keeps it in the server's memory: not for ever.
#[tokio::test]
async fn a_connection_that_leaves_its_answers_lying_is_ended() {
    let example = Demo::of("grpc");
    let key = example.key("viewer").await;
    let server = example.start(&[]).await;
    let (mut client, connection) = connection(&server, 0).await;
    let mut lying = Vec::new();
    for _ in 0..3 {
        let answer = client.send_request(said(&server, &key)).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key("grpc-status"), "a message");
        lying.push(answer);
    }
    // Sooner than by its age, which asks and doesn't end.
    let ended = timeout(Duration::from_secs(50), connection).await;
    ended.expect("the server ends it").unwrap().ok();
    server.stop().await.without_panic();
}

/// An idle one has no other end, and what is under way on another goes on.
#[tokio::test]
async fn a_connection_is_asked_to_leave_after_a_while() {
    let example = Demo::of("grpc");
    let key = example.key("viewer").await;
    let server = example.start(&[]).await;
    let (mut client, idle) = connection(&server, 65_535).await;
    let answer = client.send_request(said(&server, &key)).await.unwrap();
    let trailers = answer.into_body().collect().await.unwrap();
    assert_eq!(trailers.trailers().unwrap()["grpc-status"], "0");
    let leaving = async {
        let ended = timeout(Duration::from_secs(90), idle).await;
        ended
            .expect("it is asked")
            .unwrap()
            .expect("and not cut off");
    };
    let words = "word ".repeat(3_500);
    let mut echo = EchoClient::new(connect(&server).await);
    let talking = async {
        let mut stream = echo
            .say_words(with_key(say(&words), &key))
            .await
            .unwrap()
            .into_inner();
        let (mut count, began) = (0, Instant::now());
        while stream.message().await.unwrap().is_some() {
            count += 1;
        }
        assert!(
            began.elapsed() > Duration::from_secs(65),
            "it was there meanwhile"
        );
        count
    };
    let (count, ()) = tokio::join!(talking, leaving);
    assert_eq!(count, 3_500, "all was said");
    // On another connection.
    echo.say(with_key(say("still there?"), &key)).await.unwrap();
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_refused_like_any_other() {
    let example = Demo::of("grpc");
    let key = example.key("viewer").await;
    let server = example.start(&[]).await;
    let mut echo = EchoClient::new(connect(&server).await);
    echo.say(with_key(say("who is it?"), &key)).await.unwrap();
    // A message of which no more comes than its head.
    let begun = http_body::Frame::data(Bytes::from_static(&[0, 0, 0, 0, 9]));
    let begun = futures_util::stream::iter([Ok::<_, std::io::Error>(begun)]);
    let begun = futures_util::StreamExt::chain(begun, futures_util::stream::pending());
    let status = called(&server, &key, Some("3S"), StreamBody::new(begun)).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(reason(&status), "TOO_SLOW");
    server.stop().await.without_panic();
}

#[tokio::test]
async fn what_tonic_refuses_says_why_too() {
    let example = Demo::of("grpc");
    let key = example.key("viewer").await;
    let server = example.start(&[]).await;
    let garbage = Full::new(Bytes::from_static(&[0, 0, 0, 0, 2, 0xff, 0xff]));
    let status = called(&server, &key, None, garbage).await;
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Internal, "INTERNAL".to_owned())
    );
    assert!(!status.message().is_empty(), "its words are kept");

    let mut health = HealthClient::new(connect(&server).await);
    let service = "no.such.Service".to_owned();
    let status = health
        .check(HealthCheckRequest { service })
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::NotFound, "NOT_FOUND".to_owned())
    );
    server.stop().await.without_panic();
}

#[tokio::test]
async fn nobody_who_goes_on_asking_what_there_is_holds_up_the_end() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    let example = Demo::of("grpc");
    let server = example.start(&[]).await;
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let questions = futures_util::stream::iter([question]);
    let questions = futures_util::StreamExt::chain(questions, futures_util::stream::pending());
    let mut answers = ServerReflectionClient::new(connect(&server).await)
        .server_reflection_info(questions)
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.unwrap().is_some());
    let told = Instant::now();
    server.stop().await.without_panic();
    assert!(
        told.elapsed() < Duration::from_secs(15),
        "{:?}",
        told.elapsed()
    );
}

#[tokio::test]
async fn whoever_watches_hears_of_the_end_and_holds_it_up_no_longer() {
    let example = Demo::of("grpc");
    let server = example.start(&[]).await;
    let mut health = HealthClient::new(connect(&server).await);
    let mut watched = Vec::new();
    for service in ["", "tollgate.demo.v1.Echo", "tollgate.bank.v1.Admin"] {
        let service = service.to_owned();
        let mut stream = health
            .watch(HealthCheckRequest { service })
            .await
            .unwrap()
            .into_inner();
        let status = stream.message().await.unwrap().unwrap().status();
        assert_eq!(status, ServingStatus::Serving);
        watched.push(stream);
    }
    let told = Instant::now();
    server.signal("TERM");
    for mut stream in watched {
        let status = stream.message().await.unwrap().unwrap().status();
        assert_eq!(status, ServingStatus::NotServing);
        assert!(stream.message().await.unwrap().is_none(), "that is all");
    }
    server.ended().await.without_panic();
    assert!(
        told.elapsed() < Duration::from_secs(15),
        "{:?}",
        told.elapsed()
    );
}
