//! What a request asks for, read by the layer and by serde_json.

use std::{
    convert::Infallible,
    pin::pin,
    sync::LazyLock,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Map, Value, value::RawValue};
use tollgate::{BodyDigestLayer, RequestShape, RequestedUse};
use tower::{Layer as _, ServiceExt as _, service_fn};

/// How a shape's members are called.
struct Names {
    path: &'static str,
    shape: RequestShape,
    bounds: &'static [&'static str],
    choices: &'static [&'static str],
    refused: &'static [&'static str],
}

const OTHERS: &[&str] = &["models", "fallbacks"];
const CONFIGS: &[&str] = &["generationConfig", "generation_config"];

const SHAPES: [Names; 6] = [
    Names {
        path: "/chat",
        shape: RequestShape::OpenAiChat,
        bounds: &["max_completion_tokens", "max_tokens", "n_predict"],
        choices: &["n", "best_of"],
        refused: OTHERS,
    },
    Names {
        path: "/completions",
        shape: RequestShape::OpenAiCompletions,
        bounds: &["max_tokens", "n_predict"],
        choices: &["n", "best_of"],
        refused: OTHERS,
    },
    Names {
        path: "/responses",
        shape: RequestShape::OpenAiResponses,
        bounds: &["max_output_tokens", "n_predict"],
        choices: &[],
        refused: OTHERS,
    },
    Names {
        path: "/embeddings",
        shape: RequestShape::OpenAiEmbeddings,
        bounds: &[],
        choices: &[],
        refused: OTHERS,
    },
    Names {
        path: "/messages",
        shape: RequestShape::AnthropicMessages,
        bounds: &["max_tokens"],
        choices: &[],
        refused: &[],
    },
    // Its bounds and choices are in an object of their own.
    Names {
        path: "/models/m:generateContent",
        shape: RequestShape::Gemini,
        bounds: &["maxOutputTokens", "max_output_tokens"],
        choices: &["candidateCount", "candidate_count"],
        refused: &[],
    },
];

/// A request's body; the first byte says in which shape. What is read is what serde_json reads, and
/// the object as serde_json writes it, in which no member is there twice, is read if it should be.
pub fn request(data: &[u8]) {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let names = &SHAPES[usize::from(*first) % SHAPES.len()];
    let read = read(names.path, body);
    if read.is_some() {
        assert!(serde_json::from_slice::<&RawValue>(body).is_ok());
    }
    // What serde_json takes for JSON in place of the object isn't written like that again.
    let reserved = b"$serde_json";
    if body.windows(reserved.len()).any(|part| part == reserved) {
        return;
    }
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    let expected = expected(names, &value);
    if read.is_some() {
        assert_eq!(read, expected);
    }
    let again = value.to_string();
    assert_eq!(
        self::read(names.path, again.as_bytes()),
        expected,
        "{again}"
    );
}

/// What the layer reads; `None`: the request would be refused.
fn read(path: &str, body: &[u8]) -> Option<RequestedUse> {
    static LAYER: LazyLock<BodyDigestLayer> = LazyLock::new(|| {
        let layer = BodyDigestLayer::new();
        SHAPES.iter().fold(layer, |layer, names| {
            let pattern = match names.shape {
                RequestShape::Gemini => "/models/{model}",
                _ => names.path,
            };
            layer.read_use("POST", pattern, names.shape).unwrap()
        })
    });
    let told = service_fn(|request: Request<_>| {
        let asked = request.extensions().get::<RequestedUse>().cloned();
        async { Ok::<_, Infallible>(asked) }
    });
    let body = Full::new(Bytes::copy_from_slice(body));
    let request = Request::post(path).body(body).unwrap();
    let answer = pin!(LAYER.layer(told).oneshot(request));
    match answer.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(asked) => asked.unwrap(),
        Poll::Pending => unreachable!("all of the body was there"),
    }
}

/// What the documentation of [`RequestShape`] says of an object; `None`: refused.
fn expected(names: &Names, value: &Value) -> Option<RequestedUse> {
    let object = value.as_object()?;
    let is_gemini = names.shape == RequestShape::Gemini;
    let is_completions = names.shape == RequestShape::OpenAiCompletions;
    let prompt: &[&str] = if is_completions { &["prompt"] } else { &[] };
    let of_numbers = [names.bounds, names.choices];
    let [outer, inner]: [Vec<&str>; 2] = match is_gemini {
        true => [CONFIGS.to_vec(), of_numbers.concat()],
        false => [of_numbers.concat(), Vec::new()],
    };
    let all = [&["model"][..], prompt, names.refused, &outer].concat();
    are_spelled_well(object, &all).then_some(())?;
    let stated = |name: &&&str| object.get(**name).is_some_and(|value| !value.is_null());
    if names.refused.iter().any(|name| stated(&name)) {
        return None;
    }
    let mut of = vec![object];
    if is_gemini {
        of.clear();
        for config in CONFIGS.iter().filter(stated) {
            let config = object[*config].as_object()?;
            are_spelled_well(config, &inner).then_some(())?;
            of.push(config);
        }
    }
    let bounds = numbers(&of, names.bounds)?;
    let most = bounds.iter().copied().max();
    if bounds.contains(&0) && most > Some(0) {
        return None;
    }
    let choices = numbers(&of, names.choices)?.into_iter().max();
    let model = text(object.get("model"))?;
    let mut asked = RequestedUse::default();
    asked.model = model.map(Into::into);
    asked.output_max = most.filter(|most| *most > 0);
    asked.choices = choices.unwrap_or(1).max(1);
    match names.shape {
        RequestShape::OpenAiEmbeddings => asked.output_max = Some(0),
        RequestShape::OpenAiCompletions => {
            let prompts = prompts(object.get("prompt").unwrap_or(&Value::Null))?;
            asked.choices = asked.choices.saturating_mul(prompts);
        }
        RequestShape::Gemini => {
            let other = |model: &str| model.strip_prefix("models/").unwrap_or(model) != "m";
            if model.is_some_and(other) {
                return None;
            }
            asked.model = Some("m".into());
        }
        _ => {}
    }
    Some(asked)
}

/// No name is another case of one that is known.
fn are_spelled_well(object: &Map<String, Value>, known: &[&str]) -> bool {
    let folded = |name: &str| name.to_lowercase().replace('\u{17f}', "s");
    object.keys().all(|name| {
        let mut known = known.iter();
        known.all(|known| name == known || folded(name) != folded(known))
    })
}

/// All that are stated; `None` if one is no number.
fn numbers(of: &[&Map<String, Value>], names: &[&str]) -> Option<Vec<u64>> {
    let all = of
        .iter()
        .flat_map(|object| names.iter().filter_map(|name| object.get(*name)));
    all.filter(|value| !value.is_null())
        .map(Value::as_u64)
        .collect()
}

/// A text of 256 bytes at most, or none.
fn text(value: Option<&Value>) -> Option<Option<&str>> {
    match value {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) if text.len() <= 256 => Some(Some(text)),
        Some(_) => None,
    }
}

fn prompts(value: &Value) -> Option<u64> {
    let list = match value {
        Value::Null | Value::String(_) => return Some(1),
        Value::Array(list) => list,
        _ => return None,
    };
    if list.iter().all(Value::is_u64) {
        return Some(1);
    }
    let is_prompt = |value: &Value| value.is_string() || value.is_array();
    let prompts = u64::try_from(list.len()).ok()?;
    list.iter().all(is_prompt).then_some(prompts)
}
