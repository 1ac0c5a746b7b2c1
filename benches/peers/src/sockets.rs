//! axum on a real socket, with the whole stack and without: requests a second, by turns.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{Router, routing::post};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::scene::{PATH, Scene, ratio};

const CONNECTIONS: usize = 32;
const ROUNDS: usize = 12;
const ROUND: Duration = Duration::from_millis(700);

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    address
}

async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    sender
}

/// Calls for the length of a round, and returns how many answers there were.
async fn caller(
    mut sender: SendRequest<Full<Bytes>>,
    key: String,
) -> (SendRequest<Full<Bytes>>, u128) {
    let (started, mut answers) = (Instant::now(), 0);
    while started.elapsed() < ROUND {
        let request = Request::post(PATH)
            .header("host", "localhost")
            .header("x-api-key", &key)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(b"{}")))
            .expect("a request");
        sender.ready().await.expect("a connection that stays");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.expect("a body");
        answers += 1;
    }
    (sender, answers)
}

/// Answers a second over all connections.
async fn round(senders: &mut Vec<SendRequest<Full<Bytes>>>, key: &str) -> u128 {
    let callers = senders
        .drain(..)
        .map(|sender| tokio::spawn(caller(sender, key.to_owned())));
    let callers: Vec<_> = callers.collect();
    let mut answers = 0;
    for caller in callers {
        let (sender, count) = caller.await.expect("no panic");
        senders.push(sender);
        answers += count;
    }
    answers * 1_000 / ROUND.as_millis()
}

/// Prints the medians of both, and their ratio.
pub(crate) async fn compare(scene: &Scene) {
    let app = || Router::new().route(PATH, post(async || r#"{"hello":"world"}"#));
    let bare = serve(app()).await;
    let gated = serve(app().layer(scene.whole())).await;
    let (mut to_bare, mut to_gated) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        to_bare.push(connect(bare).await);
        to_gated.push(connect(gated).await);
    }
    let (mut of_bare, mut of_gated) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_bare.push(round(&mut to_bare, scene.key.expose()).await);
        of_gated.push(round(&mut to_gated, scene.key.expose()).await);
    }
    let median = |mut rates: Vec<u128>| {
        rates.sort_unstable();
        rates[rates.len() / 2]
    };
    let (bare, gated) = (median(of_bare), median(of_gated));
    println!("\n| axum on a socket, {CONNECTIONS} connections | requests/s |");
    println!("|---|---|");
    println!("| bare | {bare} |");
    println!("| with the whole stack | {gated} |");
    println!("| ratio | {} |", ratio(gated, bare));
}
