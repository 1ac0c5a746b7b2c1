//! Statistics of a limiter that shares its counts.

use std::sync::atomic::{AtomicU64, Ordering};

use super::RateDecision;

/// Counters of a limiter that shares its counts, since its creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedRateStatistics {
    /// Requests admitted, by the store or without it.
    pub admitted: u64,
    /// Requests refused, by the store or without it.
    pub refused: u64,
    /// Round trips to the store.
    pub round_trips: u64,
    /// Round trips that failed, or took too long.
    pub failures: u64,
    /// Requests refused because an earlier refusal still held.
    pub refused_from_memory: u64,
    /// Requests admitted from units that were taken ahead.
    pub admitted_from_lease: u64,
    /// Requests decided without the store, because it was unavailable.
    pub degraded: u64,
    /// How often the store became unavailable.
    pub losses: u64,
    /// Whether it is unavailable now: this process counts by itself.
    pub is_degraded: bool,
    /// Keys that this process keeps counts of, in case the store becomes unavailable.
    pub local_keys: usize,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    admitted: AtomicU64,
    refused: AtomicU64,
    pub(super) losses: AtomicU64,
    pub(super) round_trips: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) refused_from_memory: AtomicU64,
    pub(super) admitted_from_lease: AtomicU64,
    pub(super) degraded: AtomicU64,
}

impl Counters {
    /// Counts a decision, wherever it was made.
    pub(super) fn counted(&self, decision: RateDecision) -> RateDecision {
        count(if decision.is_admitted() {
            &self.admitted
        } else {
            &self.refused
        });
        decision
    }

    /// The counters, without the current state.
    pub(super) fn read(&self) -> SharedRateStatistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SharedRateStatistics {
            admitted: read(&self.admitted),
            refused: read(&self.refused),
            round_trips: read(&self.round_trips),
            failures: read(&self.failures),
            refused_from_memory: read(&self.refused_from_memory),
            admitted_from_lease: read(&self.admitted_from_lease),
            degraded: read(&self.degraded),
            losses: read(&self.losses),
            ..SharedRateStatistics::default()
        }
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
