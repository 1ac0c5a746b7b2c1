//! Units that were taken ahead from a store that is shared.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{KEYS_MAX, RateDecision, RateKey, Readings, WindowReading};
use crate::{
    domain::quota::{Quota, Quotas},
    recent::Recent,
    sync::lock,
};

/// How long units that were taken ahead can be used; the rest is lost then.
pub(super) const LEASE_MAX: Duration = Duration::from_secs(1);
/// Batches of units per key of which some are left. Beyond that the oldest batch is lost.
const BATCHES_MAX: usize = 8;
/// How long a caller waits while another takes units ahead, before it asks for its own.
const TURN_MAX: Duration = Duration::from_millis(5);

/// Units that were taken ahead, by key. There is always room for a new key: its units are already
/// debited, and would otherwise be lost.
pub(super) struct Leases(Recent<RateKey, Arc<Lease>>);

/// The units of one key. A caller that finds none left takes new ones, one caller at a time.
#[derive(Default)]
pub(super) struct Lease {
    units: Mutex<Option<Units>>,
    /// The last attempt got nothing extra: there is nothing to wait for.
    is_scarce: AtomicBool,
    refill: Arc<tokio::sync::Mutex<()>>,
}

/// The turn to take units ahead, held while that is in progress.
pub(super) type Turn = tokio::sync::OwnedMutexGuard<()>;

struct Units {
    quotas: Quotas,
    /// Oldest first; each has some left.
    batches: VecDeque<Batch>,
    /// The sum over all batches.
    left: u32,
    /// The decision that came with the newest batch.
    decision: RateDecision,
    at: Duration,
}

/// What is left of the units that were taken at once.
#[derive(Clone, Copy)]
struct Batch {
    left: u32,
    at: Duration,
}

impl Units {
    fn expire(&mut self, now: Duration) {
        while let Some(oldest) = self.batches.front()
            && now.saturating_sub(oldest.at) >= LEASE_MAX
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.batches.pop_front() {
            self.left = self.left.saturating_sub(oldest.left);
        }
    }

    /// Takes `cost` units, oldest first, or none.
    fn spend(&mut self, cost: u32) -> Option<()> {
        self.left = self.left.checked_sub(cost)?;
        let mut missing = cost;
        while missing > 0
            && let Some(oldest) = self.batches.front_mut()
        {
            let by = oldest.left.min(missing);
            missing = missing.saturating_sub(by);
            oldest.left = oldest.left.saturating_sub(by);
            if oldest.left == 0 {
                self.batches.pop_front();
            }
        }
        Some(())
    }
}

impl Leases {
    pub(super) fn new() -> Self {
        Self(Recent::new(KEYS_MAX).age_max(LEASE_MAX.saturating_mul(4)))
    }

    pub(super) fn of(&self, key: &RateKey, now: Duration) -> Arc<Lease> {
        self.0.get_or_insert_with(key, now, Arc::default)
    }

    pub(super) fn forget(&self, key: &RateKey) {
        self.0.remove(key);
    }
}

impl Lease {
    /// Takes `cost` of the units that were taken ahead, if there are enough.
    pub(super) fn take(&self, quotas: &Quotas, cost: u32, now: Duration) -> Option<RateDecision> {
        let mut units = lock(&self.units);
        let held = units.as_mut()?;
        held.expire(now);
        if held.batches.is_empty() || held.quotas != *quotas {
            *units = None;
            return None;
        }
        held.spend(cost)?;
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

    /// Waits briefly until nobody else takes units ahead. Doesn't wait if there were none to take
    /// last time; then one caller at a time tries again. A caller without a turn asks only for its
    /// own units.
    pub(super) async fn turn(&self) -> Option<Turn> {
        let refill = Arc::clone(&self.refill);
        if self.is_scarce() {
            return refill.try_lock_owned().ok();
        }
        let turn = tokio::time::timeout(TURN_MAX, refill.lock_owned()).await;
        turn.ok().filter(|_| !self.is_scarce())
    }

    fn is_scarce(&self) -> bool {
        self.is_scarce.load(Ordering::Relaxed)
    }

    /// Records how many units were left over.
    pub(super) fn note(&self, left: u32) {
        self.is_scarce.store(left == 0, Ordering::Relaxed);
    }

    /// Keeps the units that a request left over, in addition to earlier ones under the same quotas,
    /// up to one burst. Returns how many there are then.
    pub(super) fn keep(
        &self,
        quotas: &Quotas,
        left: u32,
        decision: &RateDecision,
        now: Duration,
    ) -> u32 {
        let mut units = lock(&self.units);
        let before = units.take().filter(|held| held.quotas == *quotas);
        let mut held = Units {
            quotas: quotas.clone(),
            left: before.as_ref().map_or(0, |before| before.left),
            batches: before.map(|before| before.batches).unwrap_or_default(),
            decision: decision.clone(),
            at: now,
        };
        held.expire(now);
        if held.batches.len() >= BATCHES_MAX {
            held.drop_oldest();
        }
        let bursts = quotas.as_slice().iter().map(Quota::burst_size);
        let room = bursts.min().unwrap_or(0).saturating_sub(held.left);
        let left = left.min(room);
        held.left = held.left.saturating_add(left);
        if left > 0 {
            held.batches.push_back(Batch { left, at: now });
        }
        units.insert(held).left
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leases")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RateOutcome, TakenAt};

    const NOW: Duration = Duration::ZERO;

    fn key(number: usize) -> RateKey {
        RateKey::new(&"test".into(), &number.to_le_bytes())
    }

    /// Even when all room is taken by keys that were used more often.
    #[test]
    fn units_that_were_taken_ahead_for_a_newcomer_are_kept() {
        let (leases, quotas) = (Leases::new(), Quotas::from(Quota::per_minute(100)));
        for _ in 0..4 {
            for number in 0..KEYS_MAX {
                leases.of(&key(number), NOW);
            }
        }
        let admitted = RateDecision {
            outcome: RateOutcome::Admitted,
            readings: Readings::blank(1),
            taken_at: TakenAt::default(),
        };
        for number in KEYS_MAX..KEYS_MAX + 2_000 {
            let lease = leases.of(&key(number), NOW);
            assert_eq!(lease.keep(&quotas, 9, &admitted, NOW), 9);
            let taken = leases.of(&key(number), NOW).take(&quotas, 9, NOW);
            assert!(taken.is_some(), "{number}");
        }
    }
}
