//! Connections: how many there are, how long one may be silent, and how long its client may leave
//! an answer unread.

use std::{
    convert::Infallible,
    error::Error,
    fmt::Display,
    fs,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulConnection},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tollgate::{
    DrainLayer, DrainedBody, StallLayer, StallWatch, rate_limit::ConnectionLimit, stall::WatchedIo,
};
use tower::{Layer, Service, ServiceExt};

use super::{
    StartError, Stop,
    settings::{limit, trusted_proxies},
};

/// How long a client may take to send a head, and how long an HTTP/1.1 connection may be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long an HTTP/2 connection, which is meant to last, may be idle: this many checks, each after
/// this pause.
const IDLE_LOOKS: u32 = 4;
const IDLE_PAUSE: Duration = Duration::from_secs(15);
/// How often an HTTP/2 client is pinged, and how long it may take to answer.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(20);
/// Concurrent requests on one HTTP/2 connection.
pub(crate) const STREAMS_MAX: u32 = 256;
/// How long connections are still accepted after the signal to stop: those already waiting would be
/// lost with the listener.
const LAST_CALL: Duration = Duration::from_millis(100);
/// How long an idle connection then stays open: a request sent before the signal may not have been
/// read yet.
const LINGER: Duration = Duration::from_millis(500);
/// The most connections, if the process may have any number of descriptors.
const CONNECTIONS_MAX: u32 = 16_384;

/// Accepts a connection when there is a place for it; until then it waits in the system's queue,
/// which is larger. One address has at most half of the places, or `CONNECTIONS_PER_ADDRESS`, and
/// further connections from it are closed; trusted proxies, which speak for many, may use all. A
/// connection ends by itself if its client says nothing or stops reading, and at the latest when
/// the server no longer waits for it.
pub(crate) struct Connections {
    listener: TcpListener,
    places: Arc<Semaphore>,
    per_address: ConnectionLimit,
    stop: Stop,
}

impl Connections {
    pub(crate) fn new(listener: TcpListener, stop: Stop) -> Result<Self, StartError> {
        let max = connections_max();
        let per_address = limit("CONNECTIONS_PER_ADDRESS", max / 2)?;
        let per_address = ConnectionLimit::per_peer(per_address).add_proxies(trusted_proxies()?);
        Ok(Self {
            listener,
            places: Arc::new(Semaphore::new(usize::try_from(max)?)),
            per_address,
            stop,
        })
    }

    /// The next one.
    pub(crate) async fn next(&self) -> WatchedIo<TcpStream> {
        // Fails only if the semaphore is closed, which never happens.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let Some(of_address) = self.per_address.open(peer.ip()) else {
                        tracing::debug!(%peer, "its address has too many connections");
                        continue;
                    };
                    // Events of a stream are sent at once. If this fails, the client has hung up.
                    let _ = stream.set_nodelay(true);
                    let watch = StallWatch::new().greeting_within(HEAD_WITHIN).peer(peer);
                    let over = self.stop.clone().over();
                    return watch.io(stream).keeping((place, of_address)).ending(over);
                }
                Err(error) => {
                    // Most likely out of descriptors: an immediate retry would fail as well.
                    tracing::warn!(%error, "no connection was accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Serves connections until told to stop, then lets requests in flight finish.
pub(crate) async fn serve_connections<S, B>(
    service: S,
    connections: Connections,
    stop: Stop,
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
    let (open, mut closed) = mpsc::channel::<()>(1);
    let mut stopping = pin!(stop.clone().requested_since(LAST_CALL));
    loop {
        let connection = tokio::select! {
            connection = connections.next() => connection,
            () = &mut stopping => break,
        };
        let usage = Arc::new(Usage::default());
        let (used, watch, service, open_for_all) = (
            Arc::clone(&usage),
            connection.watch().clone(),
            service.clone(),
            open.clone(),
        );
        let stopped = stop.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(watch.clone());
            // The request, and with it the server, is in use for as long as its body exists.
            let under_way = (used.begin(), open_for_all.clone());
            let is_http1 = request.version() < Version::HTTP_2;
            let (answer, stop) = (service.clone().oneshot(request), stopped.clone());
            async move {
                let mut answer = answer.await?;
                if is_http1 && stop.is_requested() {
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(answer.map(|body| {
                    body.map_err(move |error| {
                        let _until_then = &under_way;
                        error
                    })
                }))
            }
        });
        let connection = server.serve_connection(TokioIo::new(connection), service);
        let (connection, stop, open) = (connection.into_owned(), stop.clone(), open.clone());
        tokio::spawn(async move {
            last(connection, &usage, stop).await;
            drop(open);
        });
    }
    drop((connections, open));
    // Nothing is ever sent: it ends when every connection has.
    closed.recv().await;
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

/// The requests of a connection.
#[derive(Default)]
struct Usage {
    requests: AtomicU64,
    under_way: AtomicU64,
}

/// A request, until its whole answer is sent.
struct UnderWay(Arc<Usage>);

impl Usage {
    fn begin(self: &Arc<Self>) -> UnderWay {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Waits until there was no request for a while.
    async fn idle(&self) {
        let (mut seen, mut looks) = (0, 0_u32);
        while looks < IDLE_LOOKS {
            sleep(IDLE_PAUSE).await;
            let requests = self.requests.load(Ordering::Relaxed);
            let is_idle = requests == seen && self.under_way.load(Ordering::Relaxed) == 0;
            (seen, looks) = (requests, if is_idle { looks.saturating_add(1) } else { 0 });
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection to its end, which is requested when the server stops or the connection has
/// been idle.
async fn last<C>(connection: C, usage: &Usage, stop: Stop)
where
    C: GracefulConnection,
    C::Error: Display,
{
    let mut connection = pin!(connection);
    let mut enough = pin!(async {
        tokio::select! { () = stop.requested_since(LINGER) => {}, () = usage.idle() => {} }
    });
    let mut is_leaving = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke");
                }
                return;
            }
            () = &mut enough, if !is_leaving => {
                is_leaving = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
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
