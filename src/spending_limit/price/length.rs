//! The length of a request, as far as its head declares it.

use http::{HeaderMap, HeaderName, header::CONTENT_LENGTH};

use crate::wire::is_encoded;

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// The length of a request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::spending_limit) enum RequestLength {
    /// This many bytes, not encoded.
    Plain(u64),
    /// This many bytes, which grow when they are decoded.
    Encoded(u64),
    /// Not declared.
    #[default]
    Unknown,
}

impl RequestLength {
    /// The longer of what the head declares and what was `measured`. A server may leave the two
    /// unequal, or a layer in between change the body and not its head.
    pub(in crate::spending_limit) fn of(headers: &HeaderMap, measured: Option<u64>) -> Self {
        let length = headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let length: Option<u64> = length;
        let length = length.max(measured);
        let messages_are_encoded = || {
            let encoding = headers.get(GRPC_ENCODING);
            encoding.is_some_and(|encoding| encoding != "identity")
        };
        match length {
            None => Self::Unknown,
            Some(bytes) if is_encoded(headers) || messages_are_encoded() => Self::Encoded(bytes),
            Some(bytes) => Self::Plain(bytes),
        }
    }

    /// How many decoded bytes there may be; `unknown` is the assumption if the length isn't known.
    pub(super) fn bytes(self, unknown: u64) -> u64 {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Encoded(bytes) => bytes.max(unknown),
            Self::Unknown => unknown,
        }
    }

    /// How many bytes are sent; `unknown` is the assumption if the length isn't known.
    pub(in crate::spending_limit) fn bytes_as_sent(self, unknown: u64) -> u64 {
        match self {
            Self::Plain(bytes) | Self::Encoded(bytes) => bytes,
            Self::Unknown => unknown,
        }
    }
}
