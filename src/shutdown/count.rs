//! A count of which others only hear whether it is zero.

use crate::sync::atomic::{AtomicU64, Ordering};

/// How many uses are under way. All others hear only that there are some, and whoever has begun one
/// may rely on it that they were told. It isn't enough that the first one tells them: the second
/// may have begun, and even ended, before it does.
///
/// So the first to come announces itself with half a use, and everybody who meets that tells it for
/// the first one; those who were too many take it back (Ellen, Lev, Luchangco and Moir, "SNZI:
/// scalable nonzero indicators", 2007).
#[derive(Default)]
pub(super) struct Count {
    halves: AtomicU64,
}

const HALF: u64 = 1;
const ONE: u64 = 2;

impl Count {
    /// Begins a use. When it returns, `tell` was called once more than `take_back`, by this caller
    /// or by others.
    pub(super) fn begin(&self, tell: impl Fn(), take_back: impl Fn()) {
        let mut too_many = 0_u32;
        let mut seen = self.halves.load(Ordering::Acquire);
        loop {
            let is_first = seen == 0 && self.replace(&mut seen, HALF);
            if seen == HALF {
                tell();
                if !self.replace(&mut seen, ONE) {
                    too_many = too_many.saturating_add(1);
                }
            }
            if is_first {
                break;
            }
            let more = seen.saturating_add(ONE);
            if seen >= ONE && self.replace(&mut seen, more) {
                break;
            }
        }
        (0..too_many).for_each(|_| take_back());
    }

    /// Ends a use.
    pub(super) fn end(&self, take_back: impl Fn()) {
        let mut seen = self.halves.load(Ordering::Acquire);
        loop {
            let left = seen.saturating_sub(ONE);
            if self.replace(&mut seen, left) {
                break;
            }
        }
        if seen == 0 {
            take_back();
        }
    }

    pub(super) fn get(&self) -> u64 {
        self.halves.load(Ordering::Acquire).div_ceil(ONE)
    }

    /// Whether it still was as `seen`, and is `new` from here on. `seen` is what it is in the end.
    fn replace(&self, seen: &mut u64, new: u64) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let replaced = self.halves.compare_exchange(*seen, new, success, failure);
        *seen = replaced.map_or_else(|now| now, |_| new);
        replaced.is_ok()
    }
}
