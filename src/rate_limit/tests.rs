//! The layers, from the outside.

#![expect(clippy::arithmetic_side_effects, reason = "numbers in tests are small")]

mod attempts;
mod headers;
mod letter;
mod tokens;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderName, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio_stream::StreamExt;
use tower::{Layer, ServiceExt as _, service_fn};

use super::*;
use crate::{
    domain::{
        charge::Charge,
        clock::{Clock, ManualClock, SystemClock},
        credential::CredentialKind,
        principal::Principal,
        quota::{CalendarPeriod, Quota, Quotas},
    },
    store::{
        Correction, MemoryRateLimiter, RateDecision, RateKey, RateStore, Readings, StoreError,
        StoreErrorKind, StoreFuture,
    },
    wire::{ClientAddress, PeerAddress, RateHeaderDialect, RequestHead},
};

type Answer = Response<String>;

async fn hello(_: Request<()>) -> Result<Answer, Infallible> {
    Ok(Response::new("hello".to_owned()))
}

fn of(principal: Principal) -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(principal);
    request
}

fn caller(name: &str, tier: &str) -> Principal {
    let attributes = [("tier".to_owned(), tier.to_owned())].into();
    Principal::builder(name, CredentialKind::ApiKey)
        .attributes(attributes)
        .build()
}

/// How many of ten such requests are admitted.
async fn admitted(layer: &RateLimitLayer, request: impl Fn() -> Request<()>) -> usize {
    let service = layer.layer(service_fn(hello));
    let mut admitted = 0;
    for _ in 0..10 {
        let answer = service.clone().oneshot(request()).await.unwrap();
        match answer.status() {
            StatusCode::OK => admitted += 1,
            status => assert_eq!(status, StatusCode::TOO_MANY_REQUESTS),
        }
    }
    admitted
}

#[tokio::test]
async fn each_caller_has_the_quotas_of_its_key_its_tier_or_the_layer() {
    let plans = Plans::by_attribute("tier").add_tier("pro", Quota::per_hour(5));
    let layer = RateLimitLayer::per_principal(Quota::per_hour(2)).plans(plans.clone());
    assert_eq!(admitted(&layer, || of(caller("a", "free"))).await, 2);
    assert_eq!(admitted(&layer, || of(caller("b", "pro"))).await, 5);
    let own = || {
        let own = Quotas::from(Quota::per_hour(7));
        of(Principal::builder("c", CredentialKind::ApiKey)
            .quotas(own)
            .build())
    };
    assert_eq!(admitted(&layer, own).await, 7);
    plans.set("pro", Quota::per_hour(8));
    assert_eq!(
        admitted(&layer, || of(caller("b", "pro"))).await,
        3,
        "five were used"
    );
    plans.remove("pro");
    assert_eq!(admitted(&layer, || of(caller("b", "pro"))).await, 0);
}

/// One subject, whose requests differ in their windows from path to path: visits to one path give
/// nothing back on the other.
#[tokio::test]
async fn plans_by_path_reset_nothing_by_turns() {
    let plans = Plans::by(|head| (head.path() == "/models").then_some("models"))
        .add_tier("models", Quota::per_second(1_000));
    let day = Quota::calendar(CalendarPeriod::Day, 3);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
    let at = |path: &'static str| {
        let mut request = of(caller("a", "free"));
        *request.uri_mut() = path.parse().unwrap();
        request
    };
    let store = MemoryRateLimiter::new(10, Arc::clone(&clock));
    let layer = RateLimitLayer::per(RateLimitKey::subject(), day)
        .plans(plans)
        .with_clock(Arc::clone(&clock));
    for layer in [layer.clone(), layer.clone().with_store("limit", store)] {
        let service = layer.layer(service_fn(hello));
        for round in 0..10 {
            let answer = service.clone().oneshot(at("/models")).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            let policy = answer.headers()["ratelimit-policy"].to_str().unwrap();
            assert!(policy.contains("second") && !policy.contains("day"));
            let answer = service.clone().oneshot(at("/chat")).await.unwrap();
            let expected = match round {
                0..3 => StatusCode::OK,
                _ => StatusCode::TOO_MANY_REQUESTS,
            };
            assert_eq!(answer.status(), expected, "{round}");
        }
    }
}

#[tokio::test]
async fn requests_are_told_apart_by_several_things_together() {
    let key = RateLimitKey::attribute("tier")
        .and(RateLimitKey::header(HeaderName::from_static("x-tenant")));
    let layer = RateLimitLayer::per(key.and(RateLimitKey::route()), Quota::per_hour(1));
    let request = |tenant: &'static str, path: &'static str| {
        move || {
            let mut request = of(caller("a", "free"));
            *request.uri_mut() = path.parse().unwrap();
            request
                .headers_mut()
                .insert("x-tenant", tenant.parse().unwrap());
            request
        }
    };
    for (tenant, path) in [("one", "/a"), ("two", "/a"), ("one", "/b"), ("two", "/b")] {
        assert_eq!(admitted(&layer, request(tenant, path)).await, 1);
        assert_eq!(admitted(&layer, request(tenant, path)).await, 0);
    }
    assert_eq!(
        admitted(&layer, || of(caller("b", "free"))).await,
        1,
        "without the header"
    );
    assert_eq!(
        admitted(&layer, || of(caller("c", "free"))).await,
        0,
        "they are one"
    );
}

/// Whatever methods a client makes up.
#[tokio::test]
async fn a_route_has_one_count_for_each_method_that_there_is() {
    let layer = RateLimitLayer::per(RateLimitKey::route(), Quota::per_hour(2));
    let service = layer.layer(service_fn(hello));
    let mut refused = Vec::new();
    for method in [
        "GET", "HEAD", "GET", "POST", "AAA", "AAB", "get", "PROPFIND", "PATCH",
    ] {
        let mut request = Request::new(());
        *request.method_mut() = method.parse().unwrap();
        let answer = service.clone().oneshot(request).await.unwrap();
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            refused.push(method);
        }
    }
    assert_eq!(refused, ["GET", "get", "PROPFIND"]);
}

#[tokio::test]
async fn a_closure_names_and_another_weighs() {
    let key = RateLimitKey::by(|head| head.uri.query().map(str::to_owned));
    let layer = RateLimitLayer::per(key, Quota::per_hour(10)).cost(|head| {
        let path = head.path().trim_start_matches('/');
        path.parse().unwrap_or(1)
    });
    let to = |path: &'static str| move || Request::get(path).body(()).unwrap();
    assert_eq!(admitted(&layer, to("/4?a")).await, 2);
    assert_eq!(admitted(&layer, to("/2?a")).await, 1);
    assert_eq!(admitted(&layer, to("/5?b")).await, 2);
    let service = layer.layer(service_fn(hello));
    let answer = service.clone().oneshot(to("/11?c")()).await.unwrap();
    assert_eq!(
        answer.status(),
        StatusCode::PAYLOAD_TOO_LARGE,
        "it never fits"
    );
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&body).unwrap();
    let told =
        r#"The request counts as 11 requests, and the limit \"hour\" never admits more than 10"#;
    assert!(text.contains(told), "{text}");
    let answer = service.oneshot(to("/0?a")()).await.unwrap();
    assert_eq!(
        answer.status(),
        StatusCode::OK,
        "what costs nothing is only told"
    );
    assert_eq!(answer.headers()["x-ratelimit-remaining"], "0");
}

#[tokio::test]
async fn whom_the_limit_needs_and_does_not_find_is_refused() {
    let address = RateLimitLayer::per_client_ip(Quota::per_hour(1)).layer(service_fn(hello));
    let answer = address.oneshot(Request::new(())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    for key in [
        RateLimitKey::principal(),
        RateLimitKey::subject(),
        RateLimitKey::account(),
        RateLimitKey::attribute("x"),
    ] {
        let layer = RateLimitLayer::per(key, Quota::per_hour(1));
        let answer = layer
            .layer(service_fn(hello))
            .oneshot(Request::new(()))
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn dialects_and_jitter_are_chosen() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
    let layer = RateLimitLayer::global(Quota::per_minute(1))
        .with_clock(clock)
        .add_headers(RateHeaderDialect::XRateLimitEpoch)
        .add_headers(RateHeaderDialect::OpenAiRequests)
        .retry_jitter(Duration::from_secs(30));
    let service = layer.layer(service_fn(hello));
    let answer = service.clone().oneshot(Request::new(())).await.unwrap();
    assert_eq!(answer.headers()["x-ratelimit-reset"], "1767225660");
    assert_eq!(answer.headers()["x-ratelimit-reset-requests"], "1m0s");
    assert!(!answer.headers().contains_key("ratelimit"));
    let mut waits = Vec::new();
    for _ in 0..40 {
        let answer = service.clone().oneshot(Request::new(())).await.unwrap();
        let wait: u64 = answer.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((60..=90).contains(&wait), "{wait}");
        waits.push(wait);
    }
    waits.dedup();
    assert!(waits.len() > 5, "they are spread: {waits:?}");
}

/// A store that fails, at once or later.
#[derive(Debug)]
struct Broken {
    later: Option<()>,
}

impl Broken {
    fn fail<T: Send + 'static>(&self) -> StoreFuture<T> {
        let error = || Err(StoreError::new(StoreErrorKind::Unavailable, "broken"));
        match self.later {
            Some(()) => StoreFuture::new(async move { error() }),
            None => StoreFuture::ready(error()),
        }
    }
}

impl RateStore for Broken {
    fn take(&self, _: &RateKey, _: &Quotas, _: u32) -> StoreFuture<RateDecision> {
        self.fail()
    }

    fn correct(&self, _: &RateKey, _: &Quotas, _: Correction) -> StoreFuture<()> {
        self.fail()
    }

    fn peek(&self, _: &RateKey, _: &Quotas) -> StoreFuture<Readings> {
        self.fail()
    }

    fn reset(&self, _: &RateKey) -> StoreFuture<()> {
        self.fail()
    }
}

#[tokio::test]
async fn a_store_that_fails_is_503_and_nobody_s_fault() {
    for later in [None, Some(())] {
        let layer = RateLimitLayer::global(Quota::per_hour(1)).with_store("all", Broken { later });
        let answer = layer
            .layer(service_fn(hello))
            .oneshot(Request::new(()))
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "1");
        let request = Request::new(());
        let limits = layer.limits();
        assert!(limits.reset(&RequestHead::of(&request)).await.is_err());
    }
}

#[tokio::test]
async fn in_shadow_everybody_passes_and_what_would_be_refused_is_counted() {
    let layer = RateLimitLayer::global(Quota::per_minute(2)).shadow();
    let limits = layer.limits();
    assert_eq!(admitted(&layer, || Request::new(())).await, 10);
    let statistics = limits.statistics().unwrap();
    assert_eq!((statistics.admitted, statistics.refused), (2, 8));
    assert_eq!(limits.keys(), Some(1));
    let layer = layer.with_store("all", Broken { later: Some(()) });
    assert_eq!(admitted(&layer, || Request::new(())).await, 10);
}

#[tokio::test]
async fn an_operator_sees_and_forgets_counts_in_a_shared_store_too() {
    let store = Arc::new(MemoryRateLimiter::new(10, SystemClock::shared()));
    let layer = RateLimitLayer::per_principal(Quota::per_hour(5));
    let layer = layer.with_store("callers", Arc::clone(&store));
    let (limits, request) = (layer.limits(), of(caller("a", "")));
    let head = RequestHead::of(&request);
    assert_eq!(admitted(&layer, || of(caller("a", ""))).await, 5);
    assert_eq!(limits.peek(&head).await.unwrap().remaining(), 0);
    limits.reset(&head).await.unwrap();
    assert_eq!(limits.peek(&head).await.unwrap().remaining(), 5);
    assert_eq!((limits.statistics(), limits.keys()), (None, None));
    assert_eq!(store.statistics().refused, 5);
}

#[tokio::test]
async fn names_in_a_store_are_apart_where_the_things_are() {
    let peer: SocketAddr = "192.0.2.1:7".parse().unwrap();
    let mut request = of(caller("192.0.2.1", ""));
    request.extensions_mut().insert(PeerAddress(peer));
    let head = RequestHead::of(&request);
    let scope = "s".into();
    let keys = [
        RateLimitKey::everybody(),
        RateLimitKey::client_ip(ClientAddress::peer()),
        RateLimitKey::subject(),
        RateLimitKey::attribute("tier"),
        RateLimitKey::attribute("none"),
        RateLimitKey::route(),
        RateLimitKey::subject().and(RateLimitKey::attribute("tier")),
        RateLimitKey::attribute("tier").and(RateLimitKey::subject()),
    ];
    let names: std::collections::HashSet<_> = keys
        .iter()
        .map(|key| key.of(&head).unwrap().name(&scope))
        .collect();
    assert_eq!(names.len(), keys.len());
    assert!(!format!("{names:?}").contains("192"));
}

#[tokio::test]
async fn requests_under_way_are_counted_until_the_last_byte() {
    let layer = ConcurrencyLimitLayer::per_principal(2);
    let mut services = Vec::new();
    let service = layer.layer(service_fn(hello));
    for _ in 0..2 {
        let answer = service.clone().oneshot(of(caller("a", ""))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        services.push(answer);
    }
    let refused = service.clone().oneshot(of(caller("a", ""))).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    let other = service.clone().oneshot(of(caller("b", ""))).await.unwrap();
    assert_eq!(other.status(), StatusCode::OK);
    let body = services.pop().unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "hello");
    let next = service.clone().oneshot(of(caller("a", ""))).await.unwrap();
    assert_eq!(next.status(), StatusCode::OK, "one is over");
    drop((services, next, other));
    assert!(format!("{layer:?}").contains("clients: 0"), "{layer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_panics_or_is_given_up_is_under_way_no_more() {
    let layer = ConcurrencyLimitLayer::global(1);
    let stuck = layer.layer(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Answer, Infallible>>()
    }));
    let call = tokio::spawn(stuck.oneshot(Request::new(())));
    tokio::task::yield_now().await;
    call.abort();
    assert!(call.await.is_err());
    let panics = layer.layer(service_fn(
        async |_: Request<()>| -> Result<Answer, Infallible> { panic!("on purpose") },
    ));
    assert!(
        tokio::spawn(panics.oneshot(Request::new(())))
            .await
            .is_err()
    );
    let answer = layer
        .layer(service_fn(hello))
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}
