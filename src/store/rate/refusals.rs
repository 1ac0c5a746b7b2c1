//! Refusals that still hold, by key: a caller that was told to wait a second need not be counted
//! again before then.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{KEYS_MAX, RateDecision, RateKey, RateOutcome, Readings, WindowReading};
use crate::{
    domain::quota::{Quota, Quotas, Rule},
    recent::{Digested, Recent},
};

/// How long a refusal is trusted: a correction or a reset elsewhere takes effect after that.
const DENIAL_MAX: Duration = Duration::from_secs(1);

/// Keys are divided into this many parts; it is enough to know that some key of a part was
/// corrected.
const PARTS: usize = 64;

/// The refusals of those who take, and of those who only look.
#[derive(Debug)]
pub(super) struct Refusals {
    pub(super) denials: DenialCache,
    /// Nobody who takes goes by these: what is leased is still there to be taken.
    looks: DenialCache,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self {
            denials: DenialCache::new(),
            looks: DenialCache::new(),
        }
    }

    /// What is left for a caller that only looks, if that is sure to be nothing.
    pub(super) fn seen(&self, key: &RateKey, quotas: &Quotas, now: Duration) -> Option<Readings> {
        let seen = self.looks.find(key, quotas, 1, now);
        let refused = seen.or_else(|| self.denials.find(key, quotas, 1, now))?;
        Some(refused.readings)
    }

    /// Must be called before a caller looks.
    pub(super) fn looked(&self, key: &RateKey) -> Asked {
        self.looks.asked(key)
    }

    /// Remembers what a caller saw that looked, and returns it.
    pub(super) fn note_look(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        left: Readings,
        asked: (Duration, Asked),
    ) -> Readings {
        let foreseen = foreseen(quotas, left);
        self.looks.note(key, quotas, 1, &foreseen, asked);
        foreseen.readings
    }

    pub(super) fn forget(&self, key: &RateKey) {
        self.denials.forget(key);
        self.looks.forget(key);
    }

    /// Forgets when dropped: whatever is refused until then is older than what the store hears.
    #[must_use]
    pub(super) fn forgetting<'a>(&'a self, key: &'a RateKey) -> Forgetting<'a> {
        Forgetting(self, key)
    }
}

pub(super) struct Forgetting<'a>(&'a Refusals, &'a RateKey);

impl Drop for Forgetting<'_> {
    fn drop(&mut self) {
        self.0.forget(self.1);
    }
}

/// What would be decided about one unit, for as long as that is sure to hold: a strict window
/// doesn't tell when the first of its units is there again, which is when one of its slices ends.
fn foreseen(quotas: &Quotas, left: Readings) -> RateDecision {
    let mut foreseen = RateDecision::foreseen(quotas, left);
    if let RateOutcome::Refused(wait) = &mut foreseen.outcome {
        let strict = quotas.as_slice().iter();
        let strict = strict.filter(|quota| *quota.rule() == Rule::Strict);
        let slice = strict.map(Quota::slice).min();
        *wait = slice.map_or(*wait, |slice| slice.min(*wait));
    }
    foreseen
}

/// The refusals of some callers.
pub(super) struct DenialCache {
    refusals: Recent<RateKey, Arc<Refusal>>,
    /// How often something was forgotten in each part of the keys.
    forgotten: [AtomicU64; PARTS],
}

/// Identifies when a store was asked: if the key is forgotten after that, the answer is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked(u64);

struct Refusal {
    quotas: Quotas,
    cost: u32,
    decision: RateDecision,
    wait: Duration,
    at: Duration,
}

impl DenialCache {
    fn new() -> Self {
        Self {
            refusals: Recent::new(KEYS_MAX).age_max(DENIAL_MAX),
            forgotten: [const { AtomicU64::new(0) }; PARTS],
        }
    }

    /// Must be called before the store is asked.
    pub(super) fn asked(&self, key: &RateKey) -> Asked {
        Asked(self.forgotten(key).load(Ordering::SeqCst))
    }

    #[expect(clippy::indexing_slicing, reason = "there are 64")]
    fn forgotten(&self, key: &RateKey) -> &AtomicU64 {
        let [first, ..] = *key.digest();
        &self.forgotten[usize::from(first & 63)]
    }

    /// Remembers a refusal, unless something was given back since the store was asked.
    pub(super) fn note(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
        decision: &RateDecision,
        (now, asked): (Duration, Asked),
    ) {
        if let RateOutcome::Refused(wait) = decision.outcome
            && self.asked(key) == asked
        {
            let refusal = Refusal {
                quotas: quotas.clone(),
                cost,
                decision: decision.clone(),
                wait,
                at: now,
            };
            self.refusals.insert(key.clone(), Arc::new(refusal), now);
            // `forget` increments the counter first, so one of the two sees the other.
            if self.asked(key) != asked {
                self.refusals.remove(key);
            }
        }
    }

    /// The refusal that still holds for this cost.
    pub(super) fn find(
        &self,
        key: &RateKey,
        quotas: &Quotas,
        cost: u32,
        now: Duration,
    ) -> Option<RateDecision> {
        let refusal = self.refusals.get(key, now)?;
        let since = now.saturating_sub(refusal.at);
        // Once a lower cost is admitted, the higher one has to wait for longer.
        if since >= refusal.wait.min(DENIAL_MAX) || cost < refusal.cost {
            self.refusals.remove(key);
            return None;
        }
        if refusal.quotas != *quotas {
            return None;
        }
        let wait = refusal.wait_for(cost)?;
        let later = |reading: &WindowReading| WindowReading {
            remaining: reading.remaining,
            reset: reading.reset.saturating_sub(since),
        };
        Some(RateDecision {
            outcome: RateOutcome::Refused(wait.saturating_sub(since)),
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
        self.forgotten(key).fetch_add(1, Ordering::SeqCst);
        self.refusals.remove(key);
    }
}

impl Refusal {
    /// How long a request of this cost, or a higher one, had to wait when the store was asked.
    /// `None` where only the store knows: a strict window doesn't tell which of its units leave
    /// when, and what costs more than a window holds need not wait at all.
    fn wait_for(&self, cost: u32) -> Option<Duration> {
        if cost == self.cost {
            return Some(self.wait);
        }
        let readings = self.decision.readings.as_slice();
        let mut wait = self.wait;
        for (quota, left) in self.quotas.as_slice().iter().zip(readings) {
            let beside = quota.burst_size().checked_sub(cost)?;
            if left.remaining < cost {
                wait = wait.max(quota.until_room(left.reset, beside)?);
            }
        }
        Some(wait)
    }
}

impl Digested for RateKey {
    fn first_byte(&self) -> u8 {
        self.digest().first_byte()
    }
}

impl fmt::Debug for DenialCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DenialCache")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::TakenAt;

    const NOW: Duration = Duration::ZERO;

    fn key(number: usize) -> RateKey {
        RateKey::new(&"test".into(), &number.to_le_bytes())
    }

    fn decision(outcome: RateOutcome) -> RateDecision {
        RateDecision {
            outcome,
            readings: Readings::blank(1),
            taken_at: TakenAt::default(),
        }
    }

    #[test]
    fn the_refusal_of_a_newcomer_is_remembered() {
        let (denials, quotas) = (DenialCache::new(), Quotas::from(Quota::per_minute(100)));
        let refused = decision(RateOutcome::Refused(Duration::from_secs(60)));
        let note = |number| {
            let key = key(number);
            let asked = denials.asked(&key);
            denials.note(&key, &quotas, 1, &refused, (NOW, asked));
            denials.find(&key, &quotas, 1, NOW).is_some()
        };
        for number in 0..KEYS_MAX {
            assert!(note(number) && note(number));
        }
        assert!((KEYS_MAX..KEYS_MAX + 2_000).all(note));
    }
}
