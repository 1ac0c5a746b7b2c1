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

use std::sync::Arc;

use generate::Command;
use pb::{
    bank::{account_server::AccountServer, admin_server::AdminServer},
    demo::{completion_server::CompletionServer, echo_server::EchoServer},
};
use services::Services;
use support::{StartError, Stop, Stores, client_address, listen, run_until, setting};
use tokio::net::TcpListener;
use tollgate::{
    ApiKeyLayer, JwtLayer, Price, PriceTable, TokenBound, Tollgate, TollgateLayer,
    api_key::ApiKeyPolicy,
    guard::Or,
    jwt::JwtPolicy,
    key::KeyFormat,
    keyring::{KeyResolver, Keyring},
    quota::Quota,
    role::{Permission, RoleSet},
    token::{SigningSecret, TokenVerifier},
    tonic::RequirePermission,
};
use tonic::transport::{Server, server::TcpIncoming};

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
            let gate = gate(&stores, keys, &secret)?;
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

/// Every method has its price; who is asked for a permission stands at the services.
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

fn gate(stores: &Stores, keys: KeyResolver, secret: &SigningSecret) -> Result<Gate, StartError> {
    let client = client_address()?;
    let tokens = TokenVerifier::hs256(secret.expose()).build()?;
    let per_ip = Quota::per_minute(setting("IP_RATE_LIMIT_PER_MINUTE", 6_000)?);
    let per_caller = Quota::per_minute(setting("KEY_RATE_LIMIT_PER_MINUTE", 600)?);
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
        .spending(Arc::clone(&stores.ledger), prices()?)
        // Load balancers and tools ask without a credential.
        .skip(|head| {
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
    let require = |permission| RequirePermission::new(roles, Permission::new(permission));
    let (read, write, configure) = (require("read"), require("write"), require("configure"));
    let services = Services::new(Arc::clone(&stores.ledger));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<CompletionServer<Services>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .build_v1()?;
    Server::builder()
        .layer(gate)
        .add_service(health)
        .add_service(reflection)
        .add_service(EchoServer::with_interceptor(services.clone(), read.clone()))
        .add_service(CompletionServer::with_interceptor(services.clone(), write))
        .add_service(AccountServer::with_interceptor(services.clone(), read))
        .add_service(AdminServer::with_interceptor(services, configure))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
        .await?;
    Ok(())
}
