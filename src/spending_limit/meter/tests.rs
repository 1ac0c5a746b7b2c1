use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn headers(media_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))])
}

fn read_in(media_type: &'static str, text: &str, cut: usize) -> Option<(u64, u64, u64)> {
    let mut reader = Reader::for_body(&headers(media_type)).unwrap();
    for piece in text.as_bytes().chunks(cut.max(1)) {
        reader.feed(piece);
    }
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
        let mut reader = Reader::for_body(&headers(media_type)).unwrap();
        reader.feed(text.as_bytes());
        (reader.are_final(false), reader.are_final(true))
    };
    let event = |data: &str| are_final("text/event-stream", &format!("data: {data}\n\n"));
    assert_eq!(event(r#"{"usage":{"output_tokens":1}}"#), (true, true));
    let response = r#"{"response":{"usage":{"output_tokens":1}}}"#;
    assert_eq!(event(response), (true, true));
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
    assert_eq!(events(&format!("{broken_off}\n\n")), Some((5, 0, 0)));
    let never_closed = "data: {\"a\":{\n\ndata: {\"usage\":{\"prompt_tokens\":3}}\n\n";
    assert_eq!(events(never_closed), Some((3, 0, 0)));
    let other_fields =
        "datas: {\"usage\":{\"prompt_tokens\":3}}\nid: {\"usage\":{\"prompt_tokens\":3}}\n\n";
    assert_eq!(events(other_fields), None);
}

#[test]
fn names_the_model_where_the_shapes_have_it() {
    let model = |media_type, text: &str| {
        let mut reader = Reader::for_body(&headers(media_type)).unwrap();
        reader.feed(text.as_bytes());
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
fn only_what_can_be_read_is_read() {
    for media_type in [
        "text/html",
        "application/octet-stream",
        "jsonx",
        "application/grpc",
    ] {
        assert!(Reader::for_body(&headers(media_type)).is_none());
    }
    let mut zipped = headers("application/json");
    zipped.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    assert!(Reader::for_body(&zipped).is_none());
    assert!(Reader::for_body(&HeaderMap::new()).is_none());
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

proptest! {
    #[test]
    fn however_a_stream_is_cut_it_says_the_same(
        cuts in prop::collection::vec(1_usize..80, 1..40),
        noise in prop::collection::vec("[ -~]{0,30}", 0..6),
    ) {
        let mut text = String::new();
        for (index, noise) in noise.iter().enumerate() {
            let content = serde_json::json!({"choices": [{"delta": {"content": noise}}], "usage": null});
            text.push_str(&format!("data: {content}\n\n"));
            if index == 2 {
                text.push_str(CHAT);
            }
        }
        text.push_str("data: {\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":13}}\n\n");
        let mut reader = Reader(Kind::Events(Events::new()));
        let mut rest = text.as_bytes();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at((*cut).min(rest.len()));
            reader.feed(piece);
            rest = behind;
        }
        prop_assert_eq!(reader.tokens(), Some(Tokens { input: 11, cached: 0, output: 13 }));
    }

    #[test]
    fn no_bytes_make_it_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20)) {
        let mut readers = [Reader(Kind::Json(Scanner::default())), Reader(Kind::Events(Events::new()))];
        for piece in &pieces {
            for reader in &mut readers {
                reader.feed(piece);
            }
        }
    }
}
