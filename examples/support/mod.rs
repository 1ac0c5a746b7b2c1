//! What the example servers share: settings from the environment, a store, a start and an end.

#![allow(dead_code, reason = "each server uses a part of it")]

#[cfg(feature = "axum")]
mod axum;
mod limits;
mod stores;

use std::{env, error::Error, io::IsTerminal, str::FromStr, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tollgate::{ClientAddress, ForwardedHeader};
use tracing_subscriber::{
    EnvFilter, Layer, filter::FilterExt, filter::filter_fn, layer::SubscriberExt,
    util::SubscriberInitExt,
};

#[cfg(feature = "axum")]
#[allow(unused_imports, reason = "not every server is axum's")]
pub(crate) use self::axum::serve;
#[allow(
    unused_imports,
    reason = "not every server shares them without a database"
)]
pub(crate) use self::limits::RateLimits;
#[allow(unused_imports, reason = "not every server has a database")]
pub(crate) use self::stores::Stores;

/// How long requests under way may take to finish after a SIGTERM.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Why a server doesn't start.
pub(crate) type StartError = Box<dyn Error + Send + Sync>;

/// Logs go to stderr; `RUST_LOG` says which.
pub(crate) fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

/// Logs go to stderr; `RUST_LOG` says which, besides those of `target`, which are always there.
pub(crate) fn log_always(target: &'static str) {
    let asked = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let always = filter_fn(move |event| event.target().starts_with(target));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(lines.with_filter(asked.or(always)))
        .init();
}

/// Settings from a file of the working folder, if there is one; the process's own outweigh them. Call it before there
/// are other threads.
pub(crate) fn read_env_file(name: &str) -> Result<(), StartError> {
    match dotenvy::from_path(name) {
        Err(error) if error.not_found() => Ok(()),
        // The error itself may repeat a line, and so a secret.
        Err(_) => Err(format!("{name}: can't be read as NAME=value lines").into()),
        Ok(()) => Ok(()),
    }
}

/// A setting from the environment, or `default`. One that can't be read stops the start.
pub(crate) fn setting<T: FromStr>(name: &str, default: T) -> Result<T, StartError>
where
    T::Err: std::fmt::Display,
{
    match env::var(name) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error| format!("{name}: {error}").into()),
        Err(env::VarError::NotPresent) => Ok(default),
        Err(error) => Err(format!("{name}: {error}").into()),
    }
}

/// A setting that may be missing; an empty one is missing.
pub(crate) fn optional(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

/// `TRUSTED_PROXIES`: comma-separated networks whose `X-Forwarded-For` is believed; none unless set.
pub(crate) fn client_address() -> Result<ClientAddress, StartError> {
    client_address_by(ForwardedHeader::XForwardedFor)
}

/// The same, by another header.
pub(crate) fn client_address_by(header: ForwardedHeader) -> Result<ClientAddress, StartError> {
    let text = optional("TRUSTED_PROXIES").unwrap_or_default();
    let networks = text
        .split(',')
        .map(str::trim)
        .filter(|network| !network.is_empty());
    let networks: Result<Vec<_>, _> = networks.map(tollgate::network::parse).collect();
    let networks = networks.map_err(|error| format!("TRUSTED_PROXIES: {error}"))?;
    Ok(ClientAddress::peer().trusting(networks, header))
}

/// Listens where `HOST` and `PORT` say, and says so on stdout.
pub(crate) async fn listen(port: u16) -> Result<TcpListener, StartError> {
    let host = optional("HOST").unwrap_or_else(|| "127.0.0.1".into());
    let port = setting("PORT", port)?;
    let listener = TcpListener::bind((host.as_str(), port))
        .await
        .map_err(|error| format!("HOST {host}, PORT {port}: {error}"))?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(listener)
}

/// SIGTERM or ctrl-c, for everybody who waits for it.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Begins to listen for the signals.
    pub(crate) fn on_signal() -> Result<Self, StartError> {
        let (stop, stopped) = watch::channel(false);
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            let _ = stop.send(true);
        });
        Ok(Self(stopped))
    }

    /// Waits for one of them.
    pub(crate) async fn requested(mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Waits for a server that stops accepting at `stop` and then serves what is under way to its end: for
/// 30 s at most.
pub(crate) async fn run_until<E>(
    stop: Stop,
    server: impl Future<Output = Result<(), E>>,
) -> Result<(), StartError>
where
    StartError: From<E>,
{
    tokio::select! {
        ended = server => ended?,
        () = async { stop.requested().await; tokio::time::sleep(DRAIN_MAX).await } => {
            tracing::warn!("some requests did not finish in time");
        }
    }
    Ok(())
}
