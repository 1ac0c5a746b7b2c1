//! Which role holds which permission.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Permission;

/// The roles that exist, and what each of them may do. A role that isn't in the set may do nothing.
///
/// ```
/// use tollgate::role::{Permission, RoleSet};
///
/// let roles = RoleSet::new()
///     .add_role("reader", ["documents:read"])
///     .add_role_extending("editor", "reader", ["documents:*"]);
/// assert!(roles.grants("editor", &Permission::new("documents:write")));
/// assert!(!roles.grants("reader", &Permission::new("documents:write")));
/// assert!(!roles.grants("nobody", &Permission::new("documents:read")));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleSet {
    roles: Arc<BTreeMap<Box<str>, Grants>>,
}

/// What a role was granted: exact names and patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Grants {
    names: BTreeSet<Permission>,
    patterns: BTreeSet<Permission>,
    /// The roles that it was declared to extend, directly or indirectly.
    extends: BTreeSet<Box<str>>,
}

impl Grants {
    fn add(&mut self, granted: Permission) {
        let place = if granted.is_pattern() {
            &mut self.patterns
        } else {
            &mut self.names
        };
        place.insert(granted);
    }

    fn add_all(&mut self, others: &Self) {
        self.names.extend(others.names.iter().cloned());
        self.patterns.extend(others.patterns.iter().cloned());
        self.extends.extend(others.extends.iter().cloned());
    }

    /// The grant that covers `required`.
    fn covering(&self, required: &Permission) -> Option<&Permission> {
        let by_name = self.names.get(required);
        by_name.or_else(|| self.patterns.iter().find(|grant| grant.covers(required)))
    }

    fn iter(&self) -> impl Iterator<Item = &Permission> {
        self.names.iter().chain(&self.patterns)
    }
}

impl RoleSet {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A ready-made set: viewer (`read`) ⊂ operator (`write`, `delete`, `audit:view`) ⊂ admin
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
        for permission in permissions {
            granted.add(Permission::new(permission));
        }
        self
    }

    /// Adds a role that has `permissions` and everything that `base` has at this point.
    #[must_use]
    pub fn add_role_extending<'a>(
        mut self,
        role: &str,
        base: &str,
        permissions: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut inherited = self.roles.get(base).cloned().unwrap_or_default();
        inherited.extends.insert(base.into());
        Arc::make_mut(&mut self.roles)
            .entry(role.into())
            .or_default()
            .add_all(&inherited);
        self.add_role(role, permissions)
    }

    /// Whether there is such a role.
    #[must_use]
    pub fn contains(&self, role: &str) -> bool {
        self.roles.contains_key(role)
    }

    /// The names of the roles, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(AsRef::as_ref)
    }

    /// Whether `role` holds `permission`.
    #[must_use]
    pub fn grants(&self, role: &str, permission: &Permission) -> bool {
        self.grant(role, permission).is_some()
    }

    /// The grant of `role` that covers `permission`.
    #[must_use]
    pub fn grant(&self, role: &str, permission: &Permission) -> Option<&Permission> {
        self.roles.get(role)?.covering(permission)
    }

    /// Whether a holder of `outer` may grant `inner` to others: `outer` is `inner` or was declared
    /// to extend it, and may do everything that `inner` may. Equal permissions alone are not
    /// enough, because requirements may name roles too.
    #[must_use]
    pub fn includes(&self, outer: &str, inner: &str) -> bool {
        match (self.roles.get(outer), self.roles.get(inner)) {
            (Some(grants), Some(wanted)) => {
                let declared = outer == inner || grants.extends.contains(inner);
                declared && wanted.iter().all(|grant| grants.covering(grant).is_some())
            }
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

    #[test]
    fn a_role_is_handed_out_by_those_that_extend_it_only() {
        let roles = RoleSet::new()
            .add_role("user", ["call"])
            .add_role_extending("admin", "user", [])
            .add_role("twin", ["call"])
            .add_role("marker", []);
        assert!(roles.includes("admin", "user") && roles.includes("user", "user"));
        assert!(
            !roles.includes("user", "admin"),
            "with the same permissions"
        );
        assert!(!roles.includes("user", "twin") && !roles.includes("user", "marker"));
    }

    #[test]
    fn who_holds_single_permissions_may_not_hand_out_all_of_them() {
        let roles = RoleSet::new()
            .add_role("lister", ["documents:read", "documents:write"])
            .add_role_extending("owner", "lister", ["documents:*"])
            .add_role_extending("root", "owner", ["*"]);
        assert!(roles.includes("owner", "lister") && roles.includes("root", "lister"));
        assert!(!roles.includes("lister", "owner") && !roles.includes("owner", "root"));
        let delete = Permission::new("documents:delete");
        assert_eq!(
            roles.grant("owner", &delete).map(Permission::as_str),
            Some("documents:*")
        );
    }
}
