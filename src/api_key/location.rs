//! Where a request carries its key.

use std::{borrow::Cow, fmt, sync::Arc};

use crate::{
    domain::{credential::CredentialKind, denial::Sought},
    wire::{Credential, CredentialPlaces, Credentials, KeyHeaders, RequestHead},
};

type Read = dyn Fn(&RequestHead<'_>) -> Option<String> + Send + Sync;

/// Where a request carries its key.
#[derive(Clone)]
pub(super) enum Location {
    /// In header fields; keys in the other header fields that are looked at must not disagree.
    Headers(KeyHeaders),
    /// Where the application's function finds it.
    Custom(Arc<Read>),
}

/// What a request carries there.
pub(super) enum Found<'a> {
    Nothing,
    /// Something that can't be a key.
    Unreadable,
    /// Several keys that disagree, or one sent twice.
    Ambiguous,
    /// A key where no other layer expects tokens.
    Key(Cow<'a, str>),
    /// A key or a token, where another layer also expects tokens.
    Bearer(&'a str),
}

impl Location {
    pub(super) fn places(&self) -> CredentialPlaces {
        match self {
            Self::Headers(headers) => headers.places(),
            Self::Custom(_) => CredentialPlaces::ANYWHERE,
        }
    }

    pub(super) fn stand_beside(&mut self, others: &CredentialPlaces) {
        if let Self::Headers(headers) = self {
            headers.add_others(others);
        }
    }

    /// Where a client without a key could have sent one, unless it is the usual places.
    pub(super) fn sought(&self) -> Option<Sought> {
        match self {
            Self::Headers(headers) => headers.sought(),
            Self::Custom(_) => Some(Sought::elsewhere(CredentialKind::ApiKey)),
        }
    }

    pub(super) fn read<'a>(&self, head: &RequestHead<'a>) -> Found<'a> {
        let headers = match self {
            Self::Headers(headers) => headers,
            Self::Custom(read) => {
                return read(head).map_or(Found::Nothing, |key| Found::Key(Cow::Owned(key)));
            }
        };
        let Ok(credentials) = Credentials::read(head.headers, headers) else {
            return Found::Ambiguous;
        };
        match credentials.either() {
            Credential::Absent => Found::Nothing,
            Credential::Unreadable => Found::Unreadable,
            Credential::Text(key)
                if credentials.key_header == Credential::Absent && headers.shares_bearer() =>
            {
                Found::Bearer(key.as_str())
            }
            Credential::Text(key) => Found::Key(Cow::Borrowed(key.as_str())),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Headers(headers) => f.debug_tuple("Headers").field(headers).finish(),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}
