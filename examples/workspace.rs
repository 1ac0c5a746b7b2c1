//! A dashboard with an API: NextAuth sessions, keys created in the dashboard, keys from the
//! environment.
//!
//! `cargo run --example workspace --features axum,sqlite`; the README lists its settings. With the
//! feature `redis` as well, several processes share their rate limits through `REDIS_URL`. Only
//! clients are limited, each by its key: a limit by address would also apply to sessions and the
//! administrator, which are unlimited. Failed attempts are limited by address
//! (`FAILED_ATTEMPTS_PER_MINUTE`, 6000 unless set), without affecting sessions and the
//! administrator's key; a cookie that isn't good is no session, and counts as none beside a key. A
//! client is counted wherever it sends its key, also on unknown routes, and where no key is
//! accepted.

mod support;
#[path = "workspace/wire.rs"]
mod wire;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    handler::Handler,
    http::StatusCode,
    response::Response,
    routing::{delete, get, post},
};
use support::{
    RateLimits, StartError, all_keys, client_address_by, few_at_once, limit, optional, secret,
    serve, setting,
};
use tollgate::{
    ApiKeyLayer, ClientAddress, Denials, FallbackLayer, ForwardedHeader, Principal, RateLimitLayer,
    RbacLayer, SessionCookieLayer, Tollgate,
    audit::AuditLines,
    axum::{JsonBody, PathName},
    denial::Denial,
    key::KeyFormat,
    keyring::{KeyResolver, Keyring, KeyringError, NewKey},
    network::{self, IpNet},
    quota::Quota,
    role::{Permission, RoleSet},
    store::{FileKeyStore, KeyId, KeyLookup, StaticKeys},
    token::{SessionCookieVerifier, SigningSecret},
};
use tower::ServiceBuilder;
use wire::{Answer, CreateKey, Created, Key, Question, Stats, Texts};

/// The role of sessions, with the same permissions as the administrator's key.
const DASHBOARD: &str = "dashboard";
/// How long the keys file and its contents are cached: together less than a second.
const FILE_INTERVAL: Duration = Duration::from_millis(250);
const KEY_TTL: Duration = Duration::from_millis(500);

/// The handlers' state.
#[derive(Clone)]
struct App {
    keys: Keyring,
    asked: Arc<AtomicU64>,
}

#[tokio::main]
async fn main() {
    let read = support::read_env_file(".env.local");
    support::log_always("tollgate::audit");
    let served = match read {
        Ok(()) => run().await,
        unread => unread,
    };
    if let Err(error) = served {
        tracing::error!(%error, "the server ends");
        std::process::exit(1);
    }
}

async fn run() -> Result<(), StartError> {
    let path = setting("API_KEYS_FILE", "workspaces/api-keys.json".to_owned())?;
    let file = FileKeyStore::builder(path)
        .check_interval(FILE_INTERVAL)
        .build();
    let limits = RateLimits::open("workspace").await?;
    serve(router(&file, &limits)?, 3000).await?;
    if let Err(error) = file.flush().await {
        tracing::warn!(%error, "the last uses of keys are not written");
    }
    Ok(())
}

/// `ADMIN_API_KEY`.
fn administrator() -> Result<StaticKeys, StartError> {
    // Keys in use may be short: they are accepted, with a warning.
    let mut admin = StaticKeys::new().dangerous_short_keys();
    if let Some(key) = optional("ADMIN_API_KEY")? {
        admin = admin
            .add_key("admin", key.trim(), ["admin"])
            .map_err(|error| format!("ADMIN_API_KEY: {error}"))?;
    }
    Ok(admin)
}

/// In the order in which they are asked: keys from the dashboard, the administrator's, the
/// clients'.
fn resolver(file: &FileKeyStore, admin: StaticKeys) -> Result<KeyResolver, StartError> {
    let list = optional("VALID_API_KEYS")?.unwrap_or_default();
    let clients = StaticKeys::new()
        .dangerous_short_keys()
        .add_list("client", &list, ["client"])
        .map_err(|error| format!("VALID_API_KEYS: {error}"))?;
    Ok(KeyResolver::builder(file.clone().or(admin).or(clients))
        .ttl(KEY_TTL)
        .negative_ttl(KEY_TTL)
        .build())
}

/// Without a secret there are no sessions: nobody can have made a cookie with an unknown one.
fn sessions() -> Result<SessionCookieLayer, StartError> {
    let random = SigningSecret::generate()?;
    let secret = secret("NEXTAUTH_SECRET").filter(|secret| !secret.is_empty());
    let secret = secret.as_deref().unwrap_or(random.expose());
    // NextAuth's own tolerance for a clock that is ahead; expired sessions get none.
    let mut verifier = SessionCookieVerifier::next_auth(secret)
        .leeway_ahead(Duration::from_secs(15))
        .add_role(DASHBOARD);
    if secret.len() < 32 {
        tracing::warn!("NEXTAUTH_SECRET: under 32 bytes, whoever has a cookie may find it");
        verifier = verifier.dangerous_short_secret();
    }
    let layer = SessionCookieLayer::new(verifier.build()?);
    let Some(url) = optional("NEXTAUTH_URL")? else {
        return Ok(layer);
    };
    let layer = layer.application_url(url.trim());
    layer.map_err(|error| format!("NEXTAUTH_URL: {error}").into())
}

/// `ALLOWED_IPS`: `*`, or addresses and networks separated by commas; everywhere unless set.
fn allowed_networks() -> Result<Option<Vec<IpNet>>, StartError> {
    let text = optional("ALLOWED_IPS")?.unwrap_or_else(|| "*".to_owned());
    if text.split(',').any(|entry| entry.trim() == "*") {
        return Ok(None);
    }
    let networks = network::parse_list(&text);
    let networks = networks.map_err(|error| format!("ALLOWED_IPS: {error}"))?;
    Ok(Some(networks))
}

fn by_key(keys: KeyResolver, client: ClientAddress) -> Result<ApiKeyLayer, StartError> {
    let layer = ApiKeyLayer::new(keys).client_address(client);
    Ok(match allowed_networks()? {
        Some(networks) => layer.networks(networks),
        None => layer,
    })
}

/// Sessions and the administrator aren't limited here, and another layer asks strangers for a
/// credential.
fn client_limit(limits: &RateLimits) -> Result<RateLimitLayer, StartError> {
    let limit = RateLimitLayer::per_principal(Quota::per_hour(limit("API_RATE_LIMIT", 100)?));
    Ok(limits.share("client", limit).skip(|head| {
        let caller = head.extensions.get::<Principal>();
        !caller.is_some_and(|caller| caller.has_role("client"))
    }))
}

fn router(file: &FileKeyStore, limits: &RateLimits) -> Result<Router, StartError> {
    let client = client_address_by(ForwardedHeader::XForwardedForOrXRealIp)?;
    let (admin, sessions) = (administrator()?, sessions()?);
    let resolver = resolver(file, admin.clone())?;
    let by_key = by_key(resolver.clone(), client.clone())?;
    let roles = RoleSet::new()
        .add_role("client", ["ask"])
        .add_role_extending("admin", "client", ["stats"])
        .add_role_extending(DASHBOARD, "admin", []);
    let guesses = Quota::per_minute(limit("FAILED_ATTEMPTS_PER_MINUTE", 6_000)?);
    let guesses = RateLimitLayer::per_client_ip(guesses)
        .client_address(client.clone())
        .failed_attempts();
    let limit = client_limit(limits)?;
    let guesses = limits.share("failed", guesses).skip({
        let (sessions, by_key) = (sessions.clone(), by_key.clone());
        move |head| sessions.finds_session(head) || by_key.brings_one_of(&admin, head)
    });
    let anybody = sessions.clone().or(by_key);
    let may = |permission| {
        ServiceBuilder::new()
            .layer(guesses.clone())
            .layer(anybody.clone())
            .layer(limit.clone())
            .layer(RbacLayer::require(&roles, Permission::new(permission)))
    };
    let everybody = Tollgate::builder()
        .audit(AuditLines)
        .denials(Denials::new(Texts).only_http())
        .cover_plain_errors()
        .client_address(client)
        .build()?;
    let user = ServiceBuilder::new()
        .layer(guesses.clone())
        .layer(anybody.clone().shadow())
        .layer(limit.clone())
        .layer(sessions.exclusive());
    // On unknown routes a bad key changes nothing, but counts as a guess like any other.
    let nothing = ServiceBuilder::new()
        .layer(guesses.clone())
        .layer(FallbackLayer::new(anybody.clone()).add_rate_limit(limit.clone()));
    let app = App {
        keys: Keyring::new(file.clone(), KeyFormat::builder("ws").build()?, resolver),
        asked: Arc::default(),
    };
    // A gate on a route's methods leaves 404 and 405 open to everyone.
    Ok(Router::new()
        .route("/api/ask", post(ask).route_layer(may("ask")))
        .route("/api/admin/stats", get(stats).route_layer(may("stats")))
        .route(
            "/api/keys",
            get(list_keys)
                .route_layer(few_at_once())
                .post(create_key)
                .route_layer(user.clone()),
        )
        .route("/api/keys/{id}", delete(delete_key).route_layer(user))
        .fallback((async || StatusCode::NOT_FOUND).layer(nothing.clone()))
        .method_not_allowed_fallback((async || StatusCode::METHOD_NOT_ALLOWED).layer(nothing))
        .with_state(app)
        .layer(everybody))
}

async fn ask(State(app): State<App>, JsonBody(question): JsonBody<Question>) -> Json<Answer> {
    app.asked.fetch_add(1, Ordering::Relaxed);
    Json(Answer::to(question))
}

async fn stats(State(app): State<App>) -> Json<Stats> {
    Json(Stats {
        questions: app.asked.load(Ordering::Relaxed),
    })
}

async fn list_keys(State(app): State<App>, user: Principal) -> Result<Response, Denial> {
    all_keys(&app.keys, &user, |key| Some(Key::from(key))).await
}

async fn create_key(
    State(app): State<App>,
    user: Principal,
    JsonBody(wanted): JsonBody<CreateKey>,
) -> Result<(StatusCode, Json<Created>), Denial> {
    let new = NewKey {
        name: wanted.name,
        roles: vec!["client".to_owned()],
        ..NewKey::default()
    };
    let (key, record) = app.keys.create(user.subject(), new).await?;
    Ok((StatusCode::CREATED, Json(Created::of(&key, record))))
}

async fn delete_key(
    State(app): State<App>,
    user: Principal,
    PathName(id): PathName<KeyId>,
) -> Result<StatusCode, Denial> {
    let id = id.ok_or(KeyringError::NotFound)?;
    app.keys.delete(user.subject(), &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
