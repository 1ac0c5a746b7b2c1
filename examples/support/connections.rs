//! Connections: how many there are, how long one may be silent, and how long its client may leave
//! an answer unread.

use std::{convert::Infallible, error::Error, fs, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tollgate::{
    DrainLayer, DrainedBody, Shutdown, StallLayer, StallWatch, rate_limit::ConnectionLimit,
    stall::WatchedIo,
};
use tower::{Layer, Service, ServiceExt};

use super::{
    StartError,
    settings::{limit, trusted_proxies},
};

/// How long a client may take to send a head, and how long an HTTP/1.1 connection may be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How often an HTTP/2 client is pinged, and how long it may take to answer.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(20);
/// Concurrent requests on one HTTP/2 connection.
pub(crate) const STREAMS_MAX: u32 = 256;
/// The most connections, if the process may have any number of descriptors.
const CONNECTIONS_MAX: u32 = 16_384;

/// Accepts a connection when there is a place for it; until then it waits in the system's queue,
/// which is larger. One address has at most half of the places, or `CONNECTIONS_PER_ADDRESS`, and
/// further connections from it are closed; trusted proxies, which speak for many, may use all. A
/// connection ends by itself if its client says nothing or stops reading, and at the latest when
/// the server no longer waits for it.
pub(crate) struct Connections {
    listener: TcpListener,
    limit: ConnectionLimit,
    shutdown: Shutdown,
}

impl Connections {
    pub(crate) fn new(listener: TcpListener, shutdown: Shutdown) -> Result<Self, StartError> {
        let max = connections_max();
        let per_address = limit("CONNECTIONS_PER_ADDRESS", max / 2)?;
        let limit = ConnectionLimit::per_peer(per_address).in_all(max);
        Ok(Self {
            listener,
            limit: limit.add_proxies(trusted_proxies()?),
            shutdown,
        })
    }

    /// The next one, or `None` when the server stops.
    pub(crate) async fn next(&self) -> Option<WatchedIo<TcpStream>> {
        self.shutdown.accept(self.accepted()).await
    }

    async fn accepted(&self) -> WatchedIo<TcpStream> {
        let (stream, peer, place) = self.limit.accept(|| self.listener.accept()).await;
        // Events of a stream are sent at once. If this fails, the client has hung up.
        let _ = stream.set_nodelay(true);
        let watch = StallWatch::new().greeting_within(HEAD_WITHIN).peer(peer);
        let over = self.shutdown.over();
        watch.io(stream).keeping(place).ending(over)
    }
}

/// Accepts connections until told to stop, and serves each to its end in a task.
pub(crate) async fn serve_connections<S, B>(
    service: S,
    connections: Connections,
) -> Result<(), StartError>
where
    S: Service<Request<DrainedBody<Incoming>>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let service = StallLayer::new().layer(DrainLayer::new().layer(service));
    let server = server();
    while let Some(connection) = connections.next().await {
        let open = connections.shutdown.connection();
        let watch = connection.watch().clone();
        let service = service
            .clone()
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(watch.clone());
                request
            });
        let service = TowerToHyperService::new(open.layer(service));
        let http = server.serve_connection(TokioIo::new(connection), service);
        let served = open.serve(http.into_owned(), |http| http.graceful_shutdown());
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
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

/// Seven eighths of the process's descriptors: the database and others need some too.
fn connections_max() -> u32 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = files.and_then(|columns| columns.split_whitespace().next());
    let soft = soft.and_then(|soft| soft.parse::<u32>().ok());
    soft.map_or(CONNECTIONS_MAX, |soft| {
        soft.saturating_sub(soft / 8).clamp(16, CONNECTIONS_MAX)
    })
}
