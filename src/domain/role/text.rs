//! Role sets as configuration.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::{Permission, RoleSet};

/// Why a configured role set is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRoles {
    /// The text is not of the expected form.
    #[error("roles: {0}")]
    Form(String),
    /// A role has no name.
    #[error("roles: a role without a name")]
    Nameless,
    /// A role extends one that doesn't exist.
    #[error("role {role}: extends {base}, which is not there")]
    UnknownBase {
        /// The role.
        role: String,
        /// What it extends.
        base: String,
    },
    /// A role extends itself, possibly through others.
    #[error("role {role}: extends itself")]
    Circle {
        /// The role.
        role: String,
    },
    /// A permission has an empty part, a `*` beside other characters, or a character that names
    /// can't have.
    #[error("role {role}: {permission:?} is no permission")]
    Permission {
        /// The role.
        role: String,
        /// What it is granted.
        permission: String,
    },
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRole {
    #[serde(default)]
    extends: Vec<String>,
    #[serde(default)]
    permissions: Vec<String>,
}

/// Roles by name; a duplicate name is an error, not resolved silently.
struct WrittenRoles(BTreeMap<String, WrittenRole>);

impl<'de> Deserialize<'de> for WrittenRoles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Roles;
        impl<'de> Visitor<'de> for Roles {
            type Value = WrittenRoles;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("roles by name")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<WrittenRoles, M::Error> {
                let mut roles = BTreeMap::new();
                while let Some((name, role)) = map.next_entry::<String, WrittenRole>()? {
                    if roles.contains_key(&name) {
                        return Err(M::Error::custom(format!("role {name}: twice")));
                    }
                    roles.insert(name, role);
                }
                Ok(WrittenRoles(roles))
            }
        }
        deserializer.deserialize_map(Roles)
    }
}

impl RoleSet {
    /// Parses a set from JSON: roles by name, each with what it `extends` and its `permissions`, in
    /// any order. `RoleSet` implements [`Deserialize`], so the same structure can be read from TOML
    /// or any other serde format.
    ///
    /// ```
    /// use tollgate::role::{Permission, RoleSet};
    ///
    /// let roles = RoleSet::from_json(
    ///     r#"{
    ///         "editor": {"extends": ["reader"], "permissions": ["documents:*"]},
    ///         "reader": {"permissions": ["documents:read", "faq:ask"]}
    ///     }"#,
    /// )?;
    /// assert!(roles.grants("editor", &Permission::new("faq:ask")));
    /// assert!(RoleSet::from_json(r#"{"reader": {"permissions": ["doc*"]}}"#).is_err());
    /// # Ok::<(), tollgate::role::InvalidRoles>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidRoles`].
    pub fn from_json(text: &str) -> Result<Self, InvalidRoles> {
        let written = serde_json::from_str::<WrittenRoles>(text);
        written
            .map_err(|error| InvalidRoles::Form(error.to_string()))?
            .try_into()
    }
}

impl<'de> Deserialize<'de> for RoleSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        WrittenRoles::deserialize(deserializer)?
            .try_into()
            .map_err(D::Error::custom)
    }
}

impl TryFrom<WrittenRoles> for RoleSet {
    type Error = InvalidRoles;

    fn try_from(WrittenRoles(mut waiting): WrittenRoles) -> Result<Self, InvalidRoles> {
        for (name, role) in &waiting {
            check(name, role, &waiting)?;
        }
        let mut set = Self::new();
        // Each round adds the roles whose bases are already in the set; a round that adds none
        // means a cycle.
        while !waiting.is_empty() {
            let ready: Vec<String> = waiting
                .iter()
                .filter(|(_, role)| role.extends.iter().all(|base| set.contains(base)))
                .map(|(name, _)| name.clone())
                .collect();
            if ready.is_empty() {
                let role = waiting.into_keys().next().unwrap_or_default();
                return Err(InvalidRoles::Circle { role });
            }
            for name in ready {
                let role = waiting.remove(&name).unwrap_or_default();
                set = set.add_role(&name, role.permissions.iter().map(String::as_str));
                for base in &role.extends {
                    set = set.add_role_extending(&name, base, []);
                }
            }
        }
        Ok(set)
    }
}

fn check(
    name: &str,
    role: &WrittenRole,
    all: &BTreeMap<String, WrittenRole>,
) -> Result<(), InvalidRoles> {
    if name.trim().is_empty() {
        return Err(InvalidRoles::Nameless);
    }
    if let Some(base) = role.extends.iter().find(|base| !all.contains_key(*base)) {
        return Err(InvalidRoles::UnknownBase {
            role: name.to_owned(),
            base: base.clone(),
        });
    }
    let unsound = |text: &&String| !Permission::new(text).is_well_formed();
    match role.permissions.iter().find(unsound) {
        None => Ok(()),
        Some(permission) => Err(InvalidRoles::Permission {
            role: name.to_owned(),
            permission: permission.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_made_set_can_be_written_down() {
        let written = r#"{
            "admin": {"extends": ["operator"], "permissions": ["users:manage", "configure"]},
            "operator": {"extends": ["viewer"], "permissions": ["write", "delete", "audit:view"]},
            "viewer": {"permissions": ["read"]}
        }"#;
        let ready_made = RoleSet::viewer_operator_admin();
        assert_eq!(RoleSet::from_json(written), Ok(ready_made.clone()));

        let toml = r#"
            viewer = { permissions = ["read"] }
            [operator]
            extends = ["viewer"]
            permissions = ["write", "delete", "audit:view"]
            [admin]
            extends = ["operator"]
            permissions = ["users:manage", "configure"]
        "#;
        assert_eq!(toml::from_str::<RoleSet>(toml).unwrap(), ready_made);
    }

    #[test]
    fn a_set_that_cannot_be_is_refused_by_name() {
        for (text, error) in [
            (
                r#"{"a": {"extends": ["b"]}}"#,
                "role a: extends b, which is not there",
            ),
            (
                r#"{"a": {"extends": ["b"]}, "b": {"extends": ["a"]}}"#,
                "role a: extends itself",
            ),
            (r#"{"a": {"extends": ["a"]}}"#, "role a: extends itself"),
            (
                r#"{"a": {"permissions": ["x:"]}}"#,
                "role a: \"x:\" is no permission",
            ),
            (
                r#"{"a": {"permissions": ["x y"]}}"#,
                "role a: \"x y\" is no permission",
            ),
            (
                r#"{"a": {"permissions": [""]}}"#,
                "role a: \"\" is no permission",
            ),
            (r#"{" ": {}}"#, "roles: a role without a name"),
        ] {
            let refused = RoleSet::from_json(text).unwrap_err();
            assert_eq!(refused.to_string(), error);
        }
        for text in [
            r#"{"a": {}, "a": {"permissions": ["*"]}}"#,
            r#"{"a": {"permission": ["x"]}}"#,
            r#"{"a": ["x"]}"#,
            "[]",
            "",
        ] {
            let refused = RoleSet::from_json(text);
            assert!(matches!(refused, Err(InvalidRoles::Form(_))), "{text}");
        }
    }
}
