//! Settlements of what was resolved without its owner.

use std::{sync::Arc, time::Duration};

use tollgate::usage::HoldId;

use super::{Known, Open, Oracle};

/// What was given back, or charged, without its owner.
pub(super) struct Late {
    pub(super) hold: Open,
    pub(super) charged: i128,
    pub(super) at: Duration,
    /// Of its idempotency key, where it was freed.
    pub(super) freed: Option<([u8; 32], Duration)>,
}

/// How long a hold is remembered that was resolved without its owner.
const REMEMBERED: Duration = Duration::from_secs(86_400);

impl Oracle {
    /// Charged once, beyond what was charged when it was resolved; but not beside its own
    /// repetition.
    pub(super) fn settle_late(&mut self, id: HoldId, cost: i128) {
        let Some(late) = self.late.remove(&id) else {
            return;
        };
        if self.elapsed >= late.at + REMEMBERED {
            return;
        }
        let place = late.hold.key.as_ref();
        let place = place.map(|key| (late.hold.account.clone(), Arc::clone(key)));
        let known = place.as_ref().and_then(|place| self.known.get(place));
        let known = known.filter(|known| !known.settled || known.ends > self.elapsed);
        let known = known.map(|known| known.fingerprint);
        let is_repeated = late.freed.is_some_and(|(own, _)| known == Some(own));
        let due = match is_repeated {
            true => 0,
            false => (cost.max(0) - late.charged).max(0),
        };
        self.charge(&late.hold, due);
        self.charged_late += usize::from(due > 0);
        if let (Some(place), Some((fingerprint, ends)), None) = (place, late.freed, known)
            && due > 0
        {
            let known = Known {
                fingerprint,
                settled: true,
                ends,
            };
            self.known.insert(place, known);
        }
    }
}
