//! A single permission.

use std::{fmt, sync::Arc};

/// A single permission, by name: `chat:write`.
///
/// A name consists of parts separated by colons, which are compared literally. In a *granted*
/// permission a part that is just `*` is a wildcard: for exactly one part in the middle, for one or
/// more parts at the end. So `documents:*` covers `documents:read` and `documents:read:own`, but
/// not `documents`; `*` covers everything. A `*` beside other characters (`doc*`) is literal. A
/// *required* permission is taken literally: `documents:*` is covered by itself and by `*`, but not
/// by any list of single permissions.
///
/// ```
/// use tollgate::role::Permission;
///
/// let granted = Permission::new("documents:*");
/// assert!(granted.covers(&Permission::new("documents:read")));
/// assert!(!granted.covers(&Permission::new("documents")));
/// assert!(!Permission::new("documents:read").covers(&granted));
/// ```
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

    /// Whether a grant of this permission covers `required`.
    #[must_use]
    pub fn covers(&self, required: &Self) -> bool {
        let mut granted = self.0.split(':').peekable();
        let mut wanted = required.0.split(':');
        while let Some(part) = granted.next() {
            let Some(asked) = wanted.next() else {
                return false;
            };
            let star = part == "*" && !asked.is_empty();
            if star && granted.peek().is_none() {
                return wanted.all(|asked| !asked.is_empty());
            }
            if !star && part != asked {
                return false;
            }
        }
        wanted.next().is_none()
    }

    /// Whether any part is just `*`.
    pub(super) fn is_pattern(&self) -> bool {
        self.0.split(':').any(|part| part == "*")
    }

    /// Whether the name looks intentional: every part is made of letters, digits and `._-`, or is
    /// just `*`.
    pub(super) fn is_well_formed(&self) -> bool {
        let spoken = |c: char| c.is_alphanumeric() || "._-".contains(c);
        let sound = |part: &str| part == "*" || (!part.is_empty() && part.chars().all(spoken));
        self.0.split(':').all(sound)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(granted: &str, required: &str) -> bool {
        Permission::new(granted).covers(&Permission::new(required))
    }

    #[test]
    fn a_star_stands_for_whole_parts() {
        for (granted, required) in [
            ("read", "read"),
            ("*", "read"),
            ("*", "a:b:c"),
            ("a:*", "a:b"),
            ("a:*", "a:b:c"),
            ("a:*:c", "a:b:c"),
            ("a:*", "a:*"),
            ("a:*", "a:*:c"),
            ("*:read", "documents:read"),
        ] {
            assert!(covers(granted, required), "{granted} covers {required}");
        }
        for (granted, required) in [
            ("read", "Read"),
            ("read", "read:own"),
            ("a:b", "a"),
            ("a:*", "a"),
            ("a:*", "ab"),
            ("a:*", "ab:c"),
            ("a:*:c", "a:b:b:c"),
            ("a:*:c", "a:c"),
            ("doc*", "documents"),
            ("a:b", "a:*"),
            ("a:*:*", "a:*"),
            ("*:read", "*"),
            ("*", ""),
            ("a:*", "a:"),
            ("a:*", "a:b:"),
            ("", "read"),
        ] {
            assert!(!covers(granted, required), "{granted} covers {required}");
        }
    }

    proptest::proptest! {
        /// What a role set includes may not depend on the way there.
        #[test]
        fn covering_is_transitive(
            a in "[ab*](:[ab*]){0,3}", b in "[ab*](:[ab*]){0,3}", c in "[ab*](:[ab*]){0,3}"
        ) {
            proptest::prop_assert!(covers(&a, &a));
            if covers(&a, &b) && covers(&b, &c) {
                proptest::prop_assert!(covers(&a, &c), "{} {} {}", a, b, c);
            }
        }
    }
}
