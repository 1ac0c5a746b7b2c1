//! The spending layer around handlers of every kind: what is charged, what is told, what is
//! refused.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails ends"
)]

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use tollgate::{
    Charge, Charging, CostSource, CredentialKind, DenialFormat, Denials, IdempotencyKeys,
    MissingUsage, Price, PriceTable, Principal, SpendingLimitLayer, TokenBound, TokenPrice,
    UsageExport,
    budget::{RollingLimit, RollingWindow, SpendingLimits},
    clock::{Clock, ManualClock},
    money::Money,
    store::{AccountId, BudgetId, KeyId, Ledger, MemoryStore, Page},
    usage::{Call, Credit, Outcome, Settlement, Tags, UsageEntry},
};
use tower::{Layer, ServiceExt, service_fn};

mod alerts;
mod endings;
mod left;
mod live_price;
#[path = "../support/log.rs"]
mod log;
mod payers;
mod providers;
mod repeated_calls;
mod repeats;
mod requested;
mod tags;

use log::Log;

type Answer = Response<BoxBody<Bytes, std::io::Error>>;

fn dollars(text: &str) -> Money {
    text.parse().unwrap()
}

fn account() -> AccountId {
    AccountId::new("ann").unwrap()
}

async fn funded(clock: &Arc<ManualClock>) -> MemoryStore {
    let store = MemoryStore::builder().with_clock(clock.clone()).build();
    pay_in(&store).await;
    store
}

async fn pay_in(store: &MemoryStore) {
    let credit = Credit {
        account: account(),
        amount: dollars("100"),
        reference: "first".to_owned(),
    };
    store.credit(credit).await.unwrap();
}

fn by_token() -> TokenPrice {
    Price::per_million_tokens(dollars("1"), dollars("10"))
        .input_bound(TokenBound::Fixed(1_000))
        .output_bound(TokenBound::Fixed(100))
}

/// What [`by_token`] holds: 1,000 tokens read and 100 written.
const HELD: i64 = 1_000 * 1_000 + 100 * 10_000;

fn request() -> Request<()> {
    request_with("key-1", &[])
}

fn request_with(key: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = Request::post("/chat").body(()).unwrap();
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        request.headers_mut().append(*name, value);
    }
    let caller = Principal::builder("ann", CredentialKind::ApiKey).key(KeyId::new(key).unwrap());
    request.extensions_mut().insert(caller.build());
    request
}

fn answer(media_type: &'static str, pieces: &[&str]) -> Answer {
    let frames: Vec<_> = pieces
        .iter()
        .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece.as_bytes()))))
        .collect();
    let body = StreamBody::new(stream::iter(frames)).boxed();
    let mut response = Response::new(body);
    let value = HeaderValue::from_static(media_type);
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

struct Gate {
    ledger: MemoryStore,
    clock: Arc<ManualClock>,
}

impl Gate {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let ledger = funded(&clock).await;
        Self { ledger, clock }
    }

    fn layer(&self, price: impl Into<Price>) -> SpendingLimitLayer {
        let prices = PriceTable::new().route("POST", "/chat", price).unwrap();
        SpendingLimitLayer::new(self.ledger.clone(), prices).with_clock(self.clock.clone())
    }

    /// Calls once, takes the whole body, and returns the row of the log.
    async fn call<F>(
        &self,
        layer: SpendingLimitLayer,
        handler: impl Fn(Charge) -> F + Clone,
    ) -> (HeaderMap, UsageEntry)
    where
        F: Future<Output = Answer>,
    {
        let service = layer.layer(service_fn(move |request: Request<()>| {
            let answer = handler(request.extensions().get::<Charge>().unwrap().clone());
            async move { Ok::<_, Infallible>(answer.await) }
        }));
        let answer = service.oneshot(request()).await.unwrap();
        let headers = answer.headers().clone();
        let _ = answer.into_body().collect().await;
        (headers, self.last().await)
    }

    async fn last(&self) -> UsageEntry {
        let page = self.ledger.usage(&account(), Page::first(1)).await.unwrap();
        page.items.into_iter().next().unwrap()
    }

    async fn rows(&self) -> usize {
        let page = self.ledger.usage(&account(), Page::first(100)).await;
        page.unwrap().items.len()
    }

    async fn held(&self) -> Money {
        self.ledger.balance(&account()).await.unwrap().held
    }
}

/// The status, whether it is a repetition, and the body of an answer.
async fn said<B>(answer: Response<B>) -> (u16, bool, String)
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let replayed = answer.headers().contains_key("idempotency-replayed");
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, replayed, String::from_utf8(body.to_vec()).unwrap())
}

fn nanos(row: &UsageEntry) -> i64 {
    row.settlement.charged.nanos()
}

const USAGE: &str = r#"{"model":"gpt-x","usage":{"prompt_tokens":7,"completion_tokens":5,
    "prompt_tokens_details":{"cached_tokens":3}}}"#;

#[tokio::test]
async fn usage_in_the_body_is_charged() {
    let gate = Gate::new().await;
    let layer = gate.layer(by_token().cost_from(CostSource::Body));
    let (_, row) = gate
        .call(layer.clone(), async |_| {
            answer("application/json", &[USAGE])
        })
        .await;
    assert_eq!(nanos(&row), 7 * 1_000 + 5 * 10_000);
    let settlement = &row.settlement;
    assert_eq!(
        (
            settlement.input_tokens,
            settlement.cached_tokens,
            settlement.output_tokens,
            settlement.model.as_deref()
        ),
        (Some(7), Some(3), Some(5), Some("gpt-x"))
    );
    let events = [
        "data: {\"usage\":null}\n\ndata: {\"usage\":{\"prompt_to",
        "kens\":0,\"completion_tokens\":0}}\n\n",
        "data: [DONE]\n\n",
    ];
    let (_, row) = gate
        .call(layer.clone(), async |_| {
            answer("text/event-stream", &events)
        })
        .await;
    assert_eq!(nanos(&row), 0, "zero that was told is zero");
    let (_, row) = gate
        .call(layer.clone(), async |_| answer("application/json", &["{}"]))
        .await;
    assert_eq!(nanos(&row), HELD, "nothing was told");
    let lenient = layer.clone().missing_usage(MissingUsage::ChargeNothing);
    let (_, row) = gate
        .call(lenient, async |_| answer("application/json", &["{}"]))
        .await;
    assert_eq!(nanos(&row), 0);
    let counted = |charge: Charge| async move {
        charge.add_output_tokens(1);
        answer("application/json", &[USAGE])
    };
    let (_, row) = gate.call(layer, counted).await;
    assert_eq!(nanos(&row), 10_000, "the handler has the last word");
}

#[tokio::test]
async fn a_header_tells_the_cost() {
    let gate = Gate::new().await;
    let name = http::HeaderName::from_static("x-upstream-cost");
    let layer = gate.layer(by_token().cost_from(CostSource::Header(name)));
    let told = [
        (vec!["0.000042"], 42_000),
        (vec!["0"], 0),
        (vec!["1e-3"], HELD),
        (vec!["-1"], HELD),
        (vec!["0.1", "0.1"], HELD),
        (vec![], HELD),
    ];
    for (lines, charged) in told {
        let lines = Arc::new(lines);
        let handler = |_| {
            let lines = lines.clone();
            async move {
                let mut answer = answer("text/plain", &["hello"]);
                for line in lines.iter() {
                    let value = HeaderValue::from_static(line);
                    answer.headers_mut().append("x-upstream-cost", value);
                }
                answer
            }
        };
        let (_, row) = gate.call(layer.clone(), handler).await;
        assert_eq!(nanos(&row), charged, "{lines:?}");
    }
}

#[tokio::test]
async fn bytes_are_counted_as_they_go_out() {
    let gate = Gate::new().await;
    let layer = gate.layer(Price::per_million_bytes(dollars("1"), 10));
    let (_, row) = gate
        .call(layer, async |_| {
            answer("text/plain", &["12345", "", "6789012"])
        })
        .await;
    assert_eq!((nanos(&row), row.settlement.bytes), (12_000, Some(12)));
    assert_eq!(row.held.nanos(), 10_000);
}

/// Answers with a stream that goes on, takes `frames` of it, and leaves.
async fn leave(gate: &Gate, layer: SpendingLimitLayer, frames: usize) -> UsageEntry {
    let service = layer.layer(service_fn(|_: Request<()>| async {
        let frames =
            stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(Bytes::from("data: hi\n\n"))));
        let mut response = Response::new(StreamBody::new(frames));
        let value = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(CONTENT_TYPE, value);
        Ok::<_, Infallible>(response)
    }));
    let answer = service.oneshot(request()).await.unwrap();
    let mut body = Box::pin(answer.into_body());
    for _ in 0..frames {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    gate.last().await
}

#[tokio::test]
async fn whoever_leaves_pays_what_can_have_been_produced() {
    let gate = Gate::new().await;
    let layer = gate.layer(by_token().cost_from(CostSource::Body));
    let row = leave(&gate, layer.clone(), 2).await;
    assert_eq!(row.settlement.outcome, Outcome::Disconnected);
    assert_eq!(
        nanos(&row),
        1_000 * 1_000 + 4 * 10_000,
        "4 bytes of data went out"
    );
    let row = leave(&gate, layer.clone(), 50).await;
    assert_eq!(nanos(&row), HELD);
    let free = layer.clone().disconnected_calls(Charging::Nothing);
    assert_eq!(nanos(&leave(&gate, free, 2).await), 0);
    let all = layer.disconnected_calls(Charging::Hold);
    assert_eq!(nanos(&leave(&gate, all, 2).await), HELD);
    assert_eq!(gate.held().await, Money::ZERO);
}

#[tokio::test]
async fn what_fails_costs_nothing_unless_that_was_asked_for() {
    let gate = Gate::new().await;
    let broken = async |_| {
        let frames = [
            Ok(Frame::data(Bytes::from("{"))),
            Err(std::io::Error::other("gone")),
        ];
        Response::new(StreamBody::new(stream::iter(frames)).boxed())
    };
    let layer = gate.layer(by_token());
    let (_, row) = gate.call(layer.clone(), broken).await;
    assert_eq!((nanos(&row), row.settlement.outcome), (0, Outcome::Failed));
    let strict = layer.clone().failed_calls(Charging::Hold);
    let (_, row) = gate.call(strict.clone(), broken).await;
    assert_eq!(nanos(&row), HELD);
    let refused = async |_| {
        let mut answer = answer("application/json", &[USAGE]);
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        answer
    };
    let (_, row) = gate.call(strict, refused).await;
    assert_eq!(nanos(&row), 0);
    assert_eq!(gate.held().await, Money::ZERO);
}

#[tokio::test]
async fn the_dearest_model_is_held_for_and_the_named_one_charged() {
    let gate = Gate::new().await;
    let cheap = Price::per_million_tokens(dollars("0.1"), dollars("0.1"))
        .input_bound(TokenBound::Fixed(10));
    let price = Price::by_model([("gpt-x", cheap), ("gpt-xl", by_token())]);
    let layer = gate.layer(price.cost_from(CostSource::Body));
    let (_, row) = gate
        .call(layer, async |_| answer("application/json", &[USAGE]))
        .await;
    assert_eq!((nanos(&row), row.held.nanos()), (12 * 100, HELD));
}

#[tokio::test]
async fn a_price_may_go_by_the_caller() {
    let gate = Gate::new().await;
    let prices = PriceTable::new()
        .route_by("POST", "/chat", |head| {
            match head.extensions.get::<Principal>().map(Principal::subject) {
                Some("ann") => Price::flat(Money::from_nanos(3)),
                _ => Price::flat(Money::from_nanos(-3)),
            }
        })
        .unwrap();
    let layer = SpendingLimitLayer::new(gate.ledger.clone(), prices);
    let (_, row) = gate
        .call(layer.clone(), async |_| answer("text/plain", &[]))
        .await;
    assert_eq!(nanos(&row), 3);
    let service = layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(answer("text/plain", &[]))
    }));
    let mut foreign = request();
    let bob = Principal::builder("bob", CredentialKind::ApiKey).build();
    foreign.extensions_mut().insert(bob);
    assert_eq!(service.oneshot(foreign).await.unwrap().status(), 500);
}

#[tokio::test]
async fn clients_are_told_what_they_pay_where_that_was_asked_for() {
    let gate = Gate::new().await;
    let flat = gate.layer(Price::flat(dollars("0.25")));
    let (headers, _) = gate
        .call(flat.clone(), async |_| answer("text/plain", &[]))
        .await;
    assert!(!headers.contains_key("x-cost"));
    let flat = flat.cost_headers();
    let (headers, _) = gate.call(flat, async |_| answer("text/plain", &[])).await;
    assert_eq!(
        (&headers["x-cost"], &headers["x-cost-held"]),
        (
            &HeaderValue::from_static("0.25"),
            &HeaderValue::from_static("0.25")
        )
    );
    assert_eq!(headers["x-balance-remaining"], "99.5");
    assert!(
        !headers.contains_key("x-budget-remaining"),
        "no budget has a limit"
    );
    let by_token = gate
        .layer(by_token().cost_from(CostSource::Body))
        .cost_headers();
    let (headers, _) = gate
        .call(by_token, async |_| answer("application/json", &[USAGE]))
        .await;
    assert!(!headers.contains_key("x-cost"), "not known before the body");
    assert_eq!(headers["x-cost-held"], "0.002");
}

#[tokio::test]
async fn a_stream_that_goes_on_keeps_its_hold() {
    let gate = Gate::new().await;
    let layer = gate
        .layer(by_token())
        .hold_lifetime(Duration::from_secs(60));
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(answer("text/plain", &["a"; 10]))
    }));
    let answer = service.oneshot(request()).await.unwrap();
    let mut body = answer.into_body();
    for _ in 0..9 {
        body.frame().await.unwrap().unwrap();
        gate.clock.advance(Duration::from_secs(40));
        gate.ledger.flush().await.unwrap();
        assert_eq!(gate.held().await.nanos(), HELD);
    }
    while body.frame().await.is_some() {}
    let row = gate.last().await;
    assert_eq!(
        (nanos(&row), row.settlement.outcome),
        (HELD, Outcome::Completed)
    );
    assert_eq!(gate.rows().await, 1);
}

#[tokio::test]
async fn a_hold_lives_for_long_enough_to_be_charged() {
    let gate = Gate::new().await;
    let layer = gate.layer(Price::flat(dollars("1")));
    let layer = layer.hold_lifetime(Duration::ZERO);
    let (_, row) = gate
        .call(layer, async |_| answer("text/plain", &["hello"]))
        .await;
    assert_eq!(row.settlement.outcome, Outcome::Completed);
    assert_eq!(row.settlement.charged, dollars("1"));
}

#[tokio::test]
async fn a_buffer_in_many_pieces_is_read_whole() {
    use bytes::Buf;
    let gate = Gate::new().await;
    let layer = gate.layer(by_token().cost_from(CostSource::Body));
    let service = layer.layer(service_fn(|_: Request<()>| async {
        let (first, second) = USAGE.split_at(40);
        let data = Bytes::from(first).chain(Bytes::from(second));
        let frames = stream::iter([Ok::<_, Infallible>(Frame::data(data))]);
        let mut response = Response::new(StreamBody::new(frames));
        let value = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, value);
        Ok::<_, Infallible>(response)
    }));
    let answer = service.oneshot(request()).await.unwrap();
    answer.into_body().collect().await.unwrap();
    assert_eq!(nanos(&gate.last().await), 7 * 1_000 + 5 * 10_000);
}
