//! For axum: extractors, refusals as handler results, and JSON bodies whatever their content type.
//!
//! Peer addresses are known if the router is served with
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

mod json;
mod paced;
mod path;
mod reserved;

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::request::Parts,
    response::{IntoResponse, Response},
};

pub use json::{JsonBody, WholeBody};
pub use path::PathName;

use crate::{
    domain::{
        RequestId,
        denial::{Denial, DenialKind},
        principal::Principal,
    },
    guard,
    spending_limit::Charge,
    wire::{ClientIp, Denials, RefusedRequest},
};

/// Rendered as problem details (RFC 9457); a [`DenialsLayer`](crate::DenialsLayer) further out
/// renders it in the configured format. It is logged and counted like a layer's refusal.
impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        guard::refused_by_handler(&self);
        let headers = axum::http::HeaderMap::new();
        Denials::default()
            .respond_to(&self, &RefusedRequest::default(), headers)
            .map(Body::from)
    }
}

/// The caller. Refused with 401 if no layer authenticated one.
impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Denial;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Denial> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Denial::new(DenialKind::CredentialMissing)
                .because("no principal: the route must stand inside an authenticating layer")
        })
    }
}

/// What a layer has put into the extensions, if anything: for routes that may be outside of that
/// layer.
macro_rules! optional {
    ($($what:ty),*) => {$(
        impl<S: Sync> OptionalFromRequestParts<S> for $what {
            type Rejection = Infallible;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
                Ok(parts.extensions.get::<Self>().cloned())
            }
        }
    )*};
}

optional!(Principal, Charge, RequestId, ClientIp);

/// The handle for the real cost. Refused with 500 if there is no
/// [`SpendingLimitLayer`](crate::SpendingLimitLayer).
impl<S: Sync> FromRequestParts<S> for Charge {
    type Rejection = Denial;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Denial> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Denial::new(DenialKind::Internal)
                .because("no charge: the route must stand inside a SpendingLimitLayer")
        })
    }
}

/// The request's id. Refused with 500 if there is no [`RequestIdLayer`](crate::RequestIdLayer).
impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Denial;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Denial> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Denial::new(DenialKind::Internal).because("no request id: RequestIdLayer is missing")
        })
    }
}

/// The client's address. Refused with 500 if no [`IpAllowLayer`](crate::IpAllowLayer) determined
/// it.
impl<S: Sync> FromRequestParts<S> for ClientIp {
    type Rejection = Denial;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Denial> {
        parts.extensions.get::<Self>().copied().ok_or_else(|| {
            Denial::new(DenialKind::Internal).because(
                "no client address: IpAllowLayer, or the builder's locate_clients, is missing",
            )
        })
    }
}
