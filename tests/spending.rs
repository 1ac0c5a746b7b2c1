//! The spending layer around handlers of every kind: what is charged, what is told, what is refused.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails ends"
)]

use std::{collections::BTreeMap, convert::Infallible, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use tollgate::{
    Charge, Charging, CostSource, CredentialKind, IdempotencyKeys, MissingUsage, Price, PriceTable,
    Principal, SpendingLimitLayer, TokenBound, UsageExport,
    budget::SpendingLimits,
    clock::{Clock, ManualClock},
    money::Money,
    store::{AccountId, BudgetId, KeyId, Ledger, MemoryStore, Page},
    usage::{Call, Credit, Outcome, Settlement, UsageEntry},
};
use tower::{Layer, ServiceExt, service_fn};

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

fn by_token() -> Price {
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

    fn layer(&self, price: Price) -> SpendingLimitLayer {
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

fn nanos(row: &UsageEntry) -> i64 {
    row.settlement.charged.nanos()
}

const USAGE: &str = r#"{"model":"gpt-x","usage":{"prompt_tokens":7,"completion_tokens":5}}"#;

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
            settlement.output_tokens,
            settlement.model.as_deref()
        ),
        (Some(7), Some(5), Some("gpt-x"))
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
        1_000 * 1_000 + 20 * 10_000,
        "20 bytes went out"
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

struct Idempotent<S> {
    gate: Gate,
    service: S,
}

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

#[tokio::test]
async fn a_team_within_a_tenant_pays_and_its_budget_holds() {
    let gate = Gate::new().await;
    let team = BudgetId::new("team:a").unwrap();
    let limits = SpendingLimits {
        daily: Some(dollars("2.5")),
        ..SpendingLimits::default()
    };
    let set = gate.ledger.set_limits(&account(), &team, limits);
    set.await.unwrap();
    let layer = gate
        .layer(Price::flat(dollars("1")))
        .cost_headers()
        .account(|_| AccountId::new("ann"))
        .add_budget(|caller| {
            let team = caller.attribute("team");
            team.map(|team| BudgetId::new(&format!("team:{team}")))
                .transpose()
        });
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(answer("text/plain", &["hello"]))
    }));
    let call = |subject: &str, team: &str| {
        let mut request = request();
        let attributes = BTreeMap::from([("team".to_owned(), team.to_owned())]);
        let caller = Principal::builder(subject, CredentialKind::ApiKey).attributes(attributes);
        request.extensions_mut().insert(caller.build());
        service.clone().oneshot(request)
    };
    for (subject, team, status) in [
        ("bob", "a", 200),
        ("carol", "a", 200),
        ("dave", "a", 402),
        ("dave", "b", 200),
        ("dave", &*"x".repeat(300), 403),
    ] {
        let answer = call(subject, team).await.unwrap();
        if team == "a" && status == 200 {
            assert!(answer.headers().contains_key("x-budget-remaining"));
        }
        assert_eq!(said(answer).await.0, status, "{subject} {team}");
    }
    let row = gate.last().await;
    assert_eq!(
        (&*row.call.principal, row.call.account.as_str()),
        ("dave", "ann")
    );
    let spent = gate.ledger.budget(&account(), &team).await.unwrap();
    assert_eq!(spent.total.settled, dollars("2"));
}

#[tokio::test]
async fn the_log_is_exported_whole_and_harmless() {
    let gate = Gate::new().await;
    let settlement = Settlement {
        status: Some(200),
        latency: Duration::from_millis(7),
        model: Some(Arc::from("=1+1,\"x\"")),
        input_tokens: Some(3),
        ..Settlement::new(Money::ZERO, Outcome::Completed)
    };
    for number in 0..1_201 {
        let call = Call {
            request_id: Arc::from(format!("-{number}")),
            account: account(),
            principal: Arc::from("ann"),
            key: None,
            route: Arc::from("GET /models"),
            started_at: gate.clock.now(),
        };
        gate.ledger.record(call, settlement.clone()).await.unwrap();
        gate.clock.advance(Duration::from_secs(1));
    }
    let read = async |export: UsageExport| {
        let bytes = export.collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    let csv = read(UsageExport::csv(gate.ledger.clone(), account())).await;
    let lines: Vec<&str> = csv.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 1_202);
    assert_eq!(
        lines[1],
        "1202,2026-01-01T00:20:00Z,2026-01-01T00:20:00Z,'-1200,ann,ann,,GET /models,\
         \"'=1+1,\"\"x\"\"\",200,completed,0,0,3,,,7"
    );
    let json = read(UsageExport::json_lines(gate.ledger.clone(), account())).await;
    assert_eq!(json.lines().count(), 1_201);
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(first["request_id"], "-1200");
    assert_eq!(first["model"], "=1+1,\"x\"");
    assert_eq!(first["charged"], 0);
    let since = gate.clock.now() - Duration::from_secs(600);
    let export = UsageExport::json_lines(gate.ledger.clone(), account()).since(since);
    assert_eq!(read(export).await.lines().count(), 600);
    let bob = AccountId::new("bob").unwrap();
    assert_eq!(
        read(UsageExport::json_lines(gate.ledger.clone(), bob)).await,
        ""
    );
}
