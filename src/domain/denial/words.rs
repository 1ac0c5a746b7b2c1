//! What a refused client reads.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use super::{Denial, Sought};
use crate::domain::credential::CredentialKind;

#[derive(Clone, Debug)]
pub(super) enum Words {
    /// The format's own.
    Usual,
    /// These instead.
    Own(Cow<'static, str>),
    /// What the request could have brought, where that isn't what is usual for its kind. Shared,
    /// since a policy that abstains says so on the way of every request that another one admits.
    Sought(Arc<Sought>),
}

impl Words {
    pub(super) fn message(&self) -> Option<&str> {
        match self {
            Self::Usual => None,
            Self::Own(words) => Some(words),
            Self::Sought(sought) => sought.text(),
        }
    }

    /// Whether they are known to be the same.
    fn are(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Usual, Self::Usual) => true,
            (Self::Own(one), Self::Own(other)) => one == other,
            (Self::Sought(one), Self::Sought(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Denial {
    /// Sets what the request could have brought, where that isn't what is usual for its kind.
    pub(crate) fn seeking(mut self, sought: Arc<Sought>) -> Self {
        self.words = Words::Sought(sought);
        self
    }

    /// What the request could have brought, if that isn't what is usual for its kind.
    pub(crate) fn sought(&self) -> Option<&Sought> {
        match &self.words {
            Words::Sought(sought) => Some(sought),
            Words::Usual | Words::Own(_) => None,
        }
    }

    fn all_sought(&self) -> Sought {
        match &self.words {
            Words::Usual => Sought::usual(self.credential),
            Words::Own(words) => Sought::said(words.clone()),
            Words::Sought(sought) => Sought::clone(sought),
        }
    }
}

/// What two policies look for. It is put together once, unless their words change.
#[derive(Debug, Default)]
pub(crate) struct Neither(OnceLock<Either>);

#[derive(Debug)]
struct Either {
    first: (Option<CredentialKind>, Words),
    second: (Option<CredentialKind>, Words),
    sought: Arc<Sought>,
}

impl Neither {
    /// The refusal of a request that brought nothing of what either policy looks for. An
    /// application's own text stays one, and what else the refusal says is the second one's.
    pub(crate) fn denial(&self, first: &Denial, mut second: Denial) -> Denial {
        let are_alike = first.credential == second.credential;
        if are_alike && matches!((&first.words, &second.words), (Words::Usual, Words::Usual)) {
            return second;
        }
        let either = self.0.get_or_init(|| Either::of(first, &second));
        let sought = match either.is_of(first, &second) {
            true => Arc::clone(&either.sought),
            false => Either::of(first, &second).sought,
        };
        if !are_alike {
            second.credential = None;
        }
        second.seeking(sought)
    }
}

impl Either {
    #[cold]
    fn of(first: &Denial, second: &Denial) -> Self {
        Self {
            first: (first.credential, first.words.clone()),
            second: (second.credential, second.words.clone()),
            sought: Arc::new(first.all_sought().or(second.all_sought())),
        }
    }

    fn is_of(&self, first: &Denial, second: &Denial) -> bool {
        let is_of = |(credential, words): &(_, Words), denial: &Denial| {
            *credential == denial.credential && words.are(&denial.words)
        };
        is_of(&self.first, first) && is_of(&self.second, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::denial::{DenialKind, sought::NAMED_MAX};

    fn of_neither(first: &Denial, second: Denial) -> Denial {
        Neither::default().denial(first, second)
    }

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
            .reduce(|first, second| of_neither(&first, second));
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
            key().seeking(sought.or_bearer().into())
        };
        let only = |name: &'static str| key().seeking(Arc::new(Sought::key_in(name.into())));
        let elsewhere = |kind| missing(Some(kind)).seeking(Arc::new(Sought::elsewhere(kind)));
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
        let neither = |one, other| of_neither(&missing(Some(one)), missing(Some(other)));
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
            of_neither(&own(), key()),
            of_neither(&key(), own()),
            of_neither(&of_neither(&key(), own()), key()),
        ] {
            assert_eq!(neither.message(), Some(expected));
        }
        let replaced = of_neither(&own(), key()).with_message("No");
        let again = of_neither(&replaced, own());
        assert_eq!(again.message(), Some("No; or: Send a ticket"));
    }

    #[test]
    fn what_is_named_is_bounded() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let own = |name: &'static str| {
            missing(Some(CredentialKind::ApiKey)).seeking(Arc::new(Sought::key_in(name.into())))
        };
        let said = said(names.map(own));
        assert_eq!(said.matches('\'').count(), 2 * NAMED_MAX, "{said}");
    }
}
