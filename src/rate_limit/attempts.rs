//! A limit on failed attempts: checked before a request is admitted, and counted when
//! authentication turns out to have failed.

use std::{fmt, sync::Arc};

use super::{RateLimitPermit, permit::FollowUp, policy::Decider};
use crate::{
    domain::{
        denial::{Denial, DenialKind},
        quota::Quotas,
    },
    guard::{Decision, ResponseMarks, course::FailedAttempt},
    store::{Correction, RateDecision, RateKey, RateStore, StoreFuture},
    wire::grpc_is_unauthenticated,
};

/// A request whose authentication may still fail.
pub(super) struct Attempt {
    store: Arc<dyn RateStore>,
    key: RateKey,
    quotas: Quotas,
}

impl Attempt {
    pub(super) fn new(store: Arc<dyn RateStore>, key: RateKey, quotas: Quotas) -> Self {
        Self { store, key, quotas }
    }

    /// Checks whether another failure is within the limit, without counting it. Only a refusal
    /// tells what is left: a client with a good key must learn which limit it waits for.
    pub(super) fn decide(self, decider: Decider) -> Decision<RateLimitPermit> {
        let verdict = move |attempt: Self, left| {
            let quotas = attempt.quotas.clone();
            let decision = |left| RateDecision::foreseen(&quotas, left);
            let decision = Result::map(left, decision);
            let is_admitted = decision.as_ref().is_ok_and(RateDecision::is_admitted);
            let decider = if is_admitted {
                decider.silent()
            } else {
                decider
            };
            decider.verdict(decision, quotas, Some(FollowUp::Count(attempt)))
        };
        match self.store.peek(&self.key, &self.quotas).into_ready() {
            Ok(left) => Decision::Ready(verdict(self, left)),
            Err(pending) => Decision::pending(async move { verdict(self, pending.await) }),
        }
    }

    /// Counts a failed attempt, even if concurrent ones have used up the limit meanwhile; the
    /// window is then overdrawn, and refuses until it has recovered.
    pub(super) fn count(self) -> StoreFuture<()> {
        let used = Correction::used(1);
        self.store.correct(&self.key, &self.quotas, used)
    }
}

/// Whether an answer says, or is marked to the effect, that authentication failed. A request
/// without any credential is not a guess.
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
