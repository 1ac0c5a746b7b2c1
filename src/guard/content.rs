//! Which responses have content, and which only a head.

use http::{HeaderValue, Method, StatusCode, header::CONTENT_LENGTH, response};
use http_body::Body;

use super::{FixedBody, GateBody, Meter};

/// Which content the client accepts. A server of HTTP/1 drops the excess; one of HTTP/2 sends it,
/// which the client treats as a protocol error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllowedContent {
    All,
    /// The head alone (RFC 9110, 9.3.2).
    HeadOnly,
}

impl AllowedContent {
    pub(crate) fn for_method(method: &Method) -> Self {
        if *method == Method::HEAD {
            Self::HeadOnly
        } else {
            Self::All
        }
    }

    /// Whether a response with this status has no content (RFC 9110, 15.3.5 and 15.4.5), whatever
    /// its body holds.
    pub(crate) fn omits_body(self, status: StatusCode) -> bool {
        let is_empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self == Self::HeadOnly || is_empty
    }

    /// A response whose content is complete.
    pub(crate) fn fixed<B: Body, M: Meter>(
        self,
        head: &mut response::Parts,
        body: FixedBody,
    ) -> GateBody<B, M> {
        if self.omits_body(head.status) {
            let length = u64::try_from(body.bytes().len()).ok();
            omitted(head, length)
        } else {
            GateBody::fixed(body)
        }
    }

    /// A response of the inner service.
    pub(crate) fn inner<B: Body, M: Meter>(
        self,
        head: &mut response::Parts,
        body: B,
    ) -> GateBody<B, M> {
        if self.omits_body(head.status) {
            omitted(head, body.size_hint().exact())
        } else {
            GateBody::inner(body)
        }
    }
}

/// Drops the body, keeping `content-length` when a GET would have sent it (RFC 9110, 8.6). A length
/// of 0 says nothing, because the content may have been dropped further in. The remaining body
/// reports no length either: servers send what a body reports.
fn omitted<B: Body, M: Meter>(head: &mut response::Parts, length: Option<u64>) -> GateBody<B, M> {
    match (head.status, length) {
        (StatusCode::NO_CONTENT, _) => {
            head.headers.remove(CONTENT_LENGTH);
        }
        (StatusCode::NOT_MODIFIED, _) | (_, None | Some(0)) => {}
        (_, Some(length)) => {
            let entry = head.headers.entry(CONTENT_LENGTH);
            entry.or_insert_with(|| HeaderValue::from(length));
        }
    }
    GateBody::omitted()
}
