//! What the example servers share: settings from the environment, a store, startup and shutdown.

#![allow(dead_code, reason = "each server uses a part of it")]

#[cfg(feature = "axum")]
mod axum;
mod connections;
mod env_file;
mod limits;
mod settings;
mod stores;

use std::{
    error::Error,
    io::{self, IsTerminal},
    net::SocketAddr,
};

use tokio::{
    net::{TcpListener, TcpSocket, lookup_host},
    signal::unix::{SignalKind, signal},
};
use tollgate::Shutdown;
use tracing_subscriber::{
    EnvFilter, Layer, filter::FilterExt, filter::filter_fn, layer::SubscriberExt,
    util::SubscriberInitExt,
};

#[cfg(feature = "axum")]
#[allow(unused_imports, reason = "not every server is axum's")]
pub(crate) use self::axum::{all_keys, few_at_once, serve, short_bodies};
#[allow(
    unused_imports,
    reason = "axum's are served by `serve`, and tonic's by itself"
)]
pub(crate) use self::connections::{Connections, PING_EVERY, STREAMS_MAX, serve_connections};
#[allow(
    unused_imports,
    reason = "not every server shares them without a database"
)]
pub(crate) use self::limits::RateLimits;
#[allow(unused_imports, reason = "not every server has all of them")]
pub(crate) use self::settings::{
    DAY, MINUTE, SECOND, client_address, client_address_by, lifetime, limit, optional,
    read_env_file, secret, setting,
};
#[allow(unused_imports, reason = "not every server has a database")]
pub(crate) use self::stores::Stores;

/// Bytes that the system buffers per connection, and how many connections may wait to be accepted.
const SEND_BUFFER: u32 = 128 * 1024;
const BACKLOG: u32 = 1_024;

/// Why a server doesn't start.
pub(crate) type StartError = Box<dyn Error + Send + Sync>;

/// Logs go to stderr, filtered by `RUST_LOG`.
pub(crate) fn log_to_stderr() {
    log_as_asked(|filter| {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .init();
    });
}

/// Logs go to stderr, filtered by `RUST_LOG`, except those of `target`, which are always written.
pub(crate) fn log_always(target: &'static str) {
    log_as_asked(|filter| {
        let always = filter_fn(move |event| event.target().starts_with(target));
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        tracing_subscriber::registry()
            .with(lines.with_filter(filter.or(always)))
            .init();
    });
}

/// Starts logging. An invalid `RUST_LOG` is reported in the log, and treated as `info`.
fn log_as_asked(begin: impl FnOnce(EnvFilter)) {
    let asked = optional("RUST_LOG").and_then(|text| {
        let filter = EnvFilter::try_new(text.as_deref().unwrap_or("info"));
        filter.map_err(|error| format!("RUST_LOG: {error}").into())
    });
    match asked {
        Ok(filter) => begin(filter),
        Err(error) => {
            begin(EnvFilter::new("info"));
            tracing::warn!(%error, "it is taken for `info`");
        }
    }
}

/// Listens on `HOST` and `PORT`, and prints that to stdout. The signals are registered before,
/// because whoever reads the line may already send one.
pub(crate) async fn listen(port: u16) -> Result<(Connections, Shutdown), StartError> {
    let shutdown = stop_on_signal()?;
    let host = optional("HOST")?.unwrap_or_else(|| "127.0.0.1".into());
    let port = setting("PORT", port)?;
    let listener = bind(&host, port)
        .await
        .map_err(|error| format!("HOST {host}, PORT {port}: {error}"))?;
    let address = listener.local_addr()?;
    let connections = Connections::new(listener, shutdown.clone())?;
    println!("listening on http://{address}");
    Ok((connections, shutdown))
}

/// The first of a host's addresses that can be bound. Connections have send buffers of a fixed
/// size, so that slow readers are noticed soon.
async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in lookup_host((host, port)).await? {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let listener = socket.and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.set_send_buffer_size(SEND_BUFFER)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        });
        match listener {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A handle that stops the server on SIGTERM or ctrl-c.
fn stop_on_signal() -> Result<Shutdown, StartError> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let shutdown = Shutdown::new();
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        stopping.stop();
    });
    Ok(shutdown)
}

/// Waits for a server that stops accepting after a signal and then finishes requests in flight, for
/// 30 s at most. Connections that last longer end by themselves, and the cost of their answers is
/// settled.
pub(crate) async fn run<E>(
    shutdown: &Shutdown,
    server: impl Future<Output = Result<(), E>>,
) -> Result<(), StartError>
where
    StartError: From<E>,
{
    // It is large, and would otherwise be moved into each future around it.
    if let Some(ended) = shutdown.run(Box::pin(server)).await {
        ended?;
    }
    Ok(())
}
