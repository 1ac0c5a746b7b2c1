//! A stand-in for a provider, so that the gateway can be tried alone: it writes as many words as it
//! may, and says what that used.

use std::{convert::Infallible, future::IntoFuture, time::Duration};

use axum::{
    Json, Router,
    response::{IntoResponse, Response, Sse, sse::Event},
    routing::post,
};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::StartError;

/// The time between two words of a stream.
const PACE: Duration = Duration::from_millis(50);

#[derive(Deserialize)]
struct Asked {
    model: String,
    messages: Value,
    max_tokens: u64,
    #[serde(default)]
    stream: bool,
}

/// Starts it on a port of its own; returns the address under which its routes are.
pub(crate) async fn start() -> Result<String, StartError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/v1", listener.local_addr()?);
    let routes = Router::new().route("/v1/chat/completions", post(chat));
    tokio::spawn(axum::serve(listener, routes).into_future());
    Ok(url)
}

async fn chat(Json(asked): Json<Asked>) -> Response {
    // A word is a token, and half of what is sent was sent before.
    let sent = asked.messages.to_string().split_whitespace().count();
    let usage = json!({
        "prompt_tokens": sent, "prompt_tokens_details": { "cached_tokens": sent / 2 },
        "completion_tokens": asked.max_tokens,
    });
    let part = |object: &str, choices: Value, usage: &Value| {
        json!({
            "id": "chatcmpl-1", "object": object, "created": 1_735_689_600,
            "model": format!("{}-2024-11-20", asked.model), "choices": choices, "usage": usage,
        })
    };
    if !asked.stream {
        let content = "word ".repeat(usize::try_from(asked.max_tokens).unwrap_or_default());
        let message = json!({ "role": "assistant", "content": content });
        let choices = json!([{ "index": 0, "message": message, "finish_reason": "length" }]);
        return Json(part("chat.completion", choices, &usage)).into_response();
    }
    let object = "chat.completion.chunk";
    let delta = json!({ "content": "word " });
    let choices = json!([{ "index": 0, "delta": delta, "finish_reason": null }]);
    let word = part(object, choices, &Value::Null).to_string();
    let words = stream::iter(0..asked.max_tokens).then(move |_| {
        let word = word.clone();
        async move {
            tokio::time::sleep(PACE).await;
            word
        }
    });
    let end = [
        part(object, json!([]), &usage).to_string(),
        "[DONE]".to_owned(),
    ];
    let events = words.chain(stream::iter(end));
    Sse::new(events.map(|data| Ok::<_, Infallible>(Event::default().data(data)))).into_response()
}
