//! How much output was shown, in the words of the providers and in others.

use super::*;

fn of(media_type: &'static str) -> UsageReader {
    let reader = UsageReader::for_body(&headers(media_type)).unwrap();
    reader.counting(u64::MAX)
}

fn produced(text: &str) -> u64 {
    let in_pieces = |text: &str, cut| {
        let mut reader = of("text/event-stream");
        for piece in text.as_bytes().chunks(cut) {
            reader.feed(piece);
        }
        reader.produced().unwrap()
    };
    let whole = in_pieces(text, usize::MAX);
    for cut in [1, 2, 3, 7, 64, 1_000] {
        assert_eq!(in_pieces(text, cut), whole, "{cut}");
        let of_windows = text.replace('\n', "\r\n");
        assert_eq!(in_pieces(&of_windows, cut), whole, "{cut}");
    }
    whole
}

fn event(data: &str) -> u64 {
    let data: String = data.lines().map(str::trim_start).collect();
    produced(&format!("event: x\nid: 7\ndata: {data}\n\n"))
}

fn long(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap()
}

#[test]
fn of_openais_chat_only_what_was_written_counts() {
    let chunk = |delta: &str| {
        event(&format!(
            r#"{{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795000000,"model":"gpt-x",
            "service_tier":"default","system_fingerprint":"fp_1","obfuscation":"x8Kd02","usage":null,
            "choices":[{{"index":0,"delta":{delta},"logprobs":{{"content":[{{"token":"Hello"}}]}},"finish_reason":null}}]}}"#
        ))
    };
    assert_eq!(chunk(r#"{"role":"assistant","content":"Hello"}"#), 5);
    assert_eq!(chunk(r#"{"content":"\n\"né\u00e9"}"#), 2 + 3 + 3);
    assert_eq!(chunk(r#"{"reasoning_content":"hm","content":null}"#), 2);
    assert_eq!(chunk(r#"{"refusal":"No"}"#), 2);
    // Nothing was shown, but an event is a token at least.
    assert_eq!(chunk(r#"{"content":""}"#), 1);
    assert_eq!(chunk("{}"), 1);
    let call = r#"{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":
        {"name":"weather","arguments":"{\"city\":\"Rome\"}"}}]}"#;
    assert_eq!(chunk(call), 6 + 7 + 15);
    assert_eq!(
        event(r#"{"choices":[{"index":0,"text":"Hello","finish_reason":null}]}"#),
        5
    );
}

#[test]
fn of_openais_responses_each_text_counts_once() {
    let delta = r#"{"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,
        "content_index":0,"delta":"Hello","logprobs":[],"obfuscation":"Zk3"}"#;
    assert_eq!(event(delta), 5);
    let created = r#"{"type":"response.created","response":{"id":"resp_1","model":"gpt-x","instructions":"Be brief",
        "tools":[{"name":"weather"}],"output":[],"usage":null}}"#;
    assert_eq!(event(created), 2);
    assert_eq!(
        event(r#"{"type":"response.output_text.done","text":"Hello"}"#),
        5
    );
    let item = r#"{"type":"response.output_item.added","item":{"id":"fc_1","type":"function_call","status":"x",
        "call_id":"call_1","name":"weather","arguments":""}}"#;
    assert_eq!(event(item), 6 + 7);
    let hidden = r#"{"type":"response.output_item.done","item":{"type":"reasoning","encrypted_content":"gAAAAA"}}"#;
    assert_eq!(event(hidden), 6);
    // All output again, which isn't twice as much.
    let all = r#"{"type":"response.incomplete","response":{"output":[{"text":"Hello"}]}}"#;
    let delta: String = delta.lines().map(str::trim_start).collect();
    let again = format!("data: {delta}\n\ndata: {all}\n\n");
    assert_eq!(produced(&again), 18);
    assert_eq!(produced(&format!("data: {delta}\n\n{again}")), 18);
    let longer = format!("data: {delta}\n\n").repeat(9);
    assert_eq!(
        produced(&format!("{longer}{again}")),
        50 + 1,
        "and an event"
    );
}

#[test]
fn of_anthropics_and_coheres_events_too() {
    let start = r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],
        "model":"claude-x","stop_reason":null,"usage":{"input_tokens":25,"output_tokens":1}}}"#;
    assert_eq!(event(start), 2);
    assert_eq!(event(r#"{"type":"ping"}"#), 1);
    assert_eq!(
        event(r#"{"type":"error","error":{"message":"Overloaded"}}"#),
        49,
        "a model's failed call may be in it"
    );
    let block = |block: &str| {
        event(&format!(
            r#"{{"type":"content_block_start","index":0,"content_block":{block}}}"#
        ))
    };
    assert_eq!(block(r#"{"type":"text","text":""}"#), 1);
    assert_eq!(
        block(r#"{"type":"tool_use","id":"toolu_1","name":"weather","input":{}}"#),
        7 + 7 + 2
    );
    let delta = |delta: &str| {
        event(&format!(
            r#"{{"type":"content_block_delta","index":0,"delta":{delta}}}"#
        ))
    };
    assert_eq!(delta(r#"{"type":"text_delta","text":"Hello"}"#), 5);
    assert_eq!(delta(r#"{"type":"thinking_delta","thinking":"Hmm"}"#), 3);
    assert_eq!(
        delta(r#"{"type":"input_json_delta","partial_json":"{\"a\":1"}"#),
        6
    );
    let cohere =
        r#"{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"Hello"}}}}"#;
    assert_eq!(event(cohere), 5);
}

#[test]
fn of_geminis_events_and_of_its_lists_too() {
    let part = r#"{"candidates":[{"content":{"parts":[{"text":"Hello","thought":true}],"role":"model"},"index":0,
        "safetyRatings":[{"category":"X","probability":"LOW"}]}],"usageMetadata":{"promptTokenCount":7,
        "candidatesTokenCount":1},"modelVersion":"gemini-x","responseId":"r1"}"#;
    assert_eq!(event(part), 5);
    let call =
        r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"n":12}}}]}}]}"#;
    assert_eq!(event(call), 28, "names and numbers are written too");
    let list = |text: &str, cut: usize| {
        let mut reader = of("application/json");
        for piece in text.as_bytes().chunks(cut) {
            reader.feed(piece);
        }
        reader.produced()
    };
    let empty = r#"{"candidates":[{"finishReason":"STOP"}]}"#;
    for cut in [1, 7, usize::MAX] {
        assert_eq!(list(&format!("[{part},\n{part},{empty}]"), cut), Some(11));
        assert_eq!(
            list(r#"{"choices":[]}"#, cut),
            Some(14),
            "it is there at once"
        );
    }
}

#[test]
fn what_nobody_knows_counts_whole() {
    assert_eq!(event("Hello, \"world\" {"), 16);
    assert_eq!(event("[DONE]"), 6);
    assert_eq!(event(r#""Hello""#), 7);
    for whole in [
        r#"{"token":{"text":"Hello","id":7}}"#,
        r#"{"text":"Hello","content":"Hello"}"#,
        r#"{"id":["Hello"]}"#,
        r#"{"\u0069d":"Hello"}"#,
    ] {
        assert_eq!(event(whole), long(whole), "{whole}");
    }
    let x = r#"{"choices":[{"delta":{"x":["\"]",{}]}}]}"#;
    assert_eq!(event(x), 10 + 5, "with its name");
    assert_eq!(produced(": a comment\n\nevent: x\nretry: 5\n\n"), 0);
    assert_eq!(
        produced("data: {\"type\":\ndata: \"x\",\"text\":\ndata: \"Hi\"}\n\n"),
        8 + 1 + 11 + 1 + 5
    );
    let unseen = |then: &str| {
        let mut reader = of("text/event-stream");
        reader.feed(b"data: {\"type\":\"response.x.done\",\"x\":\"");
        reader.skip(7);
        reader.feed(then.as_bytes());
        reader.produced()
    };
    assert_eq!(unseen("\"}\n\ndata: {}\n\n"), Some(7 + 7 + 14));
}

#[test]
fn it_is_counted_as_far_as_it_matters() {
    let mut reader = UsageReader::for_body(&headers("text/event-stream")).unwrap();
    assert_eq!(reader.produced(), None);
    reader = reader.counting(7);
    for expected in [5, 7, 7] {
        reader.feed(b"data: {\"delta\":\"Hello\"}\n\n");
        assert_eq!(reader.produced(), Some(expected));
    }
}

/// What one event says, and how many bytes of text are in it.
fn said() -> impl Strategy<Value = (String, u64)> {
    let text = "[ -~é\u{1f600}\n]{0,40}";
    (text, 0..6_u8).prop_map(|(text, shape)| {
        let data = match shape {
            0 => serde_json::json!({"id": "x", "choices": [{"delta": {"content": text}, "finish_reason": null}]}),
            1 => serde_json::json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}),
            2 => serde_json::json!({"type": "response.output_text.delta", "delta": text}),
            3 => serde_json::json!({"candidates": [{"content": {"parts": [{"text": text}]}}]}),
            4 => serde_json::json!({"x": {"y": [text]}}),
            _ => serde_json::json!({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": text}}]}}]}),
        };
        (data.to_string(), u64::try_from(text.len()).unwrap())
    })
}

proptest! {
    #[test]
    fn no_byte_of_text_is_lost_wherever_a_stream_is_cut(
        said in prop::collection::vec(said(), 0..12),
        cuts in prop::collection::vec(1_usize..60, 1..20),
    ) {
        let text: String = said.iter().map(|(data, _)| format!("data: {data}\n\n")).collect();
        let least: u64 = said.iter().map(|(_, bytes)| (*bytes).max(1)).sum();
        let mut reader = of("text/event-stream");
        let (mut rest, mut last) = (text.as_bytes(), 0);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at((*cut).min(rest.len()));
            reader.feed(piece);
            (rest, last) = (behind, reader.produced().unwrap());
        }
        prop_assert!(last >= least, "{} {}", last, least);
        prop_assert!(last <= u64::try_from(text.len()).unwrap());
        let mut at_once = of("text/event-stream");
        at_once.feed(text.as_bytes());
        prop_assert_eq!(at_once.produced(), Some(last));
    }

    #[test]
    fn no_bytes_make_it_panic_or_count_less_by_their_cut(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for media_type in ["text/event-stream", "application/json"] {
            let (mut by_byte, mut at_once) = (of(media_type), of(media_type));
            at_once.feed(&bytes);
            bytes.iter().for_each(|byte| by_byte.feed(&[*byte]));
            prop_assert_eq!(by_byte.produced(), at_once.produced());
        }
    }
}
