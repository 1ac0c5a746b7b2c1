//! What an HTTP/1 answer says of its connection.

use http::{HeaderValue, Response, StatusCode, header::CONNECTION};

/// Marks the answer as the last on its connection (RFC 9112, 9.6), unless it switches the protocol.
pub(crate) fn closing<B>(mut answer: Response<B>) -> Response<B> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    answer
}
