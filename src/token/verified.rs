//! A verified token and its claims.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use serde_json::Value;

use crate::domain::{
    SessionId,
    clock::Timestamp,
    credential::CredentialKind,
    principal::{Principal, TokenGrant},
};

/// What a token is for: its `token_use` claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenUse {
    /// For calling a service.
    #[default]
    Access,
    /// For exchange for an access token, and nothing else.
    Refresh,
}

impl TokenUse {
    /// The claim's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Refresh => "refresh",
        }
    }
}

/// A token that was valid when a [`TokenVerifier`](super::TokenVerifier) returned it.
///
/// It says who the token was issued to, not whether the login is still valid:
/// [`SessionResolver`](crate::login::SessionResolver) checks that on every request.
#[derive(Clone, PartialEq)]
pub struct VerifiedToken {
    pub(super) subject: Box<str>,
    pub(super) session: Option<SessionId>,
    pub(super) id: Option<Box<str>>,
    pub(super) issued_at: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) expires_at: Timestamp,
    pub(super) roles: Box<[Box<str>]>,
    pub(super) grant: Option<Arc<TokenGrant>>,
    /// The generation of the verifier's keys that verified it.
    pub(super) keys: u64,
    pub(super) principal: PrincipalOnce,
}

/// Created on first use, and shared by all requests with the token.
#[derive(Clone, Default)]
pub(super) struct PrincipalOnce(OnceLock<Principal>);

/// It is derived from the other fields.
impl PartialEq for PrincipalOnce {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl VerifiedToken {
    /// Who it was issued to: `sub`, never empty.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The principal that it describes: subject, login, roles, and the claims mapped to attributes.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        self.principal.0.get_or_init(|| {
            let mut principal = Principal::builder(&self.subject, CredentialKind::Token);
            if let Some(session) = &self.session {
                principal = principal.session(session.clone());
            }
            self.roles()
                .fold(principal, |principal, role| principal.role(role))
                .build()
                .by_token(self.grant.as_ref(), self.expires_at)
        })
    }

    /// The login that it belongs to: `sid`.
    #[must_use]
    pub fn session(&self) -> Option<&SessionId> {
        self.session.as_ref()
    }

    /// Its id: `jti`.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// When it was issued: `iat`.
    #[must_use]
    pub fn issued_at(&self) -> Option<Timestamp> {
        self.issued_at
    }

    /// When it expires: `exp`.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// The roles at the time of issue: `roles`, or the claim set by
    /// [`roles_from`](super::TokenVerifierBuilder::roles_from).
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.iter().map(AsRef::as_ref)
    }

    /// The login's principal, as restricted by this token.
    pub(crate) fn principal_of(&self, login: &Principal) -> Principal {
        login.by_token(self.grant.as_ref(), self.expires_at)
    }

    /// What its client may do: `scope`, or the claim set by
    /// [`scopes_from`](super::TokenVerifierBuilder::scopes_from).
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.grant.iter().flat_map(|grant| grant.scopes())
    }

    /// A claim that was kept by [`add_claim`](super::TokenVerifierBuilder::add_claim); a handler
    /// finds it by [`Principal::claim`].
    #[must_use]
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.grant.as_ref()?.claim(name)
    }
}

impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedToken")
            .field("subject", &self.subject)
            .field("session", &self.session)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
