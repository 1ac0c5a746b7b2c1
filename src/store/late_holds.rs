//! The holds of one account that this process resolved without their owner, until that is heard of,
//! or for a day.

use std::{collections::VecDeque, time::Duration};

use hashbrown::HashMap;

use crate::domain::books::Abandoned;

/// How many; beyond that the oldest is forgotten.
const KEPT_MAX: usize = 4_096;

/// By number; of each, what its engine has to know.
#[derive(Debug)]
pub(super) struct LateHolds<T> {
    kept: HashMap<u64, T>,
    /// In the order in which they came, with the time from which on each is forgotten; one may
    /// stand here that was taken.
    order: VecDeque<(u64, Duration)>,
}

impl<T> Default for LateHolds<T> {
    fn default() -> Self {
        Self {
            kept: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<T> LateHolds<T> {
    pub(super) fn insert(&mut self, number: u64, now: Duration, what: T) {
        self.forget_old(now);
        if self.order.len() >= KEPT_MAX
            && let Some((oldest, _)) = self.order.pop_front()
        {
            self.kept.remove(&oldest);
        }
        self.kept.insert(number, what);
        let ends = now.saturating_add(Abandoned::REMEMBERED);
        self.order.push_back((number, ends));
    }

    /// What is known of a hold, once.
    pub(super) fn take(&mut self, number: u64, now: Duration) -> Option<T> {
        self.forget_old(now);
        self.kept.remove(&number)
    }

    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.kept.values_mut()
    }

    /// Whether none is known.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn is_empty(&mut self, now: Duration) -> bool {
        self.forget_old(now);
        self.kept.is_empty()
    }

    fn forget_old(&mut self, now: Duration) {
        while let Some((number, _)) = self.order.pop_front_if(|(_, ends)| *ends <= now) {
            self.kept.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_once_and_for_a_day() {
        let mut late = LateHolds::default();
        let day = Abandoned::REMEMBERED;
        late.insert(1, Duration::ZERO, 'a');
        late.insert(2, Duration::from_secs(1), 'b');
        late.insert(3, Duration::from_secs(1), 'c');
        assert_eq!(late.take(2, Duration::from_secs(1)), Some('b'));
        assert_eq!(late.take(2, Duration::from_secs(1)), None);
        assert_eq!(late.take(1, day), None);
        assert_eq!(late.take(3, day), Some('c'));
        assert!(late.kept.is_empty());
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut late = LateHolds::default();
        let all = u64::try_from(KEPT_MAX).unwrap();
        for number in 0..=all {
            late.insert(number, Duration::ZERO, ());
        }
        assert_eq!((late.kept.len(), late.order.len()), (KEPT_MAX, KEPT_MAX));
        assert_eq!(late.take(0, Duration::ZERO), None);
        assert_eq!(late.take(all, Duration::ZERO), Some(()));
    }
}
