//! A document service with three roles: API keys or JWTs, a table of routes, and an audit log.
//!
//! `cargo run --example haagsman --features axum,sqlite` serves. With `-- generate-key --role
//! operator` it prints one new key instead, also while the server runs. With the feature `redis` as
//! well, several processes share their rate limits through `REDIS_URL`.
//!
//! A login lasts for 30 days at most, however often its tokens are renewed; after that the user
//! logs in again.
//!
//! Beyond what the service documents, keys can be given an end (`generate-key --expires-days 90`),
//! listed (`list-keys`), replaced (`rotate-key ID`) and ended (`revoke-key ID`), because operators
//! who are told to rotate keys every 90 days must be able to.

#[path = "haagsman/api.rs"]
mod api;
#[path = "haagsman/commands.rs"]
mod commands;
mod support;
#[path = "haagsman/wire.rs"]
mod wire;

use std::sync::Arc;

use axum::{
    Router,
    handler::Handler,
    http::StatusCode,
    routing::{delete, get, patch, post, put},
};
use commands::Command;
use support::{
    DAY, MINUTE, StartError, Stores, client_address, lifetime, limit, serve, short_bodies,
};
use tollgate::{
    ApiKeyLayer, DenialFormat, Denials, FallbackLayer, JwtLayer, RateLimitLayer, RbacLayer,
    Tollgate,
    audit::AuditTrail,
    denial::DenialKind,
    key::{Alphabet, KeyFormat},
    keyring::{KeyResolver, Keyring},
    login::{Logins, RefreshTokens},
    quota::Quota,
    rbac::{InvalidRoute, RouteTable},
    role::{Requirement, RoleSet},
    store::AuditLog,
    token::{SigningSecret, TokenIssuer},
};
use tower::ServiceBuilder;

/// The handlers' state.
#[derive(Clone)]
struct App {
    logins: Logins,
    roles: RoleSet,
    audit: Arc<dyn AuditLog>,
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
    let command = Command::of_process()?;
    let stores = Stores::open("haagsman").await?;
    match command {
        Command::Serve => {
            let secret = stores.signing_secret()?;
            serve(router(&stores, &secret).await?, 8100).await?;
        }
        command => command.run(&stores, keys(&stores)?.0).await?,
    }
    Ok(stores.close().await?)
}

/// Keys like `hai_` and 43 characters.
fn keys(stores: &Stores) -> Result<(Keyring, KeyResolver), StartError> {
    let format = KeyFormat::builder("hai")
        .alphabet(Alphabet::Base64Url)
        .length(43)
        .build()?;
    let (ring, resolver) = stores.keyring(format);
    Ok((ring.with_roles(RoleSet::viewer_operator_admin()), resolver))
}

async fn logins(stores: &Stores, secret: &SigningSecret) -> Result<(Logins, JwtLayer), StartError> {
    let access = lifetime("HAAGSMAN_JWT_ACCESS_TOKEN_TTL_MINUTES", 15, MINUTE)?;
    let refresh = lifetime("HAAGSMAN_JWT_REFRESH_TOKEN_TTL_DAYS", 7, DAY)?;
    let issuer = TokenIssuer::hs256(secret.expose())
        .issuer("haagsman")
        .lifetime(access)
        .build()?;
    let verifier = issuer.verifier().build()?;
    let refresh = RefreshTokens::rotating(refresh);
    let logins = stores
        .logins(issuer, |logins| logins.refresh(refresh))
        .await?;
    let layer = JwtLayer::new(verifier).sessions(logins.resolver().clone());
    Ok((logins, layer))
}

/// Routes that aren't listed are refused, even to an administrator.
fn table() -> Result<RouteTable, InvalidRoute> {
    RouteTable::new()
        .route("GET", "/api/v1/documents/stats", "read")?
        .route("POST", "/api/v1/search/query", "read")?
        .route("POST", "/api/v1/faq/chat", "read")?
        .route("GET", "/api/v1/triage", "read")?
        .route("POST", "/api/v1/documents", "write")?
        .route("DELETE", "/api/v1/documents/{id}", "delete")?
        .route("GET", "/api/v1/audit", "audit:view")?
        .route("GET", "/api/v1/users", "users:manage")?
        .route("POST", "/api/v1/users", "users:manage")?
        .route("PATCH", "/api/v1/users/{id}", "users:manage")?
        .route("DELETE", "/api/v1/users/{id}", "users:manage")?
        .route("PUT", "/api/v1/config", "configure")?
        .route("DELETE", "/api/v1/gdpr/{subject}", "configure")?
        .route("POST", "/api/v1/auth/logout", Requirement::authenticated())
}

fn style() -> Denials {
    Denials::new(DenialFormat::Detail)
        .only_http()
        .add_message(
            DenialKind::RateLimited,
            "Rate limit exceeded. Try again later.",
        )
        .add_message(
            DenialKind::CredentialMissing,
            "Authentication required: send X-API-Key, or Authorization: Bearer",
        )
}

async fn router(stores: &Stores, secret: &SigningSecret) -> Result<Router, StartError> {
    let (client, roles) = (client_address()?, RoleSet::viewer_operator_admin());
    let (_, resolver) = keys(stores)?;
    let (logins, tokens) = logins(stores, secret).await?;
    let per_caller = Quota::per_minute(limit("KEY_RATE_LIMIT_PER_MINUTE", 60)?);
    let per_caller = RateLimitLayer::per_principal(per_caller);
    let per_caller = stores.limits.share("caller", per_caller);
    let keys = ApiKeyLayer::new(resolver).client_address(client.clone());
    let caller = keys.or(tokens);
    // Unmatched routes still count known callers, and report their limits.
    let nothing = FallbackLayer::new(caller.clone()).add_rate_limit(per_caller.clone());
    let known = ServiceBuilder::new()
        .layer(caller)
        .layer(per_caller)
        .layer(RbacLayer::routes(&roles, table()?));
    let everybody = stores
        .limits
        .share_all(Tollgate::builder())
        .audit(AuditTrail::new(Arc::clone(&stores.audit)))
        .denials(style())
        .cover_plain_errors()
        .client_address(client)
        .per_client_ip(Quota::per_minute(limit("IP_RATE_LIMIT_PER_MINUTE", 6_000)?))
        .build()?;
    let app = App {
        logins,
        roles,
        audit: Arc::clone(&stores.audit),
    };
    // The fallback is inside the gate too, so a 404 reveals no routes.
    let api = routes().fallback(api::nothing).layer(known);
    let no_method = (async || StatusCode::METHOD_NOT_ALLOWED).layer(nothing.clone());
    // Only for these: on other routes a 405 would reveal to strangers what exists.
    let public = public_routes().method_not_allowed_fallback(no_method);
    let router = Router::new()
        .merge(public)
        .nest("/api/v1", api)
        .fallback((async || StatusCode::NOT_FOUND).layer(nothing));
    Ok(router.with_state(app).layer(everybody))
}

fn public_routes() -> Router<App> {
    Router::new()
        .route("/api/v1/auth/login", post(api::login))
        .route("/api/v1/auth/refresh", post(api::refresh))
        .layer(short_bodies())
}

fn routes() -> Router<App> {
    Router::new()
        .route("/documents/stats", get(api::stats))
        .route("/search/query", post(api::search))
        .route("/faq/chat", post(api::chat))
        .route("/triage", get(api::triage))
        .route("/documents", post(api::upload))
        .route("/documents/{id}", delete(api::remove))
        .route("/audit", get(api::audit))
        .route("/users", get(api::list_users).post(api::create_user))
        .route(
            "/users/{id}",
            patch(api::change_user).delete(api::delete_user),
        )
        .route("/config", put(api::configure))
        .route("/gdpr/{subject}", delete(api::erase))
        .route("/auth/logout", post(api::logout))
}
