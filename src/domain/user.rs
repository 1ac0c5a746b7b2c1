//! Users and their logins, as they are stored.

use std::{collections::BTreeMap, time::Duration};

use super::{
    SessionId, UserId,
    clock::{Timestamp, whole_second_up},
    has_nul, is_deceptive,
};

/// The most attributes of a user.
const ATTRIBUTES_MAX: usize = 128;
/// The total size of their names and values, in bytes; every cached login of the user holds a copy.
const ATTRIBUTES_LENGTH_MAX: usize = 32_768;

/// The longest [`short_name`], in characters.
const NAME_LENGTH_MAX: usize = 200;

/// A name for people to read, without the blanks around it. `None` unless it has 1 to 200
/// characters, none of which is invisible or changes the direction of writing: a name is shown in
/// lists, logs and terminals.
///
/// ```
/// use tollgate::user::short_name;
///
/// assert_eq!(short_name(" Ann Smith "), Some("Ann Smith"));
/// assert_eq!(short_name("Ann\nadmin logged in"), None);
/// assert_eq!(short_name("Ann\u{202e}nimda"), None);
/// assert_eq!(short_name(&"a".repeat(201)), None);
/// assert_eq!(short_name("  "), None);
/// ```
#[must_use]
pub fn short_name(text: &str) -> Option<&str> {
    let text = text.trim();
    // No further than a name can reach: the text may be a megabyte.
    let length = text.chars().take(NAME_LENGTH_MAX.saturating_add(1)).count();
    let fits = (1..=NAME_LENGTH_MAX).contains(&length) && !text.contains(is_deceptive);
    fits.then_some(text)
}

fn are_storable(roles: &[String], attributes: &BTreeMap<String, String>) -> bool {
    let attributes = attributes.iter().flat_map(|(name, value)| [name, value]);
    !roles.iter().chain(attributes).any(|text| has_nul(text))
}

/// A user as stored. Holds the password's hash, which [`Debug`] omits, never the password.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserRecord {
    /// The user's id.
    pub id: UserId,
    /// The address, trimmed and in lower case; unique.
    pub email: String,
    /// The Argon2id hash in PHC form.
    pub password_hash: String,
    /// Incremented with every change of the password, and with every update that [ends the
    /// logins](UserUpdate::logins_end_at): logins that began under an earlier version are no longer
    /// accepted.
    pub password_version: u64,
    /// Names in the application's [`RoleSet`](super::role::RoleSet).
    pub roles: Vec<String>,
    /// The application's data about the user: names, flags. At most 128 entries, of 32,768 bytes in
    /// all.
    pub attributes: BTreeMap<String, String>,
    /// Whether the user may log in and use issued credentials.
    pub active: bool,
    /// When it was created.
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

    /// Whether every store can keep its texts: none contains a NUL. If one does, a store fails with
    /// [`Refused`](crate::store::StoreErrorKind::Refused).
    #[must_use]
    pub fn is_storable(&self) -> bool {
        !has_nul(&self.email) && are_storable(&self.roles, &self.attributes)
    }

    /// Whether its attributes are within their limits.
    pub(crate) fn attributes_fit(&self) -> bool {
        let length = |(name, value): (&String, &String)| name.len().saturating_add(value.len());
        self.attributes.len() <= ATTRIBUTES_MAX
            && self.attributes.iter().map(length).sum::<usize>() <= ATTRIBUTES_LENGTH_MAX
    }

    /// Whether `change` has pushed its attributes over the limits; then a store fails with
    /// [`Full`](crate::store::StoreErrorKind::Full). A record that exceeded the limits before they
    /// existed can still be changed otherwise, say deactivated.
    #[must_use]
    pub fn is_overfilled_by(&self, change: &UserUpdate) -> bool {
        !change.attributes.is_empty() && !self.attributes_fit()
    }

    /// Whether the user, as stored before the change, meets what `change` is
    /// [conditional on](UserUpdate::only_if); if not, a store changes nothing and fails with
    /// [`NotFound`](crate::store::StoreErrorKind::NotFound).
    #[must_use]
    pub fn meets_condition_of(&self, change: &UserUpdate) -> bool {
        match &change.only_if {
            None => true,
            Some(UserCondition::Unchanged(read)) => {
                let [stored, read] = [self, &**read].map(|user| {
                    let data = (&user.roles, &user.attributes);
                    (user.active, &user.email, data)
                });
                stored == read
            }
            Some(UserCondition::AttributesAtMost { prefix, max }) => {
                let counted = |name: &&String| name.starts_with(prefix.as_str());
                let kept = self.attributes.keys().filter(counted).count();
                let names = change.attributes.keys().filter(counted);
                let added = names.filter(|name| !self.attributes.contains_key(*name));
                kept.saturating_add(added.count()) <= *max
            }
        }
    }

    /// Applies `change`, by the rules of every store. If it [ends
    /// logins](UserUpdate::logins_end_at), those in the store end in the same step.
    pub fn apply(&mut self, change: UserUpdate) {
        if let Some(roles) = change.roles {
            self.roles = roles;
        }
        if let Some(email) = change.email {
            self.email = normal_email(&email);
        }
        if let Some(active) = change.active {
            self.active = active;
        }
        self.attributes.extend(change.attributes);
        if change.logins_end_at.is_some() {
            self.password_version = self.password_version.saturating_add(1);
        }
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

/// The form in which addresses are compared and stored: trimmed and in lower case.
#[must_use]
pub fn normal_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// The changes to a user. `None` leaves a field as it is, and it is not rewritten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserUpdate {
    /// New roles.
    pub roles: Option<Vec<String>>,
    /// Another address. A store keeps it in its [normal form](normal_email), and fails with
    /// [`Conflict`](crate::store::StoreErrorKind::Conflict) where it is another user's.
    pub email: Option<String>,
    /// Whether the user may log in.
    pub active: Option<bool>,
    /// Attributes to set; others are kept.
    pub attributes: BTreeMap<String, String>,
    /// Ends every login of the user in the same step, as a new password does: logins in the same
    /// store end at this moment, and those in another store become invalid because the [password
    /// version](UserRecord::password_version) is incremented. `None`: logins continue.
    pub logins_end_at: Option<Timestamp>,
    /// What must hold of the user in the same step, or nothing is changed. `None`: nothing need.
    pub only_if: Option<UserCondition>,
}

/// What must hold of a user for a [`UserUpdate`] to be made. A store checks it in the step of the
/// change ([`UserRecord::meets_condition_of`]), so no other change comes in between, in any
/// process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UserCondition {
    /// The address, the roles, the attributes and `active` are as in this record, which was read
    /// before. Logins and passwords don't count, as they don't change what was decided by it.
    Unchanged(Box<UserRecord>),
    /// With the change, the user has at most `max` attributes whose name begins with `prefix`. A
    /// user who has more is refused even a change that adds none.
    AttributesAtMost {
        /// What the names begin with.
        prefix: String,
        /// The most attributes of such a name.
        max: usize,
    },
}

impl UserUpdate {
    /// Whether every store can keep its texts, like [`UserRecord::is_storable`].
    #[must_use]
    pub fn is_storable(&self) -> bool {
        !self.email.as_deref().is_some_and(has_nul)
            && are_storable(self.roles.as_deref().unwrap_or_default(), &self.attributes)
    }
}

/// One login of one user: the family of all tokens that were issued for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionRecord {
    /// The login's id: the `sid` claim of its tokens.
    pub id: SessionId,
    /// The user.
    pub user: UserId,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it expires, along with everything issued for it.
    pub expires_at: Timestamp,
    /// When it was ended early, if it was.
    pub ended_at: Option<Timestamp>,
    /// How often its refresh token was exchanged: the token of this generation is valid, earlier
    /// ones are used up.
    pub generation: u64,
    /// When its refresh token was last exchanged.
    pub refreshed_at: Option<Timestamp>,
    /// The user's password version when the login was opened, recorded by a store that keeps no
    /// users and so can't end logins on a password change: the login ends as soon as the user's
    /// version differs. `None` in a store that keeps users.
    pub password_version: Option<u64>,
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
            generation: 0,
            refreshed_at: None,
            password_version: None,
        }
    }

    /// Whether it is open at that moment.
    #[must_use]
    pub fn is_open(&self, at: Timestamp) -> bool {
        self.ended_at.is_none() && self.expires_at > at
    }

    /// Whether it was opened with a password that the user has since changed.
    pub(crate) fn is_of_another_password(&self, user: &UserRecord) -> bool {
        let opened_with = self.password_version;
        opened_with.is_some_and(|version| version != user.password_version)
    }

    /// Which of the user's `others` are deleted when this login is opened and at most `logins_max`
    /// are kept: first those that are over, then those that end soonest. This login always stays.
    #[must_use]
    pub fn make_room<'a>(
        &self,
        others: impl IntoIterator<Item = &'a Self>,
        logins_max: u32,
    ) -> Vec<SessionId> {
        let others_max = usize::try_from(logins_max.saturating_sub(1)).unwrap_or(usize::MAX);
        let mut others: Vec<&Self> = others.into_iter().collect();
        let too_many = others.len().saturating_sub(others_max);
        if too_many == 0 {
            return Vec::new();
        }
        let at = self.created_at;
        others.sort_unstable_by_key(|login| (login.is_open(at), login.expires_at, &login.id));
        let leave = others.into_iter().take(too_many);
        leave.map(|login| login.id.clone()).collect()
    }

    /// Exchanges a refresh token, by the rules of every store; the store makes the step atomic and
    /// durable. If the outcome is `Exchanged` or `Reused`, `self` has changed and must be written.
    pub fn exchange(&mut self, exchange: &RefreshExchange) -> RefreshOutcome {
        if self.user != exchange.user {
            return RefreshOutcome::Unknown;
        }
        if self.ended_at.is_some() {
            return RefreshOutcome::Ended;
        }
        if self.expires_at <= exchange.at {
            return RefreshOutcome::Expired {
                at: self.expires_at,
            };
        }
        if self.generation == exchange.generation
            && let Some(next) = self.generation.checked_add(1)
        {
            let end = exchange.end_of(self);
            // The maximum lifetime of logins was shortened since: no valid token could be issued.
            if end <= exchange.at {
                return RefreshOutcome::Expired { at: end };
            }
            self.generation = next;
            self.refreshed_at = Some(exchange.at);
            self.expires_at = end;
            return RefreshOutcome::Exchanged(self.clone());
        }
        if exchange.is_within_grace(self) {
            return RefreshOutcome::Repeated(self.clone());
        }
        self.ended_at = Some(exchange.at);
        RefreshOutcome::Reused
    }
}

/// A request to exchange a refresh token for the login's next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshExchange {
    /// The user that the token names.
    pub user: UserId,
    /// Its generation.
    pub generation: u64,
    /// When it was presented.
    pub at: Timestamp,
    /// How long the login continues from then.
    pub lifetime: Duration,
    /// The maximum lifetime of a login, counted from its start.
    pub login_lifetime_max: Duration,
    /// How long after an exchange the exchanged token is accepted again; zero for never.
    pub grace: Duration,
}

impl RefreshExchange {
    /// Rounded up to whole seconds, because tokens count in seconds.
    fn end_of(&self, session: &SessionRecord) -> Timestamp {
        let end = |from: Timestamp, length| {
            whole_second_up(from.saturating_add(length).unwrap_or(Timestamp::MAX))
        };
        end(self.at, self.lifetime).min(end(session.created_at, self.login_lifetime_max))
    }

    /// Only the immediate predecessor. The clocks of two processes may differ either way, by less
    /// than the grace period.
    fn is_within_grace(&self, session: &SessionRecord) -> bool {
        let is_parent = self.generation.checked_add(1) == Some(session.generation);
        is_parent
            && session.refreshed_at.is_some_and(|exchanged| {
                self.at.duration_since(exchanged).unsigned_abs() < self.grace
            })
    }
}

/// The result of a [`RefreshExchange`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefreshOutcome {
    /// The token was valid, and is now used up: the login is of the next generation.
    Exchanged(SessionRecord),
    /// The token was exchanged a moment ago, within the grace period. Nothing was changed; here is
    /// the login as it is.
    Repeated(SessionRecord),
    /// The token was exchanged before, so it has probably been stolen. The login was ended for it.
    Reused,
    /// The login had already been ended.
    Ended,
    /// The login has expired.
    Expired {
        /// When it expired.
        at: Timestamp,
    },
    /// There is no such login, or it belongs to another user.
    Unknown,
}
