//! An LLM gateway: customers call a provider's models with keys of the gateway, and pay in advance.
//!
//! `cargo run --example gateway --features axum,jwks,sqlite`; the README shows how to call it. The
//! provider is the one at `UPSTREAM_URL`, or else a small one that is built in. (`jwks` is named
//! for its HTTPS client, by which this one reaches a provider.)

#[path = "gateway/office.rs"]
mod office;
#[path = "gateway/provider.rs"]
mod provider;
#[path = "gateway/relay.rs"]
mod relay;
mod support;

use std::sync::Arc;

use axum::{
    Router,
    http::HeaderName,
    routing::{get, post, put},
};
use support::{StartError, Stores, client_address, limit, optional, serve};
use tollgate::{
    ApiKeyLayer, BodyDigestLayer, Charging, DenialFormat, Denials, IdempotencyKeys, Price,
    PriceTable, Principal, RateLimitLayer, RbacLayer, RequestHead, RequestShape, RequestedUse,
    SpendingLimitLayer, TokenBound, TokenPrice, Tollgate,
    audit::AuditTrail,
    denial::DenialKind,
    key::KeyFormat,
    keyring::{KeyResolver, Keyring},
    quota::Quota,
    rate_limit::{Plans, RateLimitKey},
    rbac::{InvalidRoute, RouteTable},
    role::RoleSet,
    store::{BudgetId, Ledger, StaticKeys},
    usage::Tags,
};

const CHAT: &str = "/v1/chat/completions";
const USAGE: &str = "/admin/usage/{account}";

/// The models for sale, with their snapshots, and what the provider takes for a million tokens in
/// dollars: of input, of input from its cache, and of output.
const MODELS: [(&str, [&str; 3]); 2] = [
    ("gpt-4o*", ["2.50", "1.25", "10"]),
    ("gpt-4o-mini*", ["0.15", "0.075", "0.60"]),
];
/// What customers pay more, in basis points: 20 %.
const MARKUP: u32 = 2_000;

/// How much output a call may have that states no bound, and the most that it may state.
const OUTPUT: u64 = 1_000;
const OUTPUT_MAX: u64 = 16_000;

/// Each plan's requests and tokens a minute, of all keys of a customer together.
const PLANS: [(&str, u32, u32); 2] = [("free", 20, 20_000), ("pro", 600, 1_000_000)];

/// The handlers' state.
#[derive(Clone)]
struct App {
    keys: Keyring,
    ledger: Arc<dyn Ledger>,
    /// The budget of each account that all of its calls count in.
    budget: BudgetId,
    http: reqwest::Client,
    /// Where the provider completes chats.
    chat: String,
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
    let stores = Stores::open("gateway").await?;
    let (http, chat) = relay::upstream().await?;
    let (keys, resolver) = stores.keyring(KeyFormat::builder("gw").build()?);
    let ledger = Arc::clone(&stores.ledger);
    let app = App {
        keys: keys.with_roles(roles()),
        ledger,
        budget: BudgetId::new("customer")?,
        http,
        chat,
    };
    serve(router(&stores, resolver, app)?, 8_090).await?;
    Ok(stores.close().await?)
}

fn roles() -> RoleSet {
    RoleSet::new()
        .add_role("customer", ["call"])
        .add_role("admin", ["manage"])
}

/// All routes; anything else doesn't exist.
fn permissions() -> Result<RouteTable, InvalidRoute> {
    RouteTable::new()
        .unknown_not_found()
        .route("POST", CHAT, "call")?
        .route("GET", "/v1/models", "call")?
        .route("POST", "/admin/keys", "manage")?
        .route("POST", "/admin/credits", "manage")?
        .route("POST", "/admin/refunds", "manage")?
        .route("PUT", "/admin/limits", "manage")?
        .route("GET", USAGE, "manage")
}

fn prices() -> Result<PriceTable, StartError> {
    let mut models = Vec::new();
    for (model, cost) in MODELS {
        models.push((model, price(cost)?));
    }
    let chat = Price::by_model(models).only_listed_models();
    Ok(PriceTable::new()
        .route("POST", CHAT, chat)?
        .route("GET", "/v1/models", Price::free())?
        .route("POST", "/admin/keys", Price::free())?
        .route("POST", "/admin/credits", Price::free())?
        .route("POST", "/admin/refunds", Price::free())?
        .route("PUT", "/admin/limits", Price::free())?
        .route("GET", USAGE, Price::free())?)
}

fn price([input, cached, output]: [&str; 3]) -> Result<TokenPrice, StartError> {
    Ok(Price::per_million_tokens(input.parse()?, output.parse()?)
        .cached_input(cached.parse()?)
        .markup_bps(MARKUP)
        .output_bound(TokenBound::Fixed(OUTPUT))
        .requested_output_max(OUTPUT_MAX))
}

/// A limit on requests, and one on tokens. Only the administrator has no plan.
fn limits() -> (RateLimitLayer, RateLimitLayer) {
    let by_plan = || Plans::by_attribute("plan");
    let (requests, tokens) = (by_plan(), by_plan());
    for (plan, requests_max, tokens_max) in PLANS {
        requests.set(plan, Quota::per_minute(requests_max));
        tokens.set(plan, Quota::per_minute(tokens_max));
    }
    let of_account = |most| RateLimitLayer::per(RateLimitKey::account(), Quota::per_minute(most));
    (
        of_account(600).plans(requests),
        of_account(1_000_000)
            .plans(tokens)
            .tokens(|head| RequestedUse::estimate(head, OUTPUT)),
    )
}

/// The customer's own name for what a call is for.
fn project(head: &RequestHead<'_>, _: &Principal) -> Tags {
    let name = head.headers.get("x-project");
    let name = name.and_then(|name| name.to_str().ok());
    name.map_or_else(Tags::new, |name| Tags::new().with("project", name))
}

/// The key in `ADMIN_API_KEY`, in a header where no customer's key is looked for.
fn administrator() -> Result<ApiKeyLayer, StartError> {
    let mut keys = StaticKeys::new();
    if let Some(key) = optional("ADMIN_API_KEY")? {
        keys = keys
            .add_key("admin", &key, ["admin"])
            .map_err(|error| format!("ADMIN_API_KEY: {error}"))?;
    }
    let keys = ApiKeyLayer::new(KeyResolver::builder(keys).build());
    Ok(keys.only_in_header(HeaderName::from_static("x-admin-key")))
}

/// Strangers aren't told of the administrator's header.
fn style() -> Denials {
    let text = "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key";
    Denials::new(DenialFormat::OpenAi)
        .only_http()
        .add_message(DenialKind::CredentialMissing, text)
}

fn router(stores: &Stores, keys: KeyResolver, app: App) -> Result<Router, StartError> {
    let (requests, tokens) = limits();
    let budget = app.budget.clone();
    let spending = SpendingLimitLayer::new(Arc::clone(&stores.ledger), prices()?)
        .add_budget(move |_| Ok(Some(budget.clone())))
        .idempotency_keys(IdempotencyKeys::new())
        // A provider takes money for what nobody waits for any more.
        .unanswered_calls(Charging::Hold)
        .cost_headers()
        .tags(project);
    let bodies = BodyDigestLayer::new().read_use("POST", CHAT, RequestShape::OpenAiChat)?;
    let gate = stores
        .limits
        .share_all(Tollgate::builder())
        .denials(style())
        .cover_plain_errors()
        .audit(AuditTrail::new(Arc::clone(&stores.audit)))
        .client_address(client_address()?)
        .per_client_ip(Quota::per_minute(limit("IP_RATE_LIMIT_PER_MINUTE", 6_000)?))
        .authenticate(
            administrator()?
                .or(ApiKeyLayer::new(keys))
                .hide_credentials(),
        )
        .with_rate_limit(requests)
        .add_rate_limit("tokens", tokens)
        .authorize(RbacLayer::routes(&roles(), permissions()?))
        .with_spending(spending)
        .build_reading_bodies(bodies)?;
    Ok(Router::new()
        .route(CHAT, post(relay::chat))
        .route("/v1/models", get(relay::models))
        .route("/admin/keys", post(office::create_key))
        .route("/admin/credits", post(office::credit))
        .route("/admin/refunds", post(office::refund))
        .route("/admin/limits", put(office::set_limits))
        .route(USAGE, get(office::usage))
        .layer(gate)
        .with_state(app))
}
