//! Where a request carries its token.

use std::{borrow::Cow, fmt, sync::Arc};

use http::header::AUTHORIZATION;

use crate::{
    domain::{
        credential::{CredentialKind, CredentialText},
        denial::Sought,
    },
    wire::{
        CookieValue, Credential, CredentialPlaces, Credentials, KeyHeaders, Origin, RequestHead,
        X_API_KEY, are_doubled, is_cross_site, read_cookie,
    },
};

type Read = dyn Fn(&RequestHead<'_>) -> Option<String> + Send + Sync;

/// Where a request carries its token.
#[derive(Clone)]
pub(super) enum Location {
    /// `authorization: Bearer`; keys in the header fields that are looked at must not disagree.
    Bearer(KeyHeaders),
    /// A cookie, which browsers send no matter which site caused the request.
    Cookie { names: Arc<[Box<str>]> },
    /// Where the application's function finds it.
    Custom(Arc<Read>),
}

/// What a request carries there.
pub(super) enum Found<'a> {
    Nothing,
    /// Something that isn't a token, such as a key. Another layer may take it.
    Foreign,
    /// Something that can't be read as a token.
    Unreadable,
    /// Several tokens that disagree, or one sent twice.
    Ambiguous,
    /// A cookie that another site's page made the browser send.
    CrossSite,
    Token(Cow<'a, str>),
    /// A token in `authorization`.
    Bearer(CredentialText<'a>),
}

impl Location {
    pub(super) const BEARER: Self = Self::Bearer(KeyHeaders::new(X_API_KEY));

    pub(super) const ONLY_BEARER: Self = Self::Bearer(KeyHeaders::only_bearer());

    pub(super) fn places(&self) -> CredentialPlaces {
        match self {
            Self::Bearer(_) => CredentialPlaces::headers([AUTHORIZATION]),
            Self::Cookie { .. } => CredentialPlaces::ELSEWHERE,
            Self::Custom(_) => CredentialPlaces::ANYWHERE,
        }
    }

    /// Where a client without a token could have sent one, unless it is the usual place.
    pub(super) fn sought(&self) -> Option<Sought> {
        (!self.is_bearer()).then(|| Sought::elsewhere(CredentialKind::Token))
    }

    pub(super) const fn is_bearer(&self) -> bool {
        matches!(self, Self::Bearer(_))
    }

    pub(super) fn stand_beside(&mut self, others: &CredentialPlaces) {
        if let Self::Bearer(places) = self {
            places.add_others(others);
        }
    }

    /// Reads the token. Pages of `trusted` origins may send a cookie with unsafe requests.
    pub(super) fn read<'a>(&self, head: &RequestHead<'a>, trusted: &[Origin]) -> Found<'a> {
        match self {
            Self::Bearer(places) => bearer(head, places),
            Self::Cookie { names } => match read_cookie(head.headers, names) {
                CookieValue::Absent => Found::Nothing,
                CookieValue::Unreadable => Found::Unreadable,
                CookieValue::Text(_) if are_doubled(head.headers, &[X_API_KEY]) => Found::Ambiguous,
                CookieValue::Text(_) if is_cross_site(head, trusted) => Found::CrossSite,
                CookieValue::Text(token) => Found::Token(token),
            },
            Self::Custom(read) => match read(head) {
                None => Found::Nothing,
                Some(token) => Found::Token(Cow::Owned(token)),
            },
        }
    }
}

fn bearer<'a>(head: &RequestHead<'a>, places: &KeyHeaders) -> Found<'a> {
    let Ok(credentials) = Credentials::read(head.headers, places) else {
        return Found::Ambiguous;
    };
    match credentials.bearer {
        Credential::Text(text) if looks_like_a_token(text) => Found::Bearer(text),
        Credential::Unreadable => Found::Unreadable,
        Credential::Text(_) => Found::Foreign,
        // A key instead of a token is a credential, just not a good one.
        Credential::Absent if credentials.key_header != Credential::Absent => Found::Foreign,
        Credential::Absent => Found::Nothing,
    }
}

/// Three segments or more: this is meant to be a JWS (RFC 7515, 3.1). API keys have no dots.
fn looks_like_a_token(text: CredentialText<'_>) -> bool {
    let bytes = text.as_bytes();
    memchr::memchr(b'.', bytes) != memchr::memrchr(b'.', bytes)
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer(places) => f.debug_tuple("Bearer").field(places).finish(),
            Self::Cookie { names, .. } => f.debug_tuple("Cookie").field(names).finish(),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}
