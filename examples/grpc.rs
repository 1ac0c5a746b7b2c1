//! A gRPC server with keys, tokens, roles per service, limits and money for every call.
//!
//! `cargo run --example grpc --features tonic,sqlite -- generate-key --role admin` prints a key; without a
//! command it serves. `grpc/*.proto` say what there is to call, and so does server reflection.

#[path = "support/generate.rs"]
mod generate;
#[path = "grpc/services.rs"]
mod services;
mod support;

/// Made from `grpc/demo.proto` and `grpc/bank.proto`.
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

use std::{sync::Arc, time::Duration};

use generate::Command;
use pb::{
    bank::{account_server::AccountServer, admin_server::AdminServer},
    demo::{completion_server::CompletionServer, echo_server::EchoServer},
};
use services::Services;
use support::{StartError, Stop, Stores, client_address, limit, listen, run_until};
use tokio::net::TcpListener;
use tollgate::{
    ApiKeyLayer, JwtLayer, Price, PriceTable, RbacLayer, TokenBound, Tollgate, TollgateLayer,
    api_key::ApiKeyPolicy,
    guard::Or,
    jwt::JwtPolicy,
    key::KeyFormat,
    keyring::{KeyResolver, Keyring},
    quota::Quota,
    rbac::{InvalidRoute, RouteTable},
    role::{Permission, Requirement, RoleSet},
    token::{SigningSecret, TokenVerifier},
    tonic::RequirePermission,
};
use tonic::transport::{Server, server::TcpIncoming};

/// How long a call may take to begin its answer, and so to send a message whole.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// How often a client is asked whether it is still there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Calls under way on one connection.
const STREAMS_MAX: u32 = 256;

#[tokio::main]
async fn main() {
    support::log_to_stderr();
    if let Err(error) = run().await {
        tracing::error!(%error, "the server ends");
        std::process::exit(1);
    }
}

async fn run() -> Result<(), StartError> {
    let roles = RoleSet::viewer_operator_admin();
    let command = Command::of_process(&roles)?;
    let stores = Stores::open("grpc").await?;
    let secret = stores.signing_secret()?;
    let (ring, keys) = keys(&stores)?;
    match command {
        Command::Key(wanted) => println!("{}", generate::key(wanted, &stores, ring).await?),
        Command::Token(wanted) => println!("{}", generate::token(&wanted, &secret)?),
        Command::Serve => {
            let gate = gate(&stores, keys, &secret, &roles)?;
            let (listener, stop) = listen(50_051).await?;
            let server = serve(gate, &roles, &stores, listener, stop.clone());
            run_until(stop, server).await?;
        }
    }
    Ok(stores.close().await?)
}

fn keys(stores: &Stores) -> Result<(Keyring, KeyResolver), StartError> {
    Ok(stores.keyring(KeyFormat::builder("demo").build()?))
}

/// Asked before any money is: what a role may not do costs nobody anything. Of methods that there aren't the prices tell.
fn permissions() -> Result<RouteTable, InvalidRoute> {
    let mut table = RouteTable::new();
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
    table.route("POST", "/{service}/{method}", Requirement::authenticated())
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

type Gate = TollgateLayer<Or<ApiKeyPolicy, JwtPolicy>>;

fn gate(
    stores: &Stores,
    keys: KeyResolver,
    secret: &SigningSecret,
    roles: &RoleSet,
) -> Result<Gate, StartError> {
    let client = client_address()?;
    let tokens = TokenVerifier::hs256(secret.expose()).build()?;
    let per_ip = Quota::per_minute(limit("IP_RATE_LIMIT_PER_MINUTE", 6_000)?);
    let per_caller = Quota::per_minute(limit("KEY_RATE_LIMIT_PER_MINUTE", 600)?);
    let gate = stores
        .limits
        .share_all(Tollgate::builder())
        .client_address(client.clone())
        .per_client_ip(per_ip)
        .authenticate(
            ApiKeyLayer::new(keys)
                .client_address(client)
                .or(JwtLayer::new(tokens)),
        )
        .per_principal(per_caller)
        .authorize(RbacLayer::routes(roles, permissions()?))
        .spending(Arc::clone(&stores.ledger), prices()?)
        // Load balancers and tools ask without a credential, but not without a limit.
        .open_to_strangers(|head| {
            head.path().starts_with("/grpc.health.v1.")
                || head.path().starts_with("/grpc.reflection.")
        });
    Ok(gate.build()?)
}

async fn serve(
    gate: Gate,
    roles: &RoleSet,
    stores: &Stores,
    listener: TcpListener,
    stop: Stop,
) -> Result<(), StartError> {
    // Once more, whatever the gate's table says.
    let require = |permission| RequirePermission::new(roles, Permission::new(permission));
    let (read, write, configure) = (require("read"), require("write"), require("configure"));
    let services = Services::new(Arc::clone(&stores.ledger));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<CompletionServer<Services>>().await;
    // Clients of Python's know the older version alone.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
    };
    Server::builder()
        .timeout(HEAD_WITHIN)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_EVERY))
        .max_concurrent_streams(STREAMS_MAX)
        .layer(gate)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(EchoServer::with_interceptor(services.clone(), read.clone()))
        .add_service(CompletionServer::with_interceptor(services.clone(), write))
        .add_service(AccountServer::with_interceptor(services.clone(), read))
        .add_service(AdminServer::with_interceptor(services, configure))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
        .await?;
    Ok(())
}
