//! Notifications of changes, so that cached data can be dropped early.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use super::{SessionId, UserId};
use crate::domain::key::KeyDigest;
#[cfg(any(feature = "postgres", feature = "redis"))]
use crate::sync::{Mutex, lock};

/// What changed in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The key with that digest was created, changed or deleted.
    Key(KeyDigest),
    /// That login was ended or deleted.
    Session(SessionId),
    /// That user was changed or deleted, which affects all logins of the user.
    User(UserId),
    /// Unknown: notifications may have been missed.
    Everything,
}

#[cfg(any(feature = "postgres", feature = "redis"))]
impl Change {
    /// The form on a channel: a letter, and a digest or a name.
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

    /// Anything not understood counts as [`Everything`](Self::Everything).
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

/// Receives changes.
pub trait ChangeListener: Send + Sync + 'static {
    /// Drops what the change affects. It must not block.
    fn changed(&self, change: &Change);
}

impl<T: ChangeListener + ?Sized> ChangeListener for Arc<T> {
    fn changed(&self, change: &Change) {
        T::changed(self, change);
    }
}

/// Announces changes made elsewhere: the push channel of a store.
///
/// It makes revocation fast, but not certain: a channel can be cut. A resolver's cache has a time
/// to live regardless.
pub trait Invalidations: fmt::Debug + Send + Sync + 'static {
    /// Sends `listener` every change from now on, for as long as it exists. Whenever the channel is
    /// established, or re-established, it sends [`Change::Everything`].
    fn subscribe(&self, listener: Weak<dyn ChangeListener>);
}

impl<T: Invalidations + ?Sized> Invalidations for Arc<T> {
    fn subscribe(&self, listener: Weak<dyn ChangeListener>) {
        T::subscribe(self, listener);
    }
}

/// The listeners, one per resolver.
#[cfg(any(feature = "postgres", feature = "redis"))]
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Vec<Weak<dyn ChangeListener>>>);

#[cfg(any(feature = "postgres", feature = "redis"))]
impl Listeners {
    #[cfg(feature = "redis")]
    pub(crate) fn has_any(&self) -> bool {
        let listeners = lock(&self.0);
        listeners.iter().any(|listener| listener.strong_count() > 0)
    }

    pub(crate) fn add(&self, listener: Weak<dyn ChangeListener>) {
        let mut listeners = lock(&self.0);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(listener);
    }

    pub(crate) fn tell(&self, change: &Change) {
        let listeners = lock(&self.0);
        let listening: Vec<_> = listeners.iter().filter_map(Weak::upgrade).collect();
        drop(listeners);
        for listener in listening {
            listener.changed(change);
        }
    }
}

/// The listeners for changes made in this process.
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
    struct Recorder(Mutex<Vec<Change>>);

    impl ChangeListener for Recorder {
        fn changed(&self, change: &Change) {
            self.0.lock().unwrap().push(change.clone());
        }
    }

    #[test]
    fn whoever_is_there_is_told_and_nobody_else_is_kept() {
        let listeners = Listeners::default();
        let (stays, goes) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
        let weak = |recorder: &Arc<Recorder>| -> Weak<dyn ChangeListener> {
            let weak: Weak<Recorder> = Arc::downgrade(recorder);
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
