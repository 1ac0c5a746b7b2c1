//! What a stream costs at least, by whole events and serde_json.

use serde_json::Value;

/// Tokens after a count that may be marks of the end.
const MARKS: u64 = 16;

/// What the whole events told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    input: u64,
    pub output: u64,
    pub is_final: bool,
    /// Bytes of text, and those of them after the last count.
    all: u64,
    after: u64,
}

impl Told {
    pub fn by(events: &[Value]) -> Self {
        let mut told = Self::default();
        for event in events {
            let text = text(event);
            told.all += text;
            told.after += text;
            told.count(event);
        }
        told
    }

    /// Takes an event's count, and nothing of its text.
    pub fn count(&mut self, event: &Value) {
        let usage = [
            &event["usage"],
            &event["response"]["usage"],
            &event["message"]["usage"],
            &event["delta"]["usage"]["billed_units"],
            &event["usageMetadata"],
        ];
        let Some(place) = usage.iter().position(|usage| usage.is_object()) else {
            return;
        };
        let named = |names: &[&str]| names.iter().find_map(|name| usage[place][name].as_u64());
        let input = named(&["prompt_tokens", "input_tokens", "promptTokenCount"]);
        let output = named(&["completion_tokens", "output_tokens", "candidatesTokenCount"]);
        self.input = input.unwrap_or(self.input);
        self.output = output.unwrap_or(self.output);
        self.after = 0;
        self.is_final = match place {
            2 => false,
            4 => event["candidates"][0]["finishReason"].is_string(),
            _ => true,
        };
    }

    /// The fewest output tokens that may be charged to whoever leaves here, with enough held.
    pub fn least(&self) -> u64 {
        let output = self.output + self.after;
        let is_whole = self.is_final && self.input > 0 && self.output > 0;
        match is_whole {
            true if self.after <= MARKS => self.output,
            true => output,
            false => output.max(self.all),
        }
    }
}

fn text(event: &Value) -> u64 {
    let delta = match event["choices"][0]["delta"].is_object() {
        true => &event["choices"][0]["delta"],
        false => &event["delta"],
    };
    let places = [
        delta,
        &delta["content"],
        &delta["reasoning_content"],
        &delta["text"],
        &delta["thinking"],
        &delta["partial_json"],
        &delta["message"]["content"]["text"],
        &event["candidates"][0]["content"]["parts"][0]["text"],
    ];
    let texts = places.iter().filter_map(|place| place.as_str());
    u64::try_from(texts.map(str::len).sum::<usize>()).unwrap()
}

/// The whole events of a stream, and where each ends.
pub fn events(bytes: &[u8]) -> Vec<(usize, Value)> {
    let (mut events, mut data, mut line) = (Vec::new(), Vec::new(), Vec::new());
    let mark = if bytes.starts_with("\u{feff}".as_bytes()) {
        3
    } else {
        0
    };
    let mut after_return = false;
    for (at, byte) in bytes.iter().enumerate().skip(mark) {
        let is_rest = std::mem::replace(&mut after_return, *byte == b'\r') && *byte == b'\n';
        match byte {
            b'\n' if is_rest => {}
            b'\n' | b'\r' if line.is_empty() => {
                let told = serde_json::from_slice(&std::mem::take(&mut data));
                events.push((at + 1, told.unwrap_or_default()));
            }
            b'\n' | b'\r' => {
                if let Some(rest) = line.strip_prefix(b"data:") {
                    data.extend_from_slice(rest);
                    data.push(b'\n');
                }
                line.clear();
            }
            _ => line.push(*byte),
        }
    }
    events
}

/// The whole parts of a list, and where each ends.
pub fn parts(bytes: &[u8]) -> Vec<(usize, Value)> {
    let mut parts: Vec<(usize, Value)> = Vec::new();
    loop {
        // Behind the bracket or the comma.
        let from = parts.last().map_or(1, |(end, _)| end + 1);
        let rest = bytes.get(from..).unwrap_or_default();
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter();
        let Some(Ok(part)) = values.next() else {
            return parts;
        };
        parts.push((from + values.byte_offset(), part));
    }
}
