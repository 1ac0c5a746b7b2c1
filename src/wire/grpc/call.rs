//! How a call went, as far as its answer has said so.

use http::HeaderMap;

use super::{GRPC_STATUS, WebStatus, has_failed, is_grpc};

/// What an answer says of how its call went: over gRPC in the head or the trailers, over gRPC-Web
/// at the end of the body, and over plain HTTP nothing.
#[derive(Debug, Default)]
pub(crate) struct CallStatus {
    /// Of gRPC-Web, while it may still say so.
    web: Option<Box<WebStatus>>,
    /// Something of the body went out.
    has_begun: bool,
    failure: Option<Failure>,
    /// It is a gRPC call that has not said how it went.
    is_open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    BeforeMessages,
    AfterMessages,
}

impl CallStatus {
    /// Of the answer with this head.
    pub(crate) fn of_head(headers: &HeaderMap) -> Self {
        Self {
            web: WebStatus::for_body(headers).map(Box::new),
            has_begun: false,
            failure: has_failed(headers).then_some(Failure::BeforeMessages),
            is_open: is_grpc(headers) && !headers.contains_key(GRPC_STATUS),
        }
    }

    /// Reads on in the body.
    pub(crate) fn feed(&mut self, piece: &[u8]) {
        self.has_begun |= !piece.is_empty();
        let Some(web) = &mut self.web else { return };
        web.feed(piece);
        if web.has_failed() {
            let has_delivered = web.has_delivered();
            self.fail(has_delivered);
        }
    }

    /// A part of the body went out that nobody read: what comes after it can't be told apart.
    pub(crate) fn skip(&mut self, bytes: usize) {
        self.has_begun |= bytes > 0;
        self.web = None;
    }

    /// Reads the trailers.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        self.is_open &= !trailers.contains_key(GRPC_STATUS);
        if has_failed(trailers) {
            self.fail(self.has_begun);
        }
    }

    fn fail(&mut self, has_delivered: bool) {
        self.web = None;
        self.failure = self.failure.or(Some(if has_delivered {
            Failure::AfterMessages
        } else {
            Failure::BeforeMessages
        }));
    }

    /// Whether a gRPC call hasn't said how it went. If nothing more comes, its client takes it for
    /// failed.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether it failed before any message went out.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure == Some(Failure::BeforeMessages)
    }

    /// Whether it failed after messages that went out. A client can bring that about itself, with a
    /// message that can't be read.
    pub(crate) fn broke_off(&self) -> bool {
        self.failure == Some(Failure::AfterMessages)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header::CONTENT_TYPE};

    use super::*;

    fn headers(media_type: &'static str, status: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        if let Some(status) = status {
            headers.insert("grpc-status", HeaderValue::from_static(status));
        }
        headers
    }

    /// Whether it failed before messages, and whether after some.
    fn of(call: &CallStatus) -> (bool, bool) {
        (call.has_failed(), call.broke_off())
    }

    #[test]
    fn a_head_or_trailers_say_it_and_messages_before_count() {
        let failing = headers("application/grpc", Some("13"));
        assert_eq!(of(&CallStatus::of_head(&failing)), (true, false));
        let good = headers("application/grpc", None);
        let mut call = CallStatus::of_head(&good);
        call.feed(b"");
        assert!(call.is_open());
        call.trailers(&headers("", Some("0")));
        assert_eq!(of(&call), (false, false));
        assert!(!call.is_open() && !CallStatus::of_head(&failing).is_open());
        assert!(!CallStatus::of_head(&headers("text/plain", None)).is_open());
        call.trailers(&failing);
        assert_eq!(of(&call), (true, false));

        let mut call = CallStatus::of_head(&good);
        call.feed(b"a message");
        call.trailers(&failing);
        assert_eq!(of(&call), (false, true));
        let mut call = CallStatus::of_head(&good);
        call.skip(9);
        call.trailers(&failing);
        assert_eq!(of(&call), (false, true));
    }

    #[test]
    fn over_grpc_web_the_body_says_it_unless_a_part_was_skipped() {
        let head = headers("application/grpc-web", None);
        let trailers = b"\x80\x00\x00\x00\x0egrpc-status:13".as_slice();
        let message = b"\x00\x00\x00\x00\x02hi".as_slice();
        for (pieces, expected) in [
            ([trailers, b""], (true, false)),
            ([message, trailers], (false, true)),
        ] {
            let mut call = CallStatus::of_head(&head);
            pieces.iter().for_each(|piece| call.feed(piece));
            assert_eq!(of(&call), expected);
        }
        let mut call = CallStatus::of_head(&head);
        call.skip(7);
        call.feed(trailers);
        assert_eq!(of(&call), (false, false));
    }
}
