//! Streams of providers that their clients leave in the middle: what is charged for their output,
//! beside what was written, and beside a token for every byte that was sent.

use super::*;

/// A text in tokens of a byte-level BPE, as a provider streams it.
const TEXT: [&str; 20] = [
    "The", " capital", " of", " France", " is", " Paris", ".", "\n\n", "It", " lies", " on",
    " the", " Se", "ine", ",", " caf", "é", "s", " abound", ".",
];

/// More than any of these streams sends.
const BOUND: u64 = 100_000;

/// Of a stream that was left: tokens written, bytes of text sent, and bytes sent.
#[derive(Debug)]
struct Sent {
    tokens: i64,
    text: i64,
    bytes: i64,
}

/// Takes `events` one by one, leaves, and says for how many output tokens the call was charged.
async fn charged(start: &[String], events: &[(String, usize)], taken: usize) -> (i64, Sent) {
    let gate = Gate::new().await;
    let price = by_token().output_bound(TokenBound::Fixed(BOUND));
    let layer = gate.layer(price);
    let all: Vec<String> = start
        .iter()
        .chain(events.iter().map(|(event, _)| event))
        .cloned()
        .collect();
    let frames = start.len() + taken;
    let written = &TEXT[..events[..taken].iter().map(|(_, tokens)| tokens).sum()];
    let sent = Sent {
        tokens: i64::try_from(written.len()).unwrap(),
        text: i64::try_from(written.concat().len()).unwrap(),
        bytes: i64::try_from(all[..frames].concat().len()).unwrap(),
    };
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let pieces: Vec<&str> = all.iter().map(String::as_str).collect();
        let answer = answer("text/event-stream", &pieces);
        async { Ok::<_, Infallible>(answer) }
    }));
    let mut body = service.oneshot(request()).await.unwrap().into_body();
    for _ in 0..frames {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    let row = gate.last().await;
    assert_eq!(row.settlement.outcome, Outcome::Disconnected);
    assert_eq!(row.settlement.output_tokens, None, "nobody knows");
    let input = row.settlement.input_tokens.unwrap_or(1_000);
    let output = nanos(&row) - i64::try_from(input).unwrap() * 1_000;
    assert_eq!(output % 10_000, 0);
    (output / 10_000, sent)
}

/// The text in events of so many tokens each.
fn said(tokens: usize, event: impl Fn(&str) -> String) -> Vec<(String, usize)> {
    let quoted = |text: &[&str]| serde_json::to_string(&text.concat()).unwrap();
    TEXT.chunks(tokens)
        .map(|text| (event(&quoted(text)), text.len()))
        .collect()
}

/// Wherever the stream is left: at least what was written, and little more than the bytes of it.
async fn is_fair(start: &[String], events: &[(String, usize)], framing: i64) {
    for taken in 1..=events.len() {
        let (charged, sent) = self::charged(start, events, taken).await;
        assert!(charged >= sent.tokens, "{charged} {sent:?}");
        assert!(charged >= sent.text, "{charged} {sent:?}");
        assert!(charged <= sent.text + framing, "{charged} {sent:?}");
        assert!(charged * 4 < sent.bytes, "{charged} {sent:?}");
    }
}

#[tokio::test]
async fn openais_chat() {
    let chunk = |delta: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG\",\"object\":\"chat.completion.chunk\",\
            \"created\":1795000000,\"model\":\"gpt-4o-2024-08-06\",\"service_tier\":\"default\",\
            \"system_fingerprint\":\"fp_fc9f1d7035\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\
            \"finish_reason\":null}}],\"usage\":null,\"obfuscation\":\"pQ3xV9k\"}}\n\n"
        )
    };
    let start = [chunk(r#"{"role":"assistant","content":"","refusal":null}"#)];
    let events = said(1, |text| chunk(&format!("{{\"content\":{text}}}")));
    is_fair(&start, &events, 1).await;
}

#[tokio::test]
async fn openais_responses() {
    let event = |kind: &str, rest: &str| {
        format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":4,{rest}}}\n\n")
    };
    let response = "\"response\":{\"id\":\"resp_67c9fdcecf488190bdd9a0409de3a1ec\",\"object\":\"response\",\
        \"status\":\"in_progress\",\"instructions\":\"You are a helpful assistant.\",\"model\":\"gpt-4o-2024-08-06\",\
        \"output\":[],\"tools\":[{\"type\":\"function\",\"name\":\"weather\",\"description\":\"The weather of a place\"}],\
        \"usage\":null}";
    let start = [
        event("response.created", response),
        event("response.in_progress", response),
        event(
            "response.output_item.added",
            "\"output_index\":0,\"item\":{\"type\":\"message\",\"id\":\"msg_67c9fdcf37fc8190ba82116e33fb28c5\",\
            \"status\":\"in_progress\",\"role\":\"assistant\",\"content\":[]}",
        ),
        event(
            "response.content_part.added",
            "\"item_id\":\"msg_67c9fdcf37fc8190ba82116e33fb28c5\",\"output_index\":0,\"content_index\":0,\
            \"part\":{\"type\":\"output_text\",\"text\":\"\",\"annotations\":[]}",
        ),
    ];
    let events = said(1, |text| {
        event(
            "response.output_text.delta",
            &format!(
                "\"item_id\":\"msg_67c9fdcf37fc8190ba82116e33fb28c5\",\"output_index\":0,\"content_index\":0,\
                \"delta\":{text},\"logprobs\":[],\"obfuscation\":\"8s\""
            ),
        )
    });
    is_fair(&start, &events, 2 + 2 + 2 + 2).await;
}

#[tokio::test]
async fn anthropics_messages() {
    let event =
        |kind: &str, rest: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{rest}}}\n\n");
    let start = [
        event(
            "message_start",
            "\"message\":{\"id\":\"msg_1nZdL29xx5MUA1yADyHTEsnR8uuvGzszyY\",\"type\":\"message\",\"role\":\"assistant\",\
            \"content\":[],\"model\":\"claude-sonnet-4-5\",\"stop_reason\":null,\"stop_sequence\":null,\
            \"usage\":{\"input_tokens\":25,\"output_tokens\":1}}",
        ),
        event(
            "content_block_start",
            "\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}",
        ),
        "event: ping\ndata: {\"type\": \"ping\"}\n\n".to_owned(),
    ];
    let events = said(3, |text| {
        event(
            "content_block_delta",
            &format!("\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":{text}}}"),
        )
    });
    is_fair(&start, &events, 2 + 1 + 1).await;
}

#[tokio::test]
async fn geminis_parts() {
    // Each counts what was written so far.
    let events = std::cell::Cell::new(0_u64);
    let events = said(5, |text| {
        events.set(events.get() + 5);
        let counted = events.get();
        format!(
            "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":{text}}}],\"role\":\"model\"}},\"index\":0,\
            \"safetyRatings\":[{{\"category\":\"HARM_CATEGORY_HARASSMENT\",\"probability\":\"NEGLIGIBLE\"}}]}}],\
            \"usageMetadata\":{{\"promptTokenCount\":8,\"candidatesTokenCount\":{counted},\"totalTokenCount\":{},\
            \"promptTokensDetails\":[{{\"modality\":\"TEXT\",\"tokenCount\":8}}]}},\"modelVersion\":\"gemini-2.5-flash\",\
            \"responseId\":\"mAitaLmkHPPlz7IPvtfUqQ4\"}}\r\n\r\n",
            8 + counted
        )
    });
    is_fair(&[], &events, 0).await;
}

/// What was counted so far is the least: thoughts that aren't shown are in it.
#[tokio::test]
async fn thoughts_that_were_counted_are_charged() {
    let start = [
        "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"The\"}],\"role\":\"model\"},\"index\":0}],\
        \"usageMetadata\":{\"promptTokenCount\":8,\"candidatesTokenCount\":1,\"thoughtsTokenCount\":600,\
        \"totalTokenCount\":609},\"modelVersion\":\"gemini-2.5-flash\"}\r\n\r\n"
            .to_owned(),
    ];
    let (charged, _) = charged(&start, &[(String::new(), 0)], 0).await;
    assert_eq!(charged, 601);
}

/// Of a call of a tool its arguments are written, its name, and tokens that frame it. Nobody sends
/// these, so the id that the provider gives it stands for them.
#[tokio::test]
async fn a_tools_call() {
    let gate = Gate::new().await;
    let layer = gate.layer(by_token().output_bound(TokenBound::Fixed(BOUND)));
    let events = [
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,\
        \"output_tokens\":1}}}\n\n",
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":\
        {\"type\":\"tool_use\",\"id\":\"toolu_01T1x1fJ34qAmk2tNTrN7Up6\",\"name\":\"get_weather\",\"input\":{}}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":\
        {\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"location\\\":\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":\
        {\"type\":\"input_json_delta\",\"partial_json\":\" \\\"Rome\\\"}\"}}\n\n",
    ];
    let (_, row) = gate
        .call(layer, async |_| answer("text/event-stream", &events))
        .await;
    let written = "{\"location\": \"Rome\"}".len() + "get_weather".len();
    let framing = "toolu_01T1x1fJ34qAmk2tNTrN7Up6".len() + "{}".len() + 1;
    let output = i64::try_from(written + framing).unwrap();
    assert_eq!(nanos(&row), 25 * 1_000 + output * 10_000);
}

/// A compressed text may have more tokens than bytes.
#[tokio::test]
async fn a_compressed_stream_costs_the_hold() {
    let gate = Gate::new().await;
    for source in [CostSource::Body, CostSource::Handler] {
        let layer = gate.layer(by_token().cost_from(source));
        let service = layer.layer(service_fn(async |_: Request<()>| {
            let mut answer = answer("text/event-stream", &["x", "y"]);
            let gzip = HeaderValue::from_static("gzip");
            answer.headers_mut().insert("content-encoding", gzip);
            Ok::<_, Infallible>(answer)
        }));
        let mut body = service.oneshot(request()).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        let row = gate.last().await;
        assert_eq!(row.settlement.outcome, Outcome::Disconnected);
        assert_eq!(nanos(&row), HELD);
    }
}

/// What a stream costs that is left after its last event, of those that its client took.
async fn costs(events: &[&'static str]) -> i64 {
    let gate = Gate::new().await;
    let layer = gate.layer(by_token().output_bound(TokenBound::Fixed(BOUND)));
    let (taken, mut all) = (events.len(), events.to_vec());
    all.push("data: [DONE]\n\n");
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let answer = answer("text/event-stream", &all);
        async { Ok::<_, Infallible>(answer) }
    }));
    let mut body = service.oneshot(request()).await.unwrap().into_body();
    for _ in 0..taken {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    let row = gate.last().await;
    assert_eq!(row.settlement.outcome, Outcome::Disconnected);
    nanos(&row)
}

#[tokio::test]
async fn a_count_at_the_start_is_not_that_of_the_whole() {
    const FIRST: &str = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\
        \"assistant\",\"content\":\"\"}}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":300}}\n\n";
    const TEXT: &str = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\
        \"and this is a sentence of forty-one bytes\"}}]}\n\n";
    const LAST: &str = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":\
        {\"prompt_tokens\":9,\"completion_tokens\":310}}\n\n";
    assert_eq!(costs(&[FIRST]).await, 9_000 + 300 * 10_000);
    assert_eq!(costs(&[FIRST, TEXT]).await, 9_000 + (300 + 41) * 10_000);
    assert_eq!(costs(&[FIRST, TEXT, LAST]).await, 9_000 + 310 * 10_000);
}
