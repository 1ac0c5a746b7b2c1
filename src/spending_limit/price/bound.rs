//! How many tokens money is held for.

use super::RequestLength;

/// How many tokens money is held for before they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenBound {
    /// A fixed number.
    Fixed(u64),
    /// One per byte of the request's body, by its `content-length` or as
    /// [measured](crate::BodyDigestLayer::measure) further out; `unknown` without either. It bounds
    /// the text in the request, but not what the request only [refers
    /// to](crate::TokenPrice#what-the-length-of-a-request-does-not-bound).
    BodyBytes {
        /// The number of bytes to assume if the length isn't declared (1 MiB in a
        /// [`TokenPrice`](crate::TokenPrice) with no other bound), and at least to assume if
        /// the body is compressed (`content-encoding`, `grpc-encoding`), because it grows when it
        /// is decompressed.
        unknown: u64,
    },
    /// The same for a service that reads bodies as they are sent and decodes none, as axum's
    /// extractors do: the compressed length then also bounds what is read.
    BodyBytesAsSent {
        /// The number of bytes to assume if the length isn't declared.
        unknown: u64,
    },
}

impl TokenBound {
    pub(super) fn tokens(self, length: RequestLength) -> u64 {
        match self {
            Self::Fixed(tokens) => tokens,
            Self::BodyBytes { unknown } => length.bytes(unknown),
            Self::BodyBytesAsSent { unknown } => length.bytes_as_sent(unknown),
        }
    }
}
