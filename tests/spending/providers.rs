//! Answers of providers with more than input and output, and what the log says of them.

use super::*;

fn detailed() -> TokenPrice {
    by_token()
        .audio_input(dollars("4"))
        .web_searches(dollars("10"), 2)
        .tier(
            "flex",
            Price::per_million_tokens(dollars("0.5"), dollars("5")),
        )
        .tier(
            "priority",
            Price::per_million_tokens(dollars("2"), dollars("20"))
                .above_input(900, Price::per_million_tokens(dollars("3"), dollars("30"))),
        )
}

/// What [`detailed`] holds: 1,000 tokens of audio or of a long request at `priority`, whichever is
/// more with 100 written ones; and two searches for a cent each.
const MOST: i64 = 1_000 * 3_000 + 100 * 30_000 + 20_000_000;

#[tokio::test]
async fn a_call_is_charged_by_its_kinds_tier_and_length_and_the_log_tells_them() {
    let gate = Gate::new().await;
    let layer = gate.layer(detailed());
    let call = async |text: &'static str| {
        gate.call(layer.clone(), async |_| answer("application/json", &[text]))
            .await
            .1
    };
    let row = call(
        r#"{"service_tier":"default","usage":{"prompt_tokens":10,"completion_tokens":5,
        "prompt_tokens_details":{"audio_tokens":4}}}"#,
    )
    .await;
    assert_eq!(row.held.nanos(), MOST);
    assert_eq!(nanos(&row), 6 * 1_000 + 4 * 4_000 + 5 * 10_000);
    let details = row.settlement.details.unwrap();
    assert_eq!(details.audio_input_tokens, 4);
    assert_eq!(details.service_tier, None, "the ordinary one");

    let row =
        call(r#"{"service_tier":"flex","usage":{"prompt_tokens":10,"completion_tokens":5}}"#).await;
    assert_eq!(nanos(&row), 10 * 500 + 5 * 5_000);
    let details = row.settlement.details.unwrap();
    assert_eq!(details.service_tier.as_deref(), Some("flex"));

    let row = call(
        r#"{"usage":{"service_tier":"priority","input_tokens":1,"cache_read_input_tokens":900,
        "output_tokens":5,"server_tool_use":{"web_search_requests":3}}}"#,
    )
    .await;
    assert_eq!(nanos(&row), 901 * 3_000 + 5 * 30_000 + 30_000_000);
    assert_eq!(row.settlement.details.unwrap().web_searches, 3);

    let row =
        call(r#"{"service_tier":"unheard-of","usage":{"prompt_tokens":10,"completion_tokens":5}}"#)
            .await;
    assert_eq!(nanos(&row), 10 * 2_000 + 5 * 20_000, "as the dearest");

    let row = call(r#"{"usage":{"prompt_tokens":10,"completion_tokens":5}}"#).await;
    assert_eq!(nanos(&row), 10 * 1_000 + 5 * 10_000);
    assert_eq!(row.settlement.details, None);
}

#[tokio::test]
async fn the_handler_counts_what_the_body_does_not_tell() {
    let gate = Gate::new().await;
    let (_, row) = gate
        .call(gate.layer(detailed()), async |charge| {
            charge.add_audio_input_tokens(4);
            charge.add_input_tokens(10);
            charge.add_output_tokens(5);
            charge.add_web_searches(1);
            charge.set_service_tier("flex");
            answer("text/plain", &["hello"])
        })
        .await;
    assert_eq!(nanos(&row), 10 * 500 + 5 * 5_000 + 10_000_000);
    let details = row.settlement.details.unwrap();
    assert_eq!((details.audio_input_tokens, details.web_searches), (4, 1));
    let text = serde_json::to_string(&details).unwrap();
    let expected = r#"{"audio_input_tokens":4,"web_searches":1,"service_tier":"flex"}"#;
    assert_eq!(text, expected);
}

const BEGUN: &str = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hi\"}]}}],\
    \"usageMetadata\":{\"promptTokenCount\":7,\"candidatesTokenCount\":1},\"modelVersion\":\"gemini-x\"}\n\n";

#[tokio::test]
async fn a_stream_of_geminis_is_charged_by_its_last_part() {
    let gate = Gate::new().await;
    let over = BEGUN
        .replace("]}}]", "]},\"finishReason\":\"STOP\"}]")
        .replace(
            "\"candidatesTokenCount\":1",
            "\"candidatesTokenCount\":9,\"thoughtsTokenCount\":20",
        );
    let pieces = [BEGUN, BEGUN, &over];
    let (_, row) = gate
        .call(gate.layer(by_token()), async |_| {
            answer("text/event-stream", &pieces)
        })
        .await;
    assert_eq!(nanos(&row), 7 * 1_000 + 29 * 10_000);
    let settlement = row.settlement;
    assert_eq!(settlement.model.as_deref(), Some("gemini-x"));
    assert_eq!(settlement.output_tokens, Some(29));
    // Left before its end: two bytes were shown, of which one token was counted.
    let service = gate
        .layer(by_token())
        .layer(service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(answer("text/event-stream", &[BEGUN, BEGUN]))
        }));
    let mut body = service.oneshot(request()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    let row = gate.last().await;
    assert_eq!(row.settlement.outcome, Outcome::Disconnected);
    assert_eq!(nanos(&row), 7 * 1_000 + 2 * 10_000);
    assert_eq!(row.settlement.output_tokens, None, "nobody knows");
}

#[tokio::test]
async fn usage_without_a_price_is_told_of_once_and_exported() {
    let (log, _logged) = Log::begin();
    let gate = Gate::new().await;
    let layer = gate.layer(by_token());
    let spoken = r#"{"service_tier":"flex","usage":{"prompt_tokens":10,"completion_tokens":5,
        "completion_tokens_details":{"audio_tokens":4}}}"#;
    for _ in 0..2 {
        let (_, row) = gate
            .call(layer.clone(), async |_| {
                answer("application/json", &[spoken])
            })
            .await;
        assert_eq!(nanos(&row), 10 * 1_000 + 5 * 10_000, "as text");
    }
    assert_eq!(log.count("audio or images were counted"), 1);
    let export = UsageExport::csv(gate.ledger.clone(), account());
    let csv = export.collect().await.unwrap().to_bytes();
    let csv = String::from_utf8(csv.to_vec()).unwrap();
    let (head, first) = csv.split_once("\r\n").unwrap();
    let first = first.lines().next().unwrap();
    assert_eq!(head.split(',').count(), first.split(',').count());
    assert!(head.ends_with(",image_output_tokens,web_searches,service_tier,tags,budgets"));
    assert!(first.ends_with(",false,0,0,0,4,0,0,flex,,"), "{first}");
    let export = UsageExport::json_lines(gate.ledger.clone(), account());
    let json = export.collect().await.unwrap().to_bytes();
    let json = String::from_utf8(json.to_vec()).unwrap();
    assert!(json.contains(r#""audio_output_tokens":4,"#), "{json}");
    assert!(
        json.contains(r#""service_tier":"flex","tags":null,"budgets":null}"#),
        "{json}"
    );
}

#[tokio::test]
async fn searches_that_the_handler_counts_are_beside_the_tokens_of_the_body() {
    let gate = Gate::new().await;
    let priced = by_token().web_searches(dollars("10"), 2);
    let call = async |text: &'static str| {
        let layer = gate.layer(priced.clone());
        let (_, row) = gate
            .call(layer, async |charge| {
                charge.add_web_searches(1);
                answer("application/json", &[text])
            })
            .await;
        row
    };
    let row = call(r#"{"usage":{"prompt_tokens":900,"completion_tokens":50}}"#).await;
    assert_eq!(nanos(&row), 900 * 1_000 + 50 * 10_000 + 10_000_000);
    assert_eq!(row.settlement.input_tokens, Some(900));
    assert_eq!(row.settlement.details.unwrap().web_searches, 1);
    let row = call("{}").await;
    let most = 1_000 * 1_000 + 2 * 10_000 + 10_000_000;
    assert_eq!(nanos(&row), most, "by what was sent");
    assert_eq!(row.settlement.input_tokens, None);
}

#[tokio::test]
async fn a_count_that_names_no_input_or_can_not_be_read_is_not_free() {
    let gate = Gate::new().await;
    let call = async |text: &'static str| {
        let layer = gate.layer(by_token());
        gate.call(layer, async |_| answer("application/json", &[text]))
            .await
            .1
    };
    let row = call(r#"{"usage":{"output_tokens":5}}"#).await;
    assert_eq!(nanos(&row), 1_000 * 1_000 + 5 * 10_000);
    assert_eq!(row.settlement.input_tokens, None);
    let row = call(r#"{"usage":{"input_tokens":0,"output_tokens":5}}"#).await;
    assert_eq!(nanos(&row), 5 * 10_000);
    let row = call(r#"{"usage":{"prompt_tokens":7,"completion_tokens":"5"}}"#).await;
    assert_eq!(nanos(&row), HELD);
    assert!(row.settlement.usage_is_missing);
}

#[tokio::test]
async fn a_stream_of_zeros_that_is_left_costs_its_input() {
    const ZEROS: &str =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0}}\n\n";
    const START: &str =
        "data: {\"message\":{\"usage\":{\"input_tokens\":0,\"output_tokens\":1}}}\n\n";
    const UNNAMED: &str = "data: {\"choices\":[],\"usage\":{\"completion_tokens\":3}}\n\n";
    for (event, written) in [(ZEROS, 1), (START, 1), (UNNAMED, 3)] {
        let gate = Gate::new().await;
        let service = gate
            .layer(by_token())
            .layer(service_fn(async |_: Request<()>| {
                Ok::<_, Infallible>(answer("text/event-stream", &[event, event]))
            }));
        let mut body = service.oneshot(request()).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        let row = gate.last().await;
        assert_eq!(row.settlement.outcome, Outcome::Disconnected);
        let most = 1_000 * 1_000 + written * 10_000;
        assert_eq!(nanos(&row), most, "{event}");
    }
}

#[tokio::test]
async fn what_is_not_charged_by_its_count_is_not_told_of_as_unpriced() {
    let (log, _logged) = Log::begin();
    let gate = Gate::new().await;
    let layer = gate.layer(by_token());
    let call = async |text: &'static str, cost: Option<Money>| {
        let answered = async |charge: Charge| {
            if let Some(cost) = cost {
                charge.set(cost);
            }
            answer("application/json", &[text])
        };
        gate.call(layer.clone(), answered).await;
    };
    let told = || log.count("no price of its own");
    let flex = r#"{"service_tier":"flex","usage":{"prompt_tokens":10,"completion_tokens":5}}"#;
    call(flex, Some(dollars("1"))).await;
    call(flex, Some(Money::ZERO)).await;
    assert_eq!(told(), 0);
    call(flex, None).await;
    call(flex, None).await;
    assert_eq!(told(), 1);
    let searched = r#"{"usage":{"input_tokens":10,"output_tokens":5,
        "server_tool_use":{"web_search_requests":1}}}"#;
    call(searched, None).await;
    call(searched, None).await;
    assert_eq!(told(), 2, "of each kind once");
}
