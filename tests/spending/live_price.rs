//! Prices that change while the server runs: which of them a call is charged by.

use std::{
    future::ready,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::StreamExt;
use http_body_util::Full;
use serde_json::json;
use tollgate::{BodyDigestLayer, HeldUse, LivePrice, RequestShape};

use super::*;

fn sold_at(gate: &Gate, price: &LivePrice) -> SpendingLimitLayer {
    let prices = PriceTable::new().route_live("POST", "/chat", price);
    SpendingLimitLayer::new(gate.ledger.clone(), prices.unwrap()).with_clock(gate.clock.clone())
}

/// Five times what [`by_token`] takes.
fn dear() -> TokenPrice {
    Price::per_million_tokens(dollars("5"), dollars("50"))
        .input_bound(TokenBound::Fixed(1_000))
        .output_bound(TokenBound::Fixed(100))
}

#[tokio::test]
async fn a_call_costs_what_it_cost_when_it_began() {
    let gate = Gate::new().await;
    let cheap = by_token().cost_from(CostSource::Body);
    let dear = dear().cost_from(CostSource::Body);
    let price = LivePrice::new(cheap).unwrap();
    let layer = sold_at(&gate, &price);
    // It changes while the handler works.
    let handler = |_| {
        price.set(dear.clone()).unwrap();
        async { answer("application/json", &[USAGE]) }
    };
    let (_, row) = gate.call(layer.clone(), handler).await;
    assert_eq!(
        (nanos(&row), row.held.nanos()),
        (7 * 1_000 + 5 * 10_000, HELD)
    );
    let (_, row) = gate.call(layer, handler).await;
    assert_eq!(
        (nanos(&row), row.held.nanos()),
        (7 * 5_000 + 5 * 50_000, 5 * HELD)
    );
}

/// It may change in kind, and while the body is on its way.
#[tokio::test]
async fn what_is_charged_at_the_end_of_a_stream_is_the_price_of_its_beginning() {
    let gate = Gate::new().await;
    let price = LivePrice::new(Price::per_million_bytes(dollars("1"), 100)).unwrap();
    let service = sold_at(&gate, &price).layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(answer("text/plain", &["12345", "67890"]))
    }));
    for (then, charged) in [
        (Price::flat(dollars("7")), 10 * 1_000),
        (Price::free(), 7_000_000_000),
        (Price::flat(dollars("1")), 0),
    ] {
        let answer = service.clone().oneshot(request()).await.unwrap();
        let mut body = answer.into_body();
        body.frame().await.unwrap().unwrap();
        price.set(then).unwrap();
        body.collect().await.unwrap();
        assert_eq!(nanos(&gate.last().await), charged);
    }
    assert_eq!(gate.held().await, Money::ZERO);
}

#[tokio::test]
async fn of_a_price_by_model_all_models_are_those_of_the_beginning() {
    let gate = Gate::new().await;
    let models = |listed: &[(&str, TokenPrice)]| {
        let prices = listed.iter().map(|(name, price)| (*name, price.clone()));
        Price::by_model(prices).cost_from(CostSource::Body)
    };
    let before = models(&[("gpt-x", by_token()), ("gpt-old", dear())]);
    // The model that answers becomes cheaper, and the dearest one is sold no more.
    let free = Price::per_million_tokens(Money::ZERO, Money::ZERO)
        .input_bound(TokenBound::Fixed(0))
        .output_bound(TokenBound::Fixed(0));
    let after = models(&[("gpt-x", free)]);
    let price = LivePrice::new(before.clone()).unwrap();
    let layer = sold_at(&gate, &price);
    let call = async |then: &Price| {
        let handler = |_| {
            price.set(then.clone()).unwrap();
            ready(answer("application/json", &[USAGE]))
        };
        let (_, row) = gate.call(layer.clone(), handler).await;
        (nanos(&row), row.held.nanos())
    };
    let of_before = (7 * 1_000 + 5 * 10_000, 5 * HELD);
    assert_eq!(call(&after).await, of_before);
    assert_eq!(call(&before).await, (0, 0));
    assert_eq!(call(&before).await, of_before);
}

#[tokio::test]
async fn in_a_closure_it_is_read_once_a_call() {
    let gate = Gate::new().await;
    let price = LivePrice::new(Price::flat(dollars("1"))).unwrap();
    let (of_closure, reads) = (price.clone(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&reads);
    let prices = PriceTable::new().route_by("POST", "/chat", move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        of_closure.get()
    });
    let layer = SpendingLimitLayer::new(gate.ledger.clone(), prices.unwrap());
    let handler = |_| {
        price.set(Price::flat(dollars("2"))).unwrap();
        ready(answer("text/plain", &["hello"]))
    };
    for (cost, read) in [("1", 1), ("2", 2)] {
        let (_, row) = gate.call(layer.clone(), handler).await;
        assert_eq!(row.settlement.charged, dollars(cost));
        assert_eq!(
            (row.held, reads.load(Ordering::SeqCst)),
            (dollars(cost), read)
        );
    }
}

/// What the headers of an answer say: its cost, what was held, and what is left.
fn told<B>(answer: &Response<B>) -> [Option<&str>; 3] {
    ["x-cost", "x-cost-held", "x-balance-remaining"].map(|name| {
        let value = answer.headers().get(name);
        value.map(|value| value.to_str().unwrap())
    })
}

#[tokio::test]
async fn a_retry_shows_the_price_of_the_call_that_was_paid_for() {
    let gate = Gate::new().await;
    let price = LivePrice::new(Price::flat(dollars("1"))).unwrap();
    let layer = sold_at(&gate, &price)
        .idempotency_keys(IdempotencyKeys::new())
        .cost_headers();
    let (changes, calls) = (price.clone(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&calls);
    let service = layer.layer(service_fn(move |request: Request<()>| {
        count.fetch_add(1, Ordering::SeqCst);
        changes.set(Price::flat(dollars("3"))).unwrap();
        let mut answer = answer("text/plain", &["hello"]);
        if request.headers().contains_key("x-fail") {
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
        }
        async { Ok::<_, Infallible>(answer) }
    }));
    let call = |headers: &[(&'static str, &'static str)]| {
        let answer = service.clone().oneshot(request_with("key-1", headers));
        async {
            let answer = answer.await.unwrap();
            let told = told(&answer).map(|value| value.map(str::to_owned));
            let (status, is_repeated, _) = said(answer).await;
            (status, is_repeated, told)
        }
    };
    let told = |told: [&str; 3]| told.map(|value| (!value.is_empty()).then(|| value.to_owned()));
    let key = &[("idempotency-key", "a")];
    let first = call(key).await;
    assert_eq!(first, (200, false, told(["1", "1", "99"])));
    // What is left was true then, and is not said again; a price that nobody could pay refuses no
    // retry.
    for now in ["3", "1000"] {
        price.set(Price::flat(dollars(now))).unwrap();
        assert_eq!(call(key).await, (200, true, told(["1", "1", ""])));
    }
    assert_eq!((gate.rows().await, calls.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(call(&[("idempotency-key", "b")]).await.0, 402);

    // A call that failed was free: the retry is the call that is paid for, at the price of now.
    price.set(Price::flat(dollars("2"))).unwrap();
    let failed = call(&[("idempotency-key", "c"), ("x-fail", "1")]).await;
    assert_eq!(failed, (502, false, told(["0", "2", "97"])));
    let paid = call(&[("idempotency-key", "c")]).await;
    assert_eq!(paid, (200, false, told(["3", "3", "96"])));
    let left = gate.ledger.balance(&account()).await.unwrap();
    assert_eq!(left.available(), dollars("96"));
}

/// The first answer can't say it, or not yet all of it; the retry's can.
#[tokio::test]
async fn a_retry_says_what_the_call_cost_in_the_end() {
    for (by_handler, at_first, cost) in [(false, None, "0.000057"), (true, Some("0.001"), "0.002")]
    {
        let gate = Gate::new().await;
        let layer = gate
            .layer(by_token().cost_from(CostSource::Body))
            .idempotency_keys(IdempotencyKeys::new())
            .cost_headers();
        let service = layer.layer(service_fn(async |request: Request<()>| {
            let charge = request.extensions().get::<Charge>().unwrap().clone();
            let set = move |cost| {
                if by_handler {
                    charge.set(dollars(cost));
                }
            };
            set("0.001");
            let pieces = stream::iter([USAGE]).map(move |piece| {
                set("0.002");
                Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(piece.as_bytes())))
            });
            let answer = Response::builder().header(CONTENT_TYPE, "application/json");
            Ok::<_, Infallible>(answer.body(StreamBody::new(pieces)).unwrap())
        }));
        let key = &[("idempotency-key", "a")];
        let call = || service.clone().oneshot(request_with("key-1", key));
        let first = call().await.unwrap();
        assert_eq!(told(&first)[0], at_first);
        assert!(!said(first).await.1);
        assert_eq!(gate.last().await.settlement.charged, dollars(cost));
        let again = call().await.unwrap();
        assert_eq!(told(&again), [Some(cost), Some("0.002"), None]);
        assert!(said(again).await.1);
        assert_eq!(gate.rows().await, 1);
    }
}

/// Free routes know no keys, so a retry runs again, and costs nothing.
#[tokio::test]
async fn a_retry_of_what_has_become_free_is_a_free_call() {
    let gate = Gate::new().await;
    let price = LivePrice::new(Price::flat(dollars("1"))).unwrap();
    let layer = sold_at(&gate, &price).idempotency_keys(IdempotencyKeys::new());
    let service = layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(answer("text/plain", &["hello"]))
    }));
    let key = &[("idempotency-key", "a")];
    let call = async || {
        said(
            service
                .clone()
                .oneshot(request_with("key-1", key))
                .await
                .unwrap(),
        )
        .await
    };
    let mut rows = 0;
    for (now, is_repeated) in [("1", false), ("0", false), ("2", true)] {
        price.set(Price::flat(dollars(now))).unwrap();
        assert_eq!(call().await, (200, is_repeated, "hello".to_owned()));
        rows += usize::from(!is_repeated);
        assert_eq!(gate.rows().await, rows);
    }
    let settled = gate.ledger.balance(&account()).await.unwrap().settled;
    assert_eq!(settled, dollars("1"));
}

/// A chat that asks for ten words, and the handler's answer that it used five.
#[tokio::test]
async fn what_a_handler_may_use_is_of_the_price_that_is_held() {
    let gate = Gate::new().await;
    let bound = |price: TokenPrice| price.input_bound(TokenBound::Fixed(0));
    let price = LivePrice::new(bound(by_token()).cost_from(CostSource::Body)).unwrap();
    let reads = BodyDigestLayer::new().read_use("POST", "/chat", RequestShape::OpenAiChat);
    let (changes, held) = (price.clone(), Arc::new(Mutex::new(Vec::new())));
    let heard = Arc::clone(&held);
    let handler = service_fn(move |request: Request<_>| {
        let _: &tollgate::spending_limit::DigestedBody<Full<Bytes>> = request.body();
        let dear = bound(dear()).output_bound(TokenBound::Fixed(7));
        changes.set(dear.cost_from(CostSource::Body)).unwrap();
        let held: HeldUse = *request.extensions().get().unwrap();
        heard
            .lock()
            .unwrap()
            .push((held.amount.nanos(), held.output_max));
        async { Ok::<_, Infallible>(answer("application/json", &[USAGE])) }
    });
    let service = reads.unwrap().layer(sold_at(&gate, &price).layer(handler));
    let mut charged = Vec::new();
    for asked in [
        json!({"max_tokens": 10}),
        json!({"max_tokens": 10}),
        json!({}),
    ] {
        let body = Full::new(Bytes::from(asked.to_string()));
        let answer = service.clone().oneshot(request().map(|()| body)).await;
        assert_eq!(said(answer.unwrap()).await.0, 200);
        let row = gate.last().await;
        let of_row = (row.held.nanos(), nanos(&row));
        charged.push(of_row);
    }
    // As much as the request allows, or else as the price does.
    let told = held.lock().unwrap().clone();
    assert_eq!(
        told,
        [(100_000, Some(10)), (500_000, Some(10)), (350_000, Some(7))]
    );
    assert_eq!(
        charged,
        [(100_000, 57_000), (500_000, 285_000), (350_000, 285_000)]
    );
}

/// What is sold no more, or not in such an amount, is refused by the price of now, also to a retry:
/// nothing is charged for that.
#[tokio::test]
async fn a_retry_that_the_price_of_now_does_not_admit_is_refused() {
    let gate = Gate::new().await;
    let of = |most| {
        let price = by_token().requested_output_max(most);
        price.cost_from(CostSource::Body)
    };
    let price = LivePrice::new(of(100)).unwrap();
    let reads = BodyDigestLayer::new().read_use("POST", "/chat", RequestShape::OpenAiChat);
    let layer = sold_at(&gate, &price).idempotency_keys(IdempotencyKeys::new());
    let handler =
        service_fn(async |_: Request<_>| Ok::<_, Infallible>(answer("application/json", &[USAGE])));
    let service = reads.unwrap().layer(layer.layer(handler));
    for (most, expected) in [(100, (200, false)), (99, (400, false)), (100, (200, true))] {
        price.set(of(most)).unwrap();
        let body = Full::new(Bytes::from(json!({"max_tokens": 100}).to_string()));
        let request = request_with("key-1", &[("idempotency-key", "a")]).map(|()| body);
        let (status, is_repeated, _) = said(service.clone().oneshot(request).await.unwrap()).await;
        assert_eq!((status, is_repeated), expected, "{most}");
    }
    assert_eq!(gate.rows().await, 1);
}
