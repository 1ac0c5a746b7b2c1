//! The entries of the audit log: who did what, from where, and with what outcome.

mod share;

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use serde::{Serialize, Serializer};

pub(crate) use self::share::Share;
use super::{KeyId, RequestId, clock::Timestamp, masked::masked_id};

/// The longest name of an action that is kept, in bytes.
const ACTION_LENGTH_MAX: usize = 64;
/// The longest text of any other kind that is kept, in bytes.
const TEXT_LENGTH_MAX: usize = 512;

/// What was done, by a stable name: `login`, `key.create`. Applications add their own names.
///
/// ```
/// use tollgate::audit::AuditAction;
///
/// assert_eq!(AuditAction::KEY_CREATE.as_str(), "key.create");
/// assert_eq!(AuditAction::new("config.update"), AuditAction::named("config.update".to_owned()));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AuditAction(Cow<'static, str>);

impl AuditAction {
    /// A credential was presented, or should have been.
    pub const AUTHENTICATE: Self = Self::new("authenticate");
    /// A user logged in with a password.
    pub const LOGIN: Self = Self::new("login");
    /// A login was ended.
    pub const LOGOUT: Self = Self::new("logout");
    /// A login's tokens were renewed.
    pub const REFRESH: Self = Self::new("refresh");
    /// A user was created.
    pub const USER_CREATE: Self = Self::new("user.create");
    /// A user's roles, address, state or attributes were changed.
    pub const USER_UPDATE: Self = Self::new("user.update");
    /// A user was deleted.
    pub const USER_DELETE: Self = Self::new("user.delete");
    /// A user's password was replaced.
    pub const PASSWORD_CHANGE: Self = Self::new("user.password");
    /// A key was created.
    pub const KEY_CREATE: Self = Self::new("key.create");
    /// A key was replaced by a new one.
    pub const KEY_ROTATE: Self = Self::new("key.rotate");
    /// A key's settings were changed.
    pub const KEY_UPDATE: Self = Self::new("key.update");
    /// A key was disabled: it is refused until it is enabled.
    pub const KEY_DISABLE: Self = Self::new("key.disable");
    /// A disabled key was enabled.
    pub const KEY_ENABLE: Self = Self::new("key.enable");
    /// A key was ended.
    pub const KEY_REVOKE: Self = Self::new("key.revoke");
    /// A key was ended and deleted.
    pub const KEY_DELETE: Self = Self::new("key.delete");

    /// An action of the application.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// The action with this name, cut off after 64 bytes.
    #[must_use]
    pub fn named(mut name: String) -> Self {
        cut(&mut name, ACTION_LENGTH_MAX);
        Self(Cow::Owned(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether anyone with a credential can do it as often as they like, without changing anything
    /// of others.
    fn is_anybody_s(&self) -> bool {
        let all = [Self::AUTHENTICATE, Self::LOGIN, Self::LOGOUT, Self::REFRESH];
        all.contains(self)
    }
}

impl fmt::Debug for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditAction({})", self.0)
    }
}

impl Serialize for AuditAction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuditOutcome {
    /// It was done.
    Success,
    /// It was not allowed.
    Refused,
    /// It could not be done, or it isn't known whether it was.
    Failed,
}

impl AuditOutcome {
    /// A stable name, in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// The outcome with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Success, Self::Refused, Self::Failed];
        all.into_iter().find(|outcome| outcome.as_str() == name)
    }
}

impl Serialize for AuditOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// An action, as the code that performs it knows it. Within a request, the caller, address and
/// route are added when it is recorded. It must contain no secret.
#[derive(Clone, Debug)]
#[must_use = "an act that isn't recorded leaves no trace"]
pub struct Act {
    pub(crate) action: AuditAction,
    pub(crate) outcome: AuditOutcome,
    pub(crate) actor: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) reason: Option<String>,
}

impl Act {
    /// Something that was done.
    pub const fn new(action: AuditAction) -> Self {
        Self {
            action,
            outcome: AuditOutcome::Success,
            actor: None,
            target: None,
            reason: None,
        }
    }

    /// How it ended; [`AuditOutcome::Success`] unless set.
    pub const fn outcome(mut self, outcome: AuditOutcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// Who did it; the caller of the request unless set.
    pub fn actor(mut self, actor: &str) -> Self {
        self.actor = Some(bounded(actor));
        self
    }

    /// To whom or to what: the id of a user or a key. Of anything that looks like a secret (a key
    /// may be looked up by its secret) only the first eight characters are kept.
    pub fn target(mut self, target: &str) -> Self {
        self.target = Some(bounded(&masked_id(target)));
        self
    }

    /// To whom, by a name that was found in the store: it is no secret, whatever it looks like.
    pub(crate) fn on(mut self, found: &str) -> Self {
        self.target = Some(bounded(found));
        self
    }

    /// Why it ended as it did, or what was changed.
    pub fn because(mut self, reason: &str) -> Self {
        self.reason = Some(bounded(reason));
        self
    }
}

/// One event, as recorded. Texts are cut off after 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AuditEvent {
    /// When it happened.
    pub at: Timestamp,
    /// Who did it: the user or the owner of the key; `None` if unknown.
    pub actor: Option<String>,
    /// The key that was used, if any.
    pub key: Option<KeyId>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// What was done.
    pub action: AuditAction,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// The request in which it happened.
    pub request_id: Option<RequestId>,
    /// Method and path of that request, without its query and without anything that looks like a
    /// secret.
    pub route: Option<Arc<str>>,
    /// To whom or to what.
    pub target: Option<String>,
    /// Why, or what was changed.
    pub reason: Option<String>,
}

impl AuditEvent {
    /// An event without further details.
    #[must_use]
    pub fn new(at: Timestamp, act: Act) -> Self {
        Self {
            at,
            actor: act.actor,
            key: None,
            address: None,
            action: act.action,
            outcome: act.outcome,
            request_id: None,
            route: None,
            target: act.target,
            reason: act.reason,
        }
    }

    /// Whether it is a refusal of a client that hasn't proved who it is. Anyone can cause any
    /// number of these (a login names its user before the password is checked), so logs keep them
    /// apart.
    #[must_use]
    pub fn is_of_a_stranger(&self) -> bool {
        let unknown = self.actor.is_none() || self.action == AuditAction::LOGIN;
        self.outcome != AuditOutcome::Success && self.key.is_none() && unknown
    }
}

/// An event with its position in the log. Its serialized form is flat: the event, with its
/// `position`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Its position. The log is read newest first; at equal times, larger positions come first.
    pub position: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: AuditEvent,
}

/// Which entries are wanted; a `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Who did it.
    pub actor: Option<String>,
    /// What was done.
    pub action: Option<AuditAction>,
    /// How it ended.
    pub outcome: Option<AuditOutcome>,
}

impl AuditFilter {
    /// Whether the filter matches an event.
    #[must_use]
    pub fn matches(&self, event: &AuditEvent) -> bool {
        let Self {
            actor,
            action,
            outcome,
        } = self;
        (actor.is_none() || *actor == event.actor)
            && action.as_ref().is_none_or(|action| *action == event.action)
            && outcome.is_none_or(|outcome| outcome == event.outcome)
    }
}

/// A text of at most 512 bytes.
pub(crate) fn bounded(text: &str) -> String {
    let mut text = text.to_owned();
    cut(&mut text, TEXT_LENGTH_MAX);
    text
}

fn cut(text: &mut String, length_max: usize) {
    text.truncate(text.floor_char_boundary(length_max));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_serialized_flat() {
        let act = Act::new(AuditAction::LOGIN).actor("ann");
        let entry = AuditEntry {
            position: 7,
            event: AuditEvent::new(Timestamp::UNIX_EPOCH, act),
        };
        let json = serde_json::to_value(&entry).unwrap();
        let (actor, action) = (&json["actor"], &json["action"]);
        assert_eq!((actor, action), (&"ann".into(), &"login".into()));
        assert_eq!(json["outcome"], "success");
        assert_eq!(json["position"], 7);
    }

    #[test]
    fn texts_are_cut_between_letters() {
        let long = "é".repeat(300);
        let act = Act::new(AuditAction::LOGIN).target(&long).because(&long);
        assert_eq!(act.target.unwrap().len(), 512);
        let action = AuditAction::named("x".to_owned() + &"é".repeat(40));
        assert_eq!(action.as_str().len(), 63);
    }

    #[test]
    fn outcomes_are_known_by_their_names() {
        for outcome in [
            AuditOutcome::Success,
            AuditOutcome::Refused,
            AuditOutcome::Failed,
        ] {
            assert_eq!(AuditOutcome::from_name(outcome.as_str()), Some(outcome));
        }
        assert_eq!(AuditOutcome::from_name("Success"), None);
    }
}
