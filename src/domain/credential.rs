//! Credentials: their kinds, and their text.

use std::fmt;

/// How a caller proves who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CredentialKind {
    /// An API key.
    ApiKey,
    /// A bearer token (JWT).
    Token,
    /// The session cookie of a web application.
    SessionCookie,
    /// The certificate of a client, by mutual TLS.
    Certificate,
    /// One of the application's own, by its name in snake case.
    Other(&'static str),
}

impl CredentialKind {
    /// A stable name, in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Token => "token",
            Self::SessionCookie => "session_cookie",
            Self::Certificate => "certificate",
            Self::Other(name) => name,
        }
    }
}

/// The text of a credential: bytes that are known to be UTF-8. Finding that out again, for a
/// `&str`, takes as long as looking up a cached credential, so it is done only where the text is
/// read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct CredentialText<'a>(&'a [u8]);

impl<'a> CredentialText<'a> {
    /// Bytes of which all are ASCII. Others are taken for an empty text when they are read.
    pub(crate) const fn of_ascii(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn as_str(self) -> &'a str {
        std::str::from_utf8(self.0).unwrap_or_default()
    }
}

impl<'a> From<&'a str> for CredentialText<'a> {
    fn from(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

impl fmt::Debug for CredentialText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}
