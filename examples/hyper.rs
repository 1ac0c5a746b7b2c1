//! A server on hyper and nothing above it: no router, no framework, the same gate. `tests/hyper-alone` builds it with what
//! it names and nothing else.
//!
//! `cargo run --example hyper --features sqlite -- generate-key --role admin` prints a key; without a command
//! it serves `GET /hello` (free), `POST /echo` ($0.0020, operators) and `GET /admin/accounts/{account}` (admins).

#[path = "support/generate.rs"]
mod generate;
mod support;

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use generate::Command;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use support::{StartError, Stores, client_address, limit, listen, run_until, serve_connections};
use tollgate::{
    ApiKeyLayer, DenialFormat, Denials, DrainedBody, JwtLayer, Price, PriceTable, Principal,
    RbacLayer, RequestHead, Tollgate, TollgateLayer,
    api_key::ApiKeyPolicy,
    denial::{Denial, DenialKind},
    guard::{GateBody, Or},
    jwt::JwtPolicy,
    key::KeyFormat,
    keyring::{KeyResolver, Keyring},
    quota::Quota,
    rbac::{InvalidRoute, RouteTable},
    role::{Permission, Requirement, RoleSet},
    store::{AccountId, Ledger},
    token::{SigningSecret, TokenVerifier},
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};

const BODY_BYTES_MAX: usize = 1_048_576;
const ADMIN: &str = "/admin/accounts/";

type Incoming = DrainedBody<hyper::body::Incoming>;
type Answer = Response<Full<Bytes>>;
type Route = BoxCloneSyncService<Request<Incoming>, Response<GateBody<Full<Bytes>>>, Infallible>;
type Gate = TollgateLayer<Or<ApiKeyPolicy, JwtPolicy>>;

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
    let stores = Stores::open("hyper").await?;
    let secret = stores.signing_secret()?;
    let (ring, keys) = keys(&stores)?;
    match command {
        Command::Key(wanted) => println!("{}", generate::key(wanted, &stores, ring).await?),
        Command::Token(wanted) => println!("{}", generate::token(&wanted, &secret)?),
        Command::Serve => {
            let gate = gate(&stores, keys, &secret, &roles)?;
            let routes = Routes::new(&roles, Arc::clone(&stores.ledger));
            let service = gate.layer(service_fn(move |request: Request<Incoming>| {
                routes.find(request.uri().path()).oneshot(request)
            }));
            let (listener, stop) = listen(8_081).await?;
            run_until(stop.clone(), serve_connections(service, listener, stop)).await?;
        }
    }
    Ok(stores.close().await?)
}

fn keys(stores: &Stores) -> Result<(Keyring, KeyResolver), StartError> {
    Ok(stores.keyring(KeyFormat::builder("demo").build()?))
}

/// Asked before any money is: what a role may not do costs nobody anything. Of what there isn't the prices tell.
fn permissions() -> Result<RouteTable, InvalidRoute> {
    let anything = "/{*path}";
    RouteTable::new()
        .route("GET", "/hello", "read")?
        .route("POST", "/echo", "write")?
        .route("GET", "/admin/accounts/{account}", "configure")?
        .route("GET", anything, Requirement::authenticated())?
        .route("POST", anything, Requirement::authenticated())
}

fn gate(
    stores: &Stores,
    keys: KeyResolver,
    secret: &SigningSecret,
    roles: &RoleSet,
) -> Result<Gate, StartError> {
    let client = client_address()?;
    let tokens = TokenVerifier::hs256(secret.expose()).build()?;
    let prices = PriceTable::new()
        .route("GET", "/hello", Price::free())?
        .route("POST", "/echo", Price::flat("0.0020".parse()?))?
        .route("GET", "/admin/accounts/{account}", Price::free())?;
    let per_ip = Quota::per_minute(limit("IP_RATE_LIMIT_PER_MINUTE", 6_000)?);
    let per_caller = Quota::per_minute(limit("KEY_RATE_LIMIT_PER_MINUTE", 600)?);
    let keys = ApiKeyLayer::new(keys).client_address(client.clone());
    let gate = stores
        .limits
        .share_all(Tollgate::builder())
        .denials(DenialFormat::ErrorMessage)
        .client_address(client)
        .per_client_ip(per_ip)
        .authenticate(keys.or(JwtLayer::new(tokens)))
        .per_principal(per_caller)
        .authorize(RbacLayer::routes(roles, permissions()?))
        .spending(Arc::clone(&stores.ledger), prices);
    Ok(gate.build()?)
}

/// The handlers, each behind the permission that it needs, whatever the gate's table says. What isn't in the price table never comes
/// here.
#[derive(Clone)]
struct Routes {
    hello: Route,
    echo: Route,
    account: Route,
}

impl Routes {
    fn new(roles: &RoleSet, ledger: Arc<dyn Ledger>) -> Self {
        let require = |permission| RbacLayer::require(roles, Permission::new(permission));
        let account = service_fn(move |request: Request<Incoming>| {
            let ledger = Arc::clone(&ledger);
            async move { Ok(account(&request, ledger.as_ref()).await) }
        });
        Self {
            hello: Route::new(require("read").layer(service_fn(async |r| Ok(hello(&r))))),
            echo: Route::new(require("write").layer(service_fn(async |r| Ok(echo(r).await)))),
            account: Route::new(require("configure").layer(account)),
        }
    }

    fn find(&self, path: &str) -> Route {
        match path {
            "/hello" => self.hello.clone(),
            "/echo" => self.echo.clone(),
            _ => self.account.clone(),
        }
    }
}

fn hello(request: &Request<Incoming>) -> Answer {
    let caller = request
        .extensions()
        .get()
        .map_or("nobody", Principal::subject);
    json(&serde_json::json!({ "hello": caller }))
}

async fn echo(request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Response::new(Full::new(body.to_bytes())),
        Err(_) => refused(
            &Denial::new(DenialKind::TooLarge),
            &Request::from_parts(head, ()),
        ),
    }
}

async fn account<B>(request: &Request<B>, ledger: &dyn Ledger) -> Answer {
    let name = request.uri().path().strip_prefix(ADMIN).unwrap_or_default();
    let Ok(account) = AccountId::new(name) else {
        return refused(&Denial::new(DenialKind::NotFound), request);
    };
    match ledger.balance(&account).await {
        Ok(balance) => json(&serde_json::json!({
            "available": balance.available(),
            "held": balance.held,
        })),
        Err(error) => refused(&error.into(), request),
    }
}

fn json(value: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(value.to_string())));
    let media_type = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

/// A refusal of a handler's own; the gate writes it in the house style.
fn refused<B>(denial: &Denial, request: &Request<B>) -> Answer {
    let answer = Denials::default().respond(denial, &RequestHead::of(request));
    answer.map(Full::new)
}
