//! Spending layers in shadow, and two of them around one handler.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use tollgate::{
    AuthenticateLayer, Charge, ClientIp, CostSource, IdempotencyKeys, IpAllowLayer, PeerAddress,
    Price, PriceTable, Principal, RateLimitLayer, SpendingLimitLayer, TokenBound, Tollgate,
    money::Money,
    network,
    quota::Quota,
    role::RoleSet,
    store::{AccountId, Ledger, MemoryStore, Page},
    usage::{Credit, UsageEntry},
};
use tower::{Layer, ServiceExt, service_fn};

use super::request;

fn account() -> AccountId {
    AccountId::new("ann").unwrap()
}

async fn funded(nanos: i64) -> MemoryStore {
    let store = MemoryStore::new();
    if nanos > 0 {
        let credit = Credit {
            account: account(),
            amount: Money::from_nanos(nanos),
            reference: "first".to_owned(),
        };
        store.credit(credit).await.unwrap();
    }
    store
}

async fn rows(store: &MemoryStore) -> Vec<UsageEntry> {
    let page = store.usage(&account(), Page::first(9)).await;
    page.unwrap().items
}

fn prices(price: Price) -> PriceTable {
    PriceTable::new().route("POST", "/chat", price).unwrap()
}

fn from(peer: &str, path: &str) -> Request<()> {
    let mut request = request(Method::POST, path);
    let peer = PeerAddress(peer.parse().unwrap());
    request.extensions_mut().insert(peer);
    request
}

/// A handler as extractors make it: it fails where a layer didn't leave what it counts on.
async fn counting(request: Request<()>) -> Result<Response<String>, Infallible> {
    let charge = request.extensions().get::<Charge>();
    let client = request.extensions().get::<ClientIp>();
    Ok(match (charge, client) {
        (Some(charge), Some(_)) => {
            charge.set(Money::from_nanos(5));
            Response::new("served".to_owned())
        }
        _ => Response::builder().status(500).body(String::new()).unwrap(),
    })
}

#[tokio::test]
async fn a_gate_in_shadow_serves_whom_it_would_refuse_and_books_nothing_for_them() {
    let office = || network::parse("192.0.2.0/24").unwrap();
    let gate = |store: &MemoryStore| {
        let by_extension = AuthenticateLayer::found_outside();
        let gate = Tollgate::builder()
            .allow_addresses([office()])
            .authenticate(by_extension)
            .require(&RoleSet::viewer_operator_admin(), "write")
            .spending(store.clone(), prices(Price::flat(Money::from_nanos(10))));
        gate.shadow().build().unwrap().layer(service_fn(counting))
    };
    let rich = funded(1_000).await;
    for (store, request) in [
        (funded(0).await, from("192.0.2.7:1", "/chat")),
        (rich.clone(), from("192.0.2.7:1", "/nowhere")),
        (rich.clone(), {
            let mut nobody = from("192.0.2.7:1", "/chat");
            nobody.extensions_mut().remove::<Principal>();
            nobody
        }),
    ] {
        let answer = gate(&store).oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
        assert!(rows(&store).await.is_empty(), "it settles nothing");
    }
    // Where only the address, or only the role, is one that would be refused, it is paid for.
    let answer = gate(&rich).oneshot(from("198.51.100.1:1", "/chat")).await;
    assert_eq!(
        answer
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes(),
        "served"
    );
    let paid: Vec<_> = rows(&rich)
        .await
        .iter()
        .map(|row| row.settlement.charged)
        .collect();
    assert_eq!(paid, [Money::from_nanos(5)]);
}

#[tokio::test]
async fn a_repeat_in_shadow_is_served_anew_and_booked_once() {
    let store = funded(1_000).await;
    let layer = SpendingLimitLayer::new(store.clone(), prices(Price::flat(Money::from_nanos(10))))
        .idempotency_keys(IdempotencyKeys::default())
        .shadow();
    let service = IpAllowLayer::everybody().layer(layer.layer(service_fn(counting)));
    for _ in 0..2 {
        let mut request = from("192.0.2.7:1", "/chat");
        let name = http::HeaderValue::from_static("once");
        request.headers_mut().insert("idempotency-key", name);
        let answer = service.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(rows(&store).await.len(), 1);
}

#[tokio::test]
async fn a_limit_in_tokens_in_shadow_leaves_the_handle_too() {
    let tokens = RateLimitLayer::global(Quota::per_hour(1))
        .tokens(|_| 1)
        .shadow();
    let service = IpAllowLayer::everybody().layer(tokens.layer(service_fn(counting)));
    for _ in 0..3 {
        let answer = service.clone().oneshot(from("192.0.2.7:1", "/chat")).await;
        assert_eq!(answer.unwrap().status(), 200);
    }
}

/// A million tokens read cost a dollar, of them from a cache a tenth; a million written cost ten.
fn by_token() -> Price {
    let dollars = |text: &str| text.parse::<Money>().unwrap();
    Price::per_million_tokens(dollars("1"), dollars("10"))
        .cached_input(dollars("0.1"))
        .input_bound(TokenBound::Fixed(1_000))
        .output_bound(TokenBound::Fixed(100))
        .cost_from(CostSource::Body)
}

async fn two_ledgers(told_by_handler: bool) -> [UsageEntry; 2] {
    let (outer, inner) = (funded(100_000_000).await, funded(100_000_000).await);
    let layer = |store: &MemoryStore| SpendingLimitLayer::new(store.clone(), prices(by_token()));
    let handler = service_fn(move |request: Request<()>| {
        if told_by_handler {
            let charge = request.extensions().get::<Charge>().unwrap();
            charge.add_input_tokens(7);
            charge.add_output_tokens(1);
        }
        let usage = r#"{"usage":{"prompt_tokens":100,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":90}}}"#;
        let answer = Response::builder().header(CONTENT_TYPE, "application/json");
        std::future::ready(answer.body(Full::new(Bytes::from_static(usage.as_bytes()))))
    });
    let service = layer(&outer).layer(layer(&inner).layer(handler));
    let answer = service
        .oneshot(request(Method::POST, "/chat"))
        .await
        .unwrap();
    answer.into_body().collect().await.unwrap();
    let last = async |store| rows(store).await.pop().unwrap();
    [last(&outer).await, last(&inner).await]
}

#[tokio::test]
async fn each_of_two_ledgers_has_all_that_the_answer_said() {
    for row in two_ledgers(false).await {
        let told = &row.settlement;
        let tokens = (told.input_tokens, told.cached_tokens, told.output_tokens);
        assert_eq!(tokens, (Some(100), Some(90), Some(20)));
        assert_eq!(told.charged.nanos(), 10 * 1_000 + 90 * 100 + 20 * 10_000);
    }
}

#[tokio::test]
async fn what_the_handler_says_goes_to_both_of_two_ledgers() {
    for row in two_ledgers(true).await {
        let told = &row.settlement;
        assert_eq!((told.input_tokens, told.output_tokens), (Some(7), Some(1)));
        assert_eq!(told.charged.nanos(), 7 * 1_000 + 10_000);
    }
}

/// Where the body is not to be read further out any more, a limit in tokens goes by what was read
/// of it further in.
#[tokio::test]
async fn a_limit_in_tokens_counts_what_a_spending_layer_read() {
    let store = funded(100_000_000).await;
    let spending = SpendingLimitLayer::new(store, prices(by_token()));
    let handler = service_fn(async |_: Request<()>| {
        let usage = r#"{"usage":{"prompt_tokens":100,"completion_tokens":20}}"#;
        let answer = Response::builder().header(CONTENT_TYPE, "application/json");
        answer.body(Full::new(Bytes::from_static(usage.as_bytes())))
    });
    // What stands between them says nothing of the body's kind.
    let untyped = tower::ServiceBuilder::new()
        .layer(RateLimitLayer::global(Quota::per_hour(1_000)).tokens(|_| 500))
        .map_response(|mut answer: Response<_>| {
            answer.headers_mut().remove(CONTENT_TYPE);
            answer
        });
    let service = untyped.service(spending.layer(handler));
    let mut left = Vec::new();
    for _ in 0..2 {
        let call = service.clone().oneshot(request(Method::POST, "/chat"));
        let answer = call.await.unwrap();
        left.push(answer.headers()["x-ratelimit-remaining"].clone());
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(left, ["500", "380"], "the first took 120, not 500");
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn extractors_find_in_shadow_what_they_ask_for() {
    use axum::{Router, body::Body, routing::post};

    let gate = Tollgate::builder()
        .locate_clients()
        .authenticate(AuthenticateLayer::found_outside())
        .spending(funded(0).await, prices(Price::flat(Money::from_nanos(10))))
        .shadow()
        .build()
        .unwrap();
    let handler = async |charge: Charge, client: ClientIp| {
        charge.set(Money::from_nanos(5));
        client.to_string()
    };
    let app = Router::new().route("/chat", post(handler)).layer(gate);
    let answer = app.oneshot(from("192.0.2.7:1", "/chat").map(|()| Body::empty()));
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "192.0.2.7");
}
