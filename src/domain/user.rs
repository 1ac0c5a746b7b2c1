//! Users and their logins, as they are stored.

use std::collections::BTreeMap;

use super::{SessionId, UserId, clock::Timestamp};

/// A user as stored: no clear password, but its hash, which [`Debug`] leaves out.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserRecord {
    /// Who.
    pub id: UserId,
    /// The address, trimmed and in lower case: unique.
    pub email: String,
    /// The Argon2id hash in PHC form.
    pub password_hash: String,
    /// Grows by one with every change of the password: a login that began with the old one can't be opened any more.
    pub password_version: u64,
    /// Names in the application's [`RoleSet`](super::role::RoleSet).
    pub roles: Vec<String>,
    /// What the application keeps of a user: names, flags.
    pub attributes: BTreeMap<String, String>,
    /// Whether the user may log in and use what was issued.
    pub active: bool,
    /// Since when.
    pub created_at: Timestamp,
}

impl UserRecord {
    /// A new, active user with no roles and no attributes.
    #[must_use]
    pub fn new(id: UserId, email: &str, password_hash: String, created_at: Timestamp) -> Self {
        Self {
            id,
            email: normal_email(email),
            password_hash,
            password_version: 0,
            roles: Vec::new(),
            attributes: BTreeMap::new(),
            active: true,
            created_at,
        }
    }

    /// Changes what `change` names.
    pub(crate) fn apply(&mut self, change: UserUpdate) {
        if let Some(roles) = change.roles {
            self.roles = roles;
        }
        if let Some(active) = change.active {
            self.active = active;
        }
        self.attributes.extend(change.attributes);
    }
}

impl std::fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserRecord")
            .field("id", &self.id)
            .field("roles", &self.roles)
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

/// The form in which addresses are compared and stored.
#[must_use]
pub(crate) fn normal_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// What to change of a user; what is `None` stays as it is, and is not rewritten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserUpdate {
    /// New roles.
    pub roles: Option<Vec<String>>,
    /// Whether the user may log in.
    pub active: Option<bool>,
    /// Attributes to set; others stay.
    pub attributes: BTreeMap<String, String>,
}

/// One login of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionRecord {
    /// Which login: the `sid` claim of its tokens.
    pub id: SessionId,
    /// Whose.
    pub user: UserId,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when nothing issued for it is good any more.
    pub expires_at: Timestamp,
    /// When it was ended before its time.
    pub ended_at: Option<Timestamp>,
}

impl SessionRecord {
    /// A login that has not ended.
    #[must_use]
    pub fn new(id: SessionId, user: UserId, created_at: Timestamp, expires_at: Timestamp) -> Self {
        Self {
            id,
            user,
            created_at,
            expires_at,
            ended_at: None,
        }
    }
}
