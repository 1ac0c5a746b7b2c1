//! The shapes of providers, by the examples in their documents.

use super::*;

/// Everything that was read, however the text is cut.
fn whole(media_type: &'static str, text: &str) -> (Tokens, Option<String>, Option<String>) {
    let read = |cut: usize| {
        let mut reader = UsageReader::for_body(&headers(media_type)).unwrap();
        for piece in text.as_bytes().chunks(cut) {
            reader.feed(piece);
        }
        reader.catch_up();
        let model = reader.model().map(ToString::to_string);
        let tiers = reader.service_tiers();
        let tier = tiers.special().or(tiers.names().next());
        let tier = tier.map(ToString::to_string);
        (reader.tokens().unwrap(), model, tier)
    };
    let whole = read(usize::MAX);
    for cut in (1..40).chain([1_400]) {
        assert_eq!(read(cut), whole, "{cut}");
    }
    whole
}

fn tokens(text: &str) -> Tokens {
    whole("application/json", text).0
}

fn tier(text: &str) -> Option<String> {
    whole("application/json", text).2
}

#[test]
fn openai_tells_audio_and_images_apart() {
    let chat = r#"{"model":"gpt-4o-audio-preview","service_tier":"default","usage":{"prompt_tokens":72,
        "completion_tokens":142,"total_tokens":214,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":55,
        "text_tokens":17,"image_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":111,
        "text_tokens":31,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}"#;
    let expected = Tokens {
        input: 72,
        input_audio: 55,
        output: 142,
        output_audio: 111,
        ..Tokens::default()
    };
    assert_eq!(tokens(chat), expected);
    let image = r#"{"created":1713833628,"data":[{"b64_json":"..."}],"usage":{"total_tokens":100,"input_tokens":50,
        "output_tokens":50,"input_tokens_details":{"text_tokens":10,"image_tokens":40},
        "output_tokens_details":{"image_tokens":48,"text_tokens":2}}}"#;
    let expected = Tokens {
        input: 50,
        input_image: 40,
        output: 50,
        output_image: 48,
        ..Tokens::default()
    };
    assert_eq!(tokens(image), expected);
    let transcript = r#"{"text":"Imagine","usage":{"type":"tokens","input_tokens":14,"input_token_details":
        {"text_tokens":0,"audio_tokens":14},"output_tokens":45,"total_tokens":59}}"#;
    let expected = Tokens {
        input: 14,
        input_audio: 14,
        output: 45,
        ..Tokens::default()
    };
    assert_eq!(tokens(transcript), expected);
}

#[test]
fn openai_counts_cache_reads_and_writes_as_input() {
    let responses = r#"{"object":"response","usage":{"input_tokens":1000,"input_tokens_details":
        {"cached_tokens":600,"cache_write_tokens":300},"output_tokens":7,"output_tokens_details":
        {"reasoning_tokens":4},"total_tokens":1007}}"#;
    let expected = Tokens {
        input: 1_000,
        cached: 600,
        cache_written: 300,
        output: 7,
        ..Tokens::default()
    };
    assert_eq!(tokens(responses), expected);
    let only_written =
        r#"{"usage":{"input_tokens":1000,"input_tokens_details":{"cache_write_tokens":300}}}"#;
    assert_eq!(tokens(only_written).input, 1_000);
}

#[test]
fn a_part_that_does_not_fit_is_beside_its_whole() {
    let beside = |input, cached, written| {
        let details = format!(r#"{{"cached_tokens":{cached},"cache_write_tokens":{written}}}"#);
        let usage = format!(r#""prompt_tokens":{input},"prompt_tokens_details":{details}"#);
        let tokens = tokens(&format!(r#"{{"usage":{{{usage}}}}}"#));
        (tokens.input, tokens.cached, tokens.cache_written)
    };
    assert_eq!(beside(100, 60, 40), (100, 60, 40));
    assert_eq!(beside(100, 60, 41), (141, 60, 41));
    assert_eq!(beside(100, 101, 40), (201, 101, 40));
    assert_eq!(beside(0, 1, 1), (2, 1, 1));
    let audio = r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"audio_tokens":9},
        "completion_tokens_details":{"audio_tokens":8}}}"#;
    let tokens = tokens(audio);
    assert_eq!((tokens.input, tokens.output), (9, 8));
}

#[test]
fn anthropic_counts_apart_what_was_cached_and_what_tools_did() {
    let messages = r#"{"type":"message","model":"claude-sonnet-4-5","usage":{"input_tokens":105,
        "cache_creation_input_tokens":556,"cache_read_input_tokens":7123,"cache_creation":
        {"ephemeral_5m_input_tokens":456,"ephemeral_1h_input_tokens":100},"output_tokens":6039,
        "server_tool_use":{"web_search_requests":3,"web_fetch_requests":1},"service_tier":"priority"}}"#;
    let expected = Tokens {
        input: 105 + 556 + 7_123,
        cached: 7_123,
        cache_written: 556,
        written_for_an_hour: 100,
        output: 6_039,
        searches: 3,
        ..Tokens::default()
    };
    let model = Some("claude-sonnet-4-5".to_owned());
    let expected = (expected, model, Some("priority".to_owned()));
    assert_eq!(whole("application/json", messages), expected);
    let stream = "event: message_start\n\
        data: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-x\",\"usage\":{\"input_tokens\":25,\
        \"output_tokens\":1,\"service_tier\":\"standard\"}}}\n\n\
        event: message_delta\n\
        data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15,\
        \"server_tool_use\":{\"web_search_requests\":1}}}\n\n";
    let (tokens, _, tier) = whole("text/event-stream", stream);
    assert_eq!((tokens.input, tokens.output, tokens.searches), (25, 15, 1));
    assert_eq!(tier.as_deref(), Some("standard"));
}

#[test]
fn the_tier_is_what_the_answer_says_last() {
    let usage = r#""usage":{"input_tokens":1,"output_tokens":2}"#;
    let flex = format!(r#"{{"service_tier":"flex",{usage}}}"#);
    assert_eq!(tier(&flex).as_deref(), Some("flex"));
    for none in [
        format!(r#"{{"service_tier":null,{usage}}}"#),
        format!(r#"{{"service_tier":"",{usage}}}"#),
        format!(r#"{{"metadata":{{"service_tier":"flex"}},{usage}}}"#),
        format!(r#"{{"service_tier":"{}",{usage}}}"#, "x".repeat(129)),
    ] {
        assert_eq!(tier(&none), None, "{none}");
    }
    let responses = "data: {\"type\":\"response.created\",\"response\":{\"model\":\"gpt-x\",\"service_tier\":\"auto\"}}\n\n\
        data: {\"type\":\"response.completed\",\"response\":{\"service_tier\":\"priority\",\"usage\":{\"input_tokens\":9,\
        \"output_tokens\":3}}}\n\n";
    let (_, _, tier_of_stream) = whole("text/event-stream", responses);
    assert_eq!(tier_of_stream.as_deref(), Some("priority"));
    let bedrock = r#"{"usage":{"inputTokens":1,"outputTokens":2},"serviceTier":{"type":"flex"}}"#;
    assert_eq!(tier(bedrock).as_deref(), Some("flex"));
}

#[test]
fn a_faster_speed_is_a_tier() {
    let speed = |speed| {
        tier(&format!(
            r#"{{"usage":{{"input_tokens":1,"speed":"{speed}","service_tier":"standard"}}}}"#
        ))
    };
    assert_eq!(speed("fast").as_deref(), Some("fast"));
    assert_eq!(speed("standard").as_deref(), Some("standard"));
}

#[test]
fn bedrock_counts_apart_what_was_cached() {
    let converse = r#"{"output":{"message":{"role":"assistant","content":[{"text":"Hi"}]}},"stopReason":"end_turn",
        "usage":{"inputTokens":30,"outputTokens":628,"totalTokens":658,"cacheReadInputTokens":100,
        "cacheWriteInputTokens":50,"cacheDetails":[{"ttl":"1h","inputTokens":20},{"inputTokens":30,"ttl":"5m"}]}}"#;
    let expected = Tokens {
        input: 180,
        cached: 100,
        cache_written: 50,
        written_for_an_hour: 20,
        output: 628,
        ..Tokens::default()
    };
    assert_eq!(tokens(converse), expected);
    let event = format!("data: {}\n\n", converse.replace('\n', ""));
    assert_eq!(events(&event), None, "its streams are of another kind");
    let plain = r#"{"usage":{"inputTokens":30,"outputTokens":628,"totalTokens":658}}"#;
    assert_eq!(json(plain), Some((30, 0, 628)));
}

#[test]
fn cohere_is_charged_by_what_it_bills() {
    let chat = r#"{"id":"1","message":{"role":"assistant"},"finish_reason":"COMPLETE","usage":{"billed_units":
        {"input_tokens":5,"output_tokens":418},"tokens":{"input_tokens":71,"output_tokens":420}}}"#;
    assert_eq!(json(chat), Some((5, 0, 418)));
    let stream = "event: content-delta\n\
        data: {\"type\":\"content-delta\",\"index\":0,\"delta\":{\"message\":{\"content\":{\"text\":\"Hi\"}}}}\n\n\
        event: message-end\n\
        data: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"COMPLETE\",\"usage\":{\"billed_units\":\
        {\"input_tokens\":5,\"output_tokens\":7},\"tokens\":{\"input_tokens\":71,\"output_tokens\":9}}}}\n\n";
    assert_eq!(events(stream), Some((5, 0, 7)));
}

/// An answer of Gemini's, with this beside its prompt's count.
fn gemini(counts: &str, end: &str) -> String {
    format!(
        r#"{{"candidates":[{{"content":{{"parts":[{{"text":"Hi"}}],"role":"model"}}{end},"index":0}}],
        "usageMetadata":{{"promptTokenCount":264,{counts}}},"modelVersion":"gemini-2.5-pro"}}"#
    )
}

const STOP: &str = r#","finishReason":"STOP""#;

#[test]
fn gemini_counts_thoughts_and_tools_apart() {
    let thought = gemini(
        r#""candidatesTokenCount":62,"totalTokenCount":1381,"cachedContentTokenCount":200,"thoughtsTokenCount":1045,
        "toolUsePromptTokenCount":10,"trafficType":"ON_DEMAND_PRIORITY""#,
        STOP,
    );
    let (tokens, model, tier) = whole("application/json", &thought);
    let expected = Tokens {
        input: 274,
        cached: 200,
        output: 1_107,
        ..Tokens::default()
    };
    assert_eq!(tokens, expected);
    assert_eq!(model.as_deref(), Some("gemini-2.5-pro"));
    assert_eq!(tier.as_deref(), Some("ON_DEMAND_PRIORITY"));
    let without_total = gemini(r#""candidatesTokenCount":62,"thoughtsTokenCount":8"#, STOP);
    assert_eq!(json(&without_total), Some((264, 0, 70)));
    let only_thought = gemini(r#""thoughtsTokenCount":8,"totalTokenCount":272"#, STOP);
    assert_eq!(json(&only_thought), Some((264, 0, 8)));
    let within = gemini(
        r#""candidatesTokenCount":70,"thoughtsTokenCount":8,"totalTokenCount":334"#,
        STOP,
    );
    assert_eq!(json(&within), Some((264, 0, 70)), "the total tells");
    let neither = gemini(
        r#""candidatesTokenCount":70,"thoughtsTokenCount":8,"totalTokenCount":300"#,
        STOP,
    );
    assert_eq!(json(&neither), Some((264, 0, 78)));
    assert_eq!(
        json(r#"{"usageMetadata":{"trafficType":"ON_DEMAND"}}"#),
        None
    );
}

#[test]
fn gemini_lists_modalities() {
    let listed = gemini(
        r#""candidatesTokenCount":1300,"totalTokenCount":1564,
        "promptTokensDetails":[{"modality":"TEXT","tokenCount":4},{"tokenCount":200,"modality":"AUDIO"},
        {"modality":"VIDEO","tokenCount":60}],
        "candidatesTokensDetails":[{"modality":"IMAGE","tokenCount":1290}],
        "cacheTokensDetails":[{"modality":"AUDIO","tokenCount":7}],
        "x":[{"modality":"AUDIO","tokenCount":7}]"#,
        STOP,
    );
    let expected = Tokens {
        input: 264,
        input_audio: 200,
        input_image: 60,
        output: 1_300,
        output_image: 1_290,
        ..Tokens::default()
    };
    assert_eq!(tokens(&listed), expected);
    // Each part of a stream lists all of them again.
    let stream = format!("[{listed},\n{listed}]");
    assert_eq!(tokens(&stream), expected);
}

fn as_events(parts: &[String]) -> String {
    let event = |part: &String| format!("data: {}\n\n", part.replace('\n', ""));
    parts.iter().map(event).collect()
}

#[test]
fn geminis_streams_count_as_they_go() {
    let begun = gemini(r#""candidatesTokenCount":4,"totalTokenCount":268"#, "");
    let over = gemini(r#""candidatesTokenCount":9,"totalTokenCount":273"#, STOP);
    // Far more events than are searched for a name.
    let mut parts = vec![begun; 30];
    parts.push(over);
    assert_eq!(events(&as_events(&parts)), Some((264, 0, 9)));
    let list = format!("[{}]", parts.join(",\r\n"));
    assert_eq!(json(&list), Some((264, 0, 9)));
}

#[test]
fn a_part_of_geminis_is_final_if_it_has_a_reason_to_end() {
    let begun = gemini(r#""candidatesTokenCount":4"#, "");
    let over = gemini(r#""candidatesTokenCount":9"#, STOP);
    let blocked =
        r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":3}}"#;
    let uncounted = r#"{"candidates":[{"finishReason":"STOP"}]}"#;
    let is_final = |media_type, text: &str, is_over| {
        let mut reader = UsageReader::for_body(&headers(media_type)).unwrap();
        reader.feed(text.as_bytes());
        reader.catch_up();
        reader.are_final(is_over)
    };
    for (parts, expected) in [
        (vec![begun.clone()], false),
        (vec![begun.clone(), over.clone()], true),
        // Another candidate goes on.
        (vec![over.clone(), begun.clone()], false),
        (vec![blocked.to_owned()], true),
        (vec![begun.clone(), uncounted.to_owned()], false),
    ] {
        for is_over in [false, true] {
            let stream = as_events(&parts);
            // As in every stream that was left, a count needs output to be all of it.
            let has_output = is_over || !stream.contains("SAFETY");
            let in_events = is_final("text/event-stream", &stream, is_over);
            assert_eq!(in_events, expected && has_output);
            let list = format!("[{}", parts.join(","));
            let in_list = is_final("application/json", &list, is_over);
            assert_eq!(in_list, expected && has_output);
        }
    }
    assert!(
        is_final("application/json", &begun, true),
        "all of it is there"
    );
    assert!(!is_final("application/json", &begun, false));
}

#[test]
fn geminis_large_events_are_read_as_they_come() {
    let image = "A".repeat(20_000);
    let part = |counts: &str, end: &str| {
        gemini(counts, end).replace(
            r#""text":"Hi""#,
            &format!(r#""inlineData":{{"data":"{image}"}}"#),
        )
    };
    let parts = [
        part(r#""candidatesTokenCount":1"#, ""),
        part(r#""candidatesTokenCount":5"#, ""),
        part(r#""candidatesTokenCount":1290"#, STOP),
    ];
    let (tokens, model, _) = whole("text/event-stream", &as_events(&parts));
    assert_eq!((tokens.input, tokens.output), (264, 1_290));
    assert_eq!(model.as_deref(), Some("gemini-2.5-pro"));
}
