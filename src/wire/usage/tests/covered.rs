//! Counts that come before the end, and what is written after them.

use super::*;

/// Whether it is the count of the whole, and the most output that there can have been, of a stream
/// that is left here. However it was cut, and however its lines end.
fn left(text: &str) -> (bool, u64) {
    let whole = left_of("text/event-stream", text, u64::MAX);
    for ends in ["\r\n", "\r"] {
        let found = left_of("text/event-stream", &text.replace('\n', ends), u64::MAX);
        assert_eq!(found, whole, "{ends:?}");
    }
    whole
}

fn left_of(media_type: &'static str, text: &str, most: u64) -> (bool, u64) {
    let of = |text: &str, cut: usize| {
        let reader = UsageReader::for_body(&headers(media_type)).unwrap();
        let mut reader = reader.counting(most);
        for piece in text.as_bytes().chunks(cut) {
            reader.feed(piece);
        }
        reader.catch_up();
        (reader.are_final(false), reader.output_at_most().unwrap())
    };
    let whole = of(text, usize::MAX);
    for cut in (1..40).chain([64, 1_000]) {
        assert_eq!(of(text, cut), whole, "{cut}");
    }
    whole
}

fn text(content: &str) -> String {
    format!(
        "data: {{\"object\":\"chat.completion.chunk\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}}}}]}}\n\n"
    )
}

fn counted(content: &str, output: u64) -> String {
    format!(
        "data: {{\"object\":\"chat.completion.chunk\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}}}}],\
         \"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{output}}}}}\n\n"
    )
}

const LONG: &str = "and this is a sentence of forty-one bytes";

#[test]
fn a_count_in_the_first_event_isn_t_that_of_the_whole() {
    let first = counted("Well", 300);
    assert_eq!(left(&first), (true, 300));
    let (is_final, most) = left(&format!("{first}{}", text(LONG)));
    assert!(!is_final);
    assert_eq!(most, 300 + u64::try_from(LONG.len()).unwrap());
    // The count of the whole comes after all.
    let last = counted("", 309);
    let all = format!("{first}{}{last}data: [DONE]\n\n", text(LONG));
    assert!(left(&all).0);
}

#[test]
fn a_count_in_every_event_covers_each() {
    let mut stream = String::new();
    for output in 1..5 {
        stream.push_str(&counted(LONG, output * 10));
        assert_eq!(left(&stream), (true, output * 10));
    }
    // Left in the middle of an event.
    let whole = text(LONG);
    let (cut, _) = whole.split_once("\"}}]}").unwrap();
    let (is_final, most) = left(&format!("{stream}{cut}"));
    assert!(!is_final);
    assert!(most >= 40 + u64::try_from(LONG.len()).unwrap(), "{most}");
}

#[test]
fn the_marks_of_an_end_are_nothing_of_the_answer() {
    let chat = format!("{}{}", text(LONG), counted("", 12));
    let with_mark = format!("{chat}data: [DONE]\n\n");
    assert_eq!(left(&chat), (true, 12));
    assert!(left(&with_mark).0);
    let anthropic = "event: message_start\n\
        data: {\"type\":\"message_start\",\"message\":{\"role\":\"assistant\",\"content\":[],\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n\
        event: content_block_delta\n\
        data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"and this is a sentence of forty-one bytes\"}}\n\n";
    assert!(!left(anthropic).0);
    let end = "event: message_delta\n\
        data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15}}\n\n";
    let stop = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    assert_eq!(left(&format!("{anthropic}{end}")), (true, 15));
    assert!(left(&format!("{anthropic}{end}{stop}")).0);
}

/// However much was written before.
#[test]
fn what_follows_a_count_is_charged_up_to_the_hold() {
    let long = text(&LONG.repeat(4));
    let (before, short) = (format!("{long}{}", counted("", 20)), text("Well"));
    let of = |text: &str| left_of("text/event-stream", text, 100);
    assert!(of(&long).1 >= 100);
    assert_eq!(of(&before), (true, 20));
    assert_eq!(of(&format!("{before}{short}")), (true, 20 + 4));
    assert_eq!(of(&format!("{before}{}", text(LONG))), (false, 20 + 41));
    assert!(of(&format!("{before}{long}{short}")).1 >= 100);
    let again = format!("{before}{long}{long}{}", counted("", 30));
    assert_eq!(of(&again), (true, 30));
    // A count that says little doesn't unsay what was written.
    let lower = [
        counted("", 1_000),
        text(LONG),
        text(LONG),
        text(LONG),
        counted("", 0),
    ]
    .concat();
    assert!(of(&lower).1 >= 100, "{:?}", of(&lower));
}

#[test]
fn a_count_covers_its_event_beside_lines_that_nobody_knows() {
    let stream = format!("trace: 7\n{}{}", counted("", 20), text(LONG));
    let of = |text: &str| left_of("text/event-stream", text, u64::MAX);
    let (is_final, most) = of(&stream);
    assert!(!is_final);
    assert!(most >= 20 + 41, "{most}");
    assert_eq!(of(&format!("{stream}{}", counted("", 30))), (true, 30));
}

/// Its first counts are beside those of an earlier one.
#[test]
fn a_count_that_is_cut_is_none() {
    let stream = format!("{}{}", counted("", 20), text(LONG));
    let last = counted("", 31);
    let (begun, _) = last.split_once(",\"completion_tokens").unwrap();
    let begun = begun.replace(":9", ":10");
    let (is_final, most) = left(&format!("{stream}{begun}"));
    assert!(!is_final);
    assert!(most >= 20 + 41, "{most}");
}

/// Nor does one whose event ends without it.
#[test]
fn a_count_that_breaks_off_is_none() {
    let broken = "data: {\"usage\":{\"prompt_tokens\":10\n\n";
    let stream = format!("{}{}{broken}", counted("", 20), text(LONG));
    let (is_final, most) = left(&stream);
    assert!(!is_final);
    assert!(most >= 20 + 41, "{most}");
    assert_eq!(left(&format!("{stream}{}", counted("", 30))), (true, 30));
}

/// The output is that of an earlier one.
#[test]
fn a_usage_without_output_covers_nothing() {
    let before = format!("{}{}", counted("", 20), text(LONG));
    for usage in [
        r#"{"prompt_tokens":10}"#,
        r#"{"prompt_tokens":10,"completion_tokens":null}"#,
        r#"{"prompt_tokens_details":{"cached_tokens":1}}"#,
        r#"{"server_tool_use":{"web_search_requests":1}}"#,
    ] {
        let stream = format!("{before}data: {{\"usage\":{usage}}}\n\n");
        let (is_final, most) = left(&stream);
        assert!(!is_final, "{usage}");
        assert!(most >= 20 + 41, "{most} {usage}");
        assert_eq!(left(&format!("{stream}{}", counted("", 30))), (true, 30));
    }
}

#[test]
fn a_count_that_can_t_be_read_unsays_none() {
    for odd in ["-1", "1e9", "0.5", "\"7\"", "18446744073709551616", "true"] {
        let last = counted("Well", 7).replace(":7", &format!(":{odd}"));
        let stream = format!("{}{last}", counted("", 300));
        assert_eq!(left(&stream), (false, 304), "{odd}");
    }
}

#[test]
fn what_had_been_used_when_a_message_began_covers_nothing() {
    let whole = counted(LONG, 20);
    let start = "data: {\"type\":\"message_start\",\"message\":{\"role\":\"assistant\",\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n";
    let (is_final, most) = left(&format!("{whole}{start}"));
    assert!(!is_final);
    assert!(most >= 41, "{most}");
}

#[test]
fn a_count_covers_its_part_of_a_list() {
    let part = |text: &str, end: &str, output: u64| {
        format!(
            "{{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"{text}\"}}]}}{end}}}],\
             \"usageMetadata\":{{\"promptTokenCount\":9,\"candidatesTokenCount\":{output}}}}}"
        )
    };
    let of = |text: &str| left_of("application/json", text, u64::MAX);
    let first = format!("[{}", part("Well", ",\"finishReason\":\"STOP\"", 300));
    assert_eq!(of(&first), (true, 300));
    let next = part(LONG, "", 0);
    let (begun, _) = next.split_once(",\"usageMetadata").unwrap();
    let (is_final, most) = of(&format!("{first},{begun}"));
    assert!(!is_final);
    assert!(most >= 300 + 41, "{most}");
}

proptest! {
    /// At least what was counted and what came after, however the stream is cut.
    #[test]
    fn no_cut_makes_it_less(
        events in prop::collection::vec((0_usize..40, prop::option::of(1_u64..50)), 1..8),
        cuts in prop::collection::vec(1_usize..300, 1..20),
    ) {
        let (mut stream, mut output, mut after) = (String::new(), 0, 0);
        for (length, more) in events {
            let (content, _) = LONG.split_at(length);
            match more {
                Some(more) => {
                    output = more.saturating_add(output);
                    after = 0;
                    stream.push_str(&counted(content, output));
                }
                None => {
                    after = u64::try_from(length).unwrap().saturating_add(after);
                    stream.push_str(&text(content));
                }
            }
        }
        let mut reader = UsageReader::for_body(&headers("text/event-stream")).unwrap();
        reader = reader.counting(u64::MAX);
        let (mut rest, mut cuts) = (stream.as_bytes(), cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            reader.feed(piece);
            rest = behind;
        }
        reader.catch_up();
        let most = reader.output_at_most().unwrap();
        prop_assert!(most >= output.saturating_add(after), "{most} {output} {after} {stream}");
        if reader.are_final(false) {
            prop_assert!(output > 0 && after <= 16, "{output} {after} {stream}");
        }
    }
}
