//! What is required of a caller.

use std::{fmt, sync::Arc};

use super::Permission;

/// What is required of a caller.
///
/// ```
/// use tollgate::role::Requirement;
///
/// assert_eq!(Requirement::permission("documents:read").to_string(), "documents:read");
/// assert_eq!(Requirement::any_of(["read", "write"]).to_string(), "any of read, write");
/// assert_eq!(Requirement::role("admin").to_string(), "role admin");
/// let both = Requirement::permission("read").add_scope("documents");
/// assert_eq!(both.to_string(), "read, by a token of scope documents");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Requirement {
    rule: Rule,
    /// The scopes that a token must have in addition; usually none.
    scopes: Option<Arc<[Box<str>]>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Nothing,
    Authenticated,
    AllOf(Arc<[Permission]>),
    AnyOf(Arc<[Permission]>),
    Role(Arc<str>),
}

impl Requirement {
    /// Nothing at all: every caller is admitted, authenticated or not.
    #[must_use]
    pub const fn nothing() -> Self {
        Self::of(Rule::Nothing)
    }

    /// Any valid credential.
    #[must_use]
    pub const fn authenticated() -> Self {
        Self::of(Rule::Authenticated)
    }

    /// One permission.
    #[must_use]
    pub fn permission(permission: impl Into<Permission>) -> Self {
        Self::all_of([permission])
    }

    /// All of several permissions. An empty list is [`Requirement::authenticated`].
    #[must_use]
    pub fn all_of(permissions: impl IntoIterator<Item = impl Into<Permission>>) -> Self {
        Self::of(Rule::AllOf(
            permissions.into_iter().map(Into::into).collect(),
        ))
    }

    /// At least one of several permissions. An empty list can't be fulfilled.
    #[must_use]
    pub fn any_of(permissions: impl IntoIterator<Item = impl Into<Permission>>) -> Self {
        Self::of(Rule::AnyOf(
            permissions.into_iter().map(Into::into).collect(),
        ))
    }

    /// A role, by exact name: a role that includes it is not enough. Prefer permissions, which need
    /// less change over time.
    #[must_use]
    pub fn role(role: &str) -> Self {
        Self::of(Rule::Role(Arc::from(role)))
    }

    /// A token with this scope (RFC 6749 section 3.3), whatever its user may do. A scope says what
    /// a user has allowed a client to do on their behalf. API keys and session cookies have no
    /// scopes, so they never fulfil it.
    #[must_use]
    pub fn scope(scope: &str) -> Self {
        Self::authenticated().add_scope(scope)
    }

    /// Additionally requires a token with this scope: a client may do no more than its user, and no
    /// more than the user has allowed it. If added several times, all scopes are required.
    #[must_use]
    pub fn add_scope(mut self, scope: &str) -> Self {
        if self.rule == Rule::Nothing {
            self.rule = Rule::Authenticated;
        }
        let before = self.scopes.iter().flat_map(|scopes| scopes.iter().cloned());
        self.scopes = Some(before.chain([scope.into()]).collect());
        self
    }

    const fn of(rule: Rule) -> Self {
        Self { rule, scopes: None }
    }

    pub(crate) fn rule(&self) -> &Rule {
        &self.rule
    }

    pub(crate) fn scopes(&self) -> &[Box<str>] {
        self.scopes.as_deref().unwrap_or_default()
    }
}

impl From<Permission> for Requirement {
    fn from(permission: Permission) -> Self {
        Self::permission(permission)
    }
}

/// A permission, by name.
impl From<&str> for Requirement {
    fn from(permission: &str) -> Self {
        Self::permission(permission)
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rule)?;
        if self.scopes().is_empty() {
            return Ok(());
        }
        write!(f, ", by a token of scope {}", self.scopes().join(" "))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (label, permissions) = match self {
            Self::Nothing => return f.write_str("nothing"),
            Self::Authenticated => return f.write_str("a credential"),
            Self::Role(role) => return write!(f, "role {role}"),
            Self::AllOf(all) if all.is_empty() => return f.write_str("a credential"),
            Self::AllOf(all) if all.len() == 1 => ("", all),
            Self::AllOf(all) => ("all of ", all),
            Self::AnyOf(any) if any.is_empty() => return f.write_str("what nobody has"),
            Self::AnyOf(any) => ("any of ", any),
        };
        f.write_str(label)?;
        for (place, permission) in permissions.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{permission}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Requirement({self})")
    }
}
