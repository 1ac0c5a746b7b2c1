//! News of changes, so that what is remembered of a store can be forgotten before its time.

#[cfg(any(feature = "postgres", feature = "redis"))]
use std::sync::{Mutex, PoisonError};
use std::{
    fmt,
    sync::{Arc, Weak},
};

use super::{SessionId, UserId};
use crate::domain::key::KeyDigest;

/// What changed in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The key with that digest was made, changed or deleted.
    Key(KeyDigest),
    /// That login was ended or deleted.
    Session(SessionId),
    /// That user was changed or deleted: it touches all logins of the user.
    User(UserId),
    /// Nobody can say what: news may have been missed.
    Everything,
}

#[cfg(any(feature = "postgres", feature = "redis"))]
impl Change {
    /// As it is told on a channel: a letter, and a digest or a name.
    #[cfg(feature = "redis")]
    pub(crate) fn to_text(&self) -> String {
        match self {
            Self::Key(digest) => {
                let mut text = String::with_capacity(65);
                text.push('k');
                for byte in digest.as_bytes() {
                    for digit in [byte >> 4, byte & 15] {
                        text.extend(char::from_digit(digit.into(), 16));
                    }
                }
                text
            }
            Self::Session(session) => format!("s{}", session.as_str()),
            Self::User(user) => format!("u{}", user.as_str()),
            Self::Everything => "*".to_owned(),
        }
    }

    /// What is told in words that aren't known may be anything.
    pub(crate) fn from_text(text: &str) -> Self {
        let known = match text.split_at_checked(1) {
            Some(("k", digest)) => {
                unhex(digest).map(|digest| Self::Key(KeyDigest::from_bytes(digest)))
            }
            Some(("s", id)) => SessionId::new(id).ok().map(Self::Session),
            Some(("u", id)) => UserId::new(id).ok().map(Self::User),
            _ => None,
        };
        known.unwrap_or(Self::Everything)
    }
}

#[cfg(any(feature = "postgres", feature = "redis"))]
fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let bytes = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    });
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// Is told of changes.
pub trait ChangeListener: Send + Sync + 'static {
    /// Forgets what the change touches. It must not block.
    fn changed(&self, change: &Change);
}

impl<T: ChangeListener + ?Sized> ChangeListener for Arc<T> {
    fn changed(&self, change: &Change) {
        T::changed(self, change);
    }
}

/// Tells of changes that are made elsewhere: the push channel of a store.
///
/// It makes a revocation quick, never sure: a channel can be cut. What a resolver remembers has a time to live all
/// the same.
pub trait Invalidations: fmt::Debug + Send + Sync + 'static {
    /// Tells `listener` of every change from now on, for as long as there is one. Each time that the
    /// channel begins, or begins again, it tells of [`Change::Everything`].
    fn subscribe(&self, listener: Weak<dyn ChangeListener>);
}

impl<T: Invalidations + ?Sized> Invalidations for Arc<T> {
    fn subscribe(&self, listener: Weak<dyn ChangeListener>) {
        T::subscribe(self, listener);
    }
}

/// Those who are told. As many as there are resolvers.
#[cfg(any(feature = "postgres", feature = "redis"))]
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Vec<Weak<dyn ChangeListener>>>);

#[cfg(any(feature = "postgres", feature = "redis"))]
impl Listeners {
    #[cfg(feature = "redis")]
    pub(crate) fn are_there(&self) -> bool {
        let listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().any(|listener| listener.strong_count() > 0)
    }

    pub(crate) fn add(&self, listener: Weak<dyn ChangeListener>) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(listener);
    }

    pub(crate) fn tell(&self, change: &Change) {
        let listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let listening: Vec<_> = listeners.iter().filter_map(Weak::upgrade).collect();
        drop(listeners);
        for listener in listening {
            listener.changed(change);
        }
    }
}

/// Who else is told of the changes that are made here.
#[derive(Clone, Default)]
pub(crate) struct Audience(Vec<Arc<dyn ChangeListener>>);

impl Audience {
    pub(crate) fn add(&mut self, listener: impl ChangeListener) {
        self.0.push(Arc::new(listener));
    }

    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub(crate) fn tell(&self, change: &Change) {
        self.0.iter().for_each(|listener| listener.changed(change));
    }
}

impl fmt::Debug for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Audience").field(&self.0.len()).finish()
    }
}

#[cfg(any(feature = "postgres", feature = "redis"))]
#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<Change>>);

    impl ChangeListener for Heard {
        fn changed(&self, change: &Change) {
            self.0.lock().unwrap().push(change.clone());
        }
    }

    #[test]
    fn whoever_is_there_is_told_and_nobody_else_is_kept() {
        let listeners = Listeners::default();
        let (stays, goes) = (Arc::new(Heard::default()), Arc::new(Heard::default()));
        let weak = |heard: &Arc<Heard>| -> Weak<dyn ChangeListener> {
            let weak: Weak<Heard> = Arc::downgrade(heard);
            weak
        };
        listeners.add(weak(&goes));
        listeners.add(weak(&stays));
        listeners.tell(&Change::Everything);
        assert_eq!(*goes.0.lock().unwrap(), [Change::Everything]);
        drop(goes);
        let user = Change::User(UserId::new("ann").unwrap());
        listeners.tell(&user);
        assert_eq!(*stays.0.lock().unwrap(), [Change::Everything, user]);
        listeners.add(weak(&stays));
        assert_eq!(listeners.0.lock().unwrap().len(), 2);
    }
    #[test]
    fn what_is_told_is_read_and_what_is_not_understood_is_everything() {
        let digest = KeyDigest::of("ps_live_a");
        let hex: String = digest
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let told = [
            (format!("k{hex}"), Change::Key(digest)),
            (
                "ss-1".to_owned(),
                Change::Session(SessionId::new("s-1").unwrap()),
            ),
            ("uann".to_owned(), Change::User(UserId::new("ann").unwrap())),
            ("*".to_owned(), Change::Everything),
        ];
        for (text, change) in told {
            assert_eq!(Change::from_text(&text), change);
            #[cfg(feature = "redis")]
            assert_eq!(change.to_text(), text);
        }
        for other in [
            "",
            "k",
            "k12",
            &format!("k{}", "é".repeat(32)),
            "s",
            "é",
            "x1",
        ] {
            assert_eq!(Change::from_text(other), Change::Everything, "{other}");
        }
    }
}
