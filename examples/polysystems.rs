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
    routing::{MethodRouter, delete, get, post, put},
};
use support::{StartError, Stores, client_address, optional, serve, setting};
use tollgate::{
    ApiKeyLayer, DenialFormat, Denials, JwtLayer, Price, PriceTable, RateLimitLayer, RbacLayer,
    SpendingLimitLayer, TokenBound, Tollgate,
    key::{Alphabet, KeyFormat},
    keyring::{KeyResolver, Keyring},
    login::{Logins, NewUser},
    quota::Quota,
    role::{Permission, RoleSet},
    store::Ledger,
    token::{TokenIssuer, TokenVerifier},
};
use tower::ServiceBuilder;

/// What the handlers work with.
#[derive(Clone)]
pub struct App {
    logins: Logins,
    keys: Keyring,
    ledger: Arc<dyn Ledger>,
}

#[tokio::main]
async fn main() -> Result<(), StartError> {
    support::log_to_stderr();
    let stores = Stores::open("polysystems").await?;
    let secret = stores.signing_secret()?;
    let client = client_address()?;
    let roles = RoleSet::new()
        .add_role("viewer", ["api:read"])
        .add_role_extending("user", "viewer", ["api:call"])
        .add_role_extending("admin", "user", ["accounts:manage"]);

    let format = KeyFormat::builder("ps")
        .environments(["live", "test"])
        .alphabet(Alphabet::LowerAlphanumeric)
        .length(32)
        .build()?;
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

    let per_key = RateLimitLayer::per_principal(Quota::per_minute(setting(
        "KEY_RATE_LIMIT_PER_MINUTE",
        600,
    )?));
    let account = ServiceBuilder::new()
        .layer(JwtLayer::new(verifier).sessions(logins.sessions().clone()))
        .layer(per_key.clone());
    let api = |permission| {
        ServiceBuilder::new()
            .layer(ApiKeyLayer::new(resolver.clone()).client_address(client.clone()))
            .layer(RbacLayer::require(&roles, Permission::new(permission)))
            .layer(per_key.clone())
            .layer(SpendingLimitLayer::new(Arc::clone(&stores.ledger), prices))
    };
    Ok(())
}
