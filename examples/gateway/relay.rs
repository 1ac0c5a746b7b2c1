//! Calls, passed on to the provider.

use std::time::Duration;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
    response::Response,
};
use serde_json::{Map, Value, json};
use tollgate::{
    HeldUse, RequestedUse,
    axum::JsonBody,
    denial::{Denial, DenialKind},
};

use crate::{
    App, MODELS, provider,
    support::{StartError, optional},
};

/// The members of a request that are relayed. Others may cost what the prices don't tell:
/// another tier, a web search, audio.
const RELAYED: [&str; 15] = [
    "frequency_penalty",
    "logit_bias",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "presence_penalty",
    "response_format",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "tools",
    "top_p",
];

/// How long a provider may take to accept a connection, and to send the next piece of an answer.
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
const SENT_WITHIN: Duration = Duration::from_secs(120);

pub(crate) async fn models() -> Json<Value> {
    let models = MODELS.map(|(name, _)| {
        json!({ "id": name.trim_end_matches('*'), "object": "model", "owned_by": "gateway" })
    });
    Json(json!({ "object": "list", "data": models }))
}

/// Relays a call. What it costs is read from the answer while that passes; nothing is counted here.
pub(crate) async fn chat(
    State(app): State<App>,
    Extension(asked): Extension<RequestedUse>,
    Extension(held): Extension<HeldUse>,
    JsonBody(mut body): JsonBody<Map<String, Value>>,
) -> Result<Response, Denial> {
    if let Some(other) = body.keys().find(|name| !RELAYED.contains(&name.as_str())) {
        let text = format!("{other:.64}: is not relayed");
        return Err(Denial::new(DenialKind::Unprocessable).with_message(text));
    }
    // The provider writes no more than money is held for.
    body.remove("max_completion_tokens");
    body.insert(
        "max_tokens".into(),
        asked.output_max.or(held.output_max).into(),
    );
    // Without it, a stream doesn't say what it used.
    body.remove("stream_options");
    if body.get("stream") == Some(&Value::Bool(true)) {
        body.insert("stream_options".into(), json!({ "include_usage": true }));
    }
    let unavailable = |why: String| Denial::new(DenialKind::Unavailable).because(why);
    let answer = app.http.post(&app.chat).json(&body).send().await;
    let answer = answer.map_err(|error| unavailable(error.without_url().to_string()))?;
    let status = answer.status();
    // Only a 400 is the customer's to mend; what else fails is between the provider and us.
    if !status.is_success() && status != StatusCode::BAD_REQUEST {
        return Err(unavailable(format!("the provider answers {status}")));
    }
    let media_type = answer.headers().get(CONTENT_TYPE).cloned();
    let mut relayed = Response::new(Body::new(reqwest::Body::from(answer)));
    *relayed.status_mut() = status;
    if let Some(media_type) = media_type {
        relayed.headers_mut().insert(CONTENT_TYPE, media_type);
    }
    Ok(relayed)
}

/// A client for the provider, and where that completes chats.
pub(crate) async fn upstream() -> Result<(reqwest::Client, String), StartError> {
    let mut headers = HeaderMap::new();
    if let Some(key) = optional("UPSTREAM_API_KEY")? {
        let bearer = HeaderValue::try_from(format!("Bearer {key}"));
        let mut bearer = bearer.map_err(|_| "UPSTREAM_API_KEY: no header can carry it")?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    let http = reqwest::Client::builder()
        .default_headers(headers)
        .connect_timeout(CONNECTED_WITHIN)
        .read_timeout(SENT_WITHIN)
        .redirect(reqwest::redirect::Policy::none());
    let (http, url) = match optional("UPSTREAM_URL")? {
        Some(url) => (http, url),
        None => (http.no_proxy(), provider::start().await?),
    };
    let chat = format!("{}/chat/completions", url.trim_end_matches('/'));
    reqwest::Url::parse(&chat).map_err(|error| format!("UPSTREAM_URL: {error}"))?;
    Ok((http.build()?, chat))
}
