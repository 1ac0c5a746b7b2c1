//! Money is held for what a request asks for, where its body is read.

mod unreadable;

use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::future::join_all;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tollgate::{
    BodyDigestLayer, HeldUse, RequestShape, RequestedUse,
    denial::{Denial, DenialKind},
    spending_limit::DigestedBody,
};

use super::*;

const PATH: &str = "/v1/chat/completions";

/// $2.50 a million read, $10 a million written.
fn dear() -> TokenPrice {
    Price::per_million_tokens(dollars("2.50"), dollars("10"))
}

/// An account with as much, and a layer that charges it for chats.
async fn funded_with(money: &str, price: impl Into<Price>) -> (MemoryStore, SpendingLimitLayer) {
    let ledger = MemoryStore::new();
    let credit = Credit {
        account: account(),
        amount: dollars(money),
        reference: "first".to_owned(),
    };
    ledger.credit(credit).await.unwrap();
    let prices = PriceTable::new().route("POST", PATH, price).unwrap();
    let layer = SpendingLimitLayer::new(ledger.clone(), prices);
    (ledger, layer)
}

fn reads(shape: RequestShape) -> BodyDigestLayer {
    BodyDigestLayer::new()
        .read_use("POST", PATH, shape)
        .unwrap()
}

fn chat(more: &Value) -> Bytes {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let members = body.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    Bytes::from(body.to_string())
}

fn post<B>(body: B) -> Request<B> {
    let mut request = request().map(|()| body);
    *request.uri_mut() = http::Uri::from_static(PATH);
    request
}

/// A provider that writes as much as it is asked for at most, of `model`.
async fn obedient<B>(request: Request<B>) -> Result<Answer, Infallible> {
    let asked: RequestedUse = request.extensions().get().cloned().unwrap();
    let held: HeldUse = request.extensions().get().copied().unwrap();
    let each = asked.output_max.or(held.output_max).unwrap();
    let answered = asked.model.as_deref().unwrap_or("m");
    let usage = json!({"prompt_tokens": 20, "completion_tokens": each * asked.choices});
    let body = json!({"model": answered, "usage": usage}).to_string();
    Ok(answer("application/json", &[&body]))
}

/// A hundred calls at once, each of which uses all that it asks for. Without a layer that reads
/// what that is, the same money admits all hundred, and they spend ten times as much.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_calls_with_money_for_ten_spend_no_more_than_there_is() {
    // The tokens at $10 a million, and the bytes of the request at $2.50.
    let body = chat(&json!({"max_tokens": 64_000}));
    let one = 64_000 * 10_000 + i64::try_from(body.len()).unwrap() * 2_500;
    let money = Money::from_nanos(10 * one);
    let (ledger, layer) = funded_with(&money.to_string().replace('$', ""), dear()).await;
    let (together, served) = (Arc::new(Barrier::new(10)), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&served);
    let service = reads(RequestShape::OpenAiChat).layer(layer.layer(service_fn(
        move |request: Request<DigestedBody<Full<Bytes>>>| {
            let (together, count) = (Arc::clone(&together), Arc::clone(&count));
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                // Nobody's hold ends before ten have begun.
                together.wait().await;
                obedient(request).await
            }
        },
    )));
    let calls = (0..100).map(|_| {
        let mut request = post(Full::new(body.clone()));
        let length = HeaderValue::from(body.len());
        request.headers_mut().insert("content-length", length);
        let service = service.clone();
        tokio::spawn(async move { said(service.oneshot(request).await.unwrap()).await.0 })
    });
    let statuses: Vec<u16> = join_all(calls)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let of = |status| statuses.iter().filter(|other| **other == status).count();
    assert_eq!((of(200), of(402)), (10, 90));
    assert_eq!(served.load(Ordering::SeqCst), 10);
    let balance = ledger.balance(&account()).await.unwrap();
    assert!(!balance.available().is_negative(), "{balance:?}");
    let rows = ledger.usage(&account(), Page::first(100)).await.unwrap();
    let spent: i64 = rows.items.iter().map(nanos).sum();
    assert_eq!(spent, 10 * (640_000_000 + 20 * 2_500));
}

/// What a call holds, and what its handler may know of that.
async fn held_for(shape: RequestShape, price: impl Into<Price>, body: &Value) -> (i64, HeldUse) {
    let (ledger, layer) = funded_with("1000", price).await;
    let told = Arc::new(Mutex::new(None));
    let heard = Arc::clone(&told);
    let service = reads(shape).layer(layer.layer(service_fn(move |request: Request<_>| {
        let _: &DigestedBody<Full<Bytes>> = request.body();
        *heard.lock().unwrap() = request.extensions().get().copied();
        obedient(request)
    })));
    let request = post(Full::new(chat(body)));
    assert_eq!(said(service.oneshot(request).await.unwrap()).await.0, 200);
    let rows = ledger.usage(&account(), Page::first(1)).await.unwrap();
    let held = rows.items.first().unwrap().held.nanos();
    let told: HeldUse = told.lock().unwrap().take().unwrap();
    assert_eq!(told.amount.nanos(), held);
    (held, told)
}

#[tokio::test]
async fn a_handler_knows_what_is_held() {
    let by_number = || dear().input_bound(TokenBound::Fixed(0));
    for (shape, body, output_max, choices) in [
        (RequestShape::OpenAiChat, json!({}), 4_096, 1),
        (RequestShape::OpenAiChat, json!({"n": 8}), 4_096, 8),
        (
            RequestShape::OpenAiChat,
            json!({"max_completion_tokens": 9, "n": 8}),
            9,
            8,
        ),
        (
            RequestShape::OpenAiCompletions,
            json!({"max_tokens": 9, "prompt": ["a", "b"]}),
            9,
            2,
        ),
        (
            RequestShape::OpenAiResponses,
            json!({"max_output_tokens": 9}),
            9,
            1,
        ),
        (RequestShape::OpenAiEmbeddings, json!({}), 0, 1),
        (
            RequestShape::AnthropicMessages,
            json!({"max_tokens": 64_000}),
            64_000,
            1,
        ),
    ] {
        let (held, told) = held_for(shape, by_number(), &body).await;
        assert_eq!(held, output_max * choices * 10_000, "{shape:?} {body}");
        assert_eq!(told.output_max, u64::try_from(output_max).ok());
    }
}

#[tokio::test]
async fn the_named_model_is_held_for_and_not_the_dearest() {
    let bound = |price: TokenPrice| price.input_bound(TokenBound::Fixed(0));
    let small = bound(Price::per_million_tokens(dollars("0.15"), dollars("0.60")));
    let models = Price::by_model([("large*", bound(dear())), ("small*", small)]);
    for (model, each) in [
        ("small-2024", 600),
        ("large-2024", 10_000),
        ("other", 10_000),
    ] {
        let body = json!({"model": model, "max_tokens": 100});
        let (held, _) = held_for(RequestShape::OpenAiChat, models.clone(), &body).await;
        assert_eq!(held, 100 * each, "{model}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_holds_nobody_s_money() {
    let price = dear().requested_output_max(100_000);
    let listed = Price::by_model([("m", price)]).only_listed_models();
    let (ledger, layer) = funded_with("1000", listed).await;
    let outer = reads(RequestShape::OpenAiChat).bytes_max(1_000);
    let service = Denials::new(DenialFormat::OpenAi);
    let service = tollgate::DenialsLayer::new(service).layer(outer.layer(layer.layer(service_fn(
        async |_: Request<DigestedBody<Full<Bytes>>>| {
            Ok::<_, Infallible>(answer("text/plain", &["hello"]))
        },
    ))));
    let call = |body: Bytes, headers: &[(&'static str, &'static str)]| {
        let mut request = post(Full::new(body));
        request
            .headers_mut()
            .extend(request_with("key-1", headers).into_parts().0.headers);
        let answer = service.clone().oneshot(request);
        async move {
            let (status, _, body) = said(answer.await.unwrap()).await;
            let body: Value = serde_json::from_str(&body).unwrap_or_default();
            (
                status,
                body["error"]["message"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            )
        }
    };
    let most = "A request may ask for at most 100000 output tokens, all choices together";
    for (body, status, why) in [
        (chat(&json!({"max_tokens": 100_000})), 200, ""),
        (chat(&json!({"max_tokens": 100_001})), 400, most),
        (chat(&json!({"n": 25})), 400, most),
        (
            chat(&json!({"max_tokens": -1})),
            400,
            "max_tokens: must be a whole number that is not negative",
        ),
        (
            chat(&json!({"model": "other"})),
            400,
            "model: must be one of those that are sold here",
        ),
        (
            Bytes::from_static(b"{\"model\":\"m\",\"n\":1,\"n\":99}"),
            400,
            "n: must not be there twice",
        ),
        (Bytes::from_static(b"{"), 400, "The body is not valid JSON"),
        (Bytes::new(), 400, "The body is not valid JSON"),
        (
            chat(&json!({"user": "u".repeat(1_000)})),
            413,
            "The request body is too large",
        ),
    ] {
        assert_eq!(
            call(body.clone(), &[]).await,
            (status, why.to_owned()),
            "{body:?}"
        );
    }
    let coded = call(chat(&json!({})), &[("content-encoding", "gzip")]).await;
    assert_eq!(coded, (400, "The body must not be compressed".to_owned()));
    let plain = call(chat(&json!({})), &[("content-encoding", "identity")]).await;
    assert_eq!(plain.0, 200);
    let rows = ledger.usage(&account(), Page::first(100)).await.unwrap();
    assert_eq!(rows.items.len(), 2, "the two that were answered");
}

/// A body in pieces is read whole, and passed on as it came.
#[tokio::test]
async fn what_comes_in_pieces_is_read_too() {
    let (ledger, layer) = funded_with("1000", dear().input_bound(TokenBound::Fixed(0))).await;
    let body = chat(&json!({"max_tokens": 7, "n": 3}));
    let whole = body.clone();
    let service = reads(RequestShape::OpenAiChat).layer(layer.layer(service_fn(
        move |request: Request<_>| {
            let whole = whole.clone();
            async move {
                let body: DigestedBody<_> = request.into_body();
                let body = BodyExt::collect(body).await.unwrap().to_bytes();
                assert_eq!(body, whole);
                Ok::<_, Infallible>(answer("text/plain", &["hello"]))
            }
        },
    )));
    for size in [1, 3, body.len()] {
        let pieces: Vec<_> = body.chunks(size).map(Bytes::copy_from_slice).collect();
        let frames = pieces
            .into_iter()
            .map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let request = post(StreamBody::new(stream::iter(frames)));
        let answer = service.clone().oneshot(request).await.unwrap();
        assert_eq!(said(answer).await.0, 200);
        let rows = ledger.usage(&account(), Page::first(1)).await.unwrap();
        assert_eq!(
            rows.items.first().unwrap().held.nanos(),
            21 * 10_000,
            "{size}"
        );
    }
}

#[tokio::test]
async fn a_shape_of_one_s_own_is_held_for_and_its_refusal_told() {
    let (ledger, layer) = funded_with("1000", dear().input_bound(TokenBound::Fixed(0))).await;
    let read = |_: &tollgate::RequestHead<'_>, body: &[u8]| {
        let words = std::str::from_utf8(body)
            .ok()
            .and_then(|text| text.parse().ok());
        let wrong = || Denial::new(DenialKind::Unprocessable).with_message("a number, please");
        let mut asked = RequestedUse::default();
        asked.output_max = Some(words.ok_or_else(wrong)?);
        Ok(asked)
    };
    let layer = BodyDigestLayer::new()
        .read_use_by("POST", PATH, read)
        .unwrap()
        .layer(layer.layer(service_fn(obedient::<DigestedBody<Full<Bytes>>>)));
    let call = |text: &'static str| {
        layer
            .clone()
            .oneshot(post(Full::new(Bytes::from_static(text.as_bytes()))))
    };
    assert_eq!(call("9").await.unwrap().status(), 200);
    let rows = ledger.usage(&account(), Page::first(1)).await.unwrap();
    assert_eq!(rows.items.first().unwrap().held.nanos(), 90_000);
    let (status, _, body) = said(call("nine").await.unwrap()).await;
    assert!(status == 422 && body.contains("a number, please"), "{body}");
    let twice = BodyDigestLayer::new().read_use("POST", PATH, RequestShape::OpenAiChat);
    let twice = twice.unwrap().read_use_by("POST", PATH, read);
    assert!(twice.unwrap_err().to_string().contains("twice"));
}

/// Budgets by model: what was read is there for whoever chooses a budget.
#[tokio::test]
async fn a_budget_may_go_by_the_model() {
    let (ledger, layer) = funded_with("1000", dear().input_bound(TokenBound::Fixed(0))).await;
    let limits = SpendingLimits {
        daily: Some(dollars("0.05")),
        ..SpendingLimits::default()
    };
    let large = BudgetId::new("model:large").unwrap();
    ledger.set_limits(&account(), &large, limits).await.unwrap();
    let layer = layer.add_budget_by(|head, _| {
        let asked: Option<&RequestedUse> = head.extensions.get();
        let model = asked.and_then(|asked| asked.model.as_deref());
        let large = model.filter(|model| *model == "large");
        large.map(|_| BudgetId::new("model:large")).transpose()
    });
    let service = reads(RequestShape::OpenAiChat)
        .layer(layer.layer(service_fn(obedient::<DigestedBody<Full<Bytes>>>)));
    for (model, status) in [("large", 200), ("large", 402), ("small", 200)] {
        let request = post(Full::new(chat(&json!({"model": model}))));
        let answer = service.clone().oneshot(request).await.unwrap();
        assert_eq!(said(answer).await.0, status, "{model}");
    }
}

#[tokio::test]
async fn a_call_that_costs_more_than_its_hold_is_told_of_once_a_minute() {
    let (log, _logged) = Log::begin();
    let gate = Gate::new().await;
    let said = || log.count("cost more than was held");
    let layer = gate.layer(by_token());
    for (output, seconds, times) in [
        (100, 0, 0),
        (101, 0, 1),
        (200, 59, 1),
        (100, 2, 1),
        (101, 0, 2),
    ] {
        gate.clock.advance(Duration::from_secs(seconds));
        let (_, row) = gate
            .call(layer.clone(), async |charge: Charge| {
                charge.add_input_tokens(1_000);
                charge.add_output_tokens(output);
                answer("text/plain", &["hello"])
            })
            .await;
        let over = i64::try_from(output).unwrap() - 100;
        assert_eq!(nanos(&row), HELD + over * 10_000, "charged in full");
        assert_eq!(said(), times, "{output}");
    }
}
