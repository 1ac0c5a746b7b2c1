//! Whether anybody could ever fulfil what is required.

use std::fmt;

use super::policy::{RbacPolicy, Rules};
use crate::domain::role::{Permission, Requirement, Rule};

/// A requirement names a role that isn't in the role set, or a permission that none of its roles
/// holds: most likely misspelt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnheldName {
    /// Method and pattern, where the requirement is of one route.
    route: Option<String>,
    name: Name,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Permission(Permission),
    Role(String),
}

impl UnheldName {
    /// The role or the permission.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.name {
            Name::Permission(permission) => permission.as_str(),
            Name::Role(role) => role,
        }
    }
}

impl fmt::Display for UnheldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(route) = &self.route {
            write!(f, "route {route}: ")?;
        }
        match &self.name {
            Name::Permission(permission) => write!(f, "no role holds {permission}"),
            Name::Role(role) => write!(f, "there is no role {role}"),
        }
    }
}

impl std::error::Error for UnheldName {}

/// Which names must be known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Names {
    /// All.
    Any,
    /// Those without which nobody can fulfil the requirement: a permission without alternative.
    /// Roles are compared by name, so a token or a key may have one that the set doesn't know.
    Needed,
}

impl RbacPolicy {
    pub(super) fn check_names(&self, names: Names) -> Result<(), UnheldName> {
        match &self.rules {
            Rules::Everywhere(requirement) => self.check_names_of(requirement, names, || None),
            Rules::ByRoute(table) => {
                table
                    .routes()
                    .try_for_each(|(method, pattern, requirement)| {
                        let route = || Some(format!("{method} {pattern}"));
                        self.check_names_of(requirement, names, route)
                    })
            }
        }
    }

    fn check_names_of(
        &self,
        requirement: &Requirement,
        names: Names,
        route: impl Fn() -> Option<String>,
    ) -> Result<(), UnheldName> {
        let is_held = |permission: &Permission| {
            self.roles
                .names()
                .any(|role| self.roles.grants(role, permission))
        };
        let unheld = match (requirement.rule(), names) {
            (Rule::Nothing | Rule::Authenticated, _) | (Rule::Role(_), Names::Needed) => None,
            (Rule::AnyOf(permissions), Names::Needed) if permissions.iter().any(is_held) => None,
            (Rule::AllOf(permissions) | Rule::AnyOf(permissions), _) => {
                let unheld = permissions.iter().find(|permission| !is_held(permission));
                unheld.cloned().map(Name::Permission)
            }
            // Without a set, roles are known by their names alone.
            (Rule::Role(role), Names::Any) => {
                let is_known = self.roles.names().next().is_none() || self.roles.contains(role);
                (!is_known).then(|| Name::Role(role.to_string()))
            }
        };
        unheld.map_or(Ok(()), |name| {
            let route = route();
            Err(UnheldName { route, name })
        })
    }
}
