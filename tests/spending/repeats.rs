//! Retries under an `Idempotency-Key`, and calls beside each other.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use http_body_util::Full;
use tollgate::{BodyDigestLayer, spending_limit::DigestedBody};

use super::*;

struct Idempotent<S> {
    gate: Gate,
    service: S,
}

async fn hello(_: Request<()>) -> Result<Answer, Infallible> {
    Ok(answer("text/plain", &["hello"]))
}

/// Each call costs a dollar, unless it is a repeated one.
fn knows_repeats(gate: &Gate) -> SpendingLimitLayer {
    gate.layer(Price::flat(dollars("1")))
        .idempotency_keys(IdempotencyKeys::new())
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
async fn of_many_calls_the_last_ones_are_remembered_whatever_room_there_is() {
    let gate = Gate::new().await;
    let keys = IdempotencyKeys::new()
        .memory_bytes_max(20_000)
        .keep_for(Duration::MAX);
    let layer = gate
        .layer(Price::flat(dollars("0.1")))
        .idempotency_keys(keys);
    let service = layer.layer(service_fn(hello));
    let call = |number: u32| {
        let mut request = request();
        let key = format!("call-{number}").parse().unwrap();
        request.headers_mut().insert("idempotency-key", key);
        let service = service.clone();
        async move { said(service.oneshot(request).await.unwrap()).await }
    };
    for number in 0..200 {
        assert_eq!(call(number).await, (200, false, "hello".to_owned()));
        assert_eq!(call(number).await, (200, true, "hello".to_owned()));
    }
    assert_eq!(call(0).await.0, 409, "there is no room for all");
    assert_eq!(gate.rows().await, 100, "a page of them");
    let settled = gate.ledger.balance(&account()).await.unwrap().settled;
    assert_eq!(settled, dollars("20"));
}

#[tokio::test]
async fn while_the_first_call_is_under_way_its_key_is_taken() {
    let gate = Gate::new().await;
    let layer = knows_repeats(&gate);
    let service = layer.layer(service_fn(hello));
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
    let service = layer.layer(service_fn(hello));
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
    let service = layer.layer(service_fn(hello));
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

#[tokio::test]
async fn no_answer_is_said_again_but_that_of_the_call_that_was_charged() {
    let gate = Gate::new().await;
    let keys = IdempotencyKeys::new()
        .answer_bytes_max(8)
        .keep_for(Duration::from_secs(60));
    let price = by_token().cost_from(CostSource::Handler);
    let layer = gate.layer(price).idempotency_keys(keys);
    let calls = Arc::new(AtomicU64::new(0));
    let service = layer.layer(service_fn(move |request: Request<()>| {
        let number = calls.fetch_add(1, Ordering::SeqCst);
        let is = |name| request.headers().contains_key(name);
        let body = format!(
            "call {number}{}",
            if is("x-long") { " is long" } else { "" }
        );
        let tokens = u64::from(!is("x-free"));
        let charge = request.extensions().get::<Charge>().unwrap();
        charge.add_output_tokens(tokens);
        async move { Ok::<_, Infallible>(answer("text/plain", &[&body])) }
    }));
    let call = |headers: &'static [(&'static str, &'static str)]| {
        let service = service.clone();
        async move {
            said(
                service
                    .oneshot(request_with("key-1", headers))
                    .await
                    .unwrap(),
            )
            .await
        }
    };
    let free = &[("idempotency-key", "a"), ("x-free", "1")];
    assert_eq!(call(free).await, (200, false, "call 0".to_owned()));
    let long = &[("idempotency-key", "a"), ("x-long", "1")];
    assert_eq!(call(long).await.2, "call 1 is long", "the key was free");
    let again = call(&[("idempotency-key", "a")]).await;
    assert_eq!(again.0, 409, "what was charged is not kept");

    let kept = &[("idempotency-key", "b")];
    assert_eq!(call(kept).await, (200, false, "call 2".to_owned()));
    gate.clock.advance(Duration::from_secs(59));
    assert_eq!(call(kept).await, (200, true, "call 2".to_owned()));
    gate.clock.advance(Duration::from_secs(1));
    let late = &[("idempotency-key", "b"), ("x-long", "1")];
    assert_eq!(
        call(late).await.2,
        "call 3 is long",
        "the key was forgotten"
    );
    assert_eq!(
        call(kept).await.0,
        409,
        "the first answer is another call's"
    );
}

#[tokio::test]
async fn the_answer_of_a_call_whose_hold_had_ended_is_not_kept() {
    let gate = Gate::new().await;
    let layer = gate
        .layer(Price::flat(dollars("1")))
        .hold_lifetime(Duration::from_secs(60))
        .idempotency_keys(IdempotencyKeys::new().answer_bytes_max(8));
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let is_long = request.headers().contains_key("x-long");
        let body = if is_long { "the second" } else { "first" };
        Ok::<_, Infallible>(answer("text/plain", &[body]))
    }));
    let call = |headers: &'static [(&'static str, &'static str)]| {
        service.clone().oneshot(request_with("key-1", headers))
    };
    let slow = call(&[("idempotency-key", "a")]).await.unwrap();
    gate.clock.advance(Duration::from_secs(60));
    let second = call(&[("idempotency-key", "a"), ("x-long", "1")])
        .await
        .unwrap();
    assert_eq!(said(second).await.2, "the second");
    assert_eq!(said(slow).await.2, "first");
    let third = call(&[("idempotency-key", "a")]).await.unwrap();
    assert_eq!(third.status(), 409);
}

/// The statuses of calls with one key, whose bodies are these, and the bodies that the handler
/// read.
async fn with_bodies(layer: BodyDigestLayer, bodies: &[&str]) -> (Vec<u16>, Vec<String>) {
    let gate = Gate::new().await;
    let charged = knows_repeats(&gate);
    let read = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = read.clone();
    let service = layer.layer(charged.layer(service_fn(
        move |request: Request<DigestedBody<Full<Bytes>>>| {
            let read = read.clone();
            async move {
                let size = request.body().size_hint().exact();
                let body = said(Response::new(request.into_body())).await.2;
                assert_eq!(size, u64::try_from(body.len()).ok());
                read.lock().unwrap().push(body);
                Ok::<_, Infallible>(answer("text/plain", &["hello"]))
            }
        },
    )));
    let mut statuses = Vec::new();
    for body in bodies {
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        let request = request_with("key-1", &[("idempotency-key", "a")]).map(|()| body);
        let answer = service.clone().oneshot(request).await.unwrap();
        statuses.push(said(answer).await.0);
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (statuses, seen)
}

#[tokio::test]
async fn another_body_is_another_request_where_bodies_are_read() {
    let (statuses, read) = with_bodies(BodyDigestLayer::new(), &["one", "two", "one", ""]).await;
    assert_eq!(statuses, [200, 422, 200, 422]);
    assert_eq!(
        read,
        ["one"],
        "the handler has all of the first, and no other"
    );
    let short = BodyDigestLayer::new().bytes_max(3);
    let (statuses, read) = with_bodies(short, &["four", "one", "two", "four"]).await;
    assert_eq!(statuses, [413, 200, 422, 413]);
    assert_eq!(read, ["one"]);
}

#[tokio::test]
async fn a_body_of_many_pieces_is_read_to_its_end_and_one_that_breaks_off_is_refused() {
    let gate = Gate::new().await;
    let charged = knows_repeats(&gate);
    let service =
        BodyDigestLayer::new().layer(charged.layer(service_fn(async |request: Request<_>| {
            let body = BodyExt::collect(request.into_body()).await.unwrap();
            assert_eq!(body.to_bytes().len() % 10, 0);
            Ok::<_, Infallible>(answer("text/plain", &["hello"]))
        })));
    let call = |key: &'static str, pieces: usize, end: Option<std::io::Error>| {
        let piece = || Ok(Frame::data(Bytes::from_static(b"0123456789")));
        let frames: Vec<_> = std::iter::repeat_with(piece).take(pieces).collect();
        let frames = frames.into_iter().chain(end.map(Err));
        let body = StreamBody::new(stream::iter(frames));
        let request = request_with("key-1", &[("idempotency-key", key)]).map(|()| body);
        let answer = service.clone().oneshot(request);
        async { answer.await.unwrap() }
    };
    let first = call("a", 1_000, None).await;
    assert_eq!(said(first).await.0, 200);
    assert_eq!(said(call("a", 1_000, None).await).await.0, 200);
    assert_eq!(call("a", 999, None).await.status(), 422);
    let gone = std::io::Error::other("gone");
    assert_eq!(call("b", 2, Some(gone)).await.status(), 400);
    assert_eq!(
        call("b", 5_000, None).await.status(),
        413,
        "a frame takes memory too"
    );
    assert_eq!(gate.rows().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_falls_silent_holds_nobody_s_money() {
    let gate = Gate::new().await;
    let charged = knows_repeats(&gate);
    let service =
        BodyDigestLayer::new().layer(charged.layer(service_fn(async |request: Request<_>| {
            let _: DigestedBody<_> = request.into_body();
            Ok::<_, Infallible>(answer("text/plain", &["hello"]))
        })));
    let piece = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"0123456789")));
    let body = StreamBody::new(stream::iter([piece]).chain(stream::pending()));
    let request = request_with("key-1", &[("idempotency-key", "a")]).map(|()| body);
    let began = tokio::time::Instant::now();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 408);
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(gate.rows().await, 0);
}

/// Where bodies are measured, whoever doesn't say how long his is waits until it is there.
#[tokio::test(start_paused = true)]
async fn a_call_is_held_for_by_what_came_of_its_body() {
    let gate = Gate::new().await;
    let bytes = TokenBound::BodyBytes { unknown: 1_000_000 };
    let charged = gate.layer(by_token().input_bound(bytes));
    let layer = BodyDigestLayer::new().bytes_max(1_000).measure();
    let service = layer.layer(charged.layer(service_fn(async |request: Request<_>| {
        let body: DigestedBody<_> = request.into_body();
        let body = BodyExt::collect(body).await.unwrap().to_bytes();
        Ok::<_, Infallible>(answer("text/plain", &[&body.len().to_string()]))
    })));
    let call = |pieces: usize, silent: bool, headers: &[(&'static str, &'static str)]| {
        let piece = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"0123456789")));
        let frames = stream::iter(std::iter::repeat_with(piece).take(pieces));
        let rest = if silent {
            stream::pending().left_stream()
        } else {
            stream::empty().right_stream()
        };
        let body = StreamBody::new(frames.chain(rest));
        let request = request_with("key-1", headers).map(|()| body);
        service.clone().oneshot(request)
    };
    const WRITTEN: i64 = 100 * 10_000;
    for pieces in [7_usize, 0, 16] {
        let answer = call(pieces, false, &[]).await.unwrap();
        let read = pieces * 10;
        assert_eq!(said(answer).await.2, read.to_string());
        let held = i64::try_from(read).unwrap() * 1_000 + WRITTEN;
        assert_eq!(gate.last().await.held, Money::from_nanos(held), "{pieces}");
    }
    // More is made of what is coded, and it is held for as before.
    let coded = call(1, false, &[("content-encoding", "gzip")])
        .await
        .unwrap();
    assert_eq!(said(coded).await.0, 200);
    let held = Money::from_nanos(1_000_000 * 1_000 + WRITTEN);
    assert_eq!(gate.last().await.held, held);
    // Whoever says how long it is isn't waited for.
    let told = call(1, false, &[("content-length", "10")]).await.unwrap();
    assert_eq!(said(told).await.0, 200);
    assert_eq!(
        gate.last().await.held,
        Money::from_nanos(10 * 1_000 + WRITTEN)
    );
    let rows = gate.rows().await;
    assert_eq!(call(101, false, &[]).await.unwrap().status(), 413);
    let began = tokio::time::Instant::now();
    assert_eq!(call(1, true, &[]).await.unwrap().status(), 408);
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(gate.rows().await, rows, "nothing was held");
}

#[tokio::test]
async fn what_the_head_says_of_the_body_is_part_of_what_must_be_the_same() {
    let gate = Gate::new().await;
    let layer = knows_repeats(&gate);
    let service = layer.layer(service_fn(hello));
    let call = |headers: &'static [(&'static str, &'static str)]| {
        service.clone().oneshot(request_with("key-1", headers))
    };
    const KEY: (&str, &str) = ("idempotency-key", "a");
    let first = call(&[KEY, ("content-length", "3")]).await.unwrap();
    assert_eq!(said(first).await.0, 200);
    let others: [&'static [_]; 5] = [
        &[KEY],
        &[KEY, ("content-length", "4")],
        &[KEY, ("content-length", "3"), ("content-type", "text/plain")],
        &[KEY, ("content-length", "3"), ("content-encoding", "gzip")],
        &[
            KEY,
            ("content-length", "3"),
            ("content-digest", "sha-256=:AA==:"),
        ],
    ];
    for other in others {
        assert_eq!(call(other).await.unwrap().status(), 422, "{other:?}");
    }
    let again = call(&[KEY, ("content-length", "3")]).await.unwrap();
    assert!(said(again).await.1);
}
