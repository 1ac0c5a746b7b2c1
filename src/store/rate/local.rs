//! What a process knows by itself of keys that are counted elsewhere: refusals that still hold, and
//! units that were taken ahead.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;

use super::{RateDecision, RateKey, RateOutcome, Readings, WindowReading};
use crate::domain::quota::Quotas;

/// Keys whose refusals, or whose leases, are kept.
const KEYS_MAX: u64 = 100_000;
/// For how long a refusal is believed: a correction or a reset elsewhere counts after that.
const DENIAL_MAX: Duration = Duration::from_secs(1);
/// For how long units that were taken ahead can be used; what is left then is lost.
pub(super) const LEASE_MAX: Duration = Duration::from_secs(1);

/// Refusals that still hold: whoever was told to wait a second needn't be asked about before.
pub(super) struct Denied(Cache<RateKey, Arc<Refusal>>);

struct Refusal {
    quotas: Quotas,
    cost: u32,
    decision: RateDecision,
    wait: Duration,
    at: Duration,
}

impl Denied {
    pub(super) fn new() -> Self {
        Self(Cache::builder().max_capacity(KEYS_MAX).build())
    }

    /// Remembers a refusal.
    pub(super) fn note(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
        decision: &RateDecision,
        now: Duration,
    ) {
        if let RateOutcome::Refused(wait) = decision.outcome {
            let refusal = Refusal {
                quotas: quotas.clone(),
                cost,
                decision: decision.clone(),
                wait,
                at: now,
            };
            self.0.insert(key.clone(), Arc::new(refusal));
        }
    }

    /// The refusal that still holds for so much.
    pub(super) fn find(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
        now: Duration,
    ) -> Option<RateDecision> {
        let refusal = self.0.get(key)?;
        let since = now.saturating_sub(refusal.at);
        if since >= refusal.wait.min(DENIAL_MAX) {
            self.0.invalidate(key);
            return None;
        }
        if cost < refusal.cost || refusal.quotas != *quotas {
            return None;
        }
        let later = |reading: &WindowReading| WindowReading {
            remaining: reading.remaining,
            reset: reading.reset.saturating_sub(since),
        };
        Some(RateDecision {
            outcome: RateOutcome::Refused(refusal.wait.saturating_sub(since)),
            readings: refusal
                .decision
                .readings
                .as_slice()
                .iter()
                .map(later)
                .collect(),
            taken_at: refusal.decision.taken_at,
        })
    }

    pub(super) fn forget(&self, key: &RateKey) {
        self.0.invalidate(key);
    }
}

/// Units that were taken ahead, key by key.
pub(super) struct Leases(Cache<RateKey, Arc<Lease>>);

/// The units of one key. Whoever finds none left takes new ones, one at a time.
#[derive(Default)]
pub(super) struct Lease {
    units: Mutex<Option<Units>>,
    /// The last one to ask was given nothing on top: there is nothing to wait for.
    is_scarce: AtomicBool,
    refill: tokio::sync::Mutex<()>,
}

struct Units {
    quotas: Quotas,
    left: u32,
    decision: RateDecision,
    at: Duration,
}

impl Leases {
    pub(super) fn new() -> Self {
        // moka's own clock only gives memory back.
        let idle = LEASE_MAX.saturating_mul(4);
        let cache = Cache::builder().max_capacity(KEYS_MAX).time_to_idle(idle);
        Self(cache.build())
    }

    pub(super) fn of(&self, key: &RateKey) -> Arc<Lease> {
        self.0.get_with_by_ref(key, Arc::default)
    }

    pub(super) fn forget(&self, key: &RateKey) {
        self.0.invalidate(key);
    }
}

impl Lease {
    /// Takes `cost` of the units that were taken ahead, if there are so many.
    pub(super) fn take(&self, quotas: &Quotas, cost: u32, now: Duration) -> Option<RateDecision> {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let held = units.as_mut()?;
        if now.saturating_sub(held.at) >= LEASE_MAX || held.quotas != *quotas {
            *units = None;
            return None;
        }
        held.left = held.left.checked_sub(cost)?;
        let more = |reading: &WindowReading| WindowReading {
            remaining: reading.remaining.saturating_add(held.left),
            reset: reading.reset.saturating_sub(now.saturating_sub(held.at)),
        };
        let readings: Readings = held.decision.readings.as_slice().iter().map(more).collect();
        Some(RateDecision {
            readings,
            ..held.decision.clone()
        })
    }

    /// Waits until nobody else takes units ahead; not where there are none to take.
    pub(super) async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if self.is_scarce() {
            return None;
        }
        let turn = self.refill.lock().await;
        (!self.is_scarce()).then_some(turn)
    }

    fn is_scarce(&self) -> bool {
        self.is_scarce.load(Ordering::Relaxed)
    }

    /// Takes note of how many units were left over.
    pub(super) fn note(&self, left: u32) {
        self.is_scarce.store(left == 0, Ordering::Relaxed);
    }

    /// Keeps the units that one request left of what was taken.
    pub(super) fn keep(&self, quotas: &Quotas, left: u32, decision: &RateDecision, now: Duration) {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        *units = Some(Units {
            quotas: quotas.clone(),
            left,
            decision: decision.clone(),
            at: now,
        });
    }
}

impl fmt::Debug for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Denied")
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leases")
    }
}
