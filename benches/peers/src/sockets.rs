//! axum on a real socket, with the whole stack and without: requests a second, by turns.

use std::{
    future::ready,
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    middleware::map_response,
    response::Response,
    routing::post,
};
use bytes::Bytes;
use http::{
    HeaderMap, Request,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

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

/// An application, and what was measured of it.
struct Measured {
    name: &'static str,
    senders: Vec<SendRequest<Full<Bytes>>>,
    rates: Vec<u128>,
}

impl Measured {
    async fn of(name: &'static str, app: Router) -> Self {
        let (address, mut senders) = (serve(app).await, Vec::new());
        for _ in 0..CONNECTIONS {
            senders.push(connect(address).await);
        }
        Self {
            name,
            senders,
            rates: Vec::new(),
        }
    }

    fn median(&mut self) -> u128 {
        self.rates.sort_unstable();
        self.rates[self.rates.len() / 2]
    }
}

/// The header fields that the whole stack adds to an answer.
async fn fields(app: Router, scene: &Scene) -> HeaderMap {
    let peer = ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 4_711)));
    let request = Request::post(PATH).header("x-api-key", scene.key.expose());
    let request = request.extension(peer).body(Body::empty());
    let answer = app.oneshot(request.expect("a request")).await;
    let Ok(answer) = answer;
    let mut fields = answer.into_parts().0.headers;
    fields.remove(CONTENT_TYPE);
    fields.remove(CONTENT_LENGTH);
    fields
}

/// Prints the medians of a bare application, of one that writes the header fields of the whole
/// stack and does nothing for them, and of one behind the whole stack; and how the last compares
/// with the two.
pub(crate) async fn compare(scene: &Scene) {
    let app = || Router::new().route(PATH, post(async || r#"{"hello":"world"}"#));
    let gated = app().layer(scene.whole());
    let fields = fields(gated.clone(), scene).await;
    let writing = app().layer(map_response(move |mut answer: Response| {
        answer.headers_mut().extend(fields.clone());
        ready(answer)
    }));
    let mut all = [
        Measured::of("bare", app()).await,
        Measured::of("bare, with the same header fields", writing).await,
        Measured::of("with the whole stack", gated).await,
    ];
    for _ in 0..ROUNDS {
        for measured in &mut all {
            let rate = round(&mut measured.senders, scene.key.expose()).await;
            measured.rates.push(rate);
        }
    }
    println!("\n| axum on a socket, {CONNECTIONS} connections | requests/s |");
    println!("|---|---|");
    let medians = all.each_mut().map(Measured::median);
    for (measured, median) in all.iter().zip(medians) {
        println!("| {} | {median} |", measured.name);
    }
    let [bare, writing, gated] = medians;
    println!("| of bare | {} |", ratio(gated, bare));
    println!("| of bare with the header fields | {} |", ratio(gated, writing));
}
