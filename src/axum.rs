//! For axum: extractors, refusals as handler results, and a JSON body that is taken at its word.
//!
//! Peer addresses are known when the router is served with
//! `into_make_service_with_connect_info::<SocketAddr>()`.
//!
//! ```
//! use axum::{Router, routing::post};
//! use tollgate::{Principal, axum::JsonBody, denial::{Denial, DenialKind}};
//!
//! #[derive(serde::Deserialize)]
//! struct Question { text: String }
//!
//! async fn ask(caller: Principal, JsonBody(question): JsonBody<Question>) -> Result<String, Denial> {
//!     if question.text.is_empty() {
//!         return Err(Denial::new(DenialKind::Unprocessable).with_message("text: must not be empty"));
//!     }
//!     Ok(format!("{} asks: {}", caller.subject(), question.text))
//! }
//! let app: Router = Router::new().route("/ask", post(ask));
//! ```

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, Request},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use crate::{
    domain::{
        denial::{Denial, DenialKind},
        principal::Principal,
    },
    spending_limit::Charge,
    wire::{Denials, RefusedRequest, RequestId},
};

/// Written in the style of RFC 9457; a [`DenialsLayer`](crate::DenialsLayer) further out writes it in
/// the house style.
impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        let request = RefusedRequest {
            path: "/".into(),
            request_id: None,
            is_grpc: false,
        };
        let headers = axum::http::HeaderMap::new();
        Denials::default()
            .respond_to(&self, &request, headers)
            .map(Body::from)
    }
}

/// Who is calling. Refused with 401 where no layer authenticated anybody.
impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Denial;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Denial> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Denial::new(DenialKind::CredentialMissing)
                .because("no principal: the route must stand inside an authenticating layer")
        })
    }
}

/// Who is calling, if anybody was authenticated.
impl<S: Sync> OptionalFromRequestParts<S> for Principal {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> Result<Option<Self>, std::convert::Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// The handle for the real cost. Refused with 500 where no [`SpendingLimitLayer`](crate::SpendingLimitLayer) is.
impl<S: Sync> FromRequestParts<S> for Charge {
    type Rejection = Denial;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Denial> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Denial::new(DenialKind::Internal)
                .because("no charge: the route must stand inside a SpendingLimitLayer")
        })
    }
}

/// The request's id. Refused with 500 where no [`RequestIdLayer`](crate::RequestIdLayer) is.
impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Denial;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Denial> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Denial::new(DenialKind::Internal).because("no request id: RequestIdLayer is missing")
        })
    }
}

/// A JSON body, whatever its `content-type` says: `curl -d` sends JSON as a form. An empty body is
/// `null`, which is right for a `JsonBody<Option<T>>`. Bounded by axum's body limit (2 MB unless the
/// router sets another).
///
/// Refused with 400 when it isn't JSON, with 422 when it isn't the JSON that was asked for, with 413
/// when it is too large.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Denial;

    async fn from_request(request: Request, state: &S) -> Result<Self, Denial> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                let kind = match rejection.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => DenialKind::TooLarge,
                    _ => DenialKind::Malformed,
                };
                Denial::new(kind).because(rejection.body_text())
            })?;
        let json: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(json)
            .map(JsonBody)
            .map_err(|error| not_the_json(&error))
    }
}

/// serde's words name a field and a place; they may repeat a value, so only the place and the kind are told.
fn not_the_json(error: &serde_json::Error) -> Denial {
    let place = format!("line {} column {}", error.line(), error.column());
    if error.is_data() {
        Denial::new(DenialKind::Unprocessable).with_message(format!(
            "The JSON body is not what is expected here ({place})"
        ))
    } else {
        Denial::new(DenialKind::Malformed)
            .with_message(format!("The body is not valid JSON ({place})"))
    }
}
