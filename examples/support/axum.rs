//! Serving a router of axum's.

use axum::{Router, extract::DefaultBodyLimit};

use super::{StartError, listen, run_until, serve_connections};

/// What anybody may send to a login, in bytes.
const LOGIN_BYTES_MAX: usize = 16 * 1_024;

/// For routes that are asked by nobody in particular: their bodies are short.
pub(crate) fn short_bodies() -> DefaultBodyLimit {
    DefaultBodyLimit::max(LOGIN_BYTES_MAX)
}

/// Serves until SIGTERM or ctrl-c, and then what is under way to its end.
pub(crate) async fn serve(app: Router, port: u16) -> Result<(), StartError> {
    let (listener, stop) = listen(port).await?;
    run_until(stop.clone(), serve_connections(app, listener, stop)).await
}
