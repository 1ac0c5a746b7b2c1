//! A service for chat agents: people use JWTs with refresh tokens, each agent its own keys.
//!
//! `cargo run --example ragchats --features axum,sqlite`; paths end in a slash. Beyond what the
//! service documents, an agent's keys are listed by `GET /api/agents/{bot_id}/api-keys/` and ended
//! by `DELETE /api/agents/{bot_id}/api-keys/{id}/`, because users who are told to rotate keys
//! regularly must be able to.

#[path = "ragchats/agents.rs"]
mod agents;
#[path = "ragchats/people.rs"]
mod people;
mod support;
#[path = "ragchats/wire.rs"]
mod wire;

use std::sync::Arc;

use axum::{
    Router,
    handler::Handler,
    http::StatusCode,
    routing::{MethodRouter, delete, get, post},
};
use support::{
    SECOND, StartError, Stores, client_address, few_at_once, lifetime, limit, serve, short_bodies,
};
use tollgate::{
    ApiKeyLayer, Denials, FallbackLayer, JwtLayer, RateLimitLayer, RbacLayer, Tollgate,
    clock::{Clock, SystemClock},
    key::KeyFormat,
    keyring::Keyring,
    login::{Logins, RefreshTokens},
    quota::Quota,
    token::{SigningSecret, TokenIssuer},
};
use tower::ServiceBuilder;
use wire::Errors;

/// Shared by up to a hundred agents.
const KEYS_PER_USER_MAX: u32 = 10_000;

/// The handlers' state.
#[derive(Clone)]
struct App {
    logins: Logins,
    keys: Keyring,
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
    let stores = Stores::open("ragchats").await?;
    let secret = stores.signing_secret()?;
    let app = router(&stores, &secret).await?;
    serve(app, 8000).await?;
    Ok(stores.close().await?)
}

async fn logins(stores: &Stores, secret: &SigningSecret) -> Result<(Logins, JwtLayer), StartError> {
    let access = lifetime("ACCESS_TTL_SECONDS", 3_600, SECOND)?;
    let refresh = lifetime("REFRESH_TTL_SECONDS", 7 * 86_400, SECOND)?;
    let issuer = TokenIssuer::hs256(secret.expose())
        .issuer("ragchats")
        .lifetime(access)
        .build()?;
    let verifier = issuer.verifier().build()?;
    let refresh = RefreshTokens::reusable(refresh);
    let logins = stores.logins(issuer, |logins| {
        // An id is a plain UUID.
        logins.refresh(refresh).user_id_prefix("")
    });
    let logins = logins.await?;
    let layer = JwtLayer::new(verifier).sessions(logins.resolver().clone());
    Ok((logins, layer))
}

/// Keys like `rag_` and 43 characters.
fn keys(stores: &Stores) -> Result<(Keyring, ApiKeyLayer), StartError> {
    let (ring, resolver) = stores.keyring(KeyFormat::builder("rag").build()?);
    let ring = ring.keys_per_owner_max(KEYS_PER_USER_MAX);
    // A user's names and agents give a key no rights: those are in its resource.
    let names = ["firstName", "lastName", "agent:*"];
    let ring = names
        .iter()
        .fold(ring, |ring, name| ring.add_free_attribute(name));
    let layer = ApiKeyLayer::new(resolver).client_address(client_address()?);
    Ok((ring, layer))
}

async fn router(stores: &Stores, secret: &SigningSecret) -> Result<Router, StartError> {
    let (keys, by_key) = keys(stores)?;
    let (logins, by_token) = logins(stores, secret).await?;
    let per_caller = Quota::per_minute(limit("RATE_LIMIT_PER_MINUTE", 120)?);
    let per_caller = RateLimitLayer::per_principal(per_caller);
    let per_caller = stores.limits.share("caller", per_caller);
    // Unmatched routes still count known callers, and report their limits.
    let nothing =
        FallbackLayer::new(by_key.clone().or(by_token.clone())).add_rate_limit(per_caller.clone());
    let person = ServiceBuilder::new()
        .layer(by_token)
        .layer(per_caller.clone());
    let agent = ServiceBuilder::new()
        .layer(by_key)
        .layer(per_caller)
        .layer(RbacLayer::authenticated().scope_from_path("bot_id"));
    let everybody = stores
        .limits
        .share_all(Tollgate::builder())
        .denials(Denials::new(Errors).only_http())
        .cover_plain_errors()
        .client_address(client_address()?)
        .per_client_ip(Quota::per_minute(limit("IP_RATE_LIMIT_PER_MINUTE", 6_000)?))
        .build()?;

    let app = App {
        logins,
        keys,
        clock: SystemClock::shared(),
    };
    let auth = auth_routes(|methods| methods.route_layer(person.clone()));
    let routes = Router::new()
        .nest("/api/auth", auth.clone())
        .nest("/auth", auth)
        .merge(agent_routes(
            |methods| methods.route_layer(person.clone()),
            |methods| methods.route_layer(agent.clone()),
        ))
        .fallback((async || StatusCode::NOT_FOUND).layer(nothing.clone()))
        .method_not_allowed_fallback((async || StatusCode::METHOD_NOT_ALLOWED).layer(nothing));
    Ok(routes.with_state(app).layer(everybody))
}

fn auth_routes(person: impl Fn(MethodRouter<App>) -> MethodRouter<App>) -> Router<App> {
    Router::new()
        .route("/register/", post(people::register))
        .route("/login/", post(people::login))
        .route("/token/refresh/", post(people::refresh))
        .route("/logout/", person(post(people::logout)))
        .layer(short_bodies())
}

fn agent_routes(
    person: impl Fn(MethodRouter<App>) -> MethodRouter<App>,
    agent: impl Fn(MethodRouter<App>) -> MethodRouter<App>,
) -> Router<App> {
    Router::new()
        .route(
            "/api/agents/",
            person(get(agents::list).post(agents::create)),
        )
        .route(
            "/api/agents/{bot_id}/api-keys/",
            person(
                get(agents::list_keys)
                    .route_layer(few_at_once())
                    .post(agents::create_key),
            ),
        )
        .route(
            "/api/agents/{bot_id}/api-keys/{id}/",
            person(delete(agents::delete_key)),
        )
        .route("/api/agents/{bot_id}/query/", agent(post(agents::query)))
}
