//! What a process says by itself while the shared store can't be asked.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use super::{Correction, RateDecision, RateKey, RateOutcome, Readings, TakenAt, WindowReading};
use crate::{
    domain::{
        clock::Clock,
        quota::{Quota, Quotas},
    },
    store::{MemoryRateLimiter, StoreError, StoreErrorKind},
};

/// When a request may come again that waits for the store: about as often it is looked whether that is back.
const UNTIL_BACK: Duration = Duration::from_secs(1);

/// What a limiter says while its shared store can't be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Degraded(Mode);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Local(NonZeroU32),
    Open,
    Closed,
}

impl Degraded {
    /// Each process counts by itself against one of `parts` equal shares of every quota: as many parts
    /// as there are processes keep the sum. A key begins with its part of what was left of the whole when the store last
    /// said so, in whole units, and what its share has gained since: all of the share where all was left, and nothing
    /// where nothing was, but never with less.
    ///
    /// A request that fits the quota and not the share, as one may that is weighted by its tokens, is told to try again
    /// until the store is back: each process would admit one.
    #[must_use]
    pub const fn local(parts: NonZeroU32) -> Self {
        Self(Mode::Local(parts))
    }

    /// Nothing is admitted: 503.
    #[must_use]
    pub const fn closed() -> Self {
        Self(Mode::Closed)
    }

    /// Everything is admitted: there is no limit while the store is away.
    #[must_use]
    pub const fn dangerous_open() -> Self {
        Self(Mode::Open)
    }
}

impl Default for Degraded {
    /// Half of every quota for each process: two are the fewest that share one.
    fn default() -> Self {
        Self::local(NonZeroU32::MIN.saturating_add(1))
    }
}

/// The answers of this process alone.
pub(super) struct LocalFallback {
    degraded: Degraded,
    /// Each key's part of what the store said last, for when it is gone.
    counts: MemoryRateLimiter,
}

impl LocalFallback {
    /// Keeps counts of `capacity` keys at most.
    pub(super) fn new(degraded: Degraded, capacity: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            degraded,
            counts: MemoryRateLimiter::new(capacity, clock),
        }
    }

    /// How many keys it keeps counts of now.
    pub(super) fn keys(&self) -> usize {
        self.counts.len()
    }

    /// Hears what the store has left.
    pub(super) fn adopt(&self, key: &RateKey, quotas: &Quotas, left: &Readings) {
        if let Mode::Local(parts) = self.degraded.0 {
            self.counts.adopt(key, quotas, &quotas.share(parts), left);
        }
    }

    /// Hears what a store has left that wrote nothing: no more than is left here already.
    pub(super) fn adopt_less(&self, key: &RateKey, quotas: &Quotas, left: &Readings) {
        if let Mode::Local(parts) = self.degraded.0 {
            let share = quotas.share(parts);
            self.counts.adopt_less(key, quotas, &share, left);
        }
    }

    /// Counts a correction that the store didn't hear. What it gives back has drained in part, which only the store
    /// knows, so that none of it is.
    pub(super) fn miss(&self, key: &RateKey, quotas: &Quotas, units: i64) {
        if let (Mode::Local(parts), Ok(units)) = (self.degraded.0, u64::try_from(units)) {
            self.counts.use_up(key, &quotas.share(parts), units);
        }
    }

    pub(super) fn take(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Result<RateDecision, StoreError> {
        let mut decision = match self.degraded.0 {
            Mode::Local(parts) => self.take_of_share(key, quotas, &quotas.share(parts), cost),
            Mode::Open => RateDecision {
                outcome: RateOutcome::Admitted,
                readings: untouched(quotas),
                taken_at: TakenAt::default(),
            },
            Mode::Closed => return Err(gone()),
        };
        decision.taken_at.is_local = true;
        Ok(decision)
    }

    /// What is too costly for ever is told by the whole, of which the share is only a part.
    fn take_of_share(
        &self,
        key: &RateKey,
        whole: &Quotas,
        share: &Quotas,
        cost: u32,
    ) -> RateDecision {
        let quotas = whole.as_slice();
        if quotas.iter().any(|quota| cost > quota.burst_size()) {
            return RateDecision {
                outcome: RateOutcome::TooCostly,
                readings: self.counts.peek(key, share),
                taken_at: TakenAt::default(),
            };
        }
        let mut decision = self.counts.take(key, share, cost);
        if decision.outcome == RateOutcome::TooCostly {
            decision.outcome = RateOutcome::Refused(UNTIL_BACK);
        }
        decision
    }

    /// Takes from the share what is asked of the store besides. Says what the share refuses.
    pub(super) fn refuses(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Option<RateDecision> {
        let Mode::Local(parts) = self.degraded.0 else {
            return None;
        };
        let mut decision = self.take_of_share(key, quotas, &quotas.share(parts), cost);
        decision.taken_at.is_local = true;
        (!decision.is_admitted()).then_some(decision)
    }

    /// Corrects what was taken from this process alone.
    pub(super) fn correct(&self, key: &RateKey, quotas: &Quotas, correction: &Correction) {
        if let Mode::Local(parts) = self.degraded.0 {
            self.counts.correct(key, &quotas.share(parts), correction);
        }
    }

    pub(super) fn peek(&self, key: &RateKey, quotas: &Quotas) -> Result<Readings, StoreError> {
        match self.degraded.0 {
            Mode::Local(parts) => Ok(self.counts.peek(key, &quotas.share(parts))),
            Mode::Open => Ok(untouched(quotas)),
            Mode::Closed => Err(gone()),
        }
    }

    pub(super) fn reset(&self, key: &RateKey) {
        self.counts.reset(key);
    }
}

fn untouched(quotas: &Quotas) -> Readings {
    let full = |quota: &Quota| WindowReading {
        remaining: quota.burst_size(),
        reset: Duration::ZERO,
    };
    quotas.as_slice().iter().map(full).collect()
}

fn gone() -> StoreError {
    StoreError::new(
        StoreErrorKind::Unavailable,
        "the shared rate limits can't be asked",
    )
}

impl fmt::Debug for LocalFallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalFallback")
            .field("degraded", &self.degraded)
            .finish_non_exhaustive()
    }
}
