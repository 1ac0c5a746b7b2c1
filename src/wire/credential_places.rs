//! Where a policy looks for credentials, as the policies beside it learn it.

use http::{HeaderName, header::AUTHORIZATION};

/// Where a policy looks for credentials.
///
/// Policies that judge the same requests learn this of each other: two credentials that disagree
/// are nobody's, whichever policy is asked first, and a bearer token that doesn't look like a
/// policy's own is left to another that may take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialPlaces {
    headers: Vec<HeaderName>,
    /// Whether it may look elsewhere too, even into `authorization`.
    are_open: bool,
    /// Whether bearer tokens are looked at wherever there is another credential: two that disagree
    /// are refused.
    compare_bearer: bool,
}

impl CredentialPlaces {
    /// Places that aren't known. A bearer token may be one of its credentials.
    pub const ANYWHERE: Self = Self {
        headers: Vec::new(),
        are_open: true,
        compare_bearer: false,
    };

    /// No header field that may hold a key or a bearer token: a cookie, a certificate.
    pub const ELSEWHERE: Self = Self {
        headers: Vec::new(),
        are_open: false,
        compare_bearer: false,
    };

    /// Exactly these header fields; with `authorization` among them, it takes bearer tokens.
    pub fn headers(headers: impl IntoIterator<Item = HeaderName>) -> Self {
        let headers: Vec<_> = headers.into_iter().collect();
        Self {
            compare_bearer: headers.contains(&AUTHORIZATION),
            headers,
            are_open: false,
        }
    }

    /// These and those.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.headers.extend(other.headers);
        self.are_open |= other.are_open;
        self.compare_bearer &= other.compare_bearer;
        self
    }

    pub(crate) fn as_headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// Whether no bearer token is overlooked for another credential.
    pub(crate) const fn compare_bearer(&self) -> bool {
        self.compare_bearer
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
