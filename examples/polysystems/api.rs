//! The API for sale, behind a key: demo answers whose cost a client can compute.

use std::{borrow::Cow, convert::Infallible};

use axum::{
    Json,
    extract::State,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tollgate::{
    Charge, RequestId,
    axum::JsonBody,
    denial::{Denial, DenialKind},
};

use crate::App;

#[derive(Deserialize)]
pub(crate) struct Chat {
    #[serde(default)]
    model: Option<String>,
    messages: Vec<Message>,
    #[serde(default)]
    stream: Option<bool>,
}

/// As OpenAI's clients send it: a message with tool calls has no content.
#[derive(Deserialize)]
struct Message {
    #[serde(rename = "role")]
    _role: String,
    content: Option<Content>,
}

/// A text, or its parts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// Images and sounds have no text.
#[derive(Deserialize)]
struct Part {
    text: Option<String>,
}

impl Message {
    /// Words of different parts stay separate words.
    fn text(&self) -> Cow<'_, str> {
        match &self.content {
            None => Cow::Borrowed(""),
            Some(Content::Text(text)) => Cow::Borrowed(text),
            Some(Content::Parts(parts)) => {
                let texts = parts.iter().filter_map(|part| part.text.as_deref());
                Cow::Owned(texts.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}

/// One token per word.
fn tokens(text: &str) -> u64 {
    text.split_whitespace().map(|_| 1).sum()
}

impl Chat {
    /// The last message, which is also the answer; `!fail` fails.
    fn echo(&self) -> Result<String, Denial> {
        let last = self.messages.last().ok_or_else(|| {
            Denial::new(DenialKind::Unprocessable).with_message("messages: must not be empty")
        })?;
        match last.text() {
            text if text == "!fail" => {
                Err(Denial::new(DenialKind::Internal).because("asked to fail"))
            }
            text => Ok(text.into_owned()),
        }
    }

    fn prompt_tokens(&self) -> u64 {
        self.messages
            .iter()
            .map(|message| tokens(&message.text()))
            .sum()
    }
}

pub(crate) async fn health() -> Json<Value> {
    Json(json!({ "status": "healthy" }))
}

pub(crate) async fn agents_chat(JsonBody(chat): JsonBody<Chat>) -> Result<Json<Value>, Denial> {
    let content = chat.echo()?;
    Ok(Json(
        json!({ "message": { "role": "assistant", "content": content } }),
    ))
}

pub(crate) async fn process(JsonBody(input): JsonBody<Value>) -> Json<Value> {
    Json(json!({ "status": "processed", "input": input }))
}

pub(crate) async fn query(JsonBody(input): JsonBody<Value>) -> Json<Value> {
    Json(json!({ "status": "answered", "results": [], "input": input }))
}

pub(crate) async fn models() -> Json<Value> {
    let model = json!({ "id": "echo-1", "object": "model", "created": 1_704_067_200, "owned_by": "polysystems" });
    Json(json!({ "object": "list", "data": [model] }))
}

pub(crate) async fn chat_completions(
    State(app): State<App>,
    charge: Charge,
    id: RequestId,
    JsonBody(chat): JsonBody<Chat>,
) -> Result<Response, Denial> {
    let content = chat.echo()?;
    let (prompt, model) = (
        chat.prompt_tokens(),
        chat.model.unwrap_or_else(|| "echo-1".into()),
    );
    let reply = Reply {
        id: format!("chatcmpl-{id}"),
        created: app.clock.now().as_second(),
        model,
        prompt,
        completion: tokens(&content),
    };
    charge.add_input_tokens(prompt);
    if chat.stream == Some(true) {
        charge.add_output_tokens(0);
        let events = reply.stream(&content, charge);
        return Ok(Sse::new(events)
            .keep_alive(KeepAlive::default())
            .into_response());
    }
    charge.add_output_tokens(reply.completion);
    Ok(Json(reply.whole(&content)).into_response())
}

struct Reply {
    id: String,
    /// Seconds since 1970.
    created: i64,
    model: String,
    prompt: u64,
    completion: u64,
}

impl Reply {
    fn object(&self, object: &str, choices: &Value, usage: &Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices, "usage": usage,
        })
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt, "completion_tokens": self.completion,
            "total_tokens": self.prompt.saturating_add(self.completion),
        })
    }

    fn whole(&self, content: &str) -> Value {
        let message = json!({ "role": "assistant", "content": content });
        let choices = json!([{ "index": 0, "message": message, "finish_reason": "stop" }]);
        self.object("chat.completion", &choices, &self.usage())
    }

    fn chunk(&self, delta: &Value, finish_reason: &Value) -> String {
        let choices = json!([{ "index": 0, "delta": delta, "finish_reason": finish_reason }]);
        self.object("chat.completion.chunk", &choices, &Value::Null)
            .to_string()
    }

    /// The role, then one chunk per word, each charged as it is made; the usage; the end. Clients
    /// concatenate the pieces of a member, so nothing may be sent twice.
    fn stream(
        self,
        content: &str,
        charge: Charge,
    ) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
        let speaker = json!({ "role": "assistant", "content": "" });
        let start = [self.chunk(&speaker, &Value::Null)];
        let end = [
            self.chunk(&json!({}), &json!("stop")),
            self.object("chat.completion.chunk", &json!([]), &self.usage())
                .to_string(),
            "[DONE]".to_owned(),
        ];
        let words: Vec<String> = content
            .split_inclusive(char::is_whitespace)
            .map(str::to_owned)
            .collect();
        let chunks = stream::iter(words).map(move |word| {
            charge.add_output_tokens(tokens(&word));
            self.chunk(&json!({ "content": word }), &Value::Null)
        });
        stream::iter(start)
            .chain(chunks)
            .chain(stream::iter(end))
            .map(|data| Ok(Event::default().data(data)))
    }
}
