//! A limit on how often something is done, and on how often at the same time.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// A limit per second, which is also the burst and the maximum number under way.
///
/// The rate is GCRA: a single number, the time up to which capacity is used up. Capacity returns
/// with time even while operations hang, so those under way are counted separately.
pub(super) struct Rate {
    limit: u32,
    interval_nanos: u64,
    used_up_to: AtomicU64,
    under_way: AtomicU32,
}

/// An operation that was begun. It is under way until this is dropped, and counts unless it was
/// good.
pub(super) struct Attempt<'a> {
    rate: &'a Rate,
    /// When the capacity that it took has been restored.
    until_nanos: u64,
}

const SECOND_NANOS: u64 = 1_000_000_000;

impl Rate {
    /// `limit` per second, at least one.
    pub(super) fn per_second(limit: u32) -> Self {
        let limit = limit.max(1);
        Self {
            limit,
            interval_nanos: SECOND_NANOS
                .checked_div(limit.into())
                .unwrap_or(SECOND_NANOS)
                .max(1),
            used_up_to: AtomicU64::new(0),
            under_way: AtomicU32::new(0),
        }
    }

    /// Begins an operation if the limit allows.
    pub(super) fn begin(&self, now: Duration) -> Option<Attempt<'_>> {
        let more = |taken: u32| (taken < self.limit).then(|| taken.saturating_add(1));
        update_u32(&self.under_way, more)?;
        let mut attempt = Attempt {
            rate: self,
            until_nanos: 0,
        };
        let now = nanos(now);
        let full = now.saturating_add(SECOND_NANOS);
        let later = |used: u64| used.max(now).saturating_add(self.interval_nanos);
        let used = update(&self.used_up_to, |used| (used < full).then(|| later(used)))?;
        attempt.until_nanos = later(used);
        Some(attempt)
    }
}

impl Attempt<'_> {
    /// Uncounts the operation. Capacity that time has already restored isn't returned again,
    /// because that would admit too many later.
    pub(super) fn uncount(self, now: Duration) {
        let now = nanos(now);
        if self.until_nanos <= now {
            return;
        }
        let earlier = |used: u64| used.saturating_sub(self.rate.interval_nanos).max(now);
        update(&self.rate.used_up_to, |used| {
            (used > now).then(|| earlier(used))
        });
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let less = |taken: u32| taken.checked_sub(1);
        update_u32(&self.rate.under_way, less);
    }
}

/// Returns the previous value if it was changed.
fn update(number: &AtomicU64, change: impl Fn(u64) -> Option<u64>) -> Option<u64> {
    let order = (Ordering::Relaxed, Ordering::Relaxed);
    number.fetch_update(order.0, order.1, change).ok()
}

fn update_u32(number: &AtomicU32, change: impl Fn(u32) -> Option<u32>) -> Option<u32> {
    let order = (Ordering::Relaxed, Ordering::Relaxed);
    number.fetch_update(order.0, order.1, change).ok()
}

fn nanos(moment: Duration) -> u64 {
    u64::try_from(moment.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn attempt(rate: &Rate, now: Duration) -> Vec<Attempt<'_>> {
        std::iter::from_fn(|| rate.begin(now)).collect()
    }

    #[test]
    fn what_was_good_gives_back_what_is_left_of_its_time() {
        let rate = Rate::per_second(1_000);
        let all = attempt(&rate, Duration::ZERO);
        assert_eq!(all.len(), 1_000);
        for one in all {
            one.uncount(400 * MILLI);
        }
        for round in 0..5 {
            // Neither more nor less than at the beginning.
            let all = attempt(&rate, (400 + round) * MILLI);
            assert_eq!(all.len(), 1_000);
            for one in all {
                one.uncount((400 + round) * MILLI);
            }
        }
    }

    #[test]
    fn what_its_time_has_given_back_is_not_given_back_again() {
        let rate = Rate::per_second(100);
        let slow = attempt(&rate, Duration::ZERO);
        assert_eq!(slow.len(), 100);
        assert!(rate.begin(900 * MILLI).is_none(), "they are under way");
        let vain = 1_000 * MILLI;
        for one in slow {
            one.uncount(vain);
        }
        assert_eq!(attempt(&rate, vain).len(), 100);
        assert!(
            rate.begin(vain).is_none(),
            "as many as there are in a second"
        );
    }

    #[test]
    fn good_ones_that_take_their_time_do_not_use_it_up() {
        let rate = Rate::per_second(100);
        let mut under_way = std::collections::VecDeque::new();
        // Ten times as many as may be in vain, 5 ms each.
        for tick in 0..5_000 {
            let now = tick * MILLI;
            if under_way.len() == 5 {
                let one: Attempt<'_> = under_way.pop_front().unwrap();
                one.uncount(now);
            }
            under_way.push_back(rate.begin(now).expect("it is good"));
        }
    }
}
