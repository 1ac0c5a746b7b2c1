//! Failed attempts, which alone are counted.

use super::*;
use crate::store::WindowReading;

/// Takes the word, and knows nobody else.
async fn word(request: Request<()>) -> Result<Answer, Infallible> {
    let mut answer = Response::new(String::new());
    match request.uri().path() {
        "/grpc" => {
            answer
                .headers_mut()
                .insert("grpc-status", "16".parse().unwrap());
        }
        "/forbidden" => *answer.status_mut() = StatusCode::FORBIDDEN,
        "/good" => {}
        _ => *answer.status_mut() = StatusCode::UNAUTHORIZED,
    }
    Ok(answer)
}

fn to(path: &str) -> Request<()> {
    Request::get(path).body(()).unwrap()
}

async fn status<S, B>(service: &S, request: Request<()>) -> u16
where
    S: tower::Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
{
    let answer = service.clone().oneshot(request).await;
    answer.unwrap().status().as_u16()
}

fn in_all_rules() -> [Quota; 3] {
    [
        Quota::per_hour(3),
        Quota::per_hour(3).strict(),
        Quota::calendar(CalendarPeriod::Day, 3),
    ]
}

#[tokio::test]
async fn what_succeeds_costs_nothing_and_what_fails_is_counted() {
    for quota in in_all_rules() {
        for is_shared in [false, true] {
            let mut layer = RateLimitLayer::global(quota.clone()).failed_attempts();
            if is_shared {
                let store = MemoryRateLimiter::new(9, SystemClock::shared());
                layer = layer.with_store("failed", store);
            }
            let service = layer.layer(service_fn(word));
            let mut statuses = Vec::new();
            let told = ["ratelimit", "ratelimit-policy", "x-ratelimit-remaining"];
            let paths = [
                "/good",
                "/guess",
                "/good",
                "/forbidden",
                "/grpc",
                "/good",
                "/guess",
            ];
            for path in paths {
                let answer = service.clone().oneshot(to(path)).await.unwrap();
                assert!(
                    told.iter()
                        .all(|name| !answer.headers().contains_key(*name))
                );
                statuses.push(answer.status().as_u16());
            }
            assert_eq!(statuses, [200, 401, 200, 403, 200, 200, 401]);
            let refused = service.clone().oneshot(to("/good")).await.unwrap();
            assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
            let headers = refused.headers();
            if quota == Quota::per_hour(3) {
                assert_eq!(headers["retry-after"], "1200", "until one is there");
                assert_eq!(headers["ratelimit"], "\"hour\";r=0;t=3600");
                assert_eq!(headers["ratelimit-policy"], "\"hour\";q=3;w=3600");
            }
            assert!(headers.contains_key("retry-after"));
            assert!(told.iter().all(|name| headers.contains_key(*name)));
            assert_eq!(headers["x-ratelimit-remaining"], "0");
        }
    }
}

#[tokio::test]
async fn a_refusal_tells_its_limit_in_the_dialects_that_were_asked_for() {
    use crate::wire::RateHeaderDialect::OpenAiRequests;
    let layer = || RateLimitLayer::global(Quota::per_hour(1));
    for layer in [
        layer().failed_attempts().add_headers(OpenAiRequests),
        layer().add_headers(OpenAiRequests).failed_attempts(),
    ] {
        let service = layer.layer(service_fn(word));
        assert_eq!(status(&service, to("/guess")).await, 401);
        let refused = service.oneshot(to("/good")).await.unwrap();
        assert_eq!(refused.headers()["x-ratelimit-remaining-requests"], "0");
        assert!(!refused.headers().contains_key("ratelimit"));
    }
}

/// So many may be too many, and are made good before the next.
#[tokio::test]
async fn attempts_that_are_under_way_together_are_all_counted() {
    for quota in in_all_rules() {
        let clock = Arc::new(ManualClock::default());
        clock.advance(Duration::from_secs(1));
        let layer = RateLimitLayer::global(quota.clone()).with_clock(clock.clone());
        let layer = layer.failed_attempts();
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let behind = Arc::clone(&gate);
        let slow = service_fn(move |request| {
            let gate = Arc::clone(&behind);
            async move {
                gate.acquire().await.unwrap().forget();
                word(request).await
            }
        });
        let service = layer.layer(slow);
        let attempt = |_| Box::pin(service.clone().oneshot(to("/guess")));
        let mut under_way: Vec<_> = (0..6).map(attempt).collect();
        for attempt in &mut under_way {
            assert!(futures_util::poll!(attempt.as_mut()).is_pending());
        }
        gate.add_permits(100);
        for attempt in under_way {
            assert_eq!(attempt.await.unwrap().status(), StatusCode::UNAUTHORIZED);
        }
        let (limits, request) = (layer.limits(), to("/"));
        let left = limits.peek(&RequestHead::of(&request)).await.unwrap();
        let WindowReading { remaining, reset } = left.as_slice()[0];
        assert_eq!(remaining, 0, "{quota:?}");
        if quota == Quota::per_hour(3) {
            assert_eq!(reset, Duration::from_secs(7_200));
            clock.advance(Duration::from_secs(4_799));
            assert_eq!(status(&service, to("/good")).await, 429);
            clock.advance(Duration::from_secs(1));
            assert_eq!(status(&service, to("/good")).await, 200);
        }
    }
}

#[tokio::test]
async fn a_store_that_fails_lets_nobody_guess() {
    for later in [None, Some(())] {
        let layer = RateLimitLayer::global(Quota::per_hour(2));
        let layer = layer
            .with_store("failed", Broken { later })
            .failed_attempts();
        let service = layer.layer(service_fn(word));
        assert_eq!(status(&service, to("/good")).await, 503);
    }
}
