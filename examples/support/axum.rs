//! Serving a router of axum's.

use std::net::SocketAddr;

use axum::Router;

use super::{StartError, listen, run_until};

/// Serves until SIGTERM or ctrl-c, and then what is under way to its end.
pub(crate) async fn serve(app: Router, port: u16) -> Result<(), StartError> {
    let (listener, stop) = listen(port).await?;
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let stopping = stop.clone().requested();
    let server = axum::serve(listener, service).with_graceful_shutdown(stopping);
    run_until(stop, server.into_future()).await
}
