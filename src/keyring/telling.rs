//! Who hears of a change: the resolver, those that listen, and the audit log.

use super::Keyring;
use crate::{
    domain::{
        KeyId,
        audit::{Act, AuditAction, AuditOutcome},
        key::{KeyDigest, KeyRecord, RotationOutcome},
    },
    store::{Change, StoreError, StoreErrorKind, StoreFuture},
    trail,
};

impl Keyring {
    /// Sees a change through in a task of its own, so that the resolver hears of it whoever hangs up
    /// meanwhile, and so is the audit log. A change that may or may not have been made makes the resolver forget what
    /// it `may_touch`.
    pub(super) async fn finish<T: Clone + Send + Unpin + 'static>(
        &self,
        act: Act,
        may_touch: MayTouch,
        change: StoreFuture<T>,
        changed: impl FnOnce(T) -> Vec<KeyDigest> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (resolver, audience) = (self.resolver().clone(), self.audience.clone());
        let task = trail::spawn(async move {
            let outcome = change.await;
            match &outcome {
                Ok(answer) => {
                    let digests = changed(answer.clone());
                    for digest in &digests {
                        resolver.invalidate(digest);
                        audience.tell(&Change::Key(*digest));
                    }
                    // None: there was no such key, so nothing was done.
                    if !digests.is_empty() {
                        trail::record(act);
                    }
                }
                Err(error) if may_have_happened(error.kind()) => {
                    match may_touch {
                        MayTouch::These(digests) => {
                            for digest in digests {
                                resolver.invalidate(&digest);
                                audience.tell(&Change::Key(digest));
                            }
                        }
                        MayTouch::Any => {
                            resolver.invalidate_all();
                            audience.tell(&Change::Everything);
                        }
                    }
                    trail::record(act.outcome(AuditOutcome::Failed));
                }
                Err(_) => {}
            }
            outcome
        });
        task.await
            .unwrap_or_else(|_| Err(StoreError::internal("the change was cut off")))
    }
}

/// Whom a change touches, before it is known whether it was made.
pub(super) enum MayTouch {
    /// Keys whose digests are known.
    These(Vec<KeyDigest>),
    /// One that is known by its id alone.
    Any,
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
pub(super) fn touched_by(outcome: RotationOutcome) -> Vec<KeyDigest> {
    match outcome {
        RotationOutcome::Rotated {
            replaced,
            successor,
        } => vec![replaced, successor.digest],
        _ => Vec::new(),
    }
}

pub(super) fn digests_of(record: Option<KeyRecord>) -> Vec<KeyDigest> {
    record.into_iter().map(|record| record.digest).collect()
}
