//! Floor 1: changes of keys, users and logins, each finished in a task of its own and announced to
//! whoever remembers what it touched: the resolver of this process, listeners, and the audit log.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

use crate::{
    domain::audit::{Act, AuditOutcome},
    store::{Audience, Change, ChangeListener, StoreError, StoreErrorKind, StoreFuture},
    trail,
};

/// How many changes are under way at most, those that nobody waits for any more included.
pub(crate) const CHANGES_MAX: usize = 1_024;
/// For how many deadlines a change goes on that was too slow for its caller: after that nobody
/// learns what became of it.
const GIVEN_UP_AFTER: u32 = 12;

/// Makes changes. A clone is a few reference counts.
#[derive(Clone, Debug)]
pub(crate) struct Changes {
    /// The resolver of this process comes first.
    audience: Audience,
    deadline: Duration,
    /// A permit for each change that is under way.
    under_way: Arc<Semaphore>,
}

/// What a change may touch, and the act that it is in the audit log. An act of `None` is recorded
/// by the change itself.
pub(crate) struct Touching {
    pub(crate) may_touch: Vec<Change>,
    pub(crate) act: Option<Act>,
}

/// What became of a change.
pub(crate) enum Fate {
    /// It was made, and touched these; none: there was nothing to change.
    Made(Vec<Change>),
    /// It was not made.
    NotMade,
    /// It may have been made.
    Unknown,
}

impl Fate {
    /// Of a change that failed like this.
    pub(crate) fn of_failure(failure: StoreErrorKind) -> Self {
        match failure {
            StoreErrorKind::Unavailable | StoreErrorKind::Internal => Self::Unknown,
            _ => Self::NotMade,
        }
    }
}

impl Changes {
    /// Announces each change to `resolver`.
    pub(crate) fn new(resolver: impl ChangeListener, deadline: Duration) -> Self {
        let mut audience = Audience::default();
        audience.add(resolver);
        Self {
            audience,
            deadline,
            under_way: Arc::new(Semaphore::new(CHANGES_MAX)),
        }
    }

    /// Announces each change to those of `audience` too.
    pub(crate) fn announced_to(mut self, audience: Audience) -> Self {
        self.audience.extend(audience);
        self
    }

    /// Announces each change to `listener` too.
    pub(crate) fn add_listener(&mut self, listener: impl ChangeListener) {
        self.audience.add(listener);
    }

    pub(crate) fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Waits for an answer of the store, no longer than the deadline.
    pub(crate) async fn within_deadline<T: Unpin>(
        &self,
        answer: StoreFuture<T>,
    ) -> Result<T, StoreError> {
        let answer = timeout(self.deadline, answer).await;
        answer.unwrap_or_else(|_| Err(too_slow()))
    }

    /// Finishes a change in a task of its own, so that it is announced also when the caller hangs
    /// up meanwhile. One of which nobody learns whether it was made is announced as though it had
    /// been.
    ///
    /// One that takes longer than the deadline goes on, and is announced when it ends; and at the
    /// deadline too, since from then on nobody waits for it, and it may have been made.
    pub(crate) async fn make<T: Send + 'static>(
        &self,
        Touching { may_touch, act }: Touching,
        change: impl Future<Output = Result<T, StoreError>> + Send + 'static,
        fate: impl FnOnce(&Result<T, StoreError>) -> Fate + Send + 'static,
    ) -> Result<T, StoreError> {
        // Before the store hears of it: what is refused here was not done.
        let Ok(permit) = Arc::clone(&self.under_way).try_acquire_owned() else {
            let text = "too many changes are under way";
            return Err(StoreError::new(StoreErrorKind::Busy, text));
        };
        let announcement = Announcement {
            audience: self.audience.clone(),
            may_touch: may_touch.clone(),
            act,
            is_due: true,
        };
        let patience = self.deadline.saturating_mul(GIVEN_UP_AFTER);
        let task = trail::spawn(async move {
            // Both are here before the store is asked: if that panics, the change may have been
            // made all the same.
            let (_permit, announcement) = (permit, announcement);
            let outcome = timeout(patience, change).await;
            let outcome = outcome.unwrap_or_else(|_| Err(too_slow()));
            announcement.settle(fate(&outcome));
            outcome
        });
        match timeout(self.deadline, task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(StoreError::internal("the change was cut off")),
            Err(_) => {
                tell(&self.audience, &may_touch);
                Err(too_slow())
            }
        }
    }
}

/// The announcement of a change. Dropped while it is still due, it says that the change may have
/// been made.
struct Announcement {
    audience: Audience,
    may_touch: Vec<Change>,
    act: Option<Act>,
    is_due: bool,
}

impl Announcement {
    fn settle(mut self, fate: Fate) {
        match fate {
            Fate::Unknown => return,
            Fate::NotMade => {}
            Fate::Made(touched) => {
                tell(&self.audience, &touched);
                if let Some(act) = self.act.take()
                    && !touched.is_empty()
                {
                    trail::record(act);
                }
            }
        }
        self.is_due = false;
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if !self.is_due {
            return;
        }
        tell(&self.audience, &self.may_touch);
        if let Some(act) = self.act.take() {
            trail::record(act.outcome(AuditOutcome::Failed));
        }
    }
}

fn tell(audience: &Audience, changes: &[Change]) {
    changes.iter().for_each(|change| audience.tell(change));
}

fn too_slow() -> StoreError {
    let text = "the store did not answer in time";
    StoreError::new(StoreErrorKind::Unavailable, text)
}
