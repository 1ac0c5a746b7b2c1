//! What it costs that a stream's `usage` is read while it passes: 100 MB of server-sent events
//! through the spending limit and a socket, their own or a provider's, metered and not, by turns.
//!
//! `cargo bench --bench streams`
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::float_arithmetic,
    reason = "a bench measures with the system's clock, and ends where it fails"
)]

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tollgate::{
    CostSource, CredentialKind, Price, PriceTable, Principal, SpendingLimitLayer,
    money::Money,
    store::{AccountId, Ledger, MemoryStore},
    usage::Credit,
};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};

const TOTAL: usize = 100_000_000;
const ROUNDS: usize = 11;

/// The same pieces again and again.
#[derive(Clone)]
struct Stream {
    pieces: Vec<Bytes>,
    next: usize,
    left: usize,
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(left) = self.left.checked_sub(self.pieces[self.next].len()) else {
            return Poll::Ready(None);
        };
        self.left = left;
        let piece = self.pieces[self.next].clone();
        self.next = (self.next + 1) % self.pieces.len();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

fn event(number: usize) -> String {
    let head = r#""object":"chat.completion.chunk","created":1795000000,"model":"gpt-4o-mini","service_tier":"default""#;
    let choices = format!(
        r#"[{{"index":0,"delta":{{"content":" token{number}"}},"logprobs":null,"finish_reason":null}}]"#
    );
    format!(
        "data: {{\"id\":\"chatcmpl-{number:08}\",{head},\"choices\":{choices},\"usage\":null}}\n\n"
    )
}

/// Events in pieces of a size, or an event a piece. Few, because the bytes of a stream that passes
/// were just written: they are in the processor's cache.
fn stream(size: Option<usize>) -> Stream {
    let number = if size.is_some_and(|size| size > 65_536) {
        8_192
    } else {
        512
    };
    let events: Vec<String> = (0..number).map(event).collect();
    let pieces = match size {
        None => events.into_iter().map(Bytes::from).collect(),
        Some(size) => {
            let text = Bytes::from(events.concat());
            let starts = (0..text.len() / size).map(|number| number * size);
            starts.map(|at| text.slice(at..at + size)).collect()
        }
    };
    Stream {
        pieces,
        next: 0,
        left: TOTAL,
    }
}

/// The same layer and price on both sides; on one the answer's body is read.
fn layer(ledger: &MemoryStore, source: CostSource) -> SpendingLimitLayer {
    let dollar = Money::from_dollars(1).unwrap();
    let price = Price::per_million_tokens(dollar, dollar).cost_from(source);
    let prices = PriceTable::new().route("POST", "/chat", price).unwrap();
    SpendingLimitLayer::new(ledger.clone(), prices)
}

fn answer(stream: &Stream) -> Response<Stream> {
    let answer = Response::builder().header("content-type", "text/event-stream");
    answer.body(stream.clone()).unwrap()
}

/// In this process alone: the body's frames are asked for and dropped.
async fn passed(ledger: &MemoryStore, source: CostSource, stream: &Stream) -> Duration {
    let stream = stream.clone();
    let handler = service_fn(move |_| {
        let answer = answer(&stream);
        async { Ok::<_, Infallible>(answer) }
    });
    let mut request = Request::post("/chat").body(()).unwrap();
    let principal = Principal::builder("user-1", CredentialKind::ApiKey).build();
    request.extensions_mut().insert(principal);
    let answer = layer(ledger, source).layer(handler).oneshot(request).await;
    let mut body = std::pin::pin!(answer.unwrap().into_body());
    let started = Instant::now();
    while body.frame().await.is_some() {}
    started.elapsed()
}

/// Serves one connection on a socket of its own; returns its address and its end.
async fn served<S, B>(service: S) -> (SocketAddr, JoinHandle<()>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = BoxError>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let builder = auto::Builder::new(TokioExecutor::new());
        let connection =
            builder.serve_connection(TokioIo::new(socket), TowerToHyperService::new(service));
        let _ = connection.await;
    });
    (address, server)
}

/// It answers with the stream, or passes on the answer of a provider on another socket.
#[derive(Clone, Copy)]
enum Handler {
    Streams,
    Relays,
}

async fn relayed(provider: SocketAddr) -> Result<Response<Incoming>, BoxError> {
    let socket = TcpStream::connect(provider).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let request = Request::post("/chat").header("host", "provider");
    let request = request
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}

/// Through hyper and a socket, to a client that reads and forgets.
async fn sent(
    ledger: &MemoryStore,
    source: CostSource,
    stream: &Stream,
    handler: Handler,
) -> Duration {
    let stream = stream.clone();
    let own = service_fn(move |_: Request<Incoming>| {
        let answer = answer(&stream);
        async { Ok::<_, BoxError>(answer) }
    });
    let limited = layer(ledger, source);
    let known = |mut request: Request<Incoming>| {
        let principal = Principal::builder("user-1", CredentialKind::ApiKey).build();
        request.extensions_mut().insert(principal);
        request
    };
    let mut others = Vec::new();
    let (address, server) = match handler {
        Handler::Streams => {
            served(
                ServiceBuilder::new()
                    .map_request(known)
                    .layer(limited)
                    .service(own),
            )
            .await
        }
        Handler::Relays => {
            let (provider, sending) = served(own).await;
            others.push(sending);
            let relaying = service_fn(move |_: Request<Incoming>| relayed(provider));
            served(
                ServiceBuilder::new()
                    .map_request(known)
                    .layer(limited)
                    .service(relaying),
            )
            .await
        }
    };
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut room = vec![0; 262_144];
    let started = Instant::now();
    let head =
        b"POST /chat HTTP/1.1\r\nhost: bench\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut bytes = 0;
    loop {
        match client.read(&mut room).await.unwrap() {
            0 => break,
            read => bytes += read,
        }
    }
    let spent = started.elapsed();
    assert!(bytes >= TOTAL / 100 * 99, "{bytes} bytes came");
    server.await.unwrap();
    for other in others {
        other.await.unwrap();
    }
    spent
}

/// The median times in ms of a stream unread and read, and the share that reading adds.
async fn by_turns(ledger: &MemoryStore, stream: &Stream, handler: Handler) -> (f64, f64, f64) {
    let (mut plain, mut metered, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // What the machine does meanwhile falls on both sides of a turn.
        let before = sent(ledger, CostSource::Handler, stream, handler).await;
        let read = sent(ledger, CostSource::Body, stream, handler).await;
        let unread = (before + sent(ledger, CostSource::Handler, stream, handler).await) / 2;
        shares.push((read.as_secs_f64() / unread.as_secs_f64() - 1.0) * 100.0);
        plain.push(unread);
        metered.push(read);
    }
    shares.sort_unstable_by(f64::total_cmp);
    (middle(plain), middle(metered), shares[ROUNDS / 2])
}

fn middle(mut spent: Vec<Duration>) -> f64 {
    spent.sort_unstable();
    spent[spent.len() / 2].as_secs_f64() * 1_000.0
}

#[tokio::main]
async fn main() {
    let ledger = MemoryStore::new();
    let credit = Credit {
        account: AccountId::new("user-1").unwrap(),
        amount: Money::from_dollars(1_000_000).unwrap(),
        reference: "first".to_owned(),
    };
    ledger.credit(credit).await.unwrap();
    println!("100 MB of server-sent events, ms; the median of {ROUNDS} turns:");
    println!(
        "pieces             in process: plain  metered   through a socket: plain  metered  share   \
         relayed from another: plain  metered  share"
    );
    let sizes = [
        ("an event each", None),
        ("of 1,400 bytes", Some(1_400)),
        ("of 16 KiB", Some(16_384)),
        ("of 64 KiB", Some(65_536)),
        ("of 1 MiB", Some(1 << 20)),
    ];
    for (name, size) in sizes {
        let stream = stream(size);
        let (mut unread, mut read) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            unread.push(passed(&ledger, CostSource::Handler, &stream).await);
            read.push(passed(&ledger, CostSource::Body, &stream).await);
        }
        let (a, b) = (middle(unread), middle(read));
        let (c, d, sent) = by_turns(&ledger, &stream, Handler::Streams).await;
        let (e, f, relayed) = by_turns(&ledger, &stream, Handler::Relays).await;
        println!(
            "{name:16} {a:>18.1} {b:>8.1} {c:>25.1} {d:>8.1} {sent:>+5.1} % {e:>25.1} {f:>8.1} {relayed:>+5.1} %"
        );
    }
}
