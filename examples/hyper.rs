//! A server on hyper alone: no router, no framework, the same gate. `tests/hyper-alone` builds it
//! with only the dependencies that it names.
//!
//! `cargo run --example hyper --features sqlite -- generate-key --role admin` prints a key; without
//! a command it serves `GET /hello` (free), `POST /echo` ($0.0020, operators) and `GET
//! /admin/accounts/{account}` (admins).

#[path = "support/demo.rs"]
mod demo;
#[path = "support/generate.rs"]
mod generate;
mod support;

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use demo::Given;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::Full;
use support::{StartError, listen, run, serve_connections};
use tollgate::{
    BodyDigestLayer, DenialFormat, Denials, DrainedBody, Price, PriceTable, Principal, RbacLayer,
    RequestHead,
    denial::{Denial, DenialKind},
    guard::GateBody,
    rbac::{InvalidRoute, RouteTable},
    read_body,
    role::{Permission, RoleSet},
    spending_limit::DigestedBody,
    store::{AccountId, Ledger},
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};

/// The longest body; a `BodyDigestLayer` reads as much unless set otherwise.
const BODY_BYTES_MAX: usize = 1_048_576;
const ACCOUNT: &str = "/admin/accounts/{account}";

type Incoming = DigestedBody<DrainedBody<hyper::body::Incoming>>;
type Answer = Response<Full<Bytes>>;
type Route = BoxCloneSyncService<Request<Incoming>, Response<GateBody<Full<Bytes>>>, Infallible>;

#[tokio::main]
async fn main() {
    demo::main("hyper", serve).await;
}

async fn serve(given: &Given) -> Result<(), StartError> {
    let gate = demo::gate(given, permissions()?, prices()?)?
        .denials(Denials::new(DenialFormat::ErrorMessage).only_http())
        .build_reading_bodies(BodyDigestLayer::new())?;
    let routes = Routes::new(&given.roles, Arc::clone(&given.stores.ledger));
    let service = gate.layer(service_fn(move |request: Request<Incoming>| {
        routes.find(request.uri().path()).oneshot(request)
    }));
    let (connections, shutdown) = listen(8_081).await?;
    run(&shutdown, serve_connections(service, connections)).await
}

/// All routes; anything else doesn't exist.
fn permissions() -> Result<RouteTable, InvalidRoute> {
    RouteTable::new()
        .unknown_not_found()
        .route("GET", "/hello", "read")?
        .route("POST", "/echo", "write")?
        .route("GET", ACCOUNT, "configure")
}

fn prices() -> Result<PriceTable, StartError> {
    Ok(PriceTable::new()
        .route("GET", "/hello", Price::free())?
        .route("POST", "/echo", Price::flat("0.0020".parse()?))?
        .route("GET", ACCOUNT, Price::free())?)
}

/// The handlers. Each checks the permission that it needs, independently of the gate's table.
/// Routes that aren't in the table never get here.
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
    match read_body(body, BODY_BYTES_MAX).await {
        Ok(body) => Response::new(Full::new(body)),
        Err(denial) => refused(&denial, &Request::from_parts(head, ())),
    }
}

async fn account<B>(request: &Request<B>, ledger: &dyn Ledger) -> Answer {
    let name = RequestHead::of(request).path_parameter(ACCOUNT, "account");
    let Some(account) = name.and_then(|name| AccountId::new(&name).ok()) else {
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

/// A refusal by a handler; the gate renders it in the house style.
fn refused<B>(denial: &Denial, request: &Request<B>) -> Answer {
    let answer = Denials::default().respond(denial, &RequestHead::of(request));
    answer.map(Full::new)
}
