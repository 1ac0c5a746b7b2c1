//! A gRPC server with keys, tokens, roles per service, limits and money for every call.
//!
//! `cargo run --example grpc --features tonic,sqlite -- generate-key --role admin` prints a key;
//! without a command it serves. The services are described in `grpc/*.proto`, and by server
//! reflection.

#[path = "support/demo.rs"]
mod demo;
#[path = "support/generate.rs"]
mod generate;
#[path = "grpc/services.rs"]
mod services;
mod support;

/// Generated from `grpc/demo.proto` and `grpc/bank.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated"
)]
mod pb {
    pub(crate) mod demo {
        include!("grpc/generated/tollgate.demo.v1.rs");
    }

    pub(crate) mod bank {
        include!("grpc/generated/tollgate.bank.v1.rs");
    }

    pub(crate) const DESCRIPTORS: &[u8] = include_bytes!("grpc/generated/demo.bin");
}

use std::{io, sync::Arc, time::Duration};

use demo::Given;
use futures_util::{Stream, StreamExt, stream};
use http::Request;
use http_body_util::{BodyStream, StreamBody};
use pb::{
    bank::{account_server::AccountServer, admin_server::AdminServer},
    demo::{completion_server::CompletionServer, echo_server::EchoServer},
};
use services::Services;
use support::{Connections, PING_EVERY, STREAMS_MAX, StartError, listen, run};
use tokio::net::TcpStream;
use tollgate::{
    BodyDigestLayer, DeadlineLayer, DrainLayer, DrainedBody, Price, PriceTable, Shutdown,
    StallLayer, TokenBound,
    rbac::{InvalidRoute, RouteTable},
    role::Permission,
    spending_limit::DigestedBody,
    stall::WatchedIo,
    tonic::RequirePermission,
};
use tonic::{
    body::Body,
    server::NamedService,
    service::{LayerExt, Routes},
    transport::Server,
};
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};
use tower::util::MapRequestLayer;

/// How long a call may take to begin its answer, and so to send a whole message.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// The longest message that tonic reads, and its prefix.
const MESSAGE_BYTES_MAX: u64 = 4 * 1_024 * 1_024 + 5;
/// The age at which a connection is asked to leave once its calls are over, so no idle one stays
/// longer. Clients in use reconnect.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    demo::main("grpc", serve).await;
}

/// Methods that aren't listed don't exist.
fn permissions() -> Result<RouteTable, InvalidRoute> {
    let mut table = RouteTable::new().unknown_not_found();
    for (method, permission) in [
        ("demo.v1.Echo/Say", "read"),
        ("demo.v1.Echo/SayWords", "read"),
        ("demo.v1.Completion/Complete", "write"),
        ("demo.v1.Completion/CompleteStream", "write"),
        ("bank.v1.Account/GetBalance", "read"),
        ("bank.v1.Admin/TopUp", "configure"),
    ] {
        table = table.route("POST", &format!("/tollgate.{method}"), permission)?;
    }
    Ok(table)
}

/// Every method has its price.
fn prices() -> Result<PriceTable, StartError> {
    let by_word = Price::per_million_tokens("0".parse()?, "100".parse()?)
        .output_bound(TokenBound::Fixed(services::WORDS_MAX));
    let mut table = PriceTable::new();
    for (method, price) in [
        ("demo.v1.Echo/Say", Price::free()),
        ("demo.v1.Echo/SayWords", Price::free()),
        (
            "demo.v1.Completion/Complete",
            Price::flat("0.0020".parse()?),
        ),
        ("demo.v1.Completion/CompleteStream", by_word.into()),
        ("bank.v1.Account/GetBalance", Price::free()),
        ("bank.v1.Admin/TopUp", Price::free()),
    ] {
        table = table.route("POST", &format!("/tollgate.{method}"), price)?;
    }
    Ok(table)
}

async fn serve(given: &Given) -> Result<(), StartError> {
    let gate = demo::gate(given, permissions()?, prices()?)?
        // Load balancers and tools need no credential, but they are limited.
        .open_to_strangers(|head| {
            let path = head.path();
            path.starts_with("/grpc.health.v1.") || path.starts_with("/grpc.reflection.")
        })
        .build_reading_bodies(BodyDigestLayer::new().bytes_max(MESSAGE_BYTES_MAX))?;
    let (connections, shutdown) = listen(50_051).await?;
    let (reporter, health) = tonic_health::server::health_reporter();
    for name in SERVICES {
        let serving = ServingStatus::Serving;
        reporter.set_service_status(name, serving).await;
    }
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_EVERY))
        .max_concurrent_streams(STREAMS_MAX)
        .max_connection_age(CONNECTION_AGE_MAX)
        .layer(shutdown.layer())
        .layer(StallLayer::new())
        .layer(DrainLayer::new())
        .layer(gate)
        .layer(MapRequestLayer::new(
            |request: Request<DigestedBody<DrainedBody<Body>>>| request.map(Body::new),
        ))
        .layer(DeadlineLayer::new(HEAD_WITHIN))
        .add_routes(routes(given, health, &shutdown)?)
        .serve_with_incoming_shutdown(incoming(connections), shutdown.leaving());
    let leave = take_leave(reporter, &shutdown);
    let (served, ()) = tokio::join!(run(&shutdown, server), leave);
    served
}

/// Connections that end by themselves if their client says nothing, or stops reading.
fn incoming(connections: Connections) -> impl Stream<Item = io::Result<WatchedIo<TcpStream>>> {
    stream::unfold(connections, async |connections| {
        Some((Ok(connections.next().await?), connections))
    })
}

fn routes(
    given: &Given,
    health: HealthServer<impl Health>,
    shutdown: &Shutdown,
) -> Result<Routes, StartError> {
    let services = Services::new(Arc::clone(&given.stores.ledger));
    // A second check, independent of the gate's table.
    let require = |permission| RequirePermission::new(&given.roles, Permission::new(permission));
    let (read, write, configure) = (require("read"), require("write"), require("configure"));
    // Python's clients only know the older version.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
    };
    let ending = MapRequestLayer::new(ending_with(shutdown.clone()));
    Ok(Routes::new(health)
        .add_service(ending.named_layer(reflection().build_v1()?))
        .add_service(ending.named_layer(reflection().build_v1alpha()?))
        .add_service(EchoServer::with_interceptor(services.clone(), read.clone()))
        .add_service(CompletionServer::with_interceptor(services.clone(), write))
        .add_service(AccountServer::with_interceptor(services.clone(), read))
        .add_service(AdminServer::with_interceptor(services, configure)))
}

/// Ends reflection streams when the server stops; otherwise it would wait for them.
fn ending_with(shutdown: Shutdown) -> impl Fn(Request<Body>) -> Request<Body> + Clone {
    move |request| {
        let stopped = shutdown.stopping();
        request.map(|body| Body::new(StreamBody::new(BodyStream::new(body).take_until(stopped))))
    }
}

/// All services; the empty name is the whole server.
const SERVICES: [&str; 5] = [
    "",
    EchoServer::<Services>::NAME,
    CompletionServer::<Services>::NAME,
    AccountServer::<Services>::NAME,
    AdminServer::<Services>::NAME,
];

/// Reports at the end that nothing is served any more. That ends the streams of watching clients,
/// which the server would otherwise wait for.
async fn take_leave(mut reporter: HealthReporter, shutdown: &Shutdown) {
    shutdown.stopping().await;
    for name in SERVICES {
        let over = ServingStatus::NotServing;
        reporter.set_service_status(name, over).await;
        reporter.clear_service_status(name).await;
        reporter.set_service_status(name, over).await;
    }
}
