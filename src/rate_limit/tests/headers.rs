//! Who has the word in the header fields of an answer: the innermost limiter, and no handler.

use super::*;
use crate::guard::{Guard, course::Then};

/// Passes on what a service that it asked itself has told of its own limits.
async fn proxy(_: Request<()>) -> Result<Answer, Infallible> {
    let mut answer = Response::new("from elsewhere".to_owned());
    for name in [
        "ratelimit",
        "ratelimit-policy",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "x-ratelimit-reset",
        "x-ratelimit-limit-requests",
    ] {
        let name = HeaderName::from_static(name);
        answer.headers_mut().append(name, "9999".parse().unwrap());
    }
    Ok(answer)
}

/// One field alone.
async fn stray(_: Request<()>) -> Result<Answer, Infallible> {
    let mut answer = Response::new(String::new());
    let limit = HeaderName::from_static("x-ratelimit-limit");
    answer.headers_mut().insert(limit, "9999".parse().unwrap());
    Ok(answer)
}

/// What an answer tells: limit, remaining, and the policy.
fn reported<B>(answer: &Response<B>) -> [&str; 3] {
    let headers = answer.headers();
    let once = |name: &str| {
        assert_eq!(headers.get_all(name).iter().count(), 1, "{headers:?}");
        headers[name].to_str().unwrap()
    };
    for name in ["x-ratelimit-reset", "ratelimit"] {
        assert_ne!(once(name), "9999");
    }
    [
        once("x-ratelimit-limit"),
        once("x-ratelimit-remaining"),
        once("ratelimit-policy"),
    ]
}

/// What is left is never more than what there is, in any dialect.
#[tokio::test]
async fn a_burst_is_told_with_the_time_in_which_it_comes_back() {
    for (quota, limit, policy) in [
        (Quota::per_second(2).burst(5), "5", "\"second\";q=5"),
        (
            Quota::per_minute(60).burst(10),
            "10",
            "\"minute\";q=10;w=10",
        ),
        (
            Quota::per_minute(60).burst(90),
            "90",
            "\"minute\";q=90;w=90",
        ),
        (
            Quota::per(Duration::from_millis(100), 5),
            "5",
            "\"custom\";q=5",
        ),
        (
            Quota::per(Duration::from_millis(1_500), 5).strict(),
            "5",
            "\"custom\";q=5",
        ),
    ] {
        let service = RateLimitLayer::global(quota).layer(service_fn(hello));
        let answer = service.oneshot(Request::new(())).await.unwrap();
        let left = (limit.parse::<u32>().unwrap() - 1).to_string();
        assert_eq!(reported(&answer), [limit, &left, policy]);
        let draft = answer.headers()["ratelimit"].to_str().unwrap();
        assert!(draft.contains(&format!(";r={left};")), "{draft}");
    }
}

const OUTER: [&str; 3] = ["60", "59", "\"minute\";q=60;w=60"];
const INNER: [&str; 3] = ["5", "4", "\"hour\";q=5;w=3600"];

fn outer() -> RateLimitLayer {
    RateLimitLayer::global(Quota::per_minute(60))
}

fn inner() -> RateLimitLayer {
    RateLimitLayer::global(Quota::per_hour(5))
}

async fn ask<S, B>(service: S) -> Response<B>
where
    S: tower::Service<Request<()>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
{
    service.oneshot(Request::new(())).await.unwrap()
}

#[tokio::test]
async fn what_a_handler_sends_of_other_limits_is_written_over() {
    let answer = ask(outer().layer(service_fn(proxy))).await;
    assert_eq!(reported(&answer), OUTER);
    let of_provider = &answer.headers()["x-ratelimit-limit-requests"];
    assert_eq!(of_provider, "9999", "no name of ours");
    assert_eq!(
        reported(&ask(outer().layer(service_fn(stray))).await),
        OUTER
    );
}

#[tokio::test]
async fn an_inner_layer_has_the_word_whatever_is_between() {
    let service = outer().layer(inner().layer(service_fn(proxy)));
    assert_eq!(reported(&ask(service).await), INNER);
    // A middleware that waits before and after, and hides what it asks.
    let within = tower::util::BoxCloneService::new(inner().layer(service_fn(proxy)));
    let between = service_fn(move |request| {
        let within = within.clone();
        async move {
            tokio::task::yield_now().await;
            let answer = within.oneshot(request).await;
            tokio::task::yield_now().await;
            answer
        }
    });
    assert_eq!(reported(&ask(outer().layer(between)).await), INNER);
    // The outer one asks a store, so that the inner one is asked later.
    let store = MemoryRateLimiter::new(10, SystemClock::shared());
    let outer = outer().with_store("outer", Late(store));
    let service = outer.layer(inner().layer(service_fn(proxy)));
    assert_eq!(reported(&ask(service).await), INNER);
    let alone = ask(inner().layer(service_fn(proxy))).await;
    assert!(alone.extensions().is_empty(), "nobody would read it");
}

#[tokio::test]
async fn a_refusal_of_the_inner_layer_tells_its_limit() {
    let service = outer().layer(inner().layer(service_fn(hello)));
    for _ in 0..5 {
        let answer = service.clone().oneshot(Request::new(())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let refused = ask(service).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(reported(&refused), ["5", "0", "\"hour\";q=5;w=3600"]);
}

#[tokio::test]
async fn in_one_guard_the_inner_gate_has_the_word() {
    let gates = || Then {
        outer: outer().into_gate(),
        inner: inner().into_gate(),
    };
    let answer = ask(Guard::new(service_fn(proxy), gates())).await;
    assert_eq!(reported(&answer), INNER);
    let innermost = RateLimitLayer::global(Quota::per_second(7)).layer(service_fn(proxy));
    let answer = ask(Guard::new(innermost, gates())).await;
    assert_eq!(reported(&answer), ["7", "6", "\"second\";q=7;w=1"]);
}

#[tokio::test]
async fn limits_in_requests_and_in_tokens_are_told_side_by_side() {
    let tokens = RateLimitLayer::global(Quota::per_minute(1_000))
        .tokens(|_| 10)
        .add_headers(RateHeaderDialect::OpenAiTokens);
    let requests = outer().add_headers(RateHeaderDialect::OpenAiRequests);
    let answer = ask(requests.layer(tokens.layer(service_fn(proxy)))).await;
    let headers = answer.headers();
    assert_eq!(headers["x-ratelimit-remaining-requests"], "59");
    assert_eq!(headers["x-ratelimit-limit-requests"], "60");
    assert_eq!(headers["x-ratelimit-remaining-tokens"], "990");
}

/// A store whose answers take a while.
#[derive(Debug)]
struct Late(MemoryRateLimiter);

impl RateStore for Late {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        let decision = self.0.take(key, quotas, cost);
        StoreFuture::new(async {
            tokio::task::yield_now().await;
            Ok(decision)
        })
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()> {
        RateStore::correct(&self.0, key, quotas, correction)
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        RateStore::peek(&self.0, key, quotas)
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        RateStore::reset(&self.0, key)
    }
}
