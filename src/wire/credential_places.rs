//! Where a policy looks for credentials, as the policies beside it learn it.

use http::{HeaderName, header::AUTHORIZATION};

/// Where a policy looks for credentials.
///
/// Policies that judge the same requests learn this of each other: two credentials that disagree are
/// nobody's, whichever policy is asked first, and a bearer token that doesn't look like a policy's
/// own is left to another that may take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialPlaces {
    headers: Vec<HeaderName>,
    /// Whether it may look elsewhere too, even into `authorization`.
    are_open: bool,
}

impl CredentialPlaces {
    /// Places that aren't known. A bearer token may be one of its credentials.
    pub const ANYWHERE: Self = Self {
        headers: Vec::new(),
        are_open: true,
    };

    /// No header field that may hold a key or a bearer token: a cookie, a certificate.
    pub const ELSEWHERE: Self = Self {
        headers: Vec::new(),
        are_open: false,
    };

    /// Exactly these header fields; with `authorization` among them, it takes bearer tokens.
    pub fn headers(headers: impl IntoIterator<Item = HeaderName>) -> Self {
        Self {
            headers: headers.into_iter().collect(),
            are_open: false,
        }
    }

    /// These and those.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.headers.extend(other.headers);
        self.are_open |= other.are_open;
        self
    }

    pub(crate) fn as_headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// The fields that carry its credentials, as far as they are known.
    pub(crate) fn hidden(&self) -> Box<[HeaderName]> {
        let bearer = self.take_bearer().then_some(AUTHORIZATION);
        self.headers.iter().cloned().chain(bearer).collect()
    }

    /// Whether a bearer token in `authorization` may be one of its credentials.
    pub(crate) fn take_bearer(&self) -> bool {
        self.are_open || self.headers.contains(&AUTHORIZATION)
    }
}
