//! Retries under an `Idempotency-Key`, and calls beside each other.

use super::*;

struct Idempotent<S> {
    gate: Gate,
    service: S,
}

#[tokio::test]
async fn a_retry_is_charged_once_and_gets_the_same_answer() {
    let gate = Gate::new().await;
    let calls = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let layer = gate
        .layer(Price::flat(dollars("1")))
        .idempotency_keys(IdempotencyKeys::new().answer_bytes_max(16));
    let handler = service_fn(move |request: Request<()>| {
        let number = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            let mut answer = match request.headers().get("x-long") {
                Some(_) => answer("text/plain", &["0123456789", "0123456789"]),
                None => answer("text/plain", &[&format!("call {number}")]),
            };
            if request.headers().contains_key("x-fail") {
                *answer.status_mut() = StatusCode::BAD_GATEWAY;
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let it = Idempotent {
        service: layer.layer(handler),
        gate,
    };
    let call = |key: &'static str, headers: &'static [(&'static str, &'static str)]| {
        let service = it.service.clone();
        async move { said(service.oneshot(request_with(key, headers)).await.unwrap()).await }
    };
    let first = call("key-1", &[("idempotency-key", "a")]).await;
    assert_eq!(first, (200, false, "call 0".to_owned()));
    for _ in 0..3 {
        let again = call("key-1", &[("idempotency-key", "a")]).await;
        assert_eq!(again, (200, true, "call 0".to_owned()));
    }
    assert_eq!(it.gate.rows().await, 1);
    let (status, ..) = call("key-2", &[("idempotency-key", "a")]).await;
    assert_eq!(status, 422, "another credential");
    let other = call("key-1", &[("idempotency-key", "b")]).await;
    assert_eq!(other, (200, false, "call 1".to_owned()));
    assert_eq!(call("key-1", &[]).await.2, "call 2");

    let long = &[("idempotency-key", "long"), ("x-long", "1")];
    assert_eq!(call("key-1", long).await.0, 200);
    assert_eq!(call("key-1", long).await.0, 409, "too long to be kept");

    let failing = &[("idempotency-key", "f"), ("x-fail", "1")];
    assert_eq!(call("key-1", failing).await.0, 502);
    assert_eq!(
        call("key-1", failing).await.0,
        502,
        "nothing was charged: again"
    );
    assert_eq!(call("key-1", &[("idempotency-key", "f")]).await.0, 200);

    for bad in [
        &[("idempotency-key", "")][..],
        &[("idempotency-key", "x"), ("idempotency-key", "x")],
    ] {
        let bad = request_with("key-1", bad);
        assert_eq!(it.service.clone().oneshot(bad).await.unwrap().status(), 400);
    }
    let balance = it.gate.ledger.balance(&account()).await.unwrap();
    assert_eq!(balance.settled, dollars("5"));
}

#[tokio::test]
async fn while_the_first_call_is_under_way_its_key_is_taken() {
    let gate = Gate::new().await;
    let layer = gate
        .layer(Price::flat(dollars("1")))
        .idempotency_keys(IdempotencyKeys::new());
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(answer("text/plain", &["hello"]))
    }));
    let key = &[("idempotency-key", "a")];
    let first = service
        .clone()
        .oneshot(request_with("key-1", key))
        .await
        .unwrap();
    let second = service.clone().oneshot(request_with("key-1", key)).await;
    assert_eq!(second.unwrap().status(), 409);
    assert_eq!(said(first).await.0, 200);
    let third = service.oneshot(request_with("key-1", key)).await.unwrap();
    assert_eq!(said(third).await, (200, true, "hello".to_owned()));
}

#[tokio::test]
async fn too_many_calls_at_once_are_too_many_of_the_caller_alone() {
    let ledger = MemoryStore::builder().open_holds_per_account_max(1).build();
    pay_in(&ledger).await;
    let prices = PriceTable::new().route("POST", "/chat", Price::flat(dollars("1")));
    let layer = SpendingLimitLayer::new(ledger, prices.unwrap());
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(answer("text/plain", &["hello"]))
    }));
    let first = service.clone().oneshot(request()).await.unwrap();
    let second = service.clone().oneshot(request()).await.unwrap();
    assert_eq!(second.status(), 429);
    assert_eq!(second.headers()["retry-after"], "1");
    assert_eq!(said(first).await.0, 200);
    let third = service.oneshot(request()).await.unwrap();
    assert_eq!(third.status(), 200);
}

#[tokio::test]
async fn another_method_or_target_is_another_request() {
    let gate = Gate::new().await;
    let price = || Price::flat(dollars("1"));
    let prices = PriceTable::new()
        .route("POST", "/chat", price())
        .and_then(|table| table.route("PUT", "/chat", price()))
        .and_then(|table| table.route("POST", "/other", price()))
        .unwrap();
    let layer = SpendingLimitLayer::new(gate.ledger.clone(), prices)
        .idempotency_keys(IdempotencyKeys::new());
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(answer("text/plain", &["hello"]))
    }));
    let request = |method: Method, target: &str| {
        let mut request = request_with("key-1", &[("idempotency-key", "a")]);
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().unwrap();
        service.clone().oneshot(request)
    };
    let first = request(Method::POST, "/chat").await.unwrap();
    assert_eq!(said(first).await.0, 200);
    for (method, target) in [
        (Method::PUT, "/chat"),
        (Method::POST, "/other"),
        (Method::POST, "/chat?a=b"),
    ] {
        assert_eq!(request(method, target).await.unwrap().status(), 422);
    }
    assert_eq!(gate.rows().await, 1);
}
