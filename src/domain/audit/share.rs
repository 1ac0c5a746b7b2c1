//! Shares of the log, of which none pushes out another.

use super::{AuditEvent, AuditOutcome};

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

impl AuditEvent {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        audit::{Act, AuditAction},
        clock::Timestamp,
    };

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
}
