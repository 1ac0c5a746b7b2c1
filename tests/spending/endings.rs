//! Calls that end before they should: what was counted by then is not all that was used.

use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt, StreamExt};

use super::*;

const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-x\",\
    \"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n";
const DELTA: &str =
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\n";
const PIECE: &str = "data: {\"type\":\"ping\"}\n\n";

/// Takes so many frames of an answer of `pieces`, and leaves.
async fn take(
    gate: &Gate,
    layer: &SpendingLimitLayer,
    pieces: &'static [&'static str],
    frames: usize,
) -> UsageEntry {
    let service = layer.layer(service_fn(move |_: Request<()>| async {
        Ok::<_, Infallible>(answer("text/event-stream", pieces))
    }));
    let mut body = service.oneshot(request()).await.unwrap().into_body();
    for _ in 0..frames {
        let _ = body.frame().await;
    }
    drop(body);
    gate.last().await
}

#[tokio::test]
async fn the_first_event_of_a_stream_is_not_all_that_it_used() {
    let gate = Gate::new().await;
    let layer = gate.layer(by_token().cost_from(CostSource::Body));
    let of = |read: i64, written: i64| read * 1_000 + written * 10_000;

    let row = take(&gate, &layer, &[START, PIECE, PIECE, DELTA], 2).await;
    assert_eq!(row.settlement.outcome, Outcome::Disconnected);
    assert_eq!(nanos(&row), of(25, 2), "an event is a token at least");
    let told = (row.settlement.input_tokens, row.settlement.output_tokens);
    assert_eq!(told, (Some(25), None), "nobody knows what was written");

    const TEXT: &str = "data: {\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n";
    let row = take(&gate, &layer, &[START, TEXT, PIECE, DELTA], 3).await;
    assert_eq!(nanos(&row), of(25, 1 + 5 + 1), "a token is at least a byte");
    let narrow = by_token().output_bound(TokenBound::Fixed(4));
    let narrow = gate.layer(narrow.cost_from(CostSource::Body));
    let row = take(&gate, &narrow, &[START, TEXT, PIECE, DELTA], 3).await;
    assert_eq!(nanos(&row), of(25, 4), "more than is held for");

    let row = take(&gate, &layer, &[START, PIECE, DELTA, PIECE], 3).await;
    assert_eq!(nanos(&row), of(25, 15), "the last count was there");
    assert_eq!(row.settlement.output_tokens, Some(15));

    let row = take(&gate, &layer, &[START, PIECE], 9).await;
    assert_eq!(row.settlement.outcome, Outcome::Completed);
    assert_eq!(nanos(&row), of(25, 2), "cut off further in");
    let row = take(&gate, &layer, &[START, PIECE, DELTA], 9).await;
    assert_eq!(nanos(&row), of(25, 15));
}

#[tokio::test]
async fn zeros_in_every_event_but_the_last_say_nothing_to_who_leaves_before_it() {
    const ZERO: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}],\
        \"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0}}\n\n";
    const LAST: &str =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n";
    let gate = Gate::new().await;
    let layer = gate.layer(by_token().cost_from(CostSource::Body));
    let row = take(&gate, &layer, &[ZERO, ZERO, LAST], 2).await;
    assert_eq!(row.settlement.outcome, Outcome::Disconnected);
    assert!(nanos(&row) >= 100 * 10_000, "{}", nanos(&row));
    let row = take(&gate, &layer, &[ZERO, LAST, ZERO], 2).await;
    assert_eq!(nanos(&row), 7 * 1_000 + 2 * 10_000, "all that was used");
    // To the end of the stream it is an explicit zero.
    let row = take(&gate, &layer, &[ZERO, ZERO], 9).await;
    assert_eq!(row.settlement.outcome, Outcome::Completed);
    assert_eq!(nanos(&row), 0);
}

#[tokio::test]
async fn who_leaves_before_there_is_an_answer_pays_what_was_asked_for() {
    let gate = Gate::new().await;
    let flat = gate.layer(Price::flat(Money::from_nanos(70)));
    for (layer, charged) in [
        (flat.clone(), 0),
        (flat.clone().disconnected_calls(Charging::Hold), 70),
        (flat.clone().unanswered_calls(Charging::Hold), 70),
        (
            flat.disconnected_calls(Charging::Hold)
                .unanswered_calls(Charging::Nothing),
            0,
        ),
    ] {
        let service = layer.layer(service_fn(|_: Request<()>| {
            std::future::pending::<Result<Answer, Infallible>>()
        }));
        let mut call = Box::pin(service.oneshot(request()));
        assert!(call.as_mut().now_or_never().is_none());
        drop(call);
        let row = gate.last().await;
        assert_eq!(row.settlement.outcome, Outcome::Disconnected);
        assert_eq!(nanos(&row), charged);
    }
    // What streams is another matter.
    let layer = gate.layer(by_token().cost_from(CostSource::Body));
    let layer = layer.unanswered_calls(Charging::Hold);
    let row = take(&gate, &layer, &[START, DELTA, PIECE], 2).await;
    assert_eq!(nanos(&row), 25 * 1_000 + 15 * 10_000);
}

#[tokio::test]
async fn an_error_in_an_answer_of_200_is_a_failure() {
    let error = "data: {\"error\":{\"code\":502,\"message\":\"the provider is gone\"}}\n\n";
    let done = "data: [DONE]\n\n";
    let gate = Gate::new().await;
    let layer = gate.layer(by_token().cost_from(CostSource::Body));
    let counted = layer.clone().broken_streams(Charging::Counted);

    for layer in [&layer, &counted] {
        let stream = async |_: Charge| answer("text/event-stream", &[": wait\n\n", error]);
        let (_, row) = gate.call(layer.clone(), stream).await;
        assert_eq!((row.settlement.outcome, nanos(&row)), (Outcome::Failed, 0));
        assert!(!row.settlement.usage_is_missing);
        // What came before it is charged: a client might bring it about at the end.
        let stream = async |_: Charge| answer("text/event-stream", &[START, PIECE, error, done]);
        let (_, row) = gate.call(layer.clone(), stream).await;
        assert_eq!(row.settlement.outcome, Outcome::Failed);
        let told = error.trim_start_matches("data: ").trim_end();
        let written = 2 + i64::try_from(told.len() + "[DONE]".len()).unwrap();
        assert_eq!(nanos(&row), 25 * 1_000 + written * 10_000);
    }
    let free = layer.clone().broken_streams(Charging::Nothing);
    let stream = async |_: Charge| answer("text/event-stream", &[START, PIECE, error]);
    let (_, row) = gate.call(free, stream).await;
    assert_eq!(nanos(&row), 0);
    let json = r#"{"error":{"message":"overloaded"}}"#;
    let json = async |_: Charge| answer("application/json", &[json]);
    let (_, row) = gate.call(layer.clone(), json).await;
    assert_eq!((row.settlement.outcome, nanos(&row)), (Outcome::Failed, 0));

    // What the provider or the handler counted is charged.
    let stream = async |_: Charge| answer("text/event-stream", &[START, DELTA, error]);
    let (_, row) = gate.call(layer.clone(), stream).await;
    assert_eq!(row.settlement.outcome, Outcome::Completed);
    assert_eq!(nanos(&row), 25 * 1_000 + 15 * 10_000);
    let stream = async |charge: Charge| {
        charge.add_input_tokens(3);
        answer("text/event-stream", &[error])
    };
    let (_, row) = gate.call(layer.clone(), stream).await;
    assert_eq!(nanos(&row), 3_000);
    // A flat price isn't read from the body.
    let flat = gate.layer(Price::flat(Money::from_nanos(7)));
    let (_, row) = gate.call(flat, json).await;
    assert_eq!(nanos(&row), 7);
}

#[tokio::test]
async fn a_stream_that_breaks_is_charged_for_what_went_out_where_that_was_asked_for() {
    let gate = Gate::new().await;
    let layer = gate.layer(by_token().cost_from(CostSource::Body));
    let broken = async |_| {
        let frames = [
            Ok(Frame::data(Bytes::from(START))),
            Err(std::io::Error::other("gone")),
        ];
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream::iter(frames))));
        let value = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(CONTENT_TYPE, value);
        response
    };
    let (_, row) = gate.call(layer.clone(), broken).await;
    assert_eq!((row.settlement.outcome, nanos(&row)), (Outcome::Failed, 0));
    let produced = 25 * 1_000 + 10_000;
    let counted = layer.clone().failed_calls(Charging::Counted);
    let (_, row) = gate.call(counted, broken).await;
    let told = (row.settlement.outcome, nanos(&row));
    assert_eq!(told, (Outcome::Failed, produced));
    let counted = layer.clone().broken_streams(Charging::Counted);
    let (_, row) = gate.call(counted.clone(), broken).await;
    assert_eq!(nanos(&row), produced);
    let free = layer.failed_calls(Charging::Hold);
    let free = free.broken_streams(Charging::Nothing);
    let (_, row) = gate.call(free, broken).await;
    assert_eq!(nanos(&row), 0, "its own setting comes first");

    // Nothing was delivered.
    let at_once = async |_| {
        let frames = [
            Ok(Frame::data(Bytes::new())),
            Err(std::io::Error::other("gone")),
        ];
        Response::new(BodyExt::boxed(StreamBody::new(stream::iter(frames))))
    };
    let (_, row) = gate.call(counted, at_once).await;
    assert_eq!((row.settlement.outcome, nanos(&row)), (Outcome::Failed, 0));
}

/// A gRPC stream whose handler counted `written` tokens, sent `messages` and failed by its
/// trailers.
async fn failed_by_trailers(
    gate: &Gate,
    layer: SpendingLimitLayer,
    messages: &'static [u8],
) -> UsageEntry {
    let messages = Bytes::from_static(messages);
    let fails = async |charge: Charge| {
        charge.add_input_tokens(2);
        charge.add_output_tokens(3);
        let mut status = HeaderMap::new();
        status.insert("grpc-status", HeaderValue::from_static("13"));
        let frames = [
            Ok(Frame::data(messages.clone())),
            Ok(Frame::trailers(status)),
        ];
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream::iter(frames))));
        let value = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, value);
        response
    };
    gate.call(layer, fails).await.1
}

#[tokio::test]
async fn a_grpc_stream_that_fails_after_its_messages_is_a_stream_that_breaks() {
    let gate = Gate::new().await;
    let layer = gate.layer(by_token());
    let counted = layer.clone().broken_streams(Charging::Counted);
    let row = failed_by_trailers(&gate, layer.clone(), b"message").await;
    assert_eq!((row.settlement.outcome, nanos(&row)), (Outcome::Failed, 0));
    let row = failed_by_trailers(&gate, counted.clone(), b"message").await;
    let told = (row.settlement.outcome, nanos(&row));
    assert_eq!(told, (Outcome::Failed, 2 * 1_000 + 3 * 10_000));
    let row = failed_by_trailers(&gate, counted, b"").await;
    assert_eq!(nanos(&row), 0, "nothing was delivered");
    let held = layer.failed_calls(Charging::Hold);
    let row = failed_by_trailers(&gate, held, b"message").await;
    assert_eq!(nanos(&row), HELD);
}

#[tokio::test]
async fn a_stream_costs_what_the_model_does_that_its_first_event_names() {
    const FIRST: &str = "data: {\"model\":\"small-2024-07-18\",\"choices\":[],\"usage\":null}\n\n";
    let gate = Gate::new().await;
    let cheap = Price::per_million_tokens(dollars("0.1"), dollars("0.1"))
        .input_bound(TokenBound::Fixed(40))
        .output_bound(TokenBound::Fixed(5_000));
    let small = (40 + 5_000) * 100;
    let models = Price::by_model([("small*", cheap), ("large", by_token())]);
    let layer = gate.layer(models.cost_from(CostSource::Body));

    let row = take(&gate, &layer, &[FIRST, PIECE], 1).await;
    assert_eq!(row.settlement.outcome, Outcome::Disconnected);
    assert_eq!(row.settlement.model.as_deref(), Some("small-2024-07-18"));
    assert_eq!((nanos(&row), row.held.nanos()), ((40 + 1) * 100, HELD));

    let row = take(&gate, &layer, &[FIRST, PIECE], 9).await;
    assert_eq!(row.settlement.outcome, Outcome::Completed);
    assert_eq!(nanos(&row), small, "nothing was told but the model");

    let row = take(&gate, &layer, &[PIECE, PIECE], 9).await;
    assert_eq!(nanos(&row), HELD, "nor that");
}

/// A handler that counts as `count` says before it answers, and a client who takes one frame of
/// two.
async fn leave_after(count: fn(&Charge)) -> i64 {
    let gate = Gate::new().await;
    let layer = gate.layer(by_token());
    let service = layer.layer(service_fn(move |request: Request<()>| {
        count(request.extensions().get::<Charge>().unwrap());
        async { Ok::<_, Infallible>(answer("text/plain", &["one ", "two "])) }
    }));
    let mut body = service.oneshot(request()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    nanos(&gate.last().await)
}

#[tokio::test]
async fn a_handler_that_counted_its_input_has_not_counted_its_output() {
    let input_alone = leave_after(|charge| charge.add_input_tokens(7)).await;
    assert_eq!(input_alone, 7 * 1_000 + 4 * 10_000, "four bytes");
    let as_it_goes = leave_after(|charge| {
        charge.add_input_tokens(7);
        charge.add_output_tokens(0);
        charge.add_output_tokens(1);
    });
    assert_eq!(as_it_goes.await, 7 * 1_000 + 10_000);
    let told = leave_after(|charge| {
        charge.add_input_tokens(7);
        charge.set(Money::from_nanos(3));
    });
    assert_eq!(told.await, 3);
}

#[tokio::test]
async fn a_panic_that_is_caught_further_out_is_a_failure() {
    let gate = Gate::new().await;
    let price = Price::flat(dollars("1"));
    let layer = gate.layer(price).disconnected_calls(Charging::Hold);
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        request
            .extensions()
            .get::<Charge>()
            .unwrap()
            .set(dollars("2"));
        if request.headers().contains_key("x-later") {
            let first = stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from("a")))]);
            let then = stream::once(async { panic!("in the body") });
            return Ok::<_, Infallible>(Response::new(BodyExt::boxed(StreamBody::new(
                first.chain(then),
            ))));
        }
        tokio::task::yield_now().await;
        panic!("in the handler")
    }));

    // As tower-http's `CatchPanicLayer` does: the panic is over when what it went through is
    // dropped.
    let mut call = Box::pin(AssertUnwindSafe(service.clone().oneshot(request())).catch_unwind());
    assert!((&mut call).await.is_err());
    drop(call);
    let row = gate.last().await;
    assert_eq!((row.settlement.outcome, nanos(&row)), (Outcome::Failed, 0));

    let later = request_with("key-1", &[("x-later", "1")]);
    let mut body = service.oneshot(later).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert!(AssertUnwindSafe(body.frame()).catch_unwind().await.is_err());
    drop(body);
    let row = gate.last().await;
    assert_eq!((row.settlement.outcome, nanos(&row)), (Outcome::Failed, 0));
    assert_eq!(gate.rows().await, 2);
    assert_eq!(gate.held().await, Money::ZERO);
}

#[tokio::test]
async fn of_a_cheap_model_no_more_is_charged_than_was_held_for_it() {
    let gate = Gate::new().await;
    let cheap = Price::per_million_tokens(dollars("0.1"), dollars("0.1"));
    let layer = gate.layer(Price::by_model([("small", cheap), ("large", by_token())]));
    let service = layer.layer(service_fn(async |request: Request<()>| {
        let charge = request.extensions().get::<Charge>().unwrap();
        charge.set_model("small");
        Ok::<_, Infallible>(answer("text/plain", &["one ", "two "]))
    }));
    let request = request_with("key-1", &[("content-length", "40")]);
    let mut body = service.oneshot(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    let row = gate.last().await;
    assert_eq!(row.settlement.outcome, Outcome::Disconnected);
    assert_eq!((nanos(&row), row.held.nanos()), ((40 + 4) * 100, HELD));
}

#[tokio::test]
async fn that_an_upgrade_is_not_counted_is_said_once() {
    let (log, _logged) = Log::begin();
    let gate = Gate::new().await;
    let upgrade = async |charge: Charge| {
        charge.add_input_tokens(7);
        charge.add_output_tokens(0);
        let mut response = answer("text/plain", &[]);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
    };
    let flat = gate.layer(Price::flat(dollars("1")));
    let (_, row) = gate.call(flat, upgrade).await;
    assert_eq!(row.settlement.charged, dollars("1"));
    let said = || log.count("isn't counted");
    assert_eq!(said(), 0, "it costs the same however much is said");
    let layer = gate.layer(by_token());
    for _ in 0..2 {
        let (_, row) = gate.call(layer.clone(), upgrade).await;
        assert_eq!(row.settlement.outcome, Outcome::Completed);
        assert_eq!(nanos(&row), 7 * 1_000, "with the head of the answer");
        assert_eq!(said(), 1);
    }
}

#[tokio::test]
async fn that_nobody_told_the_usage_is_said_once_a_route_and_in_each_row() {
    let (log, _logged) = Log::begin();
    let gate = Gate::new().await;
    let said = |what: &str| log.count(what);
    let stream = &[
        "data: {\"model\":\"gpt-x\",\"usage\":null}\n\n",
        "data: [DONE]\n\n",
    ];
    let compressed = async |_: Charge| {
        let mut answer = answer("application/json", &[USAGE]);
        let gzip = HeaderValue::from_static("gzip");
        answer.headers_mut().insert("content-encoding", gzip);
        answer
    };
    let header = CostSource::Header(http::HeaderName::from_static("x-cost"));

    let layer = gate.layer(by_token());
    for _ in 0..2 {
        let (_, row) = gate
            .call(layer.clone(), async |_| answer("text/event-stream", stream))
            .await;
        assert!(row.settlement.usage_is_missing && nanos(&row) == HELD);
        assert_eq!(row.settlement.outcome, Outcome::Completed);
    }
    assert_eq!(said("stream_options.include_usage"), 1);
    assert_eq!(said("POST /chat"), 1);
    let (_, row) = gate.call(gate.layer(by_token()), compressed).await;
    assert!(row.settlement.usage_is_missing && nanos(&row) == HELD);
    assert_eq!(said("compressed"), 1);
    for (source, why) in [
        (CostSource::Handler, "the handler counted nothing"),
        (header, "the header that tells"),
    ] {
        let layer = gate.layer(by_token().cost_from(source));
        let (_, row) = gate
            .call(layer, async |_| answer("application/json", &[USAGE]))
            .await;
        assert!(row.settlement.usage_is_missing && nanos(&row) == HELD);
        assert_eq!(said(why), 1);
    }
    let before = said("nobody tells");

    // Nothing is missing of what was told, or is paid for by the call.
    for price in [by_token().into(), Price::flat(dollars("1"))] {
        let (_, row) = gate
            .call(gate.layer(price), async |_| {
                answer("application/json", &[USAGE])
            })
            .await;
        assert!(!row.settlement.usage_is_missing);
    }
    // Whoever leaves has had no usage yet: that is no fault of the route.
    let row = leave(&gate, gate.layer(by_token()), 1).await;
    assert_eq!(row.settlement.outcome, Outcome::Disconnected);
    assert!(row.settlement.usage_is_missing);
    assert_eq!(said("nobody tells"), before);
}
