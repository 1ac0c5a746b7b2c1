//! Counts that come before the end, and what is written after them.

use super::*;

/// Whether it is the count of the whole, and the most output that there can have been, of a stream
/// that is left here. However it was cut, and however its lines end.
fn left(text: &str) -> (bool, u64) {
    let of = |text: &str, cut: usize| {
        let reader = UsageReader::for_body(&headers("text/event-stream")).unwrap();
        let mut reader = reader.counting(u64::MAX);
        for piece in text.as_bytes().chunks(cut) {
            reader.feed(piece);
        }
        reader.catch_up();
        (reader.are_final(false), reader.output_at_most().unwrap())
    };
    let whole = of(text, usize::MAX);
    for cut in (1..40).chain([64, 1_000]) {
        assert_eq!(of(text, cut), whole, "{cut}");
        assert_eq!(of(&text.replace('\n', "\r\n"), cut), whole, "{cut}, CRLF");
    }
    // Their events are found late: never less, and at most what has passed.
    let of_returns = text.replace('\n', "\r");
    let found = of(&of_returns, usize::MAX);
    assert!(found.1 >= whole.1, "{found:?} {whole:?}");
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
