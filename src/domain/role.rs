//! Permissions, roles, and which role holds which permission.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// One thing that somebody may do, by name: `chat:write`. Compared as it is, letter by letter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permission(Arc<str>);

impl Permission {
    /// The permission of that name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Permission {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl fmt::Debug for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permission({:?})", self.as_str())
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The roles that exist, and what each may do. A role that isn't in the set may do nothing.
///
/// ```
/// use tollgate::role::{Permission, RoleSet};
///
/// let roles = RoleSet::new()
///     .add_role("reader", ["documents:read"])
///     .add_role_extending("writer", "reader", ["documents:write"]);
/// assert!(roles.grants("writer", &Permission::new("documents:read")));
/// assert!(!roles.grants("reader", &Permission::new("documents:write")));
/// assert!(!roles.grants("nobody", &Permission::new("documents:read")));
/// ```
#[derive(Clone, Debug, Default)]
pub struct RoleSet {
    roles: Arc<BTreeMap<Box<str>, BTreeSet<Permission>>>,
}

impl RoleSet {
    /// No roles.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The ready-made set: viewer (`read`) ⊂ operator (`write`, `delete`, `audit:view`) ⊂ admin
    /// (`users:manage`, `configure`).
    #[must_use]
    pub fn viewer_operator_admin() -> Self {
        Self::new()
            .add_role("viewer", ["read"])
            .add_role_extending("operator", "viewer", ["write", "delete", "audit:view"])
            .add_role_extending("admin", "operator", ["users:manage", "configure"])
    }

    /// Adds a role with its permissions, or more permissions to a role.
    #[must_use]
    pub fn add_role<'a>(
        mut self,
        role: &str,
        permissions: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let granted = Arc::make_mut(&mut self.roles)
            .entry(role.into())
            .or_default();
        granted.extend(permissions.into_iter().map(Permission::new));
        self
    }

    /// Adds a role that may do all that `base` may by now, and `permissions`.
    #[must_use]
    pub fn add_role_extending<'a>(
        mut self,
        role: &str,
        base: &str,
        permissions: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let inherited = self.roles.get(base).cloned().unwrap_or_default();
        Arc::make_mut(&mut self.roles)
            .entry(role.into())
            .or_default()
            .extend(inherited);
        self.add_role(role, permissions)
    }

    /// Whether there is such a role.
    #[must_use]
    pub fn contains(&self, role: &str) -> bool {
        self.roles.contains_key(role)
    }

    /// Whether `role` holds `permission`.
    #[must_use]
    pub fn grants(&self, role: &str, permission: &Permission) -> bool {
        self.roles
            .get(role)
            .is_some_and(|granted| granted.contains(permission))
    }

    /// Whether everything that `inner` may do, `outer` may too: whether somebody with `outer` may hand out `inner`.
    #[must_use]
    pub fn includes(&self, outer: &str, inner: &str) -> bool {
        match (self.roles.get(outer), self.roles.get(inner)) {
            (Some(outer), Some(inner)) => inner.is_subset(outer),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_made_roles_contain_each_other() {
        let roles = RoleSet::viewer_operator_admin();
        assert!(roles.includes("admin", "operator") && roles.includes("operator", "viewer"));
        assert!(!roles.includes("viewer", "operator"));
        assert!(!roles.includes("admin", "unknown") && !roles.includes("unknown", "viewer"));
        assert!(!roles.grants("operator", &Permission::new("users:manage")));
        assert!(
            !roles.grants("admin", &Permission::new("Read")),
            "names are exact"
        );
    }
}
