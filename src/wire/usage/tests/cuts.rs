//! Streams that are cut anywhere.

use super::*;

/// A stream of events: content of any size, comments, and occasional counts.
fn streams() -> impl Strategy<Value = String> {
    let chunk = |content: String| {
        let choices = serde_json::json!([{"delta": {"content": content}}]);
        serde_json::json!({"model": "gpt-x", "choices": choices, "usage": null}).to_string()
    };
    let counts = |(input, output): (u16, u16)| {
        let usage = serde_json::json!({"prompt_tokens": input, "completion_tokens": output});
        serde_json::json!({"model": "gpt-x", "choices": [], "usage": usage}).to_string()
    };
    let gemini = |(content, output, is_over): (String, u16, bool)| {
        let end = is_over.then_some("STOP");
        let usage = serde_json::json!({"promptTokenCount": 9, "candidatesTokenCount": output, "trafficType": "x"});
        let candidates = serde_json::json!([{"content": content, "finishReason": end}]);
        serde_json::json!({"candidates": candidates, "modelVersion": "gpt-x", "usageMetadata": usage}).to_string()
    };
    let large = |size: usize| "\\x\n".repeat(size / 5);
    let event = prop_oneof![
        1 => ("[ -~é]{0,80}", any::<u16>(), any::<bool>()).prop_map(move |part| format!("data: {}\n\n", gemini(part))),
        1 => (7_000_usize..12_000, any::<u16>()).prop_map(move |(size, output)|
            format!("data: {}\n\n", gemini((large(size), output, false)))),
        1 => Just("data: {\"usage\":{\"inputTokens\":5}}\n\n".to_owned()),
        1 => (7_000_usize..12_000).prop_map(|size| format!("data: {{\"usage\":{{\"inputTokens\":5,\"x\":\"{}\"}}}}\n\n", "x".repeat(size))),
        4 => "[ -~é]{0,80}".prop_map(move |text| format!("data: {}\n\n", chunk(text))),
        1 => (7_000_usize..12_000).prop_map(move |size| format!("data: {}\n\n", chunk("\\x\n".repeat(size / 5)))),
        1 => any::<(u16, u16)>().prop_map(move |pair| format!("event: x\ndata: {}\n\n", counts(pair))),
        1 => "[ -~]{0,20}".prop_map(|text| format!(": {text}_tokens\"\n")),
        1 => Just("\n".to_owned()),
        1 => Just("data: {\"usage\":\ndata: {\"prompt_tokens\": 4}}\n\n".to_owned()),
    ];
    let end = prop::sample::select(vec!["\n", "\r\n", "\r"]);
    // The same throughout, or alternating.
    let ends = prop_oneof![
        3 => end.clone().prop_map(|end| vec![end]),
        1 => prop::collection::vec(end, 1..8),
    ];
    let mark = prop::sample::select(vec!["", "", "\u{feff}", "\u{feff}\u{feff}"]);
    (mark, prop::collection::vec(event, 1..16), ends).prop_map(|(mark, events, ends)| {
        let mut ends = ends.iter().cycle();
        let mut text = mark.to_owned();
        for line in events.concat().split_inclusive('\n') {
            text.push_str(line.trim_end_matches('\n'));
            text.push_str(ends.next().unwrap());
        }
        text
    })
}

/// What a reader has found at the end of a body, and whether that is final.
fn found(reader: &mut UsageReader) -> (Option<Tokens>, bool, Option<String>) {
    reader.catch_up();
    let model = reader.model().map(ToString::to_string);
    (reader.tokens(), reader.are_final(false), model)
}

fn found_in<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Option<Tokens>, bool, Option<String>) {
    let mut reader = UsageReader::of(Kind::Events(Events::new()));
    for piece in pieces {
        reader.feed(piece);
    }
    found(&mut reader)
}

#[test]
fn a_byte_order_mark_hides_nothing_and_is_only_one_at_the_start() {
    let event = "data: {\"model\":\"gpt-x\",\"usage\":{\"prompt_tokens\":3}}\n\n";
    assert_eq!(events(&format!("\u{feff}{event}")), Some((3, 0, 0)));
    assert_eq!(
        events(&format!("\u{feff}\n: hello\n\n{event}")),
        Some((3, 0, 0))
    );
    assert_eq!(events(&format!("\u{feff}\u{feff}{event}")), None);
    assert_eq!(events(&format!("\n\u{feff}{event}")), None);
    let half = [b"\xEF\xBB", event.as_bytes()].concat();
    assert_eq!(found_in([&*half]).0, None);
}

/// Every place where a stream can be cut, and every second cut near it.
#[test]
fn no_cut_hides_or_makes_a_count() {
    let odd = "\u{feff}data: {\"model\":\"gpt-x\",\"usage\":null}\n\n\
        data: {\"x\":\"_tokens\"}\n: \n\ndata: {\"usage\":{\ndata: \"prompt_tokens\":5\ndata:,\"completion_tokens\":\
        7}}\n\n\n\ndata: {\"x\":1}\n\ndata: {\"_token\":\"_tokens_\"}\n\ndata: {\"usage\":{\"prompt_tokens\":6}}\n";
    for text in [CHAT, odd] {
        for ends in ["\n", "\r\n", "\r"] {
            let text = text.replace('\n', ends);
            let text = text.as_bytes();
            let whole = found_in([text]);
            assert!(whole.0.is_some());
            assert_eq!(found_in(text.chunks(1)), whole);
            for first in 0..text.len() {
                for second in first..text.len().min(first + 24) {
                    let (start, rest) = text.split_at(first);
                    let (middle, end) = rest.split_at(second - first);
                    let cut = found_in([start, middle, end]);
                    assert_eq!(cut, whole, "{first} {second} {ends:?}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn however_a_stream_is_cut_it_says_the_same(
        text in streams(),
        left_at in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(prop_oneof![1_usize..40, 1_usize..9_000], 1..40),
    ) {
        let whole = text.as_bytes();
        let whole = &whole[..=left_at.index(whole.len())];
        let mut by_byte = UsageReader::of(Kind::Events(Events::new()));
        for byte in whole {
            by_byte.feed(std::slice::from_ref(byte));
        }
        let expected = found(&mut by_byte);
        let mut at_once = UsageReader::of(Kind::Events(Events::new()));
        at_once.feed(whole);
        prop_assert_eq!(&found(&mut at_once), &expected);
        let mut reader = UsageReader::of(Kind::Events(Events::new()));
        let mut rest = whole;
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at((*cut).min(rest.len()));
            reader.feed(piece);
            rest = behind;
        }
        prop_assert_eq!(found(&mut reader), expected);
    }

    #[test]
    fn a_stream_of_an_event_a_piece_says_the_same(
        text in streams(),
        before in 0_usize..12,
        cuts in prop::collection::vec(prop::option::weighted(0.3, 1_usize..60), 1..20),
    ) {
        let named = "data: {\"model\":\"gpt-x\",\"usage\":null}\n\n".repeat(before);
        let whole = named + &text;
        let mut by_byte = UsageReader::of(Kind::Events(Events::new()));
        for byte in whole.as_bytes() {
            by_byte.feed(std::slice::from_ref(byte));
        }
        // After each event, and within some of them.
        let mut reader = UsageReader::of(Kind::Events(Events::new()));
        let mut cuts = cuts.iter().cycle();
        for event in whole.split_inclusive("\n\n") {
            let at = cuts.next().copied().flatten().unwrap_or_default();
            let (first, second) = event.as_bytes().split_at(at.min(event.len()));
            for piece in [first, second] {
                reader.feed(piece);
            }
        }
        prop_assert_eq!(found(&mut reader), found(&mut by_byte));
    }

    #[test]
    fn a_count_is_found_wherever_it_is_cut(at in 0_usize..CHAT.len(), again in 0_usize..CHAT.len()) {
        let mut reader = UsageReader::of(Kind::Events(Events::new()));
        let (first, second) = (at.min(again), at.max(again));
        for piece in [&CHAT[..first], &CHAT[first..second], &CHAT[second..]] {
            reader.feed(piece.as_bytes());
        }
        prop_assert_eq!(reader.tokens(), Some(Tokens { input: 5, output: 7, ..Tokens::default() }));
    }

    #[test]
    fn little_of_an_event_is_kept(sizes in prop::collection::vec(0_usize..30_000, 1..10)) {
        let mut events = Events::new();
        for size in sizes {
            events.feed(&vec![b'x'; size]);
            let kept = format!("{events:?}").len();
            prop_assert!(kept < 60_000);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20)) {
        let mut readers = [UsageReader::of(Kind::Json(Scanner::default())), UsageReader::of(Kind::Events(Events::new()))];
        for piece in &pieces {
            for reader in &mut readers {
                reader.feed(piece);
            }
        }
    }
}
