//! What could be sent for free if something were taken for wrapping that isn't.

use super::*;

const SAID: &str = "The capital of France is Paris";

fn counted(media_type: &'static str, text: &str) -> usize {
    let in_pieces = |cut| {
        let reader = UsageReader::for_body(&headers(media_type)).unwrap();
        let mut reader = reader.counting(u64::MAX);
        for piece in text.as_bytes().chunks(cut) {
            reader.feed(piece);
        }
        usize::try_from(reader.produced().unwrap()).unwrap()
    };
    let whole = in_pieces(usize::MAX);
    for cut in [1, 2, 3, 7, 64] {
        assert_eq!(in_pieces(cut), whole, "{cut} {text:?}");
    }
    whole
}

fn events(text: &str) -> usize {
    counted("text/event-stream", text)
}

#[test]
fn lines_that_no_stream_of_events_has_count_whole() {
    for text in [
        "The capital of France is Paris.",
        "The capital\nof France\n\nis Paris.\n",
        "data science\nis fun\n\n",
        "dat\nfoo",
        "even",
        "\u{feff}event horizon",
        "{\"response\":\"Hello world\",\"done\":false}\n{\"response\":\"again\",\"done\":false}\n",
        " data: {\"choices\":[]}\n\n",
    ] {
        let sent = text.trim_start_matches('\u{feff}').len();
        assert_eq!(events(text), sent, "{text:?}");
    }
    let chunk = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
    assert_eq!(
        events(&format!("{chunk}Hello\n\n{chunk}")),
        5 + 7 + chunk.len()
    );
    assert_eq!(events(&format!(": {}", "x".repeat(1_000))), 1_001 - 32);
    assert_eq!(events(&format!("id: {}\n", "x".repeat(1_000))), 1_001 - 128);
    assert_eq!(
        events(": OPENROUTER PROCESSING\n\n: ping\n\nevent: a\nid: 7\n\n"),
        0
    );
}

#[test]
fn white_space_of_plain_text_counts() {
    assert_eq!(events(&format!("{}\n", "data:\n".repeat(1_000))), 999);
    assert_eq!(events(&format!("data: {}\n\n", " ".repeat(1_000))), 1_000);
    assert_eq!(events(&format!("data: {}x\n\n", "\t".repeat(1_000))), 1_001);
    assert_eq!(events("data:foo\ndata:bar\ndata:baz\n\n"), 11);
}

#[test]
fn what_is_no_json_counts_whole() {
    for data in [
        format!("{{'choices': [{{'delta': {{'content': '{SAID}'}}}}]}}"),
        format!("{{\"choices\":[{{\"delta\":{{'content':'{SAID}'}}}}]}}"),
        format!("{{\"choices\":[],\"created\":{SAID}}}"),
        format!("{{\"choices\":[],\"id\":\"x\" \"{SAID}\"}}"),
        format!("{{\"choices\":[] {SAID}"),
        format!("{SAID}\n{{\"choices\":[]}}"),
    ] {
        let lines = data.replace('\n', "\ndata: ");
        assert_eq!(events(&format!("data: {lines}\n\n")), data.len(), "{data}");
    }
}

#[test]
fn events_in_no_known_shape_count_whole() {
    let numbers: Vec<String> = (0..500).map(|i| format!("\"k{i}\":{i}")).collect();
    for data in [
        r#"{"title":"Dune","year":1965,"rating":5,"seen":true,"pages":412}"#.to_owned(),
        format!("{{{}}}", numbers.join(",")),
        r#"{"id":"The capital","model":"of France","type":"is Paris"}"#.to_owned(),
        r#"{"delta":12345678901234567890}"#.to_owned(),
        format!(r#"{{"response":{{"text":"{SAID}"}}}}"#),
        format!(r#"{{"response":{{"output":"{SAID}"}}}}"#),
        format!(r#"{{"error":{{"message":"x","failed_generation":"{SAID}"}}}}"#),
    ] {
        assert_eq!(events(&format!("data: {data}\n\n")), data.len(), "{data}");
    }
    for list in ["[1, 2,3]", r#"["a","b"]"#, "[true,false,null]", "[[1]]"] {
        assert_eq!(counted("application/json", list), list.len(), "{list}");
    }
}

#[test]
fn a_response_repeats_only_where_its_event_says_so() {
    let parts = format!(r#"[{{"content":{{"role":"model","parts":[{{"text":"{SAID}"}}]}}}}]"#);
    let assist = format!(r#"data: {{"response":{{"candidates":{parts},"modelVersion":"x"}}}}"#);
    assert_eq!(events(&format!("{assist}\n\n")), SAID.len());
    let told = |kind: &str| {
        events(&format!(
            "data: {{\"response\":{{\"instructions\":\"{SAID}\",\"top_p\":1}},\"type\":\"response.{kind}\"}}\n\n"
        ))
    };
    assert_eq!(told("created"), 1);
    assert!(told("x") > SAID.len());
}

#[test]
fn what_repeats_nothing_counts() {
    let kind = "response.function_call_arguments";
    let done = format!("data: {{\"arguments\":\"{SAID}\",\"type\":\"{kind}.done\"}}\n");
    assert_eq!(events(&format!("{done}\n")), SAID.len());
    // Each object is an event, with whatever they are parted.
    let delta = format!("data: {{\"delta\":\"{SAID}\",\"type\":\"{kind}.delta\"}}\n");
    assert_eq!(events(&format!("{done}{delta}\n")), 2 * SAID.len() + 1);
    let empty = "data: {\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n";
    assert!(events(&empty.repeat(100)) >= 100);
}

/// All counts of a piece are read, each on its own. What is behind them isn't looked at for each,
/// which would take most of an hour.
#[test]
fn a_piece_full_of_counts_takes_no_longer_than_it_is() {
    let counts = "data:{\"usage\":{\"total_tokens\":1}}\n\n".repeat(32_000);
    let piece = [counts, "data:aaaa\n".repeat(104_000)].concat();
    for is_counting in [true, false] {
        let mut reader = UsageReader::for_body(&headers("text/event-stream")).unwrap();
        if is_counting {
            reader = reader.counting(17);
        }
        reader.feed(piece.as_bytes());
        reader.catch_up();
        assert!(reader.tokens().is_some());
    }
}
