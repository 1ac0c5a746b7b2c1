//! An AI platform that sells API calls: accounts by JWT, calls by API key, money for every call.
//!
//! `cargo run --example polysystems --features axum,sqlite`; the README shows how to call it. With
//! the feature `redis` as well, several processes share their rate limits through `REDIS_URL`.

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
    handler::Handler,
    http::StatusCode,
    routing::{MethodRouter, delete, get, post, put},
};
use support::{StartError, Stores, client_address, few_at_once, limit, serve, short_bodies};
use tollgate::{
    ApiKeyLayer, BodyDigestLayer, DenialFormat, Denials, FallbackLayer, IdempotencyKeys, JwtLayer,
    Price, PriceTable, RateLimitLayer, RbacLayer, SpendingLimitLayer, TokenBound, Tollgate,
    clock::{Clock, SystemClock},
    key::{Alphabet, KeyFormat},
    keyring::{KeyResolver, Keyring},
    login::Logins,
    quota::Quota,
    role::{Permission, RoleSet},
    store::Ledger,
    token::{SigningSecret, TokenIssuer},
};
use tower::ServiceBuilder;
use wire::Texts;

/// The most that axum's extractors read of a body; the limit with an `Idempotency-Key` is no lower.
const BODY_BYTES_MAX: u64 = 2 * 1_024 * 1_024;

/// The handlers' state.
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

/// What a key may do: a user's key calls everything, a viewer's key the free routes.
fn roles() -> RoleSet {
    RoleSet::new()
        .add_role("viewer", ["api:read"])
        .add_role_extending("user", "viewer", ["api:call"])
        .add_role_extending("admin", "user", [])
}

fn prices() -> Result<PriceTable, StartError> {
    // Every body is measured before it is priced.
    let words = TokenBound::BodyBytesAsSent {
        unknown: BODY_BYTES_MAX,
    };
    let by_token = Price::per_million_tokens("0.50".parse()?, "1.50".parse()?)
        .input_bound(words)
        .output_bound(words);
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

/// Keys like `ps_live_` and 32 characters.
fn keys(stores: &Stores, roles: &RoleSet) -> Result<(Keyring, KeyResolver), StartError> {
    let format = KeyFormat::builder("ps")
        .environments(["live", "test"])
        .alphabet(Alphabet::LowerAlphanumeric)
        .length(32)
        .build()?;
    let (ring, resolver) = stores.keyring(format);
    // A user's name carries no rights.
    let ring = ring.add_free_attribute("username");
    Ok((ring.with_roles(roles.clone()), resolver))
}

async fn logins(stores: &Stores, secret: &SigningSecret) -> Result<(Logins, JwtLayer), StartError> {
    let issuer = TokenIssuer::hs256(secret.expose())
        .issuer("polysystems")
        .lifetime(Duration::from_secs(24 * 3_600))
        .build()?;
    let verifier = issuer.verifier().build()?;
    let logins = stores.logins(issuer, |logins| logins).await?;
    let layer = JwtLayer::new(verifier).sessions(logins.resolver().clone());
    Ok((logins, layer))
}

async fn router(stores: &Stores, secret: &SigningSecret) -> Result<Router, StartError> {
    let (client, roles) = (client_address()?, roles());
    let (ring, resolver) = keys(stores, &roles)?;
    let (logins, tokens) = logins(stores, secret).await?;
    let per_caller = Quota::per_minute(limit("KEY_RATE_LIMIT_PER_MINUTE", 600)?);
    let per_caller = RateLimitLayer::per_principal(per_caller);
    let per_caller = stores.limits.share("caller", per_caller);

    let keys = ApiKeyLayer::new(resolver).client_address(client.clone());
    // Unmatched routes still count known callers, and report their limits.
    let nothing =
        FallbackLayer::new(keys.clone().or(tokens.clone())).add_rate_limit(per_caller.clone());
    let account = ServiceBuilder::new()
        .layer(tokens)
        .layer(per_caller.clone());
    let spending = SpendingLimitLayer::new(Arc::clone(&stores.ledger), prices()?)
        .idempotency_keys(IdempotencyKeys::new());
    let api = |permission| {
        ServiceBuilder::new()
            .layer(keys.clone())
            .layer(per_caller.clone())
            .layer(RbacLayer::require(&roles, Permission::new(permission)))
            .layer(BodyDigestLayer::new().bytes_max(BODY_BYTES_MAX).measure())
            .layer(spending.clone())
    };
    let (read, call) = (api("api:read"), api("api:call"));
    let everybody = stores
        .limits
        .share_all(Tollgate::builder())
        .denials(
            Denials::new(Texts)
                .add_path_prefix("/v1", DenialFormat::OpenAi)
                .only_http(),
        )
        .cover_plain_errors()
        .client_address(client)
        .per_client_ip(Quota::per_minute(limit("IP_RATE_LIMIT_PER_MINUTE", 6_000)?))
        .build()?;

    let ledger = Arc::clone(&stores.ledger);
    let app = App {
        logins,
        keys: ring,
        ledger,
        clock: SystemClock::shared(),
    };
    let routes = public_routes()
        .merge(account_routes(|methods| {
            methods.route_layer(account.clone())
        }))
        .merge(api_routes(
            |methods| methods.route_layer(read.clone()),
            |methods| methods.route_layer(call.clone()),
        ))
        .fallback((async || StatusCode::NOT_FOUND).layer(nothing.clone()))
        .method_not_allowed_fallback((async || StatusCode::METHOD_NOT_ALLOWED).layer(nothing));
    Ok(routes.with_state(app).layer(everybody))
}

fn public_routes() -> Router<App> {
    Router::new()
        .route("/api/auth/register", post(account::register))
        .route("/api/auth/login", post(account::login))
        .layer(short_bodies())
}

fn account_routes(gated: impl Fn(MethodRouter<App>) -> MethodRouter<App>) -> Router<App> {
    let few = few_at_once();
    let listed = |list: MethodRouter<App>| list.route_layer(few.clone());
    Router::new()
        .route("/api/auth/me", gated(get(account::me)))
        .route(
            "/api/auth/change-password",
            gated(post(account::change_password)),
        )
        .route(
            "/api/keys",
            gated(listed(get(account::list_keys)).post(account::create_key)),
        )
        .route("/api/keys/{id}", gated(delete(account::delete_key)))
        .route("/api/keys/{id}/revoke", gated(post(account::revoke_key)))
        .route("/api/keys/{id}/rotate", gated(post(account::rotate_key)))
        .route("/api/keys/{id}/limits", gated(put(account::set_limits)))
        .route("/api/payments/topup", gated(post(account::top_up)))
        .route("/api/payments/balance", gated(get(account::balance)))
        .route(
            "/api/payments/transactions",
            gated(listed(get(account::transactions))),
        )
        .route("/api/monitoring/usage", gated(listed(get(account::usage))))
}

fn api_routes(
    read: impl Fn(MethodRouter<App>) -> MethodRouter<App>,
    call: impl Fn(MethodRouter<App>) -> MethodRouter<App>,
) -> Router<App> {
    Router::new()
        .route("/api/hub/agents/chat", call(post(api::agents_chat)))
        .route("/api/hub/health", read(get(api::health)))
        .route("/api/omm/process", call(post(api::process)))
        .route("/api/yggdrasil/query", call(post(api::query)))
        .route("/v1/models", read(get(api::models)))
        .route("/v1/chat/completions", call(post(api::chat_completions)))
}
