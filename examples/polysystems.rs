//! An AI platform that sells API calls: accounts by JWT, calls by API key, money for every call.
//!
//! `cargo run --example polysystems --features axum,sqlite`; the README tells how to call it.

#[path = "polysystems/account.rs"]
mod account;
#[path = "polysystems/api.rs"]
mod api;
mod support;
#[path = "polysystems/wire.rs"]
mod wire;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    routing::{delete, get, post, put},
};
use support::{StartError, Stores, client_address, optional, serve, setting};
use tollgate::{
    ApiKeyLayer, DenialFormat, Denials, JwtLayer, Price, PriceTable, RateLimitLayer, RbacLayer,
    SpendingLimitLayer, TokenBound, Tollgate,
    clock::{Clock, SystemClock},
    key::{Alphabet, KeyFormat},
    keyring::{KeyResolver, Keyring},
    login::{Logins, NewUser},
    quota::Quota,
    role::{Permission, RoleSet},
    store::Ledger,
    token::{SigningSecret, TokenIssuer, TokenVerifier},
};
use tower::ServiceBuilder;

/// What the handlers work with.
#[derive(Clone)]
struct App {
    logins: Logins,
    keys: Keyring,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
}

#[tokio::main]
async fn main() {
    support::log_to_stderr();
    if let Err(error) = run().await {
        tracing::error!(%error, "the server ends");
        std::process::exit(1);
    }
}

async fn run() -> Result<(), StartError> {
    let stores = Stores::open("polysystems").await?;
    let secret = stores.signing_secret()?;
    let app = router(&stores, &secret).await?;
    serve(app, 8080).await?;
    Ok(stores.close().await?)
}

/// What a key may do: a user's key calls everything, a viewer's key what is free.
fn roles() -> RoleSet {
    RoleSet::new()
        .add_role("viewer", ["api:read"])
        .add_role_extending("user", "viewer", ["api:call"])
        .add_role_extending("admin", "user", [])
}

fn prices() -> Result<PriceTable, StartError> {
    let by_token = Price::per_million_tokens("0.50".parse()?, "1.50".parse()?)
        .output_bound(TokenBound::BodyBytes { unknown: 1_048_576 });
    Ok(PriceTable::new()
        .route(
            "POST",
            "/api/hub/agents/chat",
            Price::flat("0.0020".parse()?),
        )?
        .route("GET", "/api/hub/health", Price::free())?
        .route("POST", "/api/omm/process", Price::flat("0.0040".parse()?))?
        .route(
            "POST",
            "/api/yggdrasil/query",
            Price::flat("0.0100".parse()?),
        )?
        .route("GET", "/v1/models", Price::free())?
        .route("POST", "/v1/chat/completions", by_token)?)
}

async fn router(stores: &Stores, secret: &SigningSecret) -> Result<Router, StartError> {
    let (client, roles) = (client_address()?, roles());
    let format = KeyFormat::builder("ps")
        .environments(["live", "test"])
        .alphabet(Alphabet::LowerAlphanumeric)
        .length(32)
        .build()?;
    // Two seconds: how long another process may go on with a key that this one revoked.
    let resolver = KeyResolver::builder(Arc::clone(&stores.keys))
        .add_format(format.clone())
        .ttl(Duration::from_secs(2))
        .build();
    let issuer = TokenIssuer::hs256(secret.expose())
        .issuer("polysystems")
        .lifetime(Duration::from_secs(24 * 3_600))
        .build()?;
    let verifier = TokenVerifier::hs256(secret.expose())
        .issuer("polysystems")
        .build()?;
    let logins = Logins::builder(
        Arc::clone(&stores.users),
        Arc::clone(&stores.sessions),
        issuer,
    )
    .build()?;
    if let (Some(email), Some(password)) = (optional("ADMIN_EMAIL"), optional("ADMIN_PASSWORD")) {
        logins
            .ensure_user(NewUser::new(&email, &password).role("admin"))
            .await?;
    }

    let per_caller = Quota::per_minute(setting("KEY_RATE_LIMIT_PER_MINUTE", 600)?);
    let per_caller = RateLimitLayer::per_principal(per_caller);
    let account = ServiceBuilder::new()
        .layer(JwtLayer::new(verifier).sessions(logins.resolver().clone()))
        .layer(per_caller.clone());
    let keys = ApiKeyLayer::new(resolver.clone()).client_address(client.clone());
    let spending = SpendingLimitLayer::new(Arc::clone(&stores.ledger), prices()?);
    let api = |permission| {
        ServiceBuilder::new()
            .layer(keys.clone())
            .layer(RbacLayer::require(&roles, Permission::new(permission)))
            .layer(per_caller.clone())
            .layer(spending.clone())
    };
    let (read, call) = (api("api:read"), api("api:call"));
    let everybody = Tollgate::builder()
        .denials(
            Denials::new(DenialFormat::ErrorMessage).add_path_prefix("/v1/", DenialFormat::OpenAi),
        )
        .cover_plain_errors()
        .client_address(client)
        .per_client_ip(Quota::per_minute(setting(
            "IP_RATE_LIMIT_PER_MINUTE",
            6_000,
        )?))
        .build()?;

    let keyring =
        Keyring::new(Arc::clone(&stores.keys), format, resolver).with_roles(roles.clone());
    let app = App {
        logins,
        keys: keyring,
        ledger: Arc::clone(&stores.ledger),
        clock: SystemClock::shared(),
    };
    // A layer on a route's methods leaves the router's own 404 and 405 to everybody.
    let routes = Router::new()
        .route("/api/auth/register", post(account::register))
        .route("/api/auth/login", post(account::login))
        .route(
            "/api/auth/me",
            get(account::me).route_layer(account.clone()),
        )
        .route(
            "/api/auth/change-password",
            post(account::change_password).route_layer(account.clone()),
        )
        .route(
            "/api/keys",
            get(account::list_keys)
                .post(account::create_key)
                .route_layer(account.clone()),
        )
        .route(
            "/api/keys/{id}",
            delete(account::delete_key).route_layer(account.clone()),
        )
        .route(
            "/api/keys/{id}/revoke",
            post(account::revoke_key).route_layer(account.clone()),
        )
        .route(
            "/api/keys/{id}/rotate",
            post(account::rotate_key).route_layer(account.clone()),
        )
        .route(
            "/api/keys/{id}/limits",
            put(account::set_limits).route_layer(account.clone()),
        )
        .route(
            "/api/payments/topup",
            post(account::top_up).route_layer(account.clone()),
        )
        .route(
            "/api/payments/balance",
            get(account::balance).route_layer(account.clone()),
        )
        .route(
            "/api/payments/transactions",
            get(account::transactions).route_layer(account.clone()),
        )
        .route(
            "/api/monitoring/usage",
            get(account::usage).route_layer(account),
        )
        .route(
            "/api/hub/agents/chat",
            post(api::agents_chat).route_layer(call.clone()),
        )
        .route(
            "/api/hub/health",
            get(api::health).route_layer(read.clone()),
        )
        .route(
            "/api/omm/process",
            post(api::process).route_layer(call.clone()),
        )
        .route(
            "/api/yggdrasil/query",
            post(api::query).route_layer(call.clone()),
        )
        .route("/v1/models", get(api::models).route_layer(read))
        .route(
            "/v1/chat/completions",
            post(api::chat_completions).route_layer(call),
        );
    Ok(routes.with_state(app).layer(everybody))
}
