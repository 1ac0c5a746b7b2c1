//! What a request without a credential could have brought, and where.

use std::{borrow::Cow, fmt};

use super::Denial;
use crate::domain::credential::CredentialKind;

/// The most places, and the most texts of an application's own, that a refusal names.
const NAMED_MAX: usize = 8;

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
    fn usual(kind: Option<CredentialKind>) -> Self {
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

    fn or(mut self, other: Self) -> Self {
        self.in_bearer |= other.in_bearer;
        self.keys |= other.keys;
        self.tokens |= other.tokens;
        add(&mut self.headers, other.headers, |one, other| {
            one.eq_ignore_ascii_case(other)
        });
        add(&mut self.elsewhere, other.elsewhere, Noun::eq);
        add(&mut self.words, other.words, Cow::eq);
        self
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

impl Denial {
    /// Sets what the request could have brought, where that isn't what is usual for its kind.
    pub(crate) fn seeking(mut self, sought: Sought) -> Self {
        self.details_mut().sought = Some(sought);
        self
    }

    /// What the request could have brought, if that isn't what is usual for its kind.
    pub(crate) fn sought(&self) -> Option<&Sought> {
        self.details.as_ref()?.sought.as_ref()
    }

    /// The refusal of a request that brought nothing of what either policy looks for. An application's
    /// own text stays one, and what else the refusal says is the second one's.
    pub(crate) fn of_neither(first: &Self, second: Self) -> Self {
        let is_usual = |denial: &Self| denial.message.is_none() && denial.sought().is_none();
        let are_alike = first.credential == second.credential;
        if are_alike && is_usual(first) && is_usual(&second) {
            return second;
        }
        let have_words = first.message.is_some() || second.message.is_some();
        let sought = first.all_sought().or(second.all_sought());
        let mut neither = second;
        neither.message = have_words.then(|| sought.to_string().into());
        if !are_alike {
            neither.credential = None;
        }
        neither.seeking(sought)
    }

    fn all_sought(&self) -> Sought {
        match (self.sought(), &self.message) {
            (Some(sought), _) => sought.clone(),
            (None, None) => Sought::usual(self.credential),
            (None, Some(words)) => Sought {
                words: vec![words.clone()],
                ..Sought::default()
            },
        }
    }

    pub(super) fn forget_sought(&mut self) {
        if let Some(details) = &mut self.details {
            details.sought = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::denial::DenialKind;

    fn missing(credential: Option<CredentialKind>) -> Denial {
        let denial = Denial::new(DenialKind::CredentialMissing);
        match credential {
            Some(credential) => denial.of_credential(credential),
            None => denial,
        }
    }

    fn said(denials: impl IntoIterator<Item = Denial>) -> String {
        let neither = denials
            .into_iter()
            .reduce(|first, second| Denial::of_neither(&first, second));
        neither.unwrap().all_sought().to_string()
    }

    #[test]
    fn everything_is_named_and_nothing_twice() {
        use CredentialKind::{ApiKey, Certificate, SessionCookie, Token};
        let key = || missing(Some(ApiKey));
        let token = || missing(Some(Token));
        let session = || missing(Some(SessionCookie));
        let own = |name: &'static str| {
            let sought = Sought::key_in(name.into());
            key().seeking(sought.or_bearer())
        };
        let only = |name: &'static str| key().seeking(Sought::key_in(name.into()));
        let elsewhere = |kind| missing(Some(kind)).seeking(Sought::elsewhere(kind));
        for (denials, expected) in [
            (
                vec![key(), token()],
                "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key or token",
            ),
            (
                vec![token(), key(), own("x-api-key"), token()],
                "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key or token",
            ),
            (
                vec![own("x-acme"), key(), token(), own("x-old")],
                "Expected 'x-acme', 'X-API-Key', 'x-old' or 'Authorization: Bearer' header \
                 with access key or token",
            ),
            (
                vec![only("x-acme"), only("x-old")],
                "Expected 'x-acme' or 'x-old' header with access key",
            ),
            (
                vec![session(), key(), missing(None), missing(Some(Certificate))],
                "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key, \
                 or a session, or another credential",
            ),
            (
                vec![token(), elsewhere(ApiKey)],
                "Expected 'Authorization: Bearer' header with a token, or an access key elsewhere",
            ),
            (
                vec![session(), elsewhere(Token)],
                "Expected a session, or a token elsewhere",
            ),
            (vec![elsewhere(ApiKey)], "The request carries no access key"),
            (
                vec![token(), missing(None).with_message("Send a ticket")],
                "Expected 'Authorization: Bearer' header with a token; or: Send a ticket",
            ),
        ] {
            assert_eq!(said(denials), expected);
        }
    }

    #[test]
    fn the_kind_is_told_if_it_is_one() {
        let (key, token) = (CredentialKind::ApiKey, CredentialKind::Token);
        let neither = |one, other| Denial::of_neither(&missing(Some(one)), missing(Some(other)));
        assert_eq!(neither(key, key).credential(), Some(key));
        assert!(neither(key, key).sought().is_none());
        assert_eq!(neither(key, token).credential(), None);
        assert_eq!(
            neither(key, token).message(),
            None,
            "a service may have its own"
        );
    }

    #[test]
    fn a_text_of_ones_own_stays_one() {
        let own = || missing(None).with_message("Send a ticket");
        let key = || missing(Some(CredentialKind::ApiKey));
        let expected = "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key; \
                        or: Send a ticket";
        for neither in [
            Denial::of_neither(&own(), key()),
            Denial::of_neither(&key(), own()),
            Denial::of_neither(&Denial::of_neither(&key(), own()), key()),
        ] {
            assert_eq!(neither.message(), Some(expected));
        }
        let replaced = Denial::of_neither(&own(), key()).with_message("No");
        let again = Denial::of_neither(&replaced, own());
        assert_eq!(again.message(), Some("No; or: Send a ticket"));
    }

    #[test]
    fn what_is_named_is_bounded() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let own = |name: &'static str| {
            missing(Some(CredentialKind::ApiKey)).seeking(Sought::key_in(name.into()))
        };
        let said = said(names.map(own));
        assert_eq!(said.matches('\'').count(), 2 * NAMED_MAX, "{said}");
    }
}
