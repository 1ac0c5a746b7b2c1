//! News of changes, so that what is remembered of a store can be forgotten before its time.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
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

/// Is told of changes.
pub trait ChangeListener: Send + Sync + 'static {
    /// Forgets what the change touches. It must not block.
    fn changed(&self, change: &Change);
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
#[derive(Default)]
#[cfg_attr(
    not(any(feature = "postgres", test)),
    allow(dead_code, reason = "for engines that push")
)]
pub(crate) struct Listeners(Mutex<Vec<Weak<dyn ChangeListener>>>);

#[cfg_attr(
    not(any(feature = "postgres", test)),
    allow(dead_code, reason = "for engines that push")
)]
impl Listeners {
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
}
