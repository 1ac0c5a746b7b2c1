//! The kinds of credential.

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
