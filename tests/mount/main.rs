//! The same layers, unchanged, on axum, on tonic and on plain hyper, over real sockets: each admits
//! and refuses.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

#[path = "../support/http2.rs"]
mod http2;
#[path = "../support/log.rs"]
mod log;

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use log::Log;
use tokio::net::TcpListener;
use tollgate::{
    ApiKeyLayer, DenialFormat, PeerAddress, Price, PriceTable, Principal, Tollgate, TollgateLayer,
    api_key::ApiKeyPolicy,
    key::{ApiKey, KeyFormat},
    keyring::{KeyResolver, Keyring, NewKey},
    money::Money,
    quota::Quota,
    role::{Permission, RoleSet},
    store::{AccountId, Ledger, MemoryStore},
    usage::Credit,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{Layer, ServiceExt};

const PATH: &str = "/grpc.health.v1.Health/Check";

/// One gate, as each of the three servers mounts it, and a key with money for three calls.
async fn gate() -> (TollgateLayer<ApiKeyPolicy>, ApiKey, MemoryStore) {
    let (store, format) = (
        MemoryStore::new(),
        KeyFormat::builder("acme").build().unwrap(),
    );
    let keys = KeyResolver::builder(store.clone())
        .add_format(format.clone())
        .build();
    let ring = Keyring::new(store.clone(), format, keys.clone());
    let new = NewKey {
        roles: vec!["operator".into()],
        ..NewKey::default()
    };
    let (key, _) = ring.create("user-1", new).await.unwrap();
    let account = AccountId::new("user-1").unwrap();
    let credit = Credit {
        account,
        amount: Money::from_nanos(3),
        reference: "first".into(),
    };
    store.credit(credit).await.unwrap();
    let price = Price::flat(Money::from_nanos(1));
    let prices = PriceTable::new().route("POST", PATH, price).unwrap();
    let gate = Tollgate::builder()
        .denials(DenialFormat::ErrorMessage)
        .per_client_ip(Quota::per_minute(1_000))
        .authenticate(ApiKeyLayer::new(keys))
        .require(&RoleSet::viewer_operator_admin(), Permission::new("write"))
        .per_principal([Quota::per_second(50), Quota::per_minute(100)])
        .spending(store.clone(), prices)
        .build()
        .unwrap();
    (gate, key, store)
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Refused without a key, admitted three times with one, then out of money.
async fn call_over_http(address: SocketAddr, key: &ApiKey, store: &MemoryStore) {
    let client = reqwest::Client::new();
    let call = |key: Option<String>| {
        let mut request = client.post(format!("http://{address}{PATH}")).body("x");
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        request.timeout(Duration::from_secs(10)).send()
    };
    let refused = call(None).await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(
        refused.headers()["www-authenticate"],
        r#"Bearer realm="api""#
    );
    assert!(refused.headers().contains_key("x-request-id"));
    let body: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(body["error"], "Missing API key");
    for left in [2, 1, 0] {
        let admitted = call(Some(key.expose().into())).await.unwrap();
        assert_eq!(admitted.status(), 200);
        assert!(
            admitted.headers()["ratelimit"]
                .to_str()
                .unwrap()
                .starts_with("\"second\";r=")
        );
        assert_eq!(admitted.text().await.unwrap(), "user-1");
        let account = AccountId::new("user-1").unwrap();
        let balance = store.balance(&account).await.unwrap();
        assert_eq!(
            (balance.available(), balance.held),
            (Money::from_nanos(left), Money::ZERO)
        );
    }
    assert_eq!(call(Some(key.expose().into())).await.unwrap().status(), 402);
}

/// Over HTTP/2 nothing stands between a body that wasn't asked for and the client.
async fn head_over_http2(address: SocketAddr, key: &ApiKey) {
    let mut client = http2::Http2::connect(address).await;
    let refused = client.head_is_get_without_content(PATH, &[]).await;
    assert_eq!(refused.status(), 401);
    let with_key = [("x-api-key", key.expose())];
    let unknown = client.head_is_get_without_content("/nowhere", &with_key);
    assert_eq!(unknown.await.status(), 404);
    let strange = client.head_is_get_without_content(PATH, &with_key).await;
    assert_eq!(strange.status(), 405);
}

fn subject(extensions: &http::Extensions) -> String {
    extensions
        .get::<Principal>()
        .map_or_else(String::new, |caller| caller.subject().to_owned())
}

#[tokio::test]
async fn on_an_axum_router() {
    let (gate, key, store) = gate().await;
    let (listener, address) = listen().await;
    let whoami = async |caller: Principal| caller.subject().to_owned();
    let app = axum::Router::new()
        .route(PATH, axum::routing::post(whoami))
        .layer(gate);
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async { axum::serve(listener, service).await });
    call_over_http(address, &key, &store).await;
    head_over_http2(address, &key).await;
    server.abort();
}

#[tokio::test]
async fn on_plain_hyper() {
    let (gate, key, store) = gate().await;
    let (listener, address) = listen().await;
    let whoami = tower::service_fn(async |request: Request<hyper::body::Incoming>| {
        let body = Full::new(Bytes::from(subject(request.extensions())));
        Ok::<_, Infallible>(Response::new(body))
    });
    let service = gate.layer(whoami);
    let server = tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let with_peer = tower::ServiceBuilder::new()
                .map_request(move |mut request: Request<_>| {
                    request.extensions_mut().insert(PeerAddress(peer));
                    request
                })
                .service(service.clone());
            tokio::spawn(async move {
                auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(with_peer))
                    .await
                    .unwrap();
            });
        }
    });
    call_over_http(address, &key, &store).await;
    head_over_http2(address, &key).await;
    server.abort();
}

#[tokio::test]
async fn on_a_tonic_server() {
    let (gate, key, store) = gate().await;
    let (listener, address) = listen().await;
    let (_reporter, health) = tonic_health::server::health_reporter();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder()
        .layer(gate)
        .add_service(health);
    let server = tokio::spawn(server.serve_with_incoming(incoming));

    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let request = |key: Option<&ApiKey>| {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        if let Some(key) = key {
            request
                .metadata_mut()
                .insert("x-api-key", key.expose().parse().unwrap());
        }
        request
    };
    let refused = client.check(request(None)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    for _ in 0..3 {
        let admitted = client.check(request(Some(&key))).await.unwrap();
        assert!(admitted.metadata().contains_key("ratelimit"));
    }
    let broke = client.check(request(Some(&key))).await.unwrap_err();
    assert_eq!(broke.code(), tonic::Code::ResourceExhausted);
    let balance = store
        .balance(&AccountId::new("user-1").unwrap())
        .await
        .unwrap();
    assert_eq!(
        (balance.available(), balance.held),
        (Money::ZERO, Money::ZERO)
    );
    head_over_http2(address, &key).await;
    server.abort();
}

#[tokio::test]
async fn a_grpc_refusal_is_http_200_with_a_status_and_no_body() {
    let (gate, _, _) = gate().await;
    let service = gate.layer(tower::service_fn(async |_: Request<String>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
    }));
    let mut request = Request::post(PATH).body(String::new()).unwrap();
    *request.version_mut() = http::Version::HTTP_2;
    request
        .headers_mut()
        .insert("content-type", "application/grpc".parse().unwrap());
    request
        .extensions_mut()
        .insert(PeerAddress(([127, 0, 0, 1], 1).into()));
    let response = tower::ServiceExt::oneshot(service, request).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["grpc-status"]),
        (http::StatusCode::OK, &"16".parse().unwrap())
    );
    assert!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}

/// Whoever forgets how axum tells it reads the remedy, once.
#[tokio::test]
async fn a_server_that_tells_no_peer_refuses_everybody_and_says_why() {
    let (log, _logged) = Log::begin_at(tracing::Level::ERROR);
    let (gate, ..) = gate().await;
    let app = axum::Router::new().layer(gate);
    let request = || Request::get("/").body(axum::body::Body::empty()).unwrap();
    for _ in 0..2 {
        let answer = app.clone().oneshot(request()).await.unwrap();
        assert_eq!(answer.status(), 503);
    }
    let said = log.text();
    assert_eq!(
        said.matches("into_make_service_with_connect_info").count(),
        1,
        "{said}"
    );

    let peer: SocketAddr = "192.0.2.7:1".parse().unwrap();
    let tested = app.layer(axum::extract::connect_info::MockConnectInfo(peer));
    assert_eq!(tested.oneshot(request()).await.unwrap().status(), 401);
}
