//! Connections: how many there are, for how long one may be silent, and for how long it may leave its answers lying.

use std::{
    convert::Infallible,
    error::Error,
    fmt::Display,
    fs,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tollgate::{DrainLayer, DrainedBody, PeerAddress, StallWatch};
use tower::{Layer, Service, ServiceBuilder};

use super::{StartError, Stop};

/// How long a client may take to send a head, and for how long a connection may be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How often a client of HTTP/2 is asked whether it is still there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Requests under way on one connection of HTTP/2.
const STREAMS_MAX: u32 = 256;
/// How many connections there are at most, where the process may have any number of descriptors.
const CONNECTIONS_MAX: usize = 16_384;

/// Takes connections until it is told to stop, and then lets what is under way finish.
pub(crate) async fn serve_connections<S, B>(
    service: S,
    listener: TcpListener,
    stop: Stop,
) -> Result<(), StartError>
where
    S: Service<Request<DrainedBody<Incoming>>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (server, service) = (server(), DrainLayer::new().layer(service));
    let places = Arc::new(Semaphore::new(connections_max()));
    let connections = GracefulShutdown::new();
    let mut stopping = pin!(stop.requested());
    loop {
        let (place, stream, peer) = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = &mut stopping => break,
        };
        let begun = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&begun);
        let watch = StallWatch::new();
        let answers = watch.clone();
        let service = ServiceBuilder::new()
            .map_response(move |answer: Response<B>| answer.map(|body| answers.body(body)))
            .map_request(move |mut request: Request<Incoming>| {
                asked.store(true, Ordering::Relaxed);
                request.extensions_mut().insert(PeerAddress(peer));
                request
            })
            .service(service.clone());
        let service = TowerToHyperService::new(service);
        let connection = server.serve_connection(TokioIo::new(watch.io(stream)), service);
        let connection = connections.watch(connection.into_owned());
        tokio::spawn(async move {
            tokio::select! {
                () = last(connection, &begun) => {}
                () = watch.stalled() => tracing::info!(%peer, "an answer was left lying"),
            }
            drop(place);
        });
    }
    drop(listener);
    connections.shutdown().await;
    Ok(())
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .max_concurrent_streams(STREAMS_MAX);
    server
}

/// Serves a connection to its end. One on which nothing was asked for in time says not even which protocol it speaks, and so no
/// clock of a protocol runs for it.
async fn last<E: Display>(connection: impl Future<Output = Result<(), E>>, begun: &AtomicBool) {
    let mut connection = pin!(connection);
    let ended = match timeout(HEAD_WITHIN, &mut connection).await {
        Ok(ended) => ended,
        Err(_) if begun.load(Ordering::Relaxed) => connection.await,
        Err(_) => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

/// The next connection, once there is a place for it: until then it waits with the system, which has the more of them.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (Option<OwnedSemaphorePermit>, TcpStream, SocketAddr) {
    // It fails only where it is closed, which nobody does.
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // An event of a stream goes out when it is there. Who has hung up has no use for it.
                let _ = stream.set_nodelay(true);
                return (place, stream, peer);
            }
            Err(error) => {
                // Out of descriptors, most likely: the next try would fail as well.
                tracing::warn!(%error, "no connection was accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Seven of eight descriptors that this process may have: the database and others need some too.
fn connections_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = files.and_then(|columns| columns.split_whitespace().next());
    let soft = soft.and_then(|soft| soft.parse::<usize>().ok());
    soft.map_or(CONNECTIONS_MAX, |soft| {
        soft.saturating_sub(soft / 8).clamp(16, CONNECTIONS_MAX)
    })
}
