//! What a request without a credential could have brought, and where.

use std::{borrow::Cow, fmt};

use crate::domain::credential::CredentialKind;

/// The most places, and the most texts of an application's own, that a refusal names.
pub(super) const NAMED_MAX: usize = 8;

/// What a request without a credential could have brought, and where. As a text it names all of it,
/// and nothing twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sought {
    /// Header fields, in the order in which they are looked at.
    headers: Vec<Cow<'static, str>>,
    in_bearer: bool,
    /// What may be in those fields.
    keys: bool,
    tokens: bool,
    /// What may be in other places.
    elsewhere: Vec<Noun>,
    /// The words of an application's own policies.
    words: Vec<Cow<'static, str>>,
    /// All of it, if there are such words.
    text: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noun {
    Key,
    Token,
    Session,
    Other,
}

impl Sought {
    /// A key in the header field `name`.
    pub(crate) fn key_in(name: Cow<'static, str>) -> Self {
        Self {
            headers: vec![name],
            keys: true,
            ..Self::default()
        }
    }

    /// What is sought in `authorization: Bearer` as well.
    pub(crate) fn or_bearer(mut self) -> Self {
        self.in_bearer = true;
        self
    }

    /// A credential in no header field that could be named.
    pub(crate) fn elsewhere(kind: CredentialKind) -> Self {
        let noun = match kind {
            CredentialKind::ApiKey => Noun::Key,
            CredentialKind::Token => Noun::Token,
            CredentialKind::SessionCookie => Noun::Session,
            CredentialKind::Certificate | CredentialKind::Other(_) => Noun::Other,
        };
        Self {
            elsewhere: vec![noun],
            ..Self::default()
        }
    }

    /// What is sought where a credential of this kind usually is.
    pub(super) fn usual(kind: Option<CredentialKind>) -> Self {
        match kind {
            Some(CredentialKind::ApiKey) => Self::key_in("X-API-Key".into()).or_bearer(),
            Some(CredentialKind::Token) => Self {
                tokens: true,
                ..Self::default()
            }
            .or_bearer(),
            Some(kind) => Self::elsewhere(kind),
            None => Self::elsewhere(CredentialKind::Other("")),
        }
    }

    /// What an application asks for in its own words.
    pub(super) fn said(words: Cow<'static, str>) -> Self {
        Self {
            words: vec![words],
            ..Self::default()
        }
    }

    pub(super) fn or(mut self, other: Self) -> Self {
        self.in_bearer |= other.in_bearer;
        self.keys |= other.keys;
        self.tokens |= other.tokens;
        add(&mut self.headers, other.headers, |one, other| {
            one.eq_ignore_ascii_case(other)
        });
        add(&mut self.elsewhere, other.elsewhere, Noun::eq);
        add(&mut self.words, other.words, Cow::eq);
        self.text = (!self.words.is_empty()).then(|| self.to_string().into());
        self
    }

    /// All of it, if an application's own words are in it.
    pub(super) fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// `'A', 'B' or 'C' header with access key or token`.
    fn write_fields(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bearer = self.in_bearer.then_some("Authorization: Bearer");
        let mut names = self
            .headers
            .iter()
            .map(AsRef::as_ref)
            .chain(bearer)
            .peekable();
        let mut between = "";
        while let Some(name) = names.next() {
            let is_last = names.peek().is_none();
            let before = if is_last && !between.is_empty() {
                " or "
            } else {
                between
            };
            write!(f, "{before}'{name}'")?;
            between = ", ";
        }
        f.write_str(match (self.keys, self.tokens) {
            (true, true) => " header with access key or token",
            (true, false) => " header with access key",
            (false, _) => " header with a token",
        })
    }
}

/// Adds what isn't there.
fn add<T>(all: &mut Vec<T>, others: Vec<T>, same: impl Fn(&T, &T) -> bool) {
    for other in others {
        if all.len() < NAMED_MAX && !all.iter().any(|one| same(one, &other)) {
            all.push(other);
        }
    }
}

impl fmt::Display for Sought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_fields = self.in_bearer || !self.headers.is_empty();
        match self.elsewhere.as_slice() {
            [] if !has_fields => {}
            [alone] if !has_fields => f.write_str(match alone {
                Noun::Key => "The request carries no access key",
                Noun::Token => "The request carries no token",
                Noun::Session => "Please sign in",
                Noun::Other => "The request carries no credentials",
            })?,
            elsewhere => {
                f.write_str("Expected ")?;
                let mut between = "";
                if has_fields {
                    self.write_fields(f)?;
                    between = ", or ";
                }
                for noun in elsewhere {
                    f.write_str(between)?;
                    between = ", or ";
                    f.write_str(match noun {
                        Noun::Key => "an access key elsewhere",
                        Noun::Token => "a token elsewhere",
                        Noun::Session => "a session",
                        Noun::Other => "another credential",
                    })?;
                }
            }
        }
        let mut between = if has_fields || !self.elsewhere.is_empty() {
            "; or: "
        } else {
            ""
        };
        for words in &self.words {
            write!(f, "{between}{words}")?;
            between = "; or: ";
        }
        Ok(())
    }
}
