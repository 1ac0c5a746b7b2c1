//! What the documents promise, to the letter.

use super::*;

/// Seven a minute: seven at once, and one more each 60/7 seconds.
#[tokio::test]
async fn n_a_minute_are_a_burst_of_n_and_one_more_each_nth_of_it() {
    let clock = Arc::new(ManualClock::default());
    let shared: Arc<dyn Clock> = clock.clone();
    let layer = RateLimitLayer::global(Quota::per_minute(7)).with_clock(shared);
    let service = layer.layer(service_fn(hello));
    let ask = async || service.clone().oneshot(Request::new(())).await.unwrap();
    for left in (0..7).rev() {
        let answer = ask().await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["x-ratelimit-remaining"], left.to_string());
    }
    let share = Duration::from_nanos(60_000_000_000 / 7);
    for _ in 0..20 {
        let refused = ask().await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers()["retry-after"], "9", "8.57 s, rounded up");
        assert_eq!(refused.headers()["x-ratelimit-limit"], "7");
        assert_eq!(refused.headers()["x-ratelimit-remaining"], "0");
        assert_eq!(refused.headers()["ratelimit"], "\"minute\";r=0;t=60");
        clock.advance(share - Duration::from_nanos(1));
        let refused = ask().await;
        assert_eq!(refused.headers()["retry-after"], "1", "and never 0");
        clock.advance(Duration::from_nanos(1));
        assert_eq!(ask().await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn whoever_has_a_prefix_of_addresses_has_one_count() {
    let from = |address: &'static str| {
        move || {
            let mut request = Request::new(());
            let peer = SocketAddr::new(address.parse().unwrap(), 9);
            request.extensions_mut().insert(PeerAddress(peer));
            let forwarded = "203.0.113.77".parse().unwrap();
            request.headers_mut().insert("x-forwarded-for", forwarded);
            request
        }
    };
    let layer = RateLimitLayer::per_client_ip(Quota::per_hour(3));
    assert_eq!(admitted(&layer, from("2001:db8:0:1::1")).await, 3);
    assert_eq!(admitted(&layer, from("2001:db8:0:1:ffff::7")).await, 0);
    assert_eq!(admitted(&layer, from("2001:db8:0:2::1")).await, 3);
    assert_eq!(admitted(&layer, from("192.0.2.1")).await, 3);
    assert_eq!(admitted(&layer, from("::ffff:192.0.2.1")).await, 0);
    assert_eq!(admitted(&layer, from("192.0.2.2")).await, 3);
}

/// One layer has one count, wherever it is put; and what stands further in may refuse as it likes.
#[tokio::test]
async fn a_layer_in_two_places_counts_once_and_tells_on_every_answer() {
    let forbidden = service_fn(async |_: Request<()>| {
        let mut answer = Response::new(String::new());
        *answer.status_mut() = StatusCode::FORBIDDEN;
        Ok::<_, Infallible>(answer)
    });
    let layer = RateLimitLayer::global(Quota::per_hour(4));
    let (one, other) = (layer.layer(service_fn(hello)), layer.layer(forbidden));
    for left in ["3", "1"] {
        let answer = one.clone().oneshot(Request::new(())).await.unwrap();
        assert_eq!(answer.headers()["x-ratelimit-remaining"], left);
        let answer = other.clone().oneshot(Request::new(())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert!(answer.headers().contains_key("ratelimit"));
    }
    let statistics = layer.limits().statistics().unwrap();
    assert_eq!((statistics.admitted, statistics.refused), (4, 0));
    let answer = other.oneshot(Request::new(())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
}
