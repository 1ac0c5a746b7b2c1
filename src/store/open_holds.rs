//! The holds of one account that are open in this process, and when each of them ends by the clock.

use std::time::Duration;

use hashbrown::HashMap;

/// By number; of each, what its engine has to know.
#[derive(Debug)]
pub(super) struct OpenHolds<T> {
    open: HashMap<u64, Open<T>>,
    /// None ends before that: most operations need not look at them.
    quiet_until: Option<Duration>,
}

#[derive(Debug)]
struct Open<T> {
    /// `None`: it ends with its call.
    ends: Option<Duration>,
    what: T,
}

impl<T> Default for OpenHolds<T> {
    fn default() -> Self {
        Self {
            open: HashMap::new(),
            quiet_until: None,
        }
    }
}

impl<T> OpenHolds<T> {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    #[cfg(feature = "redis")]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn insert(&mut self, number: u64, ends: Option<Duration>, what: T) {
        self.look_at(ends);
        self.open.insert(number, Open { ends, what });
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        self.open.remove(&number).map(|open| open.what)
    }

    #[cfg(feature = "redis")]
    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.open.get(&number).map(|open| &open.what)
    }

    /// Lets one end then, and no sooner or later; `None`: it isn't open.
    pub(super) fn set_end(&mut self, number: u64, ends: Option<Duration>) -> Option<&mut T> {
        // The others may end later than this one did: the next look finds out.
        self.look_at(ends);
        let open = self.open.get_mut(&number)?;
        open.ends = ends;
        Some(&mut open.what)
    }

    /// Something ends then.
    fn look_at(&mut self, ends: Option<Duration>) {
        self.quiet_until = [self.quiet_until, ends].into_iter().flatten().min();
    }

    /// Whether none can be over. The clock is asked only where one ends by it.
    pub(super) fn are_quiet(&self, now: impl FnOnce() -> Duration) -> bool {
        self.quiet_until.is_none_or(|end| now() < end)
    }

    /// Takes out those whose time is over.
    pub(super) fn take_over(&mut self, now: Duration) -> Vec<(u64, T)> {
        if self.are_quiet(|| now) {
            return Vec::new();
        }
        let over = self
            .open
            .extract_if(|_, open| open.ends.is_some_and(|end| end <= now))
            .map(|(number, open)| (number, open.what))
            .collect();
        self.quiet_until = self.open.values().filter_map(|open| open.ends).min();
        over
    }

    /// Takes out all of them.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn take_all(&mut self) -> Vec<(u64, T)> {
        self.quiet_until = None;
        let all = self.open.drain();
        all.map(|(number, open)| (number, open.what)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn numbers(taken: Vec<(u64, char)>) -> Vec<u64> {
        let mut numbers: Vec<u64> = taken.into_iter().map(|(number, _)| number).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn each_ends_at_its_time_and_not_before() {
        let mut holds = OpenHolds::default();
        holds.insert(1, Some(secs(10)), 'a');
        holds.insert(2, None, 'b');
        holds.insert(3, Some(secs(5)), 'c');
        assert!(holds.are_quiet(|| secs(4)) && !holds.are_quiet(|| secs(5)));
        assert!(holds.take_over(secs(4)).is_empty());
        assert_eq!(numbers(holds.take_over(secs(5))), [3]);
        assert!(holds.are_quiet(|| secs(9)));
        assert_eq!(numbers(holds.take_over(secs(10))), [1]);
        assert!(holds.take_over(Duration::MAX).is_empty());
        assert_eq!((holds.len(), holds.remove(2)), (1, Some('b')));
    }

    #[test]
    fn an_end_can_be_moved_and_taken_off() {
        let mut holds = OpenHolds::default();
        holds.insert(1, Some(secs(10)), 'a');
        holds.insert(2, Some(secs(10)), 'b');
        holds.insert(3, None, 'c');
        assert_eq!(holds.set_end(1, Some(secs(20))), Some(&mut 'a'));
        assert_eq!(holds.set_end(2, None), Some(&mut 'b'));
        assert_eq!(holds.set_end(3, Some(secs(1))), Some(&mut 'c'));
        assert_eq!(holds.set_end(4, None), None);
        assert_eq!(numbers(holds.take_over(secs(19))), [3]);
        assert_eq!(numbers(holds.take_over(secs(20))), [1]);
        assert_eq!(holds.len(), 1);
    }

    #[test]
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    fn all_can_be_taken_at_once() {
        let mut holds = OpenHolds::default();
        holds.insert(1, Some(secs(10)), 'a');
        holds.insert(2, None, 'b');
        assert_eq!(numbers(holds.take_all()), [1, 2]);
        assert!(holds.are_quiet(|| secs(10)) && holds.remove(1).is_none());
    }
}
