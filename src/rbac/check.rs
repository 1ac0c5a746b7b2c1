//! Whether anybody could ever fulfil what is required.

use std::fmt;

use super::policy::{RbacPolicy, Rules};
use crate::domain::role::{Permission, Requirement, Rule};

/// A requirement names a role that isn't in the role set, or a permission that none of its roles
/// holds: most likely misspelt, and refused to everybody.
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

impl RbacPolicy {
    pub(super) fn check_names(&self) -> Result<(), UnheldName> {
        match &self.rules {
            Rules::Everywhere(requirement) => self.check_names_of(requirement, || None),
            Rules::ByRoute(table) => {
                table
                    .routes()
                    .try_for_each(|(method, pattern, requirement)| {
                        self.check_names_of(requirement, || Some(format!("{method} {pattern}")))
                    })
            }
        }
    }

    fn check_names_of(
        &self,
        requirement: &Requirement,
        route: impl Fn() -> Option<String>,
    ) -> Result<(), UnheldName> {
        let is_held = |permission: &Permission| {
            self.roles
                .names()
                .any(|role| self.roles.grants(role, permission))
        };
        let unheld = match requirement.rule() {
            Rule::Nothing | Rule::Authenticated => None,
            Rule::AllOf(permissions) | Rule::AnyOf(permissions) => {
                let unheld = permissions.iter().find(|permission| !is_held(permission));
                unheld.cloned().map(Name::Permission)
            }
            // Without a set, roles are known by their names alone.
            Rule::Role(role) => {
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
