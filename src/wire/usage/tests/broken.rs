//! Answers that are an error, or end with one.

use super::*;

fn error(media_type: &'static str, text: &str) -> Option<ToldError> {
    let all = |cut| {
        let mut reader = UsageReader::for_body(&headers(media_type))
            .unwrap()
            .with_errors();
        for piece in text.as_bytes().chunks(cut) {
            reader.feed(piece);
        }
        reader.catch_up();
        reader.error()
    };
    let whole = all(usize::MAX);
    for cut in [1, 2, 3, 7, 64, 1_000, 3_000] {
        assert_eq!(all(cut), whole, "{cut}");
    }
    whole
}

#[test]
fn an_answer_that_is_an_error_is_found() {
    let json = |text: &str| error("application/json", text).is_some();
    assert!(json(
        r#"{"error":{"message":"overloaded","type":"server_error"}}"#
    ));
    assert!(json(r#"{"error":"overloaded"}"#));
    assert!(json(
        r#"{"type":"error","error":{"type":"overloaded_error"}}"#
    ));
    for none in ["null", "false", "0", r#""""#, "{}", "[]"] {
        assert!(
            !json(&format!(r#"{{"error":{none},"choices":[]}}"#)),
            "{none}"
        );
    }
    assert!(!json(
        r#"{"choices":[{"error":{"message":"no"}}],"tool":{"error":"no"}}"#
    ));
    let counted =
        r#"{"error":{"message":"cut"},"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    assert!(!json(counted), "all of it is counted");
}

#[test]
fn an_error_at_the_end_of_a_stream_is_found() {
    use ToldError::{AfterPart, NoAnswer};

    let events = |text: &str| {
        let of_windows = error("text/event-stream", &text.replace('\n', "\r\n"));
        let of_unix = error("text/event-stream", text);
        assert_eq!(of_unix, of_windows);
        of_unix
    };
    let chunk = "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"an \\\"error\\\": {\"}}]}\n\n";
    let error =
        "data: {\"id\":\"c\",\"error\":{\"code\":502,\"message\":\"gone\"},\"choices\":[]}\n\n";
    let usage = "data: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n";
    let done = "data: [DONE]\n\n";
    for before in [0, 1, 30, 400] {
        let told = Some(if before == 0 { NoAnswer } else { AfterPart });
        let before = chunk.repeat(before);
        assert_eq!(events(&format!("{before}{error}")), told);
        assert_eq!(events(&format!("{before}: wait\n\n{error}{done}")), told);
        assert_eq!(events(&format!("{before}{}", error.trim_end())), told);
        assert_eq!(events(&format!("{before}{done}")), None);
        assert_eq!(events(&format!("{before}{usage}{error}")), None, "counted");
        assert_eq!(events(&format!("{before}{error}{usage}")), None, "counted");
        assert_eq!(
            events(&format!("{before}{error}{chunk}{done}")),
            None,
            "it went on"
        );
    }
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\
        \"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n";
    let overloaded =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    assert_eq!(events(&format!("{start}{overloaded}")), Some(AfterPart));
    assert_eq!(events(overloaded), Some(NoAnswer));
    let failed = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\
        \"error\":{\"code\":\"server_error\"},\"usage\":null}}\n\n";
    assert_eq!(events(failed), Some(NoAnswer));
    let flat =
        "data: {\"type\":\"error\",\"code\":\"ERR\",\"message\":\"gone\",\"param\":null}\n\n";
    assert_eq!(events(flat), Some(NoAnswer));
}

/// Only what is adjacent is read: what an answer echoes deep inside isn't its error.
#[test]
fn the_end_of_a_long_event_is_none_of_its_own() {
    let steps = r#"{"tool":"a","error":"not found"},"#.repeat(120);
    let last = format!("{{\"steps\":[{}{{}}]}}\n\n", steps);
    for first in [": ping\n\n", "data: {}\n\n", ""] {
        let mut reader = UsageReader::for_body(&headers("text/event-stream"))
            .unwrap()
            .with_errors();
        for piece in [first, "data: ", &last] {
            reader.feed(piece.as_bytes());
        }
        reader.catch_up();
        assert_eq!(reader.error(), None);
    }
}

/// The last 2,048 bytes are read: an error is found if those have the blank line before it too.
#[test]
fn a_long_error_is_found_by_its_length_however_it_is_cut() {
    let stream = |length: usize| {
        let error = |text: &str| format!("data: {{\"error\":{{\"message\":\"{text}\"}}}}\n\n");
        let text = "x".repeat(length - error("").len());
        format!("data: {{\"choices\":[]}}\n\n{}", error(&text))
    };
    let told = |length| error("text/event-stream", &stream(length));
    assert_eq!(told(2_046), Some(ToldError::AfterPart));
    for length in [2_047, 2_048, 2_049, 2_100, 3_000, 4_095, 4_096, 5_000] {
        assert_eq!(told(length), None, "{length}");
    }
    for ends in ["\r", "\r\n"] {
        let before = "data: {\"choices\":[]}\n\n".repeat(200);
        let stream = (before + &stream(1_000)).replace('\n', ends);
        let found = error("text/event-stream", &stream);
        assert_eq!(found, Some(ToldError::AfterPart), "{ends:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_end_of_a_stream_is_the_same_however_it_is_cut(
        length in 0_usize..9_000,
        cuts in prop::collection::vec(0_usize..3_000, 1..12),
    ) {
        let bytes: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut end = end::End::new();
        let (mut rest, mut cuts) = (bytes.as_slice(), cuts.into_iter().cycle());
        for cut in cuts.by_ref().take(length) {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            end.keep(piece);
            rest = behind;
        }
        end.keep(rest);
        prop_assert_eq!(end.bytes(), &bytes[length.saturating_sub(2_048)..]);
        prop_assert_eq!(end.is_cut(), length > 2_048);
    }
}
