//! The kinds of credential.

/// How somebody shows who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CredentialKind {
    /// An API key.
    ApiKey,
    /// A bearer token (JWT).
    Token,
    /// The session cookie of a web application.
    SessionCookie,
}
