//! The trait of every rate limit store, and what they share.

#[cfg(feature = "redis")]
mod fallback;
#[cfg(feature = "redis")]
mod leases;
#[cfg(test)]
pub(crate) mod model;
#[cfg(feature = "redis")]
mod recovery;
#[cfg(feature = "redis")]
mod refill;
#[cfg(feature = "redis")]
mod refusals;
#[cfg(feature = "redis")]
mod resilient;
#[cfg(feature = "redis")]
mod statistics;
#[cfg(feature = "redis")]
#[cfg(test)]
mod tests;

#[cfg(feature = "redis")]
pub use fallback::Degraded;
#[cfg(feature = "redis")]
pub(crate) use resilient::{RemoteRateStore, RemoteSettings, Resilient};
#[cfg(feature = "redis")]
pub use statistics::SharedRateStatistics;

use std::{fmt, sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::StoreFuture;
use crate::domain::quota::Quotas;

/// Keys of which a process knows by itself: those with refusals, and those with leases.
#[cfg(feature = "redis")]
const KEYS_MAX: usize = 100_000;

/// What is left in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowReading {
    /// Units that would be admitted now.
    pub remaining: u32,
    /// Until the full burst is available again.
    pub reset: Duration,
}

/// What is left, window by window, in the order of the quotas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readings(SmallVec<[WindowReading; 3]>);

impl Readings {
    /// What is left in each window.
    #[must_use]
    pub fn as_slice(&self) -> &[WindowReading] {
        &self.0
    }

    /// Readings of `count` windows, all zero.
    pub(crate) fn blank(count: usize) -> Self {
        let blank = WindowReading {
            remaining: 0,
            reset: Duration::ZERO,
        };
        Self(SmallVec::from_elem(blank, count))
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [WindowReading] {
        &mut self.0
    }

    /// Lowers what remains to what `others` have. The resets stay the store's own: a later
    /// correction is placed by them.
    #[cfg(feature = "redis")]
    fn tell_fewer(&mut self, others: &Self) {
        for (reading, other) in self.0.iter_mut().zip(&others.0) {
            reading.remaining = reading.remaining.min(other.remaining);
        }
    }

    /// What is left in the tightest window.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        let remaining = self.0.iter().map(|reading| reading.remaining);
        remaining.min().unwrap_or(u32::MAX)
    }
}

impl FromIterator<WindowReading> for Readings {
    fn from_iter<I: IntoIterator<Item = WindowReading>>(readings: I) -> Self {
        let mut all = SmallVec::new();
        for reading in readings {
            all.push(reading);
        }
        Self(all)
    }
}

/// What was decided about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RateOutcome {
    /// It was taken from every window.
    Admitted,
    /// It was taken from no window; all windows would admit it after this time.
    Refused(Duration),
    /// It was taken from no window, and never will be: it costs more than a window ever holds.
    TooCostly,
}

/// What a limiter decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateDecision {
    /// The outcome.
    pub outcome: RateOutcome,
    /// What is left, window by window.
    pub readings: Readings,
    /// The time, for a later [`Correction`].
    pub taken_at: TakenAt,
}

impl RateDecision {
    /// Whether the request was admitted.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.outcome == RateOutcome::Admitted
    }

    /// What would be decided about one unit, given what is left.
    pub(crate) fn foreseen(quotas: &Quotas, left: Readings) -> Self {
        let windows = quotas.as_slice().iter().zip(left.as_slice());
        let used_up = windows.filter(|(_, left)| left.remaining == 0);
        let wait = used_up.map(|(quota, left)| quota.until_one(left.reset));
        Self {
            outcome: wait
                .max()
                .map_or(RateOutcome::Admitted, RateOutcome::Refused),
            readings: left,
            taken_at: TakenAt::default(),
        }
    }
}

/// When something was taken, on the engine's own clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenAt {
    /// Nanoseconds on the clock that measures periods.
    pub(crate) period_nanos: u64,
    /// Seconds since 1970-01-01T00:00:00Z; 0 if no calendar was involved.
    pub(crate) unix_secs: i64,
    /// Units of this key that had been given back before.
    pub(crate) given_back: u64,
    /// Decided by this process alone, because the shared store was unavailable.
    pub(crate) is_local: bool,
}

impl TakenAt {
    /// A moment of a store of one's own: on the clock that measures periods, and in seconds since
    /// 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn new(elapsed: Duration, unix_secs: i64) -> Self {
        Self {
            period_nanos: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            unix_secs,
            ..Self::default()
        }
    }

    /// The reading of the clock that measures periods.
    #[must_use]
    pub const fn elapsed(self) -> Duration {
        Duration::from_nanos(self.period_nanos)
    }

    /// Seconds since 1970-01-01T00:00:00Z; 0 if no calendar was involved.
    #[must_use]
    pub const fn unix_secs(self) -> i64 {
        self.unix_secs
    }
}

/// What a request finally cost, after an estimate was taken.
///
/// Units that have left a window can't be given back: those of a calendar window that is over, of a
/// strict one once they have left the period, of a bucket once they have drained. So the final
/// usage never exceeds what the quota admits, whenever requests begin and end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Units on top of what was taken; negative ones are given back. It is never refused: a window
    /// may be overdrawn, and then admits nothing until that has drained.
    pub units: i64,
    /// When the estimate was taken.
    pub taken_at: TakenAt,
    /// What was left right after the take. Without this a bucket gives nothing back.
    pub readings: Readings,
}

impl Correction {
    /// Units used now for which nothing was taken before. Like any correction this is never
    /// refused.
    #[must_use]
    pub fn used(units: u32) -> Self {
        Self {
            units: units.into(),
            // Later than the beginning of anything.
            taken_at: TakenAt {
                period_nanos: u64::MAX,
                unix_secs: i64::MAX,
                ..TakenAt::default()
            },
            readings: Readings::default(),
        }
    }
}

/// The key that requests are counted by, as a store names it: a scope, and a digest of the caller's
/// identity. The digest keeps keys, addresses and header values out of the store, and all names at
/// the same length.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RateKey {
    scope: Arc<str>,
    digest: [u8; 16],
}

impl RateKey {
    /// The caller named `name` in `scope`. The scope is the limit's own name, the same in all
    /// processes that share it.
    #[must_use]
    pub fn new(scope: &Arc<str>, name: &[u8]) -> Self {
        let hash: [u8; 32] = Sha256::digest(name).into();
        let (digest, _) = hash.split_first_chunk().unwrap_or((&[0; 16], &[]));
        Self {
            scope: Arc::clone(scope),
            digest: *digest,
        }
    }

    /// The scope.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The digest of the name: the first 16 bytes of its SHA-256.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 16] {
        &self.digest
    }
}

impl fmt::Debug for RateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RateKey({}:{:032x})",
            self.scope,
            u128::from_be_bytes(self.digest)
        )
    }
}

/// Counts requests by key, for one process or for many.
///
/// The quotas are passed with each call, so that they may differ from key to key and change at run
/// time. Usage under a window's name stays when its limit changes, and when other calls for the
/// same key name other windows. A call judges, reads and corrects only the windows that it names.
pub trait RateStore: fmt::Debug + Send + Sync + 'static {
    /// Takes `cost` units from every window of `key`, or from none: all or nothing, in one step.
    /// Nothing is written when it refuses, or when the cost is 0.
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision>;

    /// Corrects an earlier take.
    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()>;

    /// Reads what is left for `key`. For a window that is used up, a store over the network may
    /// briefly repeat its last answer.
    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings>;

    /// Forgets what `key` has used.
    fn reset(&self, key: &RateKey) -> StoreFuture<()>;
}

impl<T: RateStore + ?Sized> RateStore for Arc<T> {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        T::take(self, key, quotas, cost)
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()> {
        T::correct(self, key, quotas, correction)
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        T::peek(self, key, quotas)
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        T::reset(self, key)
    }
}
