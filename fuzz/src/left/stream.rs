//! Streams of providers, made of the bytes that a fuzzer gives.

use serde_json::{Value, json};

/// The fuzzer's bytes, each a decision.
pub struct Dice<'a>(pub &'a [u8]);

impl Dice<'_> {
    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u64 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        u64::from(*first)
    }

    /// One of so many.
    pub fn of(&mut self, many: u64) -> u64 {
        self.byte() % many
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.byte()).unwrap() % all.len()]
    }
}

/// An answer's body, and where its events end.
pub struct Stream {
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
    pub ends: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Chat,
    Responses,
    Anthropic,
    Gemini,
    GeminiList,
    Cohere,
}

const SHAPES: [Shape; 6] = [
    Shape::Chat,
    Shape::Responses,
    Shape::Anthropic,
    Shape::Gemini,
    Shape::GeminiList,
    Shape::Cohere,
];

/// What the model wrote, and how much of it the provider has counted.
#[derive(Default)]
struct Written {
    all: String,
    output: u64,
    /// Counts have their sum too.
    has_total: bool,
}

const EVENTS_MAX: usize = 40;

pub fn stream(dice: &mut Dice<'_>) -> Stream {
    let shape = dice.pick(&SHAPES);
    // The same throughout, or by event.
    let ends = dice.pick(&[
        &["\n"][..],
        &["\n"],
        &["\r\n"],
        &["\r"],
        &["\n", "\r\n", "\r"],
    ]);
    let mut ends = ends.iter().cycle();
    let is_list = shape == Shape::GeminiList;
    let mut stream = Stream {
        media_type: if is_list {
            "application/json"
        } else {
            "text/event-stream"
        },
        bytes: Vec::new(),
        ends: Vec::new(),
    };
    if dice.of(4) == 0 && !is_list {
        stream.bytes.extend_from_slice("\u{feff}".as_bytes());
    }
    let mut written = Written {
        has_total: dice.of(2) == 0,
        ..Written::default()
    };
    while !dice.is_over() && stream.ends.len() < EVENTS_MAX {
        let event = event(shape, dice, &mut written);
        let pretty = dice.of(8) == 0;
        let mut data = match (&event, pretty) {
            (Value::String(mark), _) => mark.clone(),
            (event, true) => serde_json::to_string_pretty(event).unwrap(),
            (event, false) => event.to_string(),
        };
        if dice.of(4) == 0 {
            data = data.replace('é', "\\u00e9").replace('🙂', "\\ud83d\\ude42");
        }
        if is_list {
            let before = if stream.ends.is_empty() { "[" } else { ",\n" };
            stream
                .bytes
                .extend_from_slice(format!("{before}{data}").as_bytes());
        } else {
            let colon = dice.pick(&["data: ", "data: ", "data:"]);
            let lines = data.lines().map(|line| format!("{colon}{line}\n"));
            let text = noise(dice) + &lines.collect::<String>() + "\n";
            let text = text.replace('\n', ends.next().unwrap());
            stream.bytes.extend_from_slice(text.as_bytes());
        }
        stream.ends.push(stream.bytes.len());
    }
    if is_list {
        stream.bytes.push(b']');
    }
    stream
}

/// Lines before an event's data.
fn noise(dice: &mut Dice<'_>) -> String {
    let line = match dice.of(32) {
        0..4 => ": keep-alive\n\n",
        4..8 => "event: x\n",
        8..10 => "id: 7\n",
        10..12 => ":\n",
        12 => "\n",
        13 => "\n\n\n",
        14 => "retry: 100\n\n",
        15 => "data\n\n",
        16 => "trace: \"_tokens\"\n",
        _ => "",
    };
    line.to_owned()
}

const WORDS: [&str; 8] = [
    "The capital of France",
    " is",
    "é",
    "🙂",
    "\"\\",
    "\n\t",
    "_tokens\"",
    "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}",
];

fn text(dice: &mut Dice<'_>, written: &mut Written) -> String {
    let words = match dice.of(32) {
        0 => 0,
        1 => 600,
        2..5 => 40,
        _ => 1 + dice.of(6),
    };
    let from = dice.byte();
    let word = |at| WORDS[usize::try_from((from + at * (1 + from / 8)) % 8).unwrap()];
    let text: String = (0..words).map(word).collect();
    written.all.push_str(&text);
    text
}

fn count(dice: &mut Dice<'_>, written: &mut Written) -> [u64; 2] {
    written.output = match dice.of(12) {
        0 => 0,
        1 => 1,
        2 => dice.byte(),
        3 => 1_000_000_000,
        4 => u64::try_from(written.all.len()).unwrap() / 4,
        5 => written.output,
        _ => written.output % 1_000_000 + dice.of(60),
    };
    [if dice.of(16) == 0 { 0 } else { 9 }, written.output]
}

fn event(shape: Shape, dice: &mut Dice<'_>, written: &mut Written) -> Value {
    // Text; a count; both; something else.
    let kind = dice.of(8);
    match shape {
        Shape::Chat => chat(kind, dice, written),
        Shape::Responses => responses(kind, dice, written),
        Shape::Anthropic => anthropic(kind, dice, written),
        Shape::Gemini | Shape::GeminiList => gemini(kind, dice, written),
        Shape::Cohere => cohere(kind, dice, written),
    }
}

fn chat(kind: u64, dice: &mut Dice<'_>, written: &mut Written) -> Value {
    let mut event = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-x",
        "choices": [], "usage": null, "obfuscation": "pQ3xV9k"});
    if kind < 6 {
        let name = dice.pick(&["content", "content", "reasoning_content"]);
        event["choices"] =
            json!([{"index": 0, "delta": {name: text(dice, written)}, "finish_reason": null}]);
    }
    if kind > 3 && kind < 7 {
        let [input, output] = count(dice, written);
        event["usage"] = json!({"prompt_tokens": input, "completion_tokens": output});
        if written.has_total {
            event["usage"]["total_tokens"] = json!(input + output);
        }
    }
    match kind {
        7 => "[DONE]".into(),
        _ => event,
    }
}

fn responses(kind: u64, dice: &mut Dice<'_>, written: &mut Written) -> Value {
    match kind {
        0 => {
            json!({"type": "response.created", "response": {"instructions": "Be brief", "model": "gpt-x", "usage": null}})
        }
        1 => json!({"type": "response.output_text.done", "text": written.all}),
        2 | 3 => {
            let [input, output] = count(dice, written);
            let usage = json!({"input_tokens": input, "output_tokens": output});
            let all = json!([{"type": "message", "content": [{"text": written.all}]}]);
            json!({"type": "response.completed", "response": {"output": all, "model": "gpt-x", "usage": usage}})
        }
        _ => {
            json!({"type": "response.output_text.delta", "item_id": "msg_1", "delta": text(dice, written)})
        }
    }
}

fn anthropic(kind: u64, dice: &mut Dice<'_>, written: &mut Written) -> Value {
    match kind {
        0 => json!({"type": "message_start", "message": {"model": "claude-x", "content": [],
            "usage": {"input_tokens": 25, "output_tokens": 1}}}),
        1 => {
            let [_, output] = count(dice, written);
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": output}})
        }
        2 => json!({"type": "message_stop"}),
        3 => json!({"type": "ping"}),
        _ => {
            let (kind, name) = dice.pick(&[
                ("text_delta", "text"),
                ("text_delta", "text"),
                ("thinking_delta", "thinking"),
                ("input_json_delta", "partial_json"),
            ]);
            let delta = json!({"type": kind, name: text(dice, written)});
            json!({"type": "content_block_delta", "index": 0, "delta": delta})
        }
    }
}

fn gemini(kind: u64, dice: &mut Dice<'_>, written: &mut Written) -> Value {
    let parts = json!([{"text": text(dice, written)}]);
    let end = (kind == 7).then_some("STOP");
    let candidates = json!([{"content": {"parts": parts, "role": "model"}, "finishReason": end}]);
    let mut event = json!({"candidates": candidates, "modelVersion": "gemini-x"});
    if kind > 2 {
        let [input, output] = count(dice, written);
        event["usageMetadata"] = json!({"promptTokenCount": input, "candidatesTokenCount": output,
            "totalTokenCount": input + output});
    }
    event
}

fn cohere(kind: u64, dice: &mut Dice<'_>, written: &mut Written) -> Value {
    match kind {
        0 => json!({"type": "message-start", "delta": {"message": {"role": "assistant"}}}),
        1 | 2 => {
            let [input, output] = count(dice, written);
            let billed = json!({"input_tokens": input, "output_tokens": output});
            let usage =
                json!({"billed_units": billed, "tokens": {"input_tokens": 1, "output_tokens": 1}});
            json!({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}})
        }
        _ => {
            json!({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": text(dice, written)}}}})
        }
    }
}
