//! Users and their logins, as they are stored.

use std::{collections::BTreeMap, time::Duration};

use super::{
    SessionId, UserId,
    clock::{Timestamp, whole_second_up},
    has_nul,
};

/// The most attributes of a user.
const ATTRIBUTES_MAX: usize = 128;
/// Their names and values together, in bytes: each login of the user that is in memory has them.
const ATTRIBUTES_LENGTH_MAX: usize = 32_768;

fn are_storable(roles: &[String], attributes: &BTreeMap<String, String>) -> bool {
    let attributes = attributes.iter().flat_map(|(name, value)| [name, value]);
    !roles.iter().chain(attributes).any(|text| has_nul(text))
}

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
    /// Grows by one with every change of the password, and with every update that
    /// [ends the logins](UserUpdate::logins_end_at): a login that began before can't be opened any more.
    pub password_version: u64,
    /// Names in the application's [`RoleSet`](super::role::RoleSet).
    pub roles: Vec<String>,
    /// What the application keeps of a user: names, flags. At most 128, of 32,768 bytes together.
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

    /// Whether every store can keep its texts: none has a NUL in it. Where one has, a store fails with
    /// [`Refused`](crate::store::StoreErrorKind::Refused).
    #[must_use]
    pub fn is_storable(&self) -> bool {
        !has_nul(&self.email) && are_storable(&self.roles, &self.attributes)
    }

    /// Whether it may be stored: its attributes are within their bounds.
    pub(crate) fn attributes_fit(&self) -> bool {
        let length = |(name, value): (&String, &String)| name.len().saturating_add(value.len());
        self.attributes.len() <= ATTRIBUTES_MAX
            && self.attributes.iter().map(length).sum::<usize>() <= ATTRIBUTES_LENGTH_MAX
    }

    /// Whether it may not be stored as `change` has made it: a store fails with [`Full`](crate::store::StoreErrorKind::Full) then.
    /// One that had more attributes before there was a bound may still be shut out.
    #[must_use]
    pub fn is_overfilled_by(&self, change: &UserUpdate) -> bool {
        !change.attributes.is_empty() && !self.attributes_fit()
    }

    /// Changes what `change` names, by the rules that hold in every store. Where
    /// [logins end](UserUpdate::logins_end_at) by it, those of the store end in the same step.
    pub fn apply(&mut self, change: UserUpdate) {
        if let Some(roles) = change.roles {
            self.roles = roles;
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

/// The form in which addresses are compared and stored: trimmed, and in lower case.
#[must_use]
pub fn normal_email(email: &str) -> String {
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
    /// Ends every login of the user in the same step, as a new password does: those that are kept in the same store end
    /// at this moment, and by the [password version](UserRecord::password_version), which grows, those of another store
    /// are over too. `None`: they stay.
    pub logins_end_at: Option<Timestamp>,
}

impl UserUpdate {
    /// Whether every store can keep its texts, as [`UserRecord::is_storable`].
    #[must_use]
    pub fn is_storable(&self) -> bool {
        are_storable(self.roles.as_deref().unwrap_or_default(), &self.attributes)
    }
}

/// One login of one user: the family of all tokens that were issued for it.
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
    /// How often its refresh token was exchanged: the one of this generation is good, those before are used up.
    pub generation: u64,
    /// When its refresh token was last exchanged.
    pub refreshed_at: Option<Timestamp>,
    /// The user's password version when it was opened, in a store that keeps no users, and so can't end logins with
    /// a new password: the login is over as soon as the user has another version. `None` in a store that can.
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

    /// Whether it goes on at that moment.
    #[must_use]
    pub fn is_open(&self, at: Timestamp) -> bool {
        self.ended_at.is_none() && self.expires_at > at
    }

    /// Whether it was opened with a password that the user doesn't have any more.
    pub(crate) fn is_of_another_password(&self, user: &UserRecord) -> bool {
        let opened_with = self.password_version;
        opened_with.is_some_and(|version| version != user.password_version)
    }

    /// Which of the user's `others` are forgotten when this login is opened, where `logins_max` may be kept: first those that are
    /// over, then those that end first. This one stays, however soon it ends.
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

    /// Exchanges a refresh token, by the rules that hold in every store: a store makes the step atomic and
    /// durable. What it must write has changed in `self` when the outcome is `Exchanged` or `Reused`.
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
            // The longest that a login may go on was made shorter since: no token that is good could be issued.
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

/// A refresh token that wants to be exchanged for the next of its login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshExchange {
    /// Whose it says to be.
    pub user: UserId,
    /// Its generation.
    pub generation: u64,
    /// When it was presented.
    pub at: Timestamp,
    /// How much longer the login goes on from then.
    pub lifetime: Duration,
    /// How long the login goes on at most, counted from its beginning.
    pub login_lifetime_max: Duration,
    /// For how long after an exchange the token that was exchanged is taken once more; zero for never.
    pub grace: Duration,
}

impl RefreshExchange {
    /// In whole seconds, as tokens count.
    fn end_of(&self, session: &SessionRecord) -> Timestamp {
        let end = |from: Timestamp, length| {
            whole_second_up(from.saturating_add(length).unwrap_or(Timestamp::MAX))
        };
        end(self.at, self.lifetime).min(end(session.created_at, self.login_lifetime_max))
    }

    /// The immediate parent, and no older one. Two processes' clocks may differ by less than the grace, either way.
    fn is_within_grace(&self, session: &SessionRecord) -> bool {
        let is_parent = self.generation.checked_add(1) == Some(session.generation);
        is_parent
            && session.refreshed_at.is_some_and(|exchanged| {
                self.at.duration_since(exchanged).unsigned_abs() < self.grace
            })
    }
}

/// What came of a [`RefreshExchange`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefreshOutcome {
    /// It was the good one, and is used up now: the login is of the next generation.
    Exchanged(SessionRecord),
    /// It was exchanged a moment ago, and is within its grace. Nothing was changed; the login is as it stands.
    Repeated(SessionRecord),
    /// It was exchanged before: somebody has it who shouldn't. The login was ended for it.
    Reused,
    /// The login was ended before.
    Ended,
    /// The login's time is over.
    Expired {
        /// Since when.
        at: Timestamp,
    },
    /// There is no such login, or it is another user's.
    Unknown,
}
