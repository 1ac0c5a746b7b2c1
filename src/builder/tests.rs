mod limits;

use std::{convert::Infallible, net::SocketAddr};

use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    api_key::ApiKeyLayer,
    authenticate::AuthenticateLayer,
    domain::{
        clock::ManualClock,
        key::{ApiKey, KeyFormat},
        quota::{Quota, Quotas},
    },
    jwt::JwtLayer,
    keyring::{KeyResolver, Keyring, NewKey},
    spending_limit::Price,
    store::{
        AccountId, Correction, MemoryRateLimiter, MemoryStore, Page, RateDecision, RateKey,
        RateStore, Readings, StoreFuture,
    },
    token::TokenVerifier,
    wire::{ForwardedHeader, PeerAddress},
};

#[derive(Debug)]
struct Nowhere;

impl AuditSink for Nowhere {
    fn record(&self, _: crate::audit::AuditEvent) {}
}

fn refused<A: Policy<Permit = Identified> + Clone>(builder: TollgateBuilder<A>) -> String {
    builder.build().unwrap_err().to_string()
}

#[test]
fn contradictions_are_refused_by_the_name_of_the_setting() {
    let gate = Tollgate::builder;
    let everything = || RbacLayer::authenticated();
    assert_eq!(
        refused(gate().authorize(everything())),
        "authorize: needs `authenticate`"
    );
    assert_eq!(
        refused(gate().allow_addresses([])),
        "allow_addresses: allows nobody"
    );
    let everybody = ["0.0.0.0/0".parse().unwrap()];
    let trusting = ClientAddress::peer().trusting(everybody, ForwardedHeader::XForwardedFor);
    assert_eq!(
        refused(gate().client_address(trusting)),
        "client_address: trusts every address"
    );
    let secret = b"thirty-two bytes or more, please!";
    let verifier = TokenVerifier::hs256(secret).build().unwrap();
    let known = gate().authenticate(JwtLayer::new(verifier));
    let both = known
        .require(&RoleSet::viewer_operator_admin(), "read")
        .authorize(everything());
    assert_eq!(refused(both), "authorize: contradicts `require`");
    let verifier = || TokenVerifier::hs256(secret).build().unwrap();
    let known = || gate().authenticate(JwtLayer::new(verifier()));
    assert_eq!(
        refused(known().authenticate(JwtLayer::new(verifier()))),
        "authenticate: is set twice"
    );
    let roles = RoleSet::viewer_operator_admin();
    assert_eq!(
        refused(known().require(&roles, "configure").require(&roles, "read")),
        "require: is set twice"
    );
    let per_hour = || RateLimitLayer::per_principal(Quota::per_hour(1));
    assert_eq!(
        refused(
            known()
                .with_rate_limit(per_hour())
                .per_principal(Quota::per_hour(2))
        ),
        "with_rate_limit: contradicts `per_principal`"
    );
    assert_eq!(
        refused(gate().with_rate_limit(per_hour())),
        "with_rate_limit: needs `authenticate`"
    );
    assert_eq!(
        refused(gate().locate_clients().allow_addresses(everybody)),
        "allow_addresses: contradicts `locate_clients`"
    );
    let one = gate().audit(Nowhere).allow_addresses(everybody);
    assert!(one.build().is_ok());
}

/// Keys, and one of a viewer's.
async fn keys(new: NewKey) -> (KeyResolver, ApiKey) {
    let (store, format) = (
        MemoryStore::new(),
        KeyFormat::builder("acme").build().unwrap(),
    );
    let keys = KeyResolver::builder(store.clone())
        .add_format(format.clone())
        .build();
    let ring = Keyring::new(store, format, keys.clone());
    let new = NewKey {
        roles: vec!["viewer".into()],
        ..new
    };
    let (key, _) = ring.create("ann", new).await.unwrap();
    (keys, key)
}

fn request(path: &str, key: &ApiKey) -> Request<()> {
    let request = Request::get(path).header("x-api-key", key.expose());
    request.body(()).unwrap()
}

/// The answer of a gate in front of a service that greets everybody.
async fn ask<A>(gate: &TollgateLayer<A>, request: Request<()>) -> Response<()>
where
    A: Policy<Permit = Identified> + Clone,
{
    let hello = service_fn(async |_| Ok::<_, Infallible>(Response::new(String::new())));
    gate.layer(hello).oneshot(request).await.unwrap().map(drop)
}

fn once_an_hour() -> RateLimitLayer {
    RateLimitLayer::per_principal(Quota::per_hour(1))
}

#[tokio::test]
async fn a_layer_that_is_handed_in_keeps_its_settings() {
    let (keys, key) = keys(NewKey::default()).await;
    let gate = |limit| {
        let gate = Tollgate::builder().authenticate(ApiKeyLayer::new(keys.clone()));
        gate.with_rate_limit(limit).build().unwrap()
    };
    let (biting, tried) = (gate(once_an_hour()), gate(once_an_hour().shadow()));
    for status in [200, 429] {
        assert_eq!(ask(&biting, request("/", &key)).await.status(), status);
        assert_eq!(ask(&tried, request("/", &key)).await.status(), 200);
    }
    let spared = gate(once_an_hour().skip_paths(["/free"]));
    for (path, status) in [("/free", 200), ("/free", 200), ("/", 200), ("/", 429)] {
        assert_eq!(ask(&spared, request(path, &key)).await.status(), status);
    }
    let nobody = RbacLayer::require(&RoleSet::viewer_operator_admin(), "write");
    let allowed = |layer| {
        let gate = Tollgate::builder().authenticate(ApiKeyLayer::new(keys.clone()));
        gate.authorize(layer).build().unwrap()
    };
    let (biting, tried) = (allowed(nobody.clone()), allowed(nobody.shadow()));
    assert_eq!(ask(&biting, request("/", &key)).await.status(), 403);
    assert_eq!(ask(&tried, request("/", &key)).await.status(), 200);
}

#[tokio::test]
async fn a_limit_that_is_handed_in_counts_where_the_gate_does_unless_it_has_a_store() {
    let (keys, key) = keys(NewKey::default()).await;
    let clock = SystemClock::shared();
    let store = Arc::new(MemoryRateLimiter::new(10, Arc::clone(&clock)));
    let gate = |limit| {
        let gate = Tollgate::builder().authenticate(ApiKeyLayer::new(keys.clone()));
        let gate = gate.with_rate_store(Arc::clone(&store));
        gate.with_rate_limit(limit).build().unwrap()
    };
    let (one, other) = (gate(once_an_hour()), gate(once_an_hour()));
    let own = MemoryRateLimiter::new(10, clock);
    let apart = gate(once_an_hour().with_store("own", own));
    assert_eq!(ask(&one, request("/", &key)).await.status(), 200);
    assert_eq!(ask(&other, request("/", &key)).await.status(), 429);
    assert_eq!(ask(&apart, request("/", &key)).await.status(), 200);
}

/// Behind a proxy everybody has the proxy's address, which is in the network of many a key.
#[tokio::test]
async fn how_an_address_is_found_goes_for_all_that_looks_at_one() {
    let bound = NewKey {
        networks: vec![
            "10.0.0.0/8".parse().unwrap(),
            "192.0.2.0/24".parse().unwrap(),
        ],
        ..NewKey::default()
    };
    let (keys, key) = keys(bound).await;
    let proxies = || {
        ClientAddress::peer().trusting(
            ["10.0.0.2/32".parse().unwrap()],
            ForwardedHeader::XForwardedFor,
        )
    };
    let verifier = TokenVerifier::hs256(b"thirty-two bytes or more, please!")
        .build()
        .unwrap();
    let by_key = ApiKeyLayer::new(keys.clone()).or(JwtLayer::new(verifier));
    let of_peer = RateLimitLayer::per_client_ip(Quota::per_hour(1));
    let gate = Tollgate::builder()
        .authenticate(by_key)
        .client_address(proxies())
        .with_rate_limit(of_peer)
        .build()
        .unwrap();
    let from = |client: &str| {
        let mut request = request("/", &key);
        let peer: SocketAddr = "10.0.0.2:443".parse().unwrap();
        request.extensions_mut().insert(PeerAddress(peer));
        request
            .headers_mut()
            .insert("x-forwarded-for", client.parse().unwrap());
        request
    };
    assert_eq!(ask(&gate, from("198.51.100.7")).await.status(), 403);
    for (client, status) in [("192.0.2.7", 200), ("192.0.2.7", 429), ("192.0.2.8", 200)] {
        assert_eq!(ask(&gate, from(client)).await.status(), status, "{client}");
    }
    // A layer that trusts proxies of its own goes by these.
    let elsewhere = ClientAddress::peer().trusting(
        ["10.0.0.3/32".parse().unwrap()],
        ForwardedHeader::XForwardedFor,
    );
    let gate = Tollgate::builder()
        .client_address(proxies())
        .authenticate(ApiKeyLayer::new(keys).client_address(elsewhere))
        .build()
        .unwrap();
    assert_eq!(ask(&gate, from("198.51.100.7")).await.status(), 200);
}

#[tokio::test]
async fn who_may_not_is_counted_and_told_what_is_left() {
    let (keys, key) = keys(NewKey::default()).await;
    let gate = Tollgate::builder()
        .authenticate(ApiKeyLayer::new(keys))
        .require(&RoleSet::viewer_operator_admin(), "write")
        .per_principal(Quota::per_hour(2))
        .build()
        .unwrap();
    for (status, left) in [(403, "1"), (403, "0"), (429, "0")] {
        let answer = ask(&gate, request("/", &key)).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["x-ratelimit-remaining"], left);
    }
}

#[tokio::test]
async fn a_gate_can_be_tried_and_passes_by_whom_it_should() {
    let (keys, key) = keys(NewKey::default()).await;
    let gate = || Tollgate::builder().authenticate(ApiKeyLayer::new(keys.clone()));
    let stranger = |path: &str| Request::get(path).body(()).unwrap();
    let tried = gate().per_principal(Quota::per_hour(1)).shadow();
    let tried = tried.build().unwrap();
    assert_eq!(ask(&tried, stranger("/")).await.status(), 200);
    for _ in 0..2 {
        assert_eq!(ask(&tried, request("/", &key)).await.status(), 200);
    }
    let gate = gate().skip_preflight().skip_paths(["/health"]);
    let gate = gate.build().unwrap();
    let preflight = || {
        let asks = Request::options("/").header("origin", "https://app.example.com");
        asks.header("access-control-request-method", "POST")
    };
    for (request, status) in [
        (stranger("/"), 401),
        (stranger("/health"), 200),
        (stranger("/health/"), 401),
        (preflight().body(()).unwrap(), 200),
        (Request::options("/").body(()).unwrap(), 401),
    ] {
        assert_eq!(ask(&gate, request).await.status(), status);
    }
}

#[tokio::test]
async fn what_is_open_to_strangers_is_counted_by_address() {
    let (keys, key) = keys(NewKey::default()).await;
    let prices = PriceTable::new().route("GET", "/paid", Price::free());
    let gate = Tollgate::builder()
        .per_client_ip(Quota::per_hour(3))
        .authenticate(ApiKeyLayer::new(keys))
        .spending(MemoryStore::new(), prices.unwrap())
        .open_to_strangers(|head| head.path() == "/health")
        .build()
        .unwrap();
    let from = |path: &str, mut request: Request<()>, last: u8| {
        *request.uri_mut() = path.parse().unwrap();
        let peer = PeerAddress(SocketAddr::from(([192, 0, 2, last], 1)));
        request.extensions_mut().insert(peer);
        request
    };
    for (path, last, status) in [
        ("/health", 1, 200),
        ("/paid", 1, 401),
        ("/health", 1, 200),
        ("/health", 1, 429),
        ("/health", 2, 200),
    ] {
        let stranger = from(path, Request::new(()), last);
        assert_eq!(ask(&gate, stranger).await.status(), status, "{path}");
    }
    let known = from("/paid", request("/", &key), 3);
    assert_eq!(ask(&gate, known).await.status(), 200);
}

#[tokio::test]
async fn a_layer_that_charges_goes_by_its_own_clock_unless_the_gate_has_one() {
    let (keys, key) = keys(NewKey::default()).await;
    let at = |moment: &str| Arc::new(ManualClock::at(moment.parse().unwrap()));
    let (own, of_the_gate) = (at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z"));
    let account = AccountId::new("ann").unwrap();
    for clock in [None, Some(of_the_gate)] {
        let ledger = MemoryStore::new();
        let prices = PriceTable::new().route("GET", "/", Price::free()).unwrap();
        let layer = SpendingLimitLayer::new(ledger.clone(), prices);
        let gate = Tollgate::builder()
            .authenticate(ApiKeyLayer::new(keys.clone()))
            .with_spending(layer.with_clock(own.clone()));
        let now = clock.as_ref().unwrap_or(&own).now();
        let gate = match clock {
            Some(clock) => gate.with_clock(clock),
            None => gate,
        };
        ask(&gate.build().unwrap(), request("/", &key)).await;
        let usage = ledger.usage(&account, Page::first(1)).await.unwrap();
        assert_eq!(usage.items[0].call.started_at, now);
    }
}
