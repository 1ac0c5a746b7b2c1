//! A process's own decisions while the shared store is unavailable.

use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{Correction, RateDecision, RateKey, RateOutcome, Readings, TakenAt, WindowReading};
use crate::{
    domain::{
        clock::Clock,
        quota::{Quota, Quotas},
    },
    store::{MemoryRateLimiter, StoreError, StoreErrorKind},
};

/// The retry time for a request that needs the store: about how often the store is checked.
const UNTIL_BACK: Duration = Duration::from_secs(1);

/// How a limiter decides while its shared store is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Degraded(Mode);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Local(NonZeroU32),
    Open,
    Closed,
}

impl Degraded {
    /// Each process counts by itself against one of `parts` equal shares of every quota, rounded
    /// up; with as many parts as there are processes the sum is preserved, but for that: three
    /// shares of 10 are four each, and those of 1 are one. A key starts with its part of what the
    /// store last reported as left, in whole units, plus what its share has gained since: all of
    /// the share if everything was left, and nothing if nothing was, but never less than nothing.
    ///
    /// A request that fits the quota but not the share, which is possible when it is weighted by
    /// tokens, is told to retry until the store is back; otherwise each process would admit one.
    #[must_use]
    pub const fn local(parts: NonZeroU32) -> Self {
        Self(Mode::Local(parts))
    }

    /// How many of `most` this process has by itself; `None` if it has to refuse.
    pub(in crate::store) const fn share_of(self, most: u32) -> Option<u32> {
        match self.0 {
            Mode::Local(parts) => Some(most.div_ceil(parts.get())),
            Mode::Open => Some(u32::MAX),
            Mode::Closed => None,
        }
    }

    /// Nothing is admitted: 503.
    #[must_use]
    pub const fn closed() -> Self {
        Self(Mode::Closed)
    }

    /// Everything is admitted: there is no limit while the store is unavailable.
    #[must_use]
    pub const fn dangerous_open() -> Self {
        Self(Mode::Open)
    }
}

impl Default for Degraded {
    /// Half of every quota for each process: at least two processes share a store.
    fn default() -> Self {
        Self::local(NonZeroU32::MIN.saturating_add(1))
    }
}

/// What an answer shows of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It writes.
    Used,
    /// Something was given back, or had drained before.
    GivenBack,
    /// It can be read, also where its memory is full or its disk is.
    Nothing,
}

impl Effect {
    pub(super) fn of_taking(units: u32) -> Self {
        if units > 0 { Self::Used } else { Self::Nothing }
    }

    pub(super) fn of_correcting(units: i64) -> Self {
        if units > 0 {
            Self::Used
        } else {
            Self::GivenBack
        }
    }
}

/// The decisions of this process alone.
pub(super) struct LocalFallback {
    degraded: Degraded,
    /// Each key's part of what the store last reported, for when it becomes unavailable.
    counts: MemoryRateLimiter,
    /// Something was counted here alone since the store last wrote: it may be one that answers and
    /// writes nothing.
    is_behind: AtomicBool,
}

impl LocalFallback {
    /// Keeps counts of at most `capacity` keys.
    pub(super) fn new(degraded: Degraded, capacity: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            degraded,
            counts: MemoryRateLimiter::new(capacity, clock),
            is_behind: AtomicBool::new(false),
        }
    }

    /// How many keys it keeps counts of now.
    pub(super) fn keys(&self) -> usize {
        self.counts.len()
    }

    /// Whether something was counted here alone since the store last wrote.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }

    fn fall_behind(&self) {
        self.is_behind.store(true, Ordering::Relaxed);
    }

    /// Records what an answer shows of the store.
    pub(super) fn note(&self, effect: Effect) {
        if effect == Effect::Used {
            self.is_behind.store(false, Ordering::Relaxed);
        }
    }

    /// Records what the store has left. One that wrote nothing may be one that can't, whose counts
    /// stand still while this process admits: what it says may be less than is known here, but no
    /// more.
    pub(super) fn hear(&self, key: &RateKey, quotas: &Quotas, left: &Readings, effect: Effect) {
        let Mode::Local(parts) = self.degraded.0 else {
            return;
        };
        let share = quotas.share(parts);
        let is_written = match effect {
            Effect::Used => true,
            Effect::GivenBack => !self.is_behind(),
            Effect::Nothing => false,
        };
        if is_written {
            self.counts.adopt(key, quotas, &share, left);
        } else {
            self.counts.adopt_less(key, quotas, &share, left);
        }
    }

    /// Counts a correction that the store doesn't hear. Of units that it took, none are given back:
    /// they may have drained in part, which only the store knows.
    pub(super) fn correct(&self, key: &RateKey, quotas: &Quotas, correction: &Correction) {
        if correction.units > 0 {
            self.fall_behind();
        }
        let Mode::Local(parts) = self.degraded.0 else {
            return;
        };
        let share = quotas.share(parts);
        if correction.taken_at.is_local {
            self.counts.correct(key, &share, correction);
        } else if let Ok(units) = u64::try_from(correction.units) {
            self.counts.use_up(key, &share, units);
        }
    }

    pub(super) fn take(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
    ) -> Result<RateDecision, StoreError> {
        self.fall_behind();
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

    /// Whether a cost is too high for good is decided by the whole quota; the share is only a part
    /// of it.
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

    /// Takes from the share what is also requested from the store, where there are shares.
    pub(super) fn take_also(
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
        Some(decision)
    }

    /// What is left of the share, where there are shares.
    pub(super) fn share_left(&self, key: &RateKey, quotas: &Quotas) -> Option<Readings> {
        let Mode::Local(parts) = self.degraded.0 else {
            return None;
        };
        Some(self.counts.peek(key, &quotas.share(parts)))
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
        "the shared rate limits are unavailable",
    )
}

impl fmt::Debug for LocalFallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalFallback")
            .field("degraded", &self.degraded)
            .finish_non_exhaustive()
    }
}
