//! Where limits are counted, in which order, and what may be said of them.

use super::*;

/// A store of rates that answers when it is asked again.
#[derive(Debug)]
struct Elsewhere(MemoryRateLimiter, std::sync::Mutex<Vec<String>>);

impl RateStore for Elsewhere {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        self.1.lock().unwrap().push(format!("{key:?}"));
        let answer = RateStore::take(&self.0, key, quotas, cost);
        StoreFuture::new(async move {
            tokio::task::yield_now().await;
            answer.await
        })
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, by: Correction) -> StoreFuture<()> {
        RateStore::correct(&self.0, key, quotas, by)
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        RateStore::peek(&self.0, key, quotas)
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        RateStore::reset(&self.0, key)
    }
}

#[tokio::test]
async fn further_limits_are_asked_in_their_order_wherever_they_count() {
    let (keys, key) = keys(NewKey::default()).await;
    let clock = Arc::new(ManualClock::at("2030-01-01T00:00:00Z".parse().unwrap()));
    let store = || {
        Arc::new(Elsewhere(
            MemoryRateLimiter::new(100, clock.clone()),
            Default::default(),
        ))
    };
    let further = |number| {
        RateLimitLayer::per_principal(Quota::per_hour(number).named("further"))
            .with_clock(clock.clone())
    };
    for shared in [None, Some(store())] {
        let mut gate = Tollgate::builder()
            .authenticate(ApiKeyLayer::new(keys.clone()))
            .with_clock(clock.clone())
            .per_principal(Quota::per_hour(4))
            .add_rate_limit("two", further(2))
            .add_rate_limit("three", further(3).cost(|_| 2));
        if let Some(store) = &shared {
            gate = gate.with_rate_store(Arc::clone(store)).rate_scope("jobs");
        }
        let gate = gate.build().unwrap();
        // The first is through all; the second is refused by the last of them, the third by the one
        // before.
        for (status, remaining) in [(200, 1), (429, 1), (429, 0)] {
            let answer = ask(&gate, request("/", &key)).await;
            assert_eq!(answer.status(), status);
            let told = answer.headers()["x-ratelimit-remaining"].to_str().unwrap();
            assert_eq!(
                told,
                remaining.to_string(),
                "the innermost that was asked tells"
            );
        }
        if let Some(store) = shared {
            let names = store.1.lock().unwrap();
            assert_eq!(names.len(), 3 + 3 + 2);
            for scope in ["jobs/principal", "jobs/two", "jobs/three"] {
                assert!(names.iter().any(|name| name.contains(scope)), "{names:?}");
            }
        }
    }
}

#[tokio::test]
async fn limits_have_names_of_their_own_and_need_somebody_to_count() {
    let limit = || RateLimitLayer::per_principal(Quota::per_hour(1));
    let gate = || Tollgate::builder().authenticate(AuthenticateLayer::found_outside());
    let account = gate()
        .per_account(Quota::per_hour(1))
        .add_rate_limit("account", limit());
    assert_eq!(
        refused(account),
        "add_rate_limit, add_outer_rate_limit: there are two limits of one name"
    );
    let one = gate().add_rate_limit("account", limit());
    assert!(one.build().is_ok());
    assert_eq!(
        refused(Tollgate::builder().per_account(Quota::per_hour(1))),
        "per_account: needs `authenticate`"
    );
    for names in [["tokens", "tokens"], ["principal", "a"], ["a", "client-ip"]] {
        let [one, other] = names;
        let gate = gate()
            .add_rate_limit(one, limit())
            .add_rate_limit(other, limit());
        assert_eq!(
            refused(gate),
            "add_rate_limit, add_outer_rate_limit: there are two limits of one name"
        );
    }
    let two = gate()
        .add_rate_limit("a", limit())
        .add_rate_limit("b", limit());
    assert!(two.build().is_ok());
    assert_eq!(
        refused(Tollgate::builder().add_rate_limit("a", limit())),
        "add_rate_limit: needs `authenticate`"
    );
}

/// By the gate's clock, under its name in the gate's store, whichever key is used.
#[tokio::test]
async fn keys_of_one_account_share_its_limit() {
    let store = MemoryStore::new();
    let format = KeyFormat::builder("acme").build().unwrap();
    let keys = KeyResolver::builder(store.clone())
        .add_format(format.clone())
        .build();
    let ring = Keyring::new(store, format, keys.clone());
    let clock = Arc::new(ManualClock::at("2030-01-01T00:00:00Z".parse().unwrap()));
    let names = Arc::new(Elsewhere(
        MemoryRateLimiter::new(100, clock.clone()),
        Default::default(),
    ));
    let gate = Tollgate::builder()
        .authenticate(ApiKeyLayer::new(keys))
        .with_clock(clock.clone())
        .with_rate_store(names.clone())
        .per_principal(Quota::per_minute(9))
        .per_account(Quota::per_minute(2))
        .build()
        .unwrap();
    let (one, _) = ring.create("ann", NewKey::default()).await.unwrap();
    let (other, _) = ring.create("ann", NewKey::default()).await.unwrap();
    let (of_bob, _) = ring.create("bob", NewKey::default()).await.unwrap();
    for (key, status) in [(&one, 200), (&other, 200), (&one, 429), (&of_bob, 200)] {
        assert_eq!(ask(&gate, request("/", key)).await.status(), status);
    }
    clock.advance(std::time::Duration::from_secs(60));
    assert_eq!(ask(&gate, request("/", &other)).await.status(), 200);
    let names = names.1.lock().unwrap();
    let counts = |limit: &str| names.iter().filter(|name| name.contains(limit)).count();
    assert_eq!((counts("principal"), counts("account")), (5, 5));
}

#[tokio::test]
async fn a_limit_stands_where_it_counts_or_nowhere() {
    let (keys, key) = keys(NewKey::default()).await;
    let gate = || Tollgate::builder().authenticate(ApiKeyLayer::new(keys.clone()));
    let guesses = || RateLimitLayer::global(Quota::per_hour(2)).failed_attempts();
    let outside = "the limit never counts there; `add_outer_rate_limit` puts it where it does";
    assert_eq!(
        refused(gate().with_rate_limit(guesses())),
        format!("with_rate_limit: {outside}")
    );
    assert_eq!(
        refused(gate().add_rate_limit("guesses", guesses())),
        format!("add_rate_limit: {outside}")
    );
    let of_callers = RateLimitLayer::per_principal(Quota::per_hour(2));
    assert_eq!(
        refused(gate().add_outer_rate_limit("callers", of_callers)),
        "add_outer_rate_limit: the limit never counts there; `add_rate_limit` puts it where it does"
    );
    let twice = gate()
        .add_outer_rate_limit("a", guesses())
        .add_rate_limit("a", RateLimitLayer::per_principal(Quota::per_hour(2)));
    assert!(refused(twice).ends_with("there are two limits of one name"));

    let gate = gate().add_outer_rate_limit("guesses", guesses());
    let gate = gate.build().unwrap();
    let service = gate.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(String::new()))
    }));
    let guess = || Request::get("/").header("x-api-key", "acme_guess");
    for (request, status) in [
        (request("/", &key), 200),
        (guess().body(()).unwrap(), 401),
        (request("/", &key), 200),
        (guess().body(()).unwrap(), 401),
        (guess().body(()).unwrap(), 429),
        (request("/", &key), 429),
    ] {
        let answer = service.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), status);
    }
}

#[tokio::test]
async fn an_outer_limit_counts_in_the_store_of_the_gate() {
    let counted = Arc::new(MemoryRateLimiter::new(100, SystemClock::shared()));
    let gate = || {
        let everybody = RateLimitLayer::global(Quota::per_hour(1));
        let gate = Tollgate::builder().with_rate_store(Arc::clone(&counted));
        gate.add_outer_rate_limit("everybody", everybody).build()
    };
    for status in [200, 429] {
        let answer = ask(&gate().unwrap(), Request::new(())).await;
        assert_eq!(answer.status(), status, "two processes act as one");
    }
}
