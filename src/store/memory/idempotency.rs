//! Idempotency keys of one account, remembered for a limited time.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use hashbrown::HashMap;

use crate::domain::{
    books::{HoldRefusal, KnownCall},
    usage::Idempotency,
};

/// Keys remembered per account. Beyond that, the oldest settled one is dropped.
const KEYS_MAX: usize = 100_000;

#[derive(Default)]
pub(super) struct IdempotencyKeys {
    known: HashMap<Arc<str>, (KnownCall, Duration)>,
    /// In order of arrival; may include keys that are already forgotten.
    order: VecDeque<(Arc<str>, Duration)>,
}

impl IdempotencyKeys {
    /// Why a call with that key is refused, if it is.
    pub(super) fn refuses(&self, wish: &Idempotency, now: Duration) -> Option<HoldRefusal> {
        let (known, _) = self.known(&wish.key, now)?;
        Some(known.refusal(&wish.fingerprint))
    }

    /// The call that a key names, and when it is forgotten.
    pub(super) fn known(&self, key: &str, now: Duration) -> Option<(KnownCall, Duration)> {
        let (known, ends) = self.known.get(key)?;
        // A call in progress is remembered until it ends, however long that takes.
        let forgotten = known.settled && *ends <= now;
        (!forgotten).then_some((*known, *ends))
    }

    pub(super) fn begin(&mut self, wish: &Idempotency, now: Duration) {
        self.forget_old(now);
        let ends = now.saturating_add(wish.keep_for);
        let known = KnownCall {
            fingerprint: wish.fingerprint,
            settled: false,
        };
        self.insert(&wish.key, known, ends);
    }

    /// A key that was freed names a call that was charged after all.
    pub(super) fn take_back(&mut self, key: &Arc<str>, fingerprint: [u8; 32], ends: Duration) {
        let known = KnownCall {
            fingerprint,
            settled: true,
        };
        self.insert(key, known, ends);
    }

    fn insert(&mut self, key: &Arc<str>, known: KnownCall, ends: Duration) {
        self.known.insert(Arc::clone(key), (known, ends));
        self.order.push_back((Arc::clone(key), ends));
    }

    /// Keys of charged calls stay remembered; a call that cost nothing may be tried again.
    pub(super) fn end(&mut self, key: &Arc<str>, charged: bool) {
        if !charged {
            self.known.remove(key);
        } else if let Some((known, _)) = self.known.get_mut(key) {
            known.settled = true;
        }
    }

    fn forget_old(&mut self, now: Duration) {
        // Two at a time, so that an overfull queue shrinks.
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
                    // Still in progress; open holds have a limit of their own.
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
