//! What somebody must be, or may do, to be let in.

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
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Requirement(Rule);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Nothing,
    Authenticated,
    AllOf(Arc<[Permission]>),
    AnyOf(Arc<[Permission]>),
    Role(Arc<str>),
}

impl Requirement {
    /// Nothing at all: whoever comes, known or not.
    #[must_use]
    pub const fn nothing() -> Self {
        Self(Rule::Nothing)
    }

    /// To be somebody: any credential will do.
    #[must_use]
    pub const fn authenticated() -> Self {
        Self(Rule::Authenticated)
    }

    /// One permission.
    #[must_use]
    pub fn permission(permission: impl Into<Permission>) -> Self {
        Self::all_of([permission])
    }

    /// Every one of several permissions. Of none, it is [`Requirement::authenticated`].
    #[must_use]
    pub fn all_of(permissions: impl IntoIterator<Item = impl Into<Permission>>) -> Self {
        Self(Rule::AllOf(
            permissions.into_iter().map(Into::into).collect(),
        ))
    }

    /// At least one of several permissions. Of none, nobody fulfils it.
    #[must_use]
    pub fn any_of(permissions: impl IntoIterator<Item = impl Into<Permission>>) -> Self {
        Self(Rule::AnyOf(
            permissions.into_iter().map(Into::into).collect(),
        ))
    }

    /// A role, by its name alone: one that includes it is not enough. Permissions age better.
    #[must_use]
    pub fn role(role: &str) -> Self {
        Self(Rule::Role(Arc::from(role)))
    }

    pub(crate) fn rule(&self) -> &Rule {
        &self.0
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
        let (label, permissions) = match &self.0 {
            Rule::Nothing => return f.write_str("nothing"),
            Rule::Authenticated => return f.write_str("a credential"),
            Rule::Role(role) => return write!(f, "role {role}"),
            Rule::AllOf(all) if all.is_empty() => return f.write_str("a credential"),
            Rule::AllOf(all) if all.len() == 1 => ("", all),
            Rule::AllOf(all) => ("all of ", all),
            Rule::AnyOf(any) if any.is_empty() => return f.write_str("what nobody has"),
            Rule::AnyOf(any) => ("any of ", any),
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
