//! tollgate beside its peers: the same requests, in one process, by turns.
//!
//! `cd benches/peers && cargo run --release`. Ratios count; the times are this machine's. With the
//! name of a contestant of the first table (`-- "the whole stack"`) and perhaps a number of calls
//! it runs that one alone, for a profiler; with `-- sockets` the comparison on sockets alone.

#[path = "../../scene/mod.rs"]
mod scene;
mod sockets;
mod tokens;

use std::{collections::BTreeMap, sync::Arc};

use axum::body::Body as AxumBody;
use axum_of_jwt_authorizer::body::Body as OtherAxumBody;
use bytes::Bytes;
use governor::middleware::StateInformationMiddleware;
use http::{HeaderValue, Request};
use http_body_util::Full;
use jwt_authorizer::{
    IntoLayer, JwtAuthorizer, RegisteredClaims, Validation, layer::AuthorizationLayer,
};
use scene::{Bare, Contestant, SECRET, Scene, by_turns, call, full, nanos, parts, ratio};
use tollgate::PeerAddress;
use tower::Layer;
use tower_governor::{
    GovernorError, GovernorLayer, governor::GovernorConfigBuilder, key_extractor::KeyExtractor,
};
use tower_http::validate_request::ValidateRequestHeaderLayer;

type Body = Full<Bytes>;

/// Counts by the address that the request came from.
#[derive(Clone, Debug)]
struct ByAddress;

impl KeyExtractor for ByAddress {
    type Key = std::net::IpAddr;

    fn extract<T>(&self, request: &Request<T>) -> Result<Self::Key, GovernorError> {
        let peer = request.extensions().get::<PeerAddress>();
        peer.map(|peer| peer.0.ip())
            .ok_or(GovernorError::UnableToExtractKey)
    }
}

/// Counts by the key that was sent.
#[derive(Clone, Debug)]
struct ByKey;

impl KeyExtractor for ByKey {
    type Key = HeaderValue;

    fn extract<T>(&self, request: &Request<T>) -> Result<Self::Key, GovernorError> {
        let key = request.headers().get("x-api-key");
        key.cloned().ok_or(GovernorError::UnableToExtractKey)
    }
}

/// tower_governor with one window that no call here exceeds, and its headers.
fn governor<K>(by: K) -> GovernorLayer<K, StateInformationMiddleware, AxumBody>
where
    K: KeyExtractor,
    K::Key: std::hash::Hash + Eq + Clone,
{
    let mut config = GovernorConfigBuilder::default();
    let config = config.per_nanosecond(10).burst_size(100_000_000);
    let config = config.key_extractor(by).use_headers().finish();
    GovernorLayer::new(Arc::new(config.expect("a period and a burst")))
}

async fn authorizer() -> AuthorizationLayer<RegisteredClaims> {
    let secret = std::str::from_utf8(SECRET).expect("ASCII");
    let validation = Validation::new().iss(&["bench"]).aud(&["bench"]);
    let built = JwtAuthorizer::from_secret(secret)
        .validation(validation)
        .build();
    built.await.expect("a secret").into_layer()
}

async fn contestants(scene: &Scene) -> Vec<Contestant<'_>> {
    let bare = Bare(full::<Body>);
    let of_axum = Bare(full::<AxumBody>);
    let of_other = Bare(full::<OtherAxumBody>);
    let key = scene.api_key().layer(bare.clone());
    let jwt = scene.jwt().layer(bare.clone());
    let three = scene.three_windows().layer(bare.clone());
    let whole = scene.whole().layer(bare.clone());
    let token = scene.token.as_str();
    #[allow(
        deprecated,
        reason = "it compares with one constant, which is what is measured"
    )]
    let validated = ValidateRequestHeaderLayer::bearer(token).layer(bare.clone());
    let authorized = authorizer().await.layer(of_other.clone());
    let by_address = governor(ByAddress).layer(of_axum.clone());
    let by_key = governor(ByKey).layer(of_axum.clone());
    let known = bare.clone();
    let tokened = bare.clone();
    let cold = Scene::verifier(0);
    let (hs256, ed_dsa) = (tokens::hs256(token), tokens::ed_dsa());
    vec![
        ("bare, key", Box::new(move || call(&bare, scene.with_key()))),
        (
            "bare, token",
            Box::new(move || call(&tokened, scene.with_token())),
        ),
        ("bare, known", Box::new(move || call(&known, scene.known()))),
        (
            "bare, axum 0.8",
            Box::new(move || call(&of_axum, scene.with_key())),
        ),
        (
            "bare, axum 0.7",
            Box::new(move || call(&of_other, scene.with_token())),
        ),
        (
            "ApiKeyLayer",
            Box::new(move || call(&key, scene.with_key())),
        ),
        ("JwtLayer", Box::new(move || call(&jwt, scene.with_token()))),
        (
            "three windows",
            Box::new(move || call(&three, scene.known())),
        ),
        ("whole", Box::new(move || call(&whole, scene.with_key()))),
        (
            "cold token",
            Box::new(move || drop(cold.verify(token).expect("a good token"))),
        ),
        (
            "tower-http",
            Box::new(move || call(&validated, scene.with_token())),
        ),
        (
            "jwt-authorizer",
            Box::new(move || call(&authorized, scene.with_token())),
        ),
        (
            "tower_governor, address",
            Box::new(move || call(&by_address, scene.with_key())),
        ),
        (
            "tower_governor, key",
            Box::new(move || call(&by_key, scene.with_key())),
        ),
        ("decode HS256", Box::new(hs256)),
        ("decode EdDSA", Box::new(ed_dsa)),
    ]
}

/// One line of the table: ours, the other side, and how the two compare.
fn line(what: &str, ours: u128, beside: &str, theirs: u128) {
    let times = ratio(theirs, ours);
    println!(
        "| {what} | {} | {beside} | {} | {times} |",
        nanos(ours),
        nanos(theirs)
    );
}

fn table(spent: &BTreeMap<&str, u128>) {
    let over = |name: &str, bare: &str| spent[name].saturating_sub(spent[bare]);
    let key = over("ApiKeyLayer", "bare, key");
    let jwt = over("JwtLayer", "bare, token");
    let three = over("three windows", "bare, known");
    let whole = over("whole", "bare, key");
    let authorizer = over("jwt-authorizer", "bare, axum 0.7");
    let by_address = over("tower_governor, address", "bare, axum 0.8");
    let by_key = over("tower_governor, key", "bare, axum 0.8");
    let constant = over("tower-http", "bare, token");
    println!("| over a bare service | ours | beside | theirs | theirs / ours |");
    println!("|---|---|---|---|---|");
    line("warm key", key, "tower-http, one constant", constant);
    line("warm token", jwt, "jwt-authorizer, HS256", authorizer);
    line(
        "warm token",
        jwt,
        "bare decode, EdDSA",
        spent["decode EdDSA"],
    );
    line(
        "cold token, HS256",
        spent["cold token"],
        "bare decode, HS256",
        spent["decode HS256"],
    );
    line(
        "3 windows, headers",
        three,
        "tower_governor, 1 window, headers",
        by_key,
    );
    let together = by_address + by_key + authorizer;
    line(
        "whole stack",
        whole,
        "tower_governor twice, jwt-authorizer",
        together,
    );
}

/// One contestant, long enough for a profiler to look at it.
fn alone(name: &str, scene: &Scene) {
    let calls = std::env::args().nth(2).map_or(2_000_000, |calls| calls.parse().expect("a number"));
    let parts = parts::Parts::new(scene.key.expose());
    let mut contestants = parts::contestants(scene, &parts);
    let found = contestants.iter_mut().find(|(other, _)| *other == name);
    let (_, contestant) = found.expect("one of the first table's names");
    for _ in 0..calls {
        contestant();
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let scene = runtime.block_on(Scene::new());
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("sockets") => return runtime.block_on(sockets::compare(&scene)),
        Some(name) => return alone(name, &scene),
    }
    parts::table(&scene);
    println!();
    let mut contestants = runtime.block_on(contestants(&scene));
    let spent = by_turns(&mut contestants, 1_000);
    let names = contestants.iter().map(|(name, _)| *name);
    table(&names.zip(spent).collect());
    runtime.block_on(sockets::compare(&scene));
}
