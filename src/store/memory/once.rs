//! Idempotency keys of one account, remembered for a time.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use hashbrown::HashMap;

use crate::domain::{
    books::{HoldRefusal, KnownCall},
    usage::Idempotency,
};

/// Keys remembered of an account; beyond that the oldest that was settled makes room.
const KEYS_MAX: usize = 100_000;

#[derive(Default)]
pub(super) struct Once {
    known: HashMap<Arc<str>, (KnownCall, Duration)>,
    /// In the order in which they came; a key may stand here that is forgotten already.
    order: VecDeque<(Arc<str>, Duration)>,
}

impl Once {
    /// Why a call with that key is refused.
    pub(super) fn refuses(&self, wish: &Idempotency, now: Duration) -> Option<HoldRefusal> {
        let (known, ends) = self.known.get(&wish.key)?;
        // What is under way is known until it ends, however long that takes.
        let forgotten = known.settled && *ends <= now;
        (!forgotten).then(|| known.refusal(&wish.fingerprint))
    }

    pub(super) fn begin(&mut self, wish: &Idempotency, now: Duration) {
        self.forget_old(now);
        let ends = now.saturating_add(wish.keep_for);
        let known = KnownCall {
            fingerprint: wish.fingerprint,
            settled: false,
        };
        self.known.insert(Arc::clone(&wish.key), (known, ends));
        self.order.push_back((Arc::clone(&wish.key), ends));
    }

    /// What was charged stays known; what cost nothing may be tried again.
    pub(super) fn end(&mut self, key: &Arc<str>, charged: bool) {
        if !charged {
            self.known.remove(key);
        } else if let Some((known, _)) = self.known.get_mut(key) {
            known.settled = true;
        }
    }

    fn forget_old(&mut self, now: Duration) {
        // Two at a time, so that the line grows shorter where it is too long.
        for _ in 0..2 {
            let Some((key, ends)) = self.order.front() else {
                return;
            };
            let known = self.known.get(key).filter(|(_, own)| own == ends);
            let full = self.order.len() > KEYS_MAX;
            let over = match known {
                None => true,
                Some((known, ends)) => known.settled && (full || *ends <= now),
            };
            let Some((key, ends)) = self.order.pop_front() else {
                return;
            };
            if !over {
                if full {
                    // Under way: open holds have a bound of their own.
                    self.order.push_back((key, ends));
                } else {
                    self.order.push_front((key, ends));
                }
                return;
            }
            if self.known.get(&key).is_some_and(|(_, own)| *own == ends) {
                self.known.remove(&key);
            }
        }
    }
}
