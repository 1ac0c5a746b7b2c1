//! A limit of failed attempts: looked at before a request is let in, and counted when nobody turned out to have sent it.

use std::{fmt, sync::Arc};

use super::{RateLimitPermit, permit::After, policy::Judge};
use crate::{
    domain::{
        denial::{Denial, DenialKind},
        quota::Quotas,
    },
    guard::{Decision, ResponseMarks, course::FailedAttempt},
    store::{Correction, RateDecision, RateKey, RateStore, StoreFuture},
    wire::grpc_is_unauthenticated,
};

/// A request that may turn out to be nobody's.
pub(super) struct Attempt {
    store: Arc<dyn RateStore>,
    key: RateKey,
    quotas: Quotas,
}

impl Attempt {
    pub(super) fn new(store: Arc<dyn RateStore>, key: RateKey, quotas: Quotas) -> Self {
        Self { store, key, quotas }
    }

    /// Looks whether there is room for one more that fails, without taking it.
    pub(super) fn decide(self, judge: Judge) -> Decision<RateLimitPermit> {
        let judge = move |attempt: Self, left| {
            let quotas = attempt.quotas.clone();
            let decision = |left| RateDecision::foreseen(&quotas, left);
            let decision = Result::map(left, decision);
            judge.judge(decision, quotas, Some(After::Count(attempt)))
        };
        match self.store.peek(&self.key, &self.quotas).into_ready() {
            Ok(left) => Decision::Ready(judge(self, left)),
            Err(pending) => Decision::pending(async move { judge(self, pending.await) }),
        }
    }

    /// It failed. It counts also where others have used up what was left meanwhile, and the window waits for that.
    pub(super) fn count(self) -> StoreFuture<()> {
        let used = Correction::used(1);
        self.store.correct(&self.key, &self.quotas, used)
    }
}

/// Whether an answer says that nobody knows who asked, or was marked so where it doesn't. A request without any credential guesses at none.
pub(super) fn has_failed(response: &ResponseMarks<'_>) -> bool {
    if response.extensions.get::<FailedAttempt>().is_some() {
        return true;
    }
    match response.extensions.get::<Denial>().map(Denial::kind) {
        Some(DenialKind::CredentialMissing) => false,
        Some(kind) if kind.is_authentication() => true,
        _ => response.status.as_u16() == 401 || grpc_is_unauthenticated(response.headers),
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
