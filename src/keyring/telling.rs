//! How a change is seen through, and who hears of it: the resolver, those that listen, and the audit log.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{KeyResolver, Keyring};
use crate::{
    domain::{
        KeyId,
        audit::{Act, AuditAction, AuditOutcome},
        key::{KeyDigest, KeyRecord, RotationOutcome},
    },
    store::{Audience, Change, KeyStore, StoreError, StoreErrorKind, StoreFuture},
    trail,
};

/// How many changes are under way at most, those that nobody waits for any more included.
pub(super) const CHANGES_MAX: usize = 1_024;
/// For how many deadlines a change goes on that was too slow for whoever asked for it: then nobody learns what became of it.
const GIVEN_UP_AFTER: u32 = 12;

impl Keyring {
    /// Sees a change through in a task of its own, so that the resolver hears of it whoever hangs up
    /// meanwhile, and so is the audit log. A change that may or may not have been made makes the resolver forget what
    /// it `may_touch`.
    ///
    /// One that takes longer than the deadline goes on, and is told when it ends. What it may touch is forgotten at the deadline
    /// too: from then on nobody waits for it, and it may have been made.
    pub(super) async fn finish<T: Send + Unpin + 'static>(
        &self,
        act: Act,
        may_touch: Vec<KeyDigest>,
        change: impl FnOnce(&dyn KeyStore) -> StoreFuture<T> + Send + 'static,
        changed: impl FnOnce(&T) -> Vec<KeyDigest> + Send + 'static,
    ) -> Result<T, StoreError> {
        // Before the store hears of it: what is refused here was not done.
        let Ok(turn) = Arc::clone(&self.changes).try_acquire_owned() else {
            let text = "too many changes of keys are under way";
            return Err(StoreError::new(StoreErrorKind::Busy, text));
        };
        let hearers = Hearers {
            resolver: self.resolver().clone(),
            audience: self.audience.clone(),
        };
        let untold = Untold {
            hearers: hearers.clone(),
            may_touch: may_touch.clone(),
            act: Some(act),
        };
        let store = Arc::clone(self.store());
        let patience = self.deadline.saturating_mul(GIVEN_UP_AFTER);
        let task = trail::spawn(async move {
            let _turn = turn;
            // Made before the store is asked: if that panics, it may have been done all the same.
            let untold = untold;
            let outcome = within(patience, change(store.as_ref())).await;
            match &outcome {
                Ok(answer) => untold.made(&changed(answer)),
                Err(error) if may_have_happened(error.kind()) => drop(untold),
                Err(_) => untold.not_made(),
            }
            outcome
        });
        match timeout(self.deadline, task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(StoreError::internal("the change was cut off")),
            Err(_) => {
                hearers.tell(&may_touch);
                Err(too_slow())
            }
        }
    }
}

/// Who is told at once what was touched.
#[derive(Clone)]
struct Hearers {
    resolver: KeyResolver,
    audience: Audience,
}

impl Hearers {
    fn tell(&self, touched: &[KeyDigest]) {
        for digest in touched {
            self.resolver.invalidate(digest);
            self.audience.tell(&Change::Key(*digest));
        }
    }
}

/// A change of which nobody knows yet what came of it. If nobody ever will, it may have been made: that is told when this is dropped.
struct Untold {
    hearers: Hearers,
    may_touch: Vec<KeyDigest>,
    act: Option<Act>,
}

impl Untold {
    /// It was made, and touched these; none: there was no such key, so nothing was done.
    fn made(mut self, touched: &[KeyDigest]) {
        self.hearers.tell(touched);
        if let Some(act) = self.act.take()
            && !touched.is_empty()
        {
            trail::record(act);
        }
    }

    fn not_made(mut self) {
        self.act = None;
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        if let Some(act) = self.act.take() {
            self.hearers.tell(&self.may_touch);
            trail::record(act.outcome(AuditOutcome::Failed));
        }
    }
}

/// What a store answers in that time.
pub(super) async fn within<T: Unpin>(
    deadline: Duration,
    answer: StoreFuture<T>,
) -> Result<T, StoreError> {
    timeout(deadline, answer)
        .await
        .unwrap_or_else(|_| Err(too_slow()))
}

fn too_slow() -> StoreError {
    let text = "the store did not answer in time";
    StoreError::new(StoreErrorKind::Unavailable, text)
}

pub(super) fn act(action: AuditAction, id: &KeyId) -> Act {
    Act::new(action).target(id.as_str())
}

/// Whether a change that failed like this may have been made all the same.
fn may_have_happened(failure: StoreErrorKind) -> bool {
    matches!(
        failure,
        StoreErrorKind::Unavailable | StoreErrorKind::Internal
    )
}

/// The new key too: somebody may have asked for it before it was.
pub(super) fn touched_by(outcome: &RotationOutcome) -> Vec<KeyDigest> {
    match outcome {
        RotationOutcome::Rotated {
            replaced,
            successor,
        } => vec![*replaced, successor.digest],
        _ => Vec::new(),
    }
}

pub(super) fn digests_of(record: &Option<KeyRecord>) -> Vec<KeyDigest> {
    record.iter().map(|record| record.digest).collect()
}
