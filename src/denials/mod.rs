//! One style for all refusals, whichever layer refuses: [`DenialsLayer`].
//!
//! - Refuses nothing itself. Stands outside everything that refuses; only
//!   [`RequestIdLayer`](crate::RequestIdLayer) stands further out.
//! - A refusal by an inner layer or a handler (a response with a [`Denial`]) is rewritten in the
//!   configured style. With [`DenialsLayer::cover_plain_errors`] so are the bare errors of a
//!   router: its 404, its 405, an extractor's 400. A failed gRPC call without details keeps its
//!   code and message, and gets an `ErrorInfo` with the code's name (feature `tonic`): in the head
//!   if there was no message, or else in the trailers; with gRPC-Web, where trailers are part of
//!   the body, only in the head.
//! - Refusals other than 405 lose their `allow`. On axum's routers this layer is too far in for
//!   that: see [`AllowLayer`].
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::convert::Infallible;
//! use tollgate::{DenialFormat, DenialsLayer};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let nothing = service_fn(async |request: http::Request<()>| {
//!     let status = if request.uri().path() == "/" { 200 } else { 404 };
//!     Ok::<_, Infallible>(http::Response::builder().status(status).body(String::new()).unwrap())
//! });
//! let service = DenialsLayer::new(DenialFormat::Detail).cover_plain_errors().layer(nothing);
//! assert_eq!(service.clone().oneshot(http::Request::new(())).await?.status(), 200);
//! let refused = service.oneshot(http::Request::get("/x").body(())?).await?;
//! let body = http_body_util::BodyExt::collect(refused.into_body()).await?.to_bytes();
//! assert_eq!(body, r#"{"detail":"There is nothing at this address"}"#);
//! # Ok(()) }
//! ```

mod allow;
#[cfg(test)]
mod tests;

use std::time::Duration;

use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};

use crate::{
    domain::denial::Denial,
    guard::{BodyEnd, Decision, Gate, Guard, Meter, Permit, Policy, ResponseMarks, Tail, Verdict},
    store::StoreFuture,
    wire::{
        Denials, Dialect, RefusedRequest, RequestHead, explain_grpc, grpc_has_failed,
        kind_of_status,
    },
};

pub use allow::{AllowFuture, AllowLayer, Allowing};

/// Writes all refusals in one style. See the [module](self).
#[derive(Clone, Debug)]
pub struct DenialsLayer {
    gate: Gate<DenialsPolicy>,
}

impl DenialsLayer {
    /// Writes refusals in this style, or these styles.
    #[must_use]
    pub fn new(denials: impl Into<Denials>) -> Self {
        let policy = DenialsPolicy {
            denials: denials.into(),
            covers_plain_errors: false,
        };
        Self {
            gate: Gate::new(policy),
        }
    }

    /// Another style.
    #[must_use]
    pub fn with_style(self, denials: impl Into<Denials>) -> Self {
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.denials = denials.into()),
        }
    }

    pub(crate) fn into_gate(self) -> Gate<DenialsPolicy> {
        self.gate
    }

    /// Also rewrites errors that nobody has formatted: a status that a refusal can have, with a
    /// body of plain text or none. Also gives gRPC statuses without details a reason.
    #[must_use]
    pub fn cover_plain_errors(self) -> Self {
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.covers_plain_errors = true),
        }
    }
}

impl<S> tower_layer::Layer<S> for DenialsLayer {
    type Service = Guard<S, Gate<DenialsPolicy>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.gate.layer(inner)
    }
}

/// The decision of a [`DenialsLayer`]: every request is admitted, and its response inspected.
#[derive(Clone, Debug)]
pub struct DenialsPolicy {
    denials: Denials,
    covers_plain_errors: bool,
}

impl Policy for DenialsPolicy {
    type Permit = DenialsPermit;

    fn name(&self) -> &'static str {
        "denials"
    }

    fn judges(&self) -> bool {
        false
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<DenialsPermit> {
        Decision::Ready(Verdict::Admit(DenialsPermit {
            policy: self.clone(),
            request: self.denials.keep(head),
        }))
    }
}

/// What is needed to write a refusal of the request.
#[derive(Debug)]
pub struct DenialsPermit {
    policy: DenialsPolicy,
    request: RefusedRequest,
}

impl DenialsPermit {
    fn refusal(&self, response: &ResponseMarks<'_>) -> Option<Denial> {
        if let Some(denial) = response.extensions.get::<Denial>() {
            return Some(denial.clone());
        }
        if !self.policy.covers_plain_errors {
            return None;
        }
        let kind = kind_of_status(response.status)?;
        is_plain(response.headers).then(|| with_wait_of(response.headers, Denial::new(kind)))
    }
}

/// The denial with the time that the answer says, if it says one. A date stays as it is in the
/// answer, and nothing else is said of the time.
fn with_wait_of(headers: &HeaderMap, denial: Denial) -> Denial {
    let Some(after) = headers.get(RETRY_AFTER) else {
        return denial;
    };
    let seconds = after
        .to_str()
        .ok()
        .and_then(|after| after.trim().parse().ok());
    match seconds {
        Some(seconds) => denial.retry_after(Duration::from_secs(seconds)),
        None => denial.without_wait(),
    }
}

/// Whether a body is unformatted: plain text, or of no declared type.
fn is_plain(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_none_or(|media| media.as_bytes().starts_with(b"text/plain"))
}

/// Explains, in the trailers, a gRPC call that fails after its first message.
#[derive(Debug)]
pub struct ExplainedTrailers(());

impl Meter for ExplainedTrailers {
    fn trailers(&mut self, trailers: &mut HeaderMap) {
        explain_grpc(trailers);
    }

    fn end(self, _: BodyEnd) -> Option<StoreFuture<()>> {
        None
    }
}

impl DenialsPermit {
    /// For a response that is not a refusal: adds details to a gRPC failure.
    fn explain(&self, headers: &mut HeaderMap) -> Tail<ExplainedTrailers> {
        if !self.policy.covers_plain_errors || self.request.dialect == Dialect::Http {
            return Tail::Body;
        }
        explain_grpc(headers);
        let has_trailers = cfg!(feature = "tonic") && self.request.dialect == Dialect::Grpc;
        if has_trailers && !grpc_has_failed(headers) {
            Tail::Metered(ExplainedTrailers(()))
        } else {
            Tail::Body
        }
    }
}

impl Permit for DenialsPermit {
    type Meter = ExplainedTrailers;

    fn mark_response(self, response: ResponseMarks<'_>) -> Tail<ExplainedTrailers> {
        let Some(denial) = self.refusal(&response) else {
            return self.explain(response.headers);
        };
        let headers = std::mem::take(response.headers);
        let dressed = self
            .policy
            .denials
            .respond_to(&denial, &self.request, headers);
        let (head, body) = dressed.into_parts();
        *response.headers = head.headers;
        response.extensions.extend(head.extensions);
        let status = match self.request.dialect {
            Dialect::Http => error_status(response.status, head.status),
            Dialect::Grpc | Dialect::Web | Dialect::WebText => head.status,
        };
        allow::hide_methods(status, response.headers);
        Tail::Replaced(status, body)
    }
}

/// Keeps the status of an error: a 415 stays a 415, only its style changes. (gRPC has its own.)
fn error_status(was: StatusCode, is: StatusCode) -> StatusCode {
    if was.is_client_error() || was.is_server_error() {
        was
    } else {
        is
    }
}
