use http::{HeaderValue, header::CONTENT_ENCODING};
use proptest::prelude::*;

use super::*;

mod broken;
mod contradictions;
mod covered;
mod cuts;
mod hostile;
mod produced;
mod shapes;
mod tables;

fn headers(media_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))])
}

fn read_in(media_type: &'static str, text: &str, cut: usize) -> Option<(u64, u64, u64)> {
    let mut reader = UsageReader::for_body(&headers(media_type)).unwrap();
    for piece in text.as_bytes().chunks(cut.max(1)) {
        reader.feed(piece);
    }
    reader.catch_up();
    let tokens = reader.tokens();
    tokens.map(|tokens| (tokens.input, tokens.cached, tokens.output))
}

fn json(text: &str) -> Option<(u64, u64, u64)> {
    let whole = read_in("application/json", text, usize::MAX);
    for cut in 1..9 {
        assert_eq!(read_in("application/json; charset=utf-8", text, cut), whole);
    }
    whole
}

fn events(text: &str) -> Option<(u64, u64, u64)> {
    let whole = read_in("text/event-stream", text, usize::MAX);
    for ends in ["\n", "\r\n", "\r"] {
        let text = text.replace('\n', ends);
        for cut in (1..64).chain([usize::MAX]) {
            assert_eq!(
                read_in("text/event-stream", &text, cut),
                whole,
                "{cut} {ends:?}"
            );
        }
    }
    whole
}

#[test]
fn reads_the_shapes_of_json_answers() {
    let chat = r#"{"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"message":{"role":"assistant",
        "content":"\"usage\":{\"prompt_tokens\":1}"}}],"usage":{"prompt_tokens":19,"completion_tokens":10,
        "total_tokens":29,"prompt_tokens_details":{"cached_tokens":7,"audio_tokens":0},
        "completion_tokens_details":{"reasoning_tokens":4}}}"#;
    assert_eq!(json(chat), Some((19, 7, 10)));
    let responses = r#"{"object":"response","usage":{"input_tokens":36,"input_tokens_details":
        {"cached_tokens":0},"output_tokens":87,"total_tokens":123}}"#;
    assert_eq!(json(responses), Some((36, 0, 87)));
    let embeddings = r#"{"data":[{"embedding":[0.0023,-9.3e-3,1]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    assert_eq!(json(embeddings), Some((8, 0, 0)));
    let total_only = r#"{"usage":{"total_tokens":8}}"#;
    assert_eq!(json(total_only), Some((8, 0, 0)));
    let messages = r#"{"type":"message","model":"claude-x","usage":{"input_tokens":10,
        "cache_creation_input_tokens":5,"cache_read_input_tokens":100,"output_tokens":20}}"#;
    assert_eq!(json(messages), Some((115, 100, 20)));
}

#[test]
fn what_is_a_part_of_the_input_is_not_added_to_it() {
    let lite_llm = r#"{"usage":{"prompt_tokens":115,"completion_tokens":20,"total_tokens":135,
        "prompt_tokens_details":{"cached_tokens":100,"cache_creation_tokens":5},
        "cache_creation_input_tokens":5,"cache_read_input_tokens":100}}"#;
    assert_eq!(json(lite_llm), Some((115, 100, 20)));
    let without_details = r#"{"usage":{"cache_creation_input_tokens":5,"cache_read_input_tokens":100,
        "prompt_tokens":115,"completion_tokens":20}}"#;
    assert_eq!(json(without_details), Some((115, 100, 20)));
    let responses = r#"{"usage":{"input_tokens":115,"input_tokens_details":{"cached_tokens":100},
        "cache_read_input_tokens":100,"output_tokens":20}}"#;
    assert_eq!(json(responses), Some((115, 100, 20)));
    let more_than_all =
        r#"{"usage":{"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":100}}}"#;
    assert_eq!(json(more_than_all), Some((107, 100, 0)), "beside it, then");
}

#[test]
fn what_only_the_total_counts_is_output() {
    let thought_beside = r#"{"usage":{"prompt_tokens":20,"completion_tokens":5,"total_tokens":325,
        "completion_tokens_details":{"reasoning_tokens":300}}}"#;
    assert_eq!(json(thought_beside), Some((20, 0, 305)));
    let thought_within = r#"{"usage":{"prompt_tokens":20,"completion_tokens":305,"total_tokens":325,
        "completion_tokens_details":{"reasoning_tokens":300}}}"#;
    assert_eq!(json(thought_within), Some((20, 0, 305)));
    let too_small = r#"{"usage":{"prompt_tokens":20,"completion_tokens":5,"total_tokens":1}}"#;
    assert_eq!(json(too_small), Some((20, 0, 5)));
}

#[test]
fn a_cache_hit_in_words_of_its_own_is_one() {
    let usage = r#"{"usage":{"prompt_tokens":115,"completion_tokens":20,"total_tokens":135,
        "prompt_cache_hit_tokens":100,"prompt_cache_miss_tokens":15}}"#;
    assert_eq!(json(usage), Some((115, 100, 20)));
}

#[test]
fn what_is_written_to_a_cache_is_counted_by_its_time() {
    let written = |usage: &str| {
        let mut reader = UsageReader::for_body(&headers("application/json")).unwrap();
        reader.feed(format!(r#"{{"usage":{{{usage}}}}}"#).as_bytes());
        let tokens = reader.tokens().unwrap();
        let by_time = (tokens.cache_written, tokens.written_for_an_hour);
        (tokens.input, tokens.cached, by_time)
    };
    let counts =
        r#""input_tokens":10,"cache_creation_input_tokens":9,"cache_read_input_tokens":100"#;
    assert_eq!(written(counts), (119, 100, (9, 0)));
    let by_time =
        r#""cache_creation":{"ephemeral_5m_input_tokens":6,"ephemeral_1h_input_tokens":3}"#;
    assert_eq!(written(&format!("{counts},{by_time}")), (119, 100, (9, 3)));
    let alone = written(&format!(r#""input_tokens":10,{by_time}"#));
    assert_eq!(alone, (19, 0, (9, 3)));
    let beside_all = written(&format!(r#""prompt_tokens":19,{by_time}"#));
    assert_eq!(beside_all, (19, 0, (9, 3)));
    let elsewhere = r#""x":{"ephemeral_1h_input_tokens":3},"input_tokens":1"#;
    assert_eq!(written(elsewhere), (1, 0, (0, 0)));
}

#[test]
fn zero_is_a_count_and_nothing_is_none() {
    assert_eq!(
        json(r#"{"usage":{"prompt_tokens":0,"completion_tokens":0}}"#),
        Some((0, 0, 0))
    );
    for text in [
        "",
        "{}",
        r#"{"usage":null}"#,
        r#"{"usage":{}}"#,
        r#"{"usage":[1,2]}"#,
        r#"{"usage":{"prompt_tokens":null}}"#,
        r#"{"usage":{"prompt_tokens":-1}}"#,
        r#"{"usage":{"prompt_tokens":1.5}}"#,
        r#"{"usage":{"prompt_tokens":1e3}}"#,
        r#"{"usage":{"prompt_tokens":"7"}}"#,
        r#"{"usage":{"prompt_tokens":99999999999999999999}}"#,
        r#"{"usage":{"prompt_tokens":7"#,
    ] {
        assert_eq!(json(text), None, "{text}");
    }
}

#[test]
fn what_a_client_may_have_put_elsewhere_is_not_its_usage() {
    for text in [
        r#"{"tools":[{"usage":{"prompt_tokens":0}}]}"#,
        r#"{"metadata":{"usage":{"prompt_tokens":0}}}"#,
        r#"{"response":{"tools":{"usage":{"input_tokens":0}}}}"#,
        r#"{"response":[{"usage":{"input_tokens":0}}]}"#,
        r#"[{"usage":{"prompt_tokens":0}}]"#,
        r#"[[{"usageMetadata":{"promptTokenCount":0}}]]"#,
        r#"{"x":{"usageMetadata":{"promptTokenCount":0}}}"#,
        r#"{"candidates":[{"usageMetadata":{"promptTokenCount":0}}]}"#,
        r#"{"delta":{"x":{"usage":{"billed_units":{"input_tokens":0}}}}}"#,
        r#"{"usage":{"tokens":{"input_tokens":0}}}"#,
        r#"{"a":"x\",\"usage\":{\"prompt_tokens\":0}"}"#,
        r#"{"usage":{"x":{"prompt_tokens":0}}}"#,
        r#"{"us\u0061ge":{"prompt_tokens":0}}"#,
        r#"{"choices":[{"message":{"usage":{"prompt_tokens":0}}}]}"#,
    ] {
        assert_eq!(json(text), None, "{text}");
        assert_eq!(events(&format!("data: {text}\n\n")), None, "{text}");
    }
}

const CHAT: &str = "data: {\"model\":\"gpt-x\",\"choices\":[{\"delta\":{\"content\":\"Hel\"}}],\"usage\":null}\n\n\
    : a comment with _tokens\" in it\n\n\
    data: {\"choices\":[{\"delta\":{\"content\":\"\\\"prompt_tokens\\\":5\"}}],\"usage\":null}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":12}}\n\n\
    data: [DONE]\n\n";

#[test]
fn reads_the_shapes_of_streams() {
    assert_eq!(events(CHAT), Some((5, 0, 7)));
    let responses = "event: response.created\n\
        data: {\"type\":\"response.created\",\"response\":{\"model\":\"gpt-x\",\"usage\":null}}\n\n\
        event: response.completed\n\
        data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":3}}}\n\n";
    assert_eq!(events(responses), Some((9, 0, 3)));
    let messages = "event: message_start\n\
        data: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-x\",\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n\
        event: ping\ndata: {\"type\": \"ping\"}\n\n\
        event: message_delta\n\
        data: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":15}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    assert_eq!(events(messages), Some((25, 0, 15)));
    let split_over_lines = "data: {\"usage\":\ndata:{\"prompt_tokens\":\ndata: 4 } }\n\n";
    assert_eq!(events(split_over_lines), Some((4, 0, 0)));
}

#[test]
fn a_count_is_final_when_it_speaks_of_the_whole_answer() {
    let are_final = |media_type, text: &str| {
        let mut reader = UsageReader::for_body(&headers(media_type)).unwrap();
        reader.feed(text.as_bytes());
        reader.catch_up();
        (reader.are_final(false), reader.are_final(true))
    };
    let event = |data: &str| are_final("text/event-stream", &format!("data: {data}\n\n"));
    let both = r#"{"input_tokens":2,"output_tokens":1}"#;
    assert_eq!(event(&format!(r#"{{"usage":{both}}}"#)), (true, true));
    let response = format!(r#"{{"response":{{"usage":{both}}}}}"#);
    assert_eq!(event(&response), (true, true));
    for text in [
        r#"{"usage":{"output_tokens":1}}"#,
        r#"{"usage":{"input_tokens":0,"output_tokens":1}}"#,
        r#"{"usage":{"input_tokens":1,"output_tokens":0}}"#,
    ] {
        assert_eq!(event(text), (false, true), "{text}");
    }
    for text in [
        r#"{"message":{"usage":{"output_tokens":1}}}"#,
        r#"{"message":{"usage":{"output_tokens":1}},"usage":{}}"#,
        r#"{"usage":{"output_tokens":1"#,
        r#"{"usage":{"x_tokens":1}}"#,
        r#"{"usage":null,"x":"_tokens"}"#,
    ] {
        assert_eq!(event(text), (false, false), "{text}");
    }
    let cut = r#"{"usage":{"prompt_tokens":19"#;
    assert_eq!(are_final("application/json", cut), (false, true));
}

#[test]
fn a_stream_that_breaks_off_or_lies_counts_nothing() {
    let broken_off = CHAT.split(",\"completion_tokens").next().unwrap();
    assert_eq!(events(&format!("{broken_off}\n\n")), None);
    let never_closed = "data: {\"a\":{\n\ndata: {\"usage\":{\"prompt_tokens\":3}}\n\n";
    assert_eq!(events(never_closed), Some((3, 0, 0)));
    let other_fields =
        "datas: {\"usage\":{\"prompt_tokens\":3}}\nid: {\"usage\":{\"prompt_tokens\":3}}\n\n";
    assert_eq!(events(other_fields), None);
}

#[test]
fn names_the_model_where_the_shapes_have_it() {
    let model = |media_type, text: &str| {
        let mut reader = UsageReader::for_body(&headers(media_type)).unwrap();
        reader.feed(text.as_bytes());
        reader.catch_up();
        reader.model().map(ToString::to_string)
    };
    let json = "application/json";
    assert_eq!(model(json, r#"{"model":"a"}"#).as_deref(), Some("a"));
    assert_eq!(
        model(json, r#"{"message":{"model":"b"}}"#).as_deref(),
        Some("b")
    );
    assert_eq!(model(json, r#"{"x":{"model":"b"}}"#), None);
    assert_eq!(
        model(json, &format!(r#"{{"model":"{}"}}"#, "m".repeat(129))),
        None
    );
    let last = r#"data: {"model":"c","usage":{"prompt_tokens":1}}"#;
    assert_eq!(model("text/event-stream", last).as_deref(), Some("c"));
}

#[test]
fn a_stream_that_is_left_early_has_named_its_model() {
    let event = "data: {\"model\":\"gpt-x\",\"choices\":[{\"delta\":{\"content\":\"Hel\"}}],\"usage\":null}\n\n";
    for cut in [1, 7, usize::MAX] {
        let text = [": hello\n\n", event, event].concat();
        let mut reader = UsageReader::for_body(&headers("text/event-stream")).unwrap();
        for piece in text.as_bytes().chunks(cut.min(text.len())) {
            reader.feed(piece);
        }
        assert_eq!(reader.model().map(AsRef::as_ref), Some("gpt-x"), "{cut}");
        assert_eq!(reader.tokens(), None);
    }
}

#[test]
fn the_first_events_name_the_model_whatever_they_tell_of_usage() {
    let model = |text: &str, cut: usize| {
        let mut reader = UsageReader::for_body(&headers("text/event-stream")).unwrap();
        for piece in text.as_bytes().chunks(cut) {
            reader.feed(piece);
        }
        reader.model().map(ToString::to_string)
    };
    let chunk = "data: {\"id\":\"1\",\"model\":\"gpt-x\",\"choices\":[],\"usage\":null}\n\n";
    let response =
        "event: response.created\ndata: {\"response\":{\"model\":\"gpt-x\",\"usage\":null}}\n\n";
    let azure = "data: {\"model\":\"\",\"prompt_filter_results\":[]}\n\n";
    let waiting = ": PROCESSING\n\n".repeat(100);
    for text in [
        chunk.to_owned(),
        response.to_owned(),
        format!("{azure}{chunk}"),
        format!("{waiting}{chunk}"),
    ] {
        for cut in [usize::MAX, 7] {
            assert_eq!(model(&text, cut).as_deref(), Some("gpt-x"), "{text}");
        }
    }
    let nameless = "data: {}\n\n".repeat(8);
    assert_eq!(model(&format!("{nameless}{chunk}"), usize::MAX), None);
}

#[test]
fn only_what_can_be_read_is_read() {
    for media_type in [
        "text/html",
        "application/octet-stream",
        "jsonx",
        "application/grpc",
    ] {
        assert!(UsageReader::for_body(&headers(media_type)).is_none());
    }
    let mut zipped = headers("application/json");
    zipped.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    assert!(UsageReader::for_body(&zipped).is_none());
    assert!(UsageReader::for_body(&HeaderMap::new()).is_none());
}

#[test]
fn a_hundred_deep_and_a_long_key_keep_little() {
    let mut scanner = Scanner::default();
    scanner.feed("[{\"a\":".repeat(100_000).as_bytes());
    scanner.feed(b"\"");
    for _ in 0..1_000 {
        scanner.feed(&[b'k'; 10_000]);
    }
    assert!(format!("{scanner:?}").len() < 4_000);
}
