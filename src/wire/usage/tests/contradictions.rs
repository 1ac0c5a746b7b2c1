//! Counts that can't be read, that are missing, and that contradict each other.

use super::*;

fn read(media_type: &'static str, text: &str) -> (Option<Tokens>, bool, Vec<String>) {
    let read = |cut: usize| {
        let mut reader = UsageReader::for_body(&headers(media_type)).unwrap();
        for piece in text.as_bytes().chunks(cut) {
            reader.feed(piece);
        }
        reader.catch_up();
        let tiers = reader.service_tiers();
        let tiers = tiers.names().map(ToOwned::to_owned).collect();
        (reader.tokens(), reader.are_final(false), tiers)
    };
    let whole = read(usize::MAX);
    for cut in 1..40 {
        assert_eq!(read(cut), whole, "{cut}");
    }
    whole
}

fn usage(counts: &str) -> Option<Tokens> {
    let text = format!(r#"{{"usage":{{{counts}}}}}"#);
    let event = format!("data: {text}\n\n");
    let (tokens, _, _) = read("application/json", &text);
    assert_eq!(read("text/event-stream", &event).0, tokens);
    tokens
}

#[test]
fn a_count_that_can_not_be_read_makes_its_usage_unreadable() {
    let output = |count: &str| {
        let usage = usage(&format!(r#""prompt_tokens":3,"completion_tokens":{count}"#));
        usage.map(|tokens| tokens.output)
    };
    for (count, output_of) in [
        ("500000", 500_000),
        ("500000.0", 500_000),
        ("500000.000", 500_000),
        ("0.0", 0),
        ("18446744073709551615", u64::MAX),
        ("null", 0),
    ] {
        assert_eq!(output(count), Some(output_of), "{count}");
    }
    for count in [
        "500000.5",
        "500000.01",
        "0.05",
        "5e5",
        "5E5",
        "5.0e5",
        "-1",
        "-0",
        "18446744073709551616",
        "99999999999999999999",
        r#""500000""#,
        r#""""#,
        r#""\u0035""#,
        "true",
        "false",
        "{}",
        "[5]",
    ] {
        assert_eq!(output(count), None, "{count}");
    }
    // What isn't at the place of a count doesn't matter.
    for fine in [
        r#""prompt_tokens":3,"cost":0.5,"speed":"fast","type":"tokens","x_tokens":"5""#,
        r#""prompt_tokens":3,"completion_tokens":null,"x":{"completion_tokens":-1},"y":true"#,
    ] {
        assert_eq!(usage(fine).map(|tokens| tokens.input), Some(3), "{fine}");
    }
    let listed = r#"{"usageMetadata":{"promptTokenCount":3,"promptTokensDetails":
        [{"modality":"AUDIO","tokenCount":"3"}]}}"#;
    assert_eq!(read("application/json", listed).0, None);
    let start = r#"{"message":{"usage":{"input_tokens":3,"cache_read_input_tokens":"9"}}}"#;
    let end = r#"{"usage":{"output_tokens":5}}"#;
    let stream = format!("data: {start}\n\ndata: {end}\n\n");
    let (tokens, is_final, _) = read("text/event-stream", &stream);
    assert_eq!((tokens, is_final), (None, false));
}

#[test]
fn of_two_names_of_the_same_the_larger_counts() {
    let input = |counts: &str| {
        let tokens = usage(counts).unwrap();
        (tokens.input, tokens.cached, tokens.cache_written)
    };
    let details = |details: &str| format!(r#""prompt_tokens_details":{{{details}}}"#);
    let cached = details(r#""cached_tokens":0"#);
    let both = format!(r#""prompt_tokens":1000,{cached},"cache_read_input_tokens":900"#);
    assert_eq!(input(&both), (1_000, 900, 0));
    let written = details(r#""cache_write_tokens":0"#);
    let both = format!(r#""prompt_tokens":1000,"cache_creation_input_tokens":900,{written}"#);
    assert_eq!(input(&both), (1_000, 0, 900));
    let prompt = r#""prompt_tokens":0,"input_tokens":1000,"output_tokens":1"#;
    assert_eq!(input(prompt), (1_000, 0, 0));
    let billed = r#""input_tokens":0,"output_tokens":0,
        "billed_units":{"input_tokens":1000,"output_tokens":50}"#;
    let billed = usage(&billed.replace('\n', "")).unwrap();
    assert_eq!((billed.input, billed.output), (1_000, 50));
    for twice in [
        r#""prompt_tokens":1,"completion_tokens":50,"output_tokens":0"#,
        r#""prompt_tokens":1,"output_tokens":0,"completion_tokens":50"#,
    ] {
        assert_eq!(usage(twice).unwrap().output, 50);
    }
}

#[test]
fn input_that_is_not_named_is_not_zero() {
    let is_unknown = |counts: &str| usage(counts).unwrap().input_is_unknown;
    assert!(is_unknown(r#""output_tokens":5"#));
    assert!(is_unknown(r#""output_tokens":5,"input_tokens":null"#));
    assert!(is_unknown(
        r#""output_tokens":5,"cache_read_input_tokens":3"#
    ));
    for named in [
        r#""output_tokens":5,"input_tokens":0"#,
        r#""output_tokens":5,"prompt_tokens":0"#,
        r#""output_tokens":5,"total_tokens":5"#,
        r#""billed_units":{"input_tokens":0,"output_tokens":5}"#,
    ] {
        assert!(!is_unknown(named), "{named}");
    }
    let part =
        r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"candidatesTokenCount":4}}"#;
    let (tokens, is_final, _) = read("text/event-stream", &format!("data: {part}\n\n"));
    assert!(tokens.unwrap().input_is_unknown && !is_final);
    let list = format!("[{part}]");
    let (_, is_final, _) = read("application/json", &list);
    assert!(!is_final, "as in a stream of events");
}

#[test]
fn each_key_names_a_tier_of_its_own() {
    let tiers = |text: &str| read("application/json", text).2;
    for both in [
        r#""serviceTier":"priority","trafficType":"ON_DEMAND""#,
        r#""trafficType":"ON_DEMAND","serviceTier":"priority""#,
    ] {
        let text = format!(r#"{{"usageMetadata":{{{both}}}}}"#);
        assert_eq!(tiers(&text), ["priority", "ON_DEMAND"]);
    }
    let fast = r#"{"usage":{"speed":"fast","service_tier":"priority"}}"#;
    assert_eq!(tiers(fast), ["fast", "priority"]);
    let slow = r#"{"usage":{"speed":"standard","service_tier":"batch"}}"#;
    assert_eq!(tiers(slow), ["batch"]);
    let settled = r#"{"service_tier":"auto","usage":{"service_tier":"default "}}"#;
    assert_eq!(tiers(settled), ["default"], "of one key the last");
}
