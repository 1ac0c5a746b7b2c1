//! How keys are changed, and which keys a change affects.

use std::sync::Arc;

use super::Keyring;
use crate::{
    change::{Fate, Touching},
    domain::{
        KeyId,
        audit::{Act, AuditAction},
        key::{KeyDigest, KeyRecord, RotationOutcome},
    },
    store::{Change, KeyStore, StoreError, StoreFuture},
};

impl Keyring {
    /// Makes a change, see [`Changes::make`]; `touched` returns the keys that it affected, or none
    /// if there was nothing to change.
    pub(super) async fn make<T: Send + Unpin + 'static>(
        &self,
        act: Act,
        may_touch: Vec<KeyDigest>,
        change: impl FnOnce(&dyn KeyStore) -> StoreFuture<T> + Send + 'static,
        touched: impl FnOnce(&T) -> Vec<KeyDigest> + Send + 'static,
    ) -> Result<T, StoreError> {
        let touching = Touching {
            may_touch: changes_of(may_touch),
            act: Some(act),
        };
        let store = Arc::clone(self.store());
        let change = async move { change(store.as_ref()).await };
        let fate = |outcome: &Result<T, StoreError>| match outcome {
            Ok(answer) => Fate::Made(changes_of(touched(answer))),
            Err(error) => Fate::of_failure(error.kind()),
        };
        self.changes.make(touching, change, fate).await
    }

    pub(super) async fn await_store<T: Unpin>(
        &self,
        answer: StoreFuture<T>,
    ) -> Result<T, StoreError> {
        self.changes.within_deadline(answer).await
    }
}

pub(super) fn act(action: AuditAction, id: &KeyId) -> Act {
    Act::new(action).target(id.as_str())
}

fn changes_of(digests: Vec<KeyDigest>) -> Vec<Change> {
    digests.into_iter().map(Change::Key).collect()
}

/// Includes the new key: a request may have asked for it before it existed.
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
