//! The entries of the audit log: who did what, from where, and with what outcome.

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use serde::{Serialize, Serializer};

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

    /// Which share of the log it belongs to.
    pub(crate) fn share(&self) -> Share {
        if self.is_of_a_stranger() {
            return Share::Strangers;
        }
        let is_done = match self.outcome {
            AuditOutcome::Success => true,
            AuditOutcome::Refused => false,
            // What a layer or a handler couldn't decide concerns no one in particular.
            AuditOutcome::Failed => self.target.is_some(),
        };
        if is_done && !self.action.is_anybody_s() {
            return Share::Acts;
        }
        let name = self.actor.as_deref().unwrap_or_default();
        let part = crc32fast::hash(name.as_bytes()).checked_rem(PARTS_OF_CALLERS.into());
        Share::Callers(part.and_then(|part| part.try_into().ok()).unwrap_or(0))
    }
}

/// The number of parts that callers are divided into, by a hash of their names.
const PARTS_OF_CALLERS: u8 = 8;

/// A share of the log that is pruned separately, so that nobody pushes out entries of another kind.
///
/// Anyone with a valid credential can cause any number of authentications, logins and refusals. So
/// these are kept apart from the changes, and one caller's entries are in one part of eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// What was changed, or may have been: users, keys, and what the application records.
    Acts,
    /// Refusals of clients that haven't proved who they are.
    Strangers,
    /// Everything else that known callers cause, for the callers of one part.
    Callers(u8),
    /// Entries of known callers from before there were parts. None are added.
    Former,
}

impl Share {
    /// All shares.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let callers = (0..PARTS_OF_CALLERS).map(Self::Callers);
        [Self::Acts, Self::Strangers, Self::Former]
            .into_iter()
            .chain(callers)
    }

    /// The number that stores use.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Acts => 0,
            Self::Strangers => 1,
            Self::Callers(part) => part.saturating_add(2),
            Self::Former => PARTS_OF_CALLERS.saturating_add(2),
        }
    }

    /// How many entries it has in a log of `rows_max`.
    pub(crate) fn rows_max(self, rows_max: u64) -> u64 {
        match self {
            Self::Acts | Self::Former => rows_max,
            Self::Strangers => rows_max.div_ceil(2),
            Self::Callers(_) => rows_max.div_ceil(PARTS_OF_CALLERS.into()),
        }
    }

    /// How many entries may be waiting, out of `places`, before one of this share is dropped: acts
    /// are the last to be.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) const fn places(self, places: usize) -> usize {
        let half = places.div_ceil(2);
        match self {
            Self::Acts => places,
            Self::Callers(_) | Self::Former => half.saturating_add(half.div_ceil(2)),
            Self::Strangers => half,
        }
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
    fn each_event_has_its_share() {
        let event = |action, outcome, actor: Option<&str>, target: Option<&str>| {
            let mut act = Act::new(action).outcome(outcome);
            act.actor = actor.map(str::to_owned);
            act.target = target.map(str::to_owned);
            AuditEvent::new(Timestamp::UNIX_EPOCH, act).share()
        };
        let (ann, key) = (Some("ann"), Some("key-1"));
        let rbac = AuditAction::new("rbac");
        for (action, outcome, target) in [
            (AuditAction::KEY_CREATE, AuditOutcome::Success, key),
            (AuditAction::KEY_REVOKE, AuditOutcome::Failed, key),
            (
                AuditAction::new("config.update"),
                AuditOutcome::Success,
                None,
            ),
        ] {
            assert_eq!(event(action, outcome, ann, target), Share::Acts);
        }
        for (action, outcome, target) in [
            (AuditAction::AUTHENTICATE, AuditOutcome::Success, None),
            (AuditAction::LOGIN, AuditOutcome::Success, ann),
            (AuditAction::REFRESH, AuditOutcome::Success, ann),
            (rbac.clone(), AuditOutcome::Refused, None),
            (rbac.clone(), AuditOutcome::Failed, None),
        ] {
            let share = event(action, outcome, ann, target);
            assert!(matches!(share, Share::Callers(_)), "{share:?}");
            let same = event(rbac.clone(), AuditOutcome::Refused, ann, None);
            assert_eq!(share, same, "all of one caller's");
        }
        let login = event(AuditAction::LOGIN, AuditOutcome::Refused, ann, ann);
        assert_eq!(login, Share::Strangers);
        let nobody = event(AuditAction::AUTHENTICATE, AuditOutcome::Refused, None, None);
        assert_eq!(nobody, Share::Strangers);
    }

    #[test]
    fn shares_are_told_apart_by_their_numbers() {
        let mut numbers: Vec<_> = Share::all().map(Share::number).collect();
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(0..11));
        let callers = (0..1_000).map(|number| {
            let act = Act::new(AuditAction::LOGIN).actor(&format!("user-{number}"));
            AuditEvent::new(Timestamp::UNIX_EPOCH, act).share()
        });
        let mut of_each = [0; 11];
        for share in callers {
            of_each[usize::from(share.number())] += 1;
        }
        assert!(
            of_each[2..10].iter().all(|count| *count > 90),
            "{of_each:?}"
        );
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
