//! Which answers have content, and which have a head alone.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header::CONTENT_LENGTH, response};
use http_body::Body;

use super::{GateBody, Meter};

/// What the client wants of an answer. A server of HTTP/1 leaves out what is too much; one of HTTP/2 sends it, and the client
/// takes that for an error of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    /// Its head alone (RFC 9110, 9.3.2).
    Head,
}

impl Wanted {
    pub(crate) fn by(method: &Method) -> Self {
        if *method == Method::HEAD {
            Self::Head
        } else {
            Self::All
        }
    }

    /// Whether an answer of that status has no content (RFC 9110, 15.3.5 and 15.4.5), whatever its body is.
    pub(crate) fn leaves_out(self, status: StatusCode) -> bool {
        let has_none = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self == Self::Head || has_none
    }

    /// An answer of which all content is there.
    pub(crate) fn fixed<B: Body, M: Meter>(
        self,
        head: &mut response::Parts,
        bytes: Bytes,
    ) -> GateBody<B, M> {
        if self.leaves_out(head.status) {
            let length = u64::try_from(bytes.len()).ok();
            left_out(head, length)
        } else {
            GateBody::fixed(bytes)
        }
    }

    /// An answer of somebody else's.
    pub(crate) fn inner<B: Body, M: Meter>(
        self,
        head: &mut response::Parts,
        body: B,
    ) -> GateBody<B, M> {
        if self.leaves_out(head.status) {
            left_out(head, body.size_hint().exact())
        } else {
            GateBody::inner(body)
        }
    }
}

/// No content in place of one of that length, which is told where it is one that a GET would be told (RFC 9110, 8.6). A length of
/// nothing says nothing: the content may have been left out further in. Nor does the body that is left say one: servers tell what
/// a body knows.
fn left_out<B: Body, M: Meter>(head: &mut response::Parts, length: Option<u64>) -> GateBody<B, M> {
    match (head.status, length) {
        (StatusCode::NO_CONTENT, _) => {
            head.headers.remove(CONTENT_LENGTH);
        }
        (StatusCode::NOT_MODIFIED, _) | (_, None | Some(0)) => {}
        (_, Some(length)) => {
            let told = head.headers.entry(CONTENT_LENGTH);
            told.or_insert_with(|| HeaderValue::from(length));
        }
    }
    GateBody::left_out()
}
