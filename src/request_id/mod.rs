//! An id for every request: [`RequestIdLayer`].
//!
//! - Refuses nothing. Stands outermost, so that every response and every log line carries the id.
//! - Keeps the id that an outer layer of this kind has assigned, or else takes the caller's
//!   `x-request-id` if it is well-formed, and otherwise generates one. An id that contains the
//!   request's own key or bearer token, or is part of it, is not taken, because ids are logged.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::convert::Infallible;
//! use tollgate::RequestIdLayer;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let hello = service_fn(async |_| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
//! let service = RequestIdLayer::new().layer(hello);
//! let named = http::Request::builder().header("x-request-id", "order-7").body(())?;
//! assert_eq!(service.clone().oneshot(named).await?.headers()["x-request-id"], "order-7");
//! let odd = http::Request::builder().header("x-request-id", "a b\"c").body(())?;
//! assert_ne!(service.oneshot(odd).await?.headers()["x-request-id"], "a b\"c");
//! # Ok(()) }
//! ```

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use memchr::memmem;

use crate::{
    domain::RequestId,
    guard::{Decision, Gate, Guard, NoMeter, Permit, Policy, ResponseMarks, Tail, Verdict},
    trail,
    wire::RequestHead,
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Shorter ids occur in credentials by chance.
const SECRET_LENGTH_MIN: usize = 16;

/// Gives every request an id. See the [module](self).
#[derive(Clone, Debug)]
pub struct RequestIdLayer {
    gate: Gate<RequestIdPolicy>,
}

impl RequestIdLayer {
    /// Reads and writes ids in `x-request-id`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            gate: Gate::new(RequestIdPolicy),
        }
    }

    pub(crate) fn into_gate(self) -> Gate<RequestIdPolicy> {
        self.gate
    }
}

impl Default for RequestIdLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> tower_layer::Layer<S> for RequestIdLayer {
    type Service = Guard<S, Gate<RequestIdPolicy>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.gate.layer(inner)
    }
}

/// The decision of a [`RequestIdLayer`]: every request is admitted, with an id.
#[derive(Clone, Copy, Debug)]
pub struct RequestIdPolicy;

impl Policy for RequestIdPolicy {
    type Permit = RequestIdPermit;

    fn name(&self) -> &'static str {
        "request_id"
    }

    fn judges(&self) -> bool {
        false
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<RequestIdPermit> {
        let id = head.request_id().cloned().or_else(|| sent_in(head));
        Decision::Ready(Verdict::Admit(RequestIdPermit(
            id.unwrap_or_else(RequestId::generate),
        )))
    }
}

/// The caller's own id for the request.
fn sent_in(head: &RequestHead<'_>) -> Option<RequestId> {
    let mut sent = head.headers.get_all(X_REQUEST_ID).iter();
    match (sent.next(), sent.next()) {
        (Some(only), None) if !is_credential(only, head.headers) => RequestId::from_header(only),
        _ => None,
    }
}

/// Whether the id contains the key or token of the same request, or is part of it.
fn is_credential(name: &HeaderValue, headers: &HeaderMap) -> bool {
    let name = name.as_bytes();
    let is_in = |one: &[u8], other: &[u8]| {
        one.len() >= SECRET_LENGTH_MIN && memmem::find(other, one).is_some()
    };
    let shown = [AUTHORIZATION, X_API_KEY].into_iter();
    shown.flat_map(|place| headers.get_all(place)).any(|value| {
        let mut words = value.as_bytes().rsplit(|byte| *byte == b' ');
        let credential = words.next().unwrap_or_default();
        is_in(name, credential) || is_in(credential, name)
    })
}

/// The request's id, for the request and the response.
#[derive(Debug)]
pub struct RequestIdPermit(RequestId);

impl Permit for RequestIdPermit {
    type Meter = NoMeter;

    const FIELDS: usize = 1;

    fn mark_request(&mut self, extensions: &mut Extensions) {
        trail::named(&self.0);
        extensions.insert(self.0.clone());
    }

    fn mark_response(self, response: ResponseMarks<'_>) -> Tail<NoMeter> {
        if let Some(value) = self.0.header_value() {
            response.headers.insert(X_REQUEST_ID, value);
        }
        Tail::Body
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;

    #[tokio::test]
    async fn one_request_has_one_name_however_many_layers_there_are() {
        let told = async |request: Request<()>| {
            let name = request.extensions().get::<RequestId>().unwrap();
            let answer = Response::builder().header("x-told", name.as_str());
            Ok::<_, Infallible>(answer.body(String::new()).unwrap())
        };
        let layer = RequestIdLayer::new();
        let service = layer.layer(layer.layer(layer.layer(service_fn(told))));
        let answer = service.clone().oneshot(Request::new(())).await.unwrap();
        assert_eq!(answer.headers()[X_REQUEST_ID], answer.headers()["x-told"]);
        let named = Request::get("/").header(X_REQUEST_ID, "order-7");
        let answer = service.oneshot(named.body(()).unwrap()).await.unwrap();
        assert_eq!(answer.headers()["x-told"], "order-7");
    }

    #[tokio::test]
    async fn a_credential_is_no_name() {
        let told = async |_| Ok::<_, Infallible>(Response::new(String::new()));
        let service = RequestIdLayer::new().layer(service_fn(told));
        let key = "ps_live_0123456789abcdef0123456789abcdef";
        let bearer = format!("Bearer {key}");
        for (place, value, is_taken) in [
            ("authorization", bearer.as_str(), false),
            ("x-api-key", key, false),
            ("x-api-key", &key[8..], false),
            ("cookie", key, true),
            ("x-api-key", "another", true),
        ] {
            let request = Request::get("/").header(place, value);
            let request = request.header(X_REQUEST_ID, key).body(()).unwrap();
            let answer = service.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.headers()[X_REQUEST_ID] == key, is_taken, "{place}");
        }
    }
}
