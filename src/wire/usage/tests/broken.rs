//! Answers that are an error, or end with one.

use super::*;

fn broke_off(media_type: &'static str, text: &str) -> bool {
    let all = |cut| {
        let mut reader = UsageReader::for_body(&headers(media_type)).unwrap();
        for piece in text.as_bytes().chunks(cut) {
            reader.feed(piece);
        }
        reader.catch_up();
        reader.broke_off()
    };
    let whole = all(usize::MAX);
    for cut in [1, 2, 3, 7, 64, 1_000, 3_000] {
        assert_eq!(all(cut), whole, "{cut}");
    }
    whole
}

#[test]
fn an_answer_that_is_an_error_has_broken_off() {
    let json = |text| broke_off("application/json", text);
    assert!(json(
        r#"{"error":{"message":"overloaded","type":"server_error"}}"#
    ));
    assert!(json(r#"{"error":"overloaded"}"#));
    assert!(json(
        r#"{"type":"error","error":{"type":"overloaded_error"}}"#
    ));
    assert!(!json(r#"{"error":null,"choices":[]}"#));
    assert!(!json(
        r#"{"choices":[{"error":{"message":"no"}}],"tool":{"error":"no"}}"#
    ));
    let counted =
        r#"{"error":{"message":"cut"},"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    assert!(!json(counted), "all of it is counted");
}

#[test]
fn a_stream_that_ends_with_an_error_has_broken_off() {
    let events = |text: &str| {
        let of_windows = broke_off("text/event-stream", &text.replace('\n', "\r\n"));
        let of_unix = broke_off("text/event-stream", text);
        assert_eq!(of_unix, of_windows);
        of_unix
    };
    let chunk = "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"an \\\"error\\\": {\"}}]}\n\n";
    let error =
        "data: {\"id\":\"c\",\"error\":{\"code\":502,\"message\":\"gone\"},\"choices\":[]}\n\n";
    let usage = "data: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n";
    let done = "data: [DONE]\n\n";
    for before in [0, 1, 30, 400] {
        let before = chunk.repeat(before);
        assert!(events(&format!("{before}{error}")));
        assert!(events(&format!("{before}{error}{done}")));
        assert!(events(&format!("{before}{}", error.trim_end())));
        assert!(!events(&format!("{before}{done}")));
        assert!(!events(&format!("{before}{usage}{error}")), "counted");
        assert!(!events(&format!("{before}{error}{usage}")), "counted");
    }
    let anthropic = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\
        \"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n\
        event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    assert!(events(anthropic));
    let responses = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\
        \"error\":{\"code\":\"server_error\"},\"usage\":null}}\n\n";
    assert!(events(responses));
    // An error that a stream went on after says nothing of its end.
    assert!(!events(&format!("{error}{}", chunk.repeat(400))));
}
