//! The open holds of one account in this process, and when each of them expires.

use std::time::Duration;

use hashbrown::HashMap;

/// By number, with whatever the engine needs to know about each.
#[derive(Debug)]
pub(super) struct OpenHolds<T> {
    open: HashMap<u64, Open<T>>,
    /// No hold expires before this, so most operations can skip the scan.
    next_end: Option<Duration>,
}

#[derive(Debug)]
struct Open<T> {
    /// `None` if only its call ends it.
    ends: Option<Duration>,
    data: T,
}

impl<T> Default for OpenHolds<T> {
    fn default() -> Self {
        Self {
            open: HashMap::new(),
            next_end: None,
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

    pub(super) fn insert(&mut self, number: u64, ends: Option<Duration>, data: T) {
        self.note_end(ends);
        self.open.insert(number, Open { ends, data });
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        self.open.remove(&number).map(|open| open.data)
    }

    #[cfg(feature = "redis")]
    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.open.get(&number).map(|open| &open.data)
    }

    /// Sets when a hold expires; `None` if it isn't open.
    pub(super) fn set_end(&mut self, number: u64, ends: Option<Duration>) -> Option<&mut T> {
        // The others may expire later than this one would have; the next scan finds out.
        self.note_end(ends);
        let open = self.open.get_mut(&number)?;
        open.ends = ends;
        Some(&mut open.data)
    }

    /// Something expires at `ends`.
    fn note_end(&mut self, ends: Option<Duration>) {
        self.next_end = [self.next_end, ends].into_iter().flatten().min();
    }

    /// Whether no hold can have expired. Reads the clock only if some hold expires at all.
    pub(super) fn none_due(&self, now: impl FnOnce() -> Duration) -> bool {
        self.next_end.is_none_or(|end| now() < end)
    }

    /// Removes the expired holds and returns them.
    pub(super) fn take_expired(&mut self, now: Duration) -> Vec<(u64, T)> {
        if self.none_due(|| now) {
            return Vec::new();
        }
        let over = self
            .open
            .extract_if(|_, open| open.ends.is_some_and(|end| end <= now))
            .map(|(number, open)| (number, open.data))
            .collect();
        self.next_end = self.open.values().filter_map(|open| open.ends).min();
        over
    }

    /// Removes all of them and returns them.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn take_all(&mut self) -> Vec<(u64, T)> {
        self.next_end = None;
        let all = self.open.drain();
        all.map(|(number, open)| (number, open.data)).collect()
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
        assert!(holds.none_due(|| secs(4)) && !holds.none_due(|| secs(5)));
        assert!(holds.take_expired(secs(4)).is_empty());
        assert_eq!(numbers(holds.take_expired(secs(5))), [3]);
        assert!(holds.none_due(|| secs(9)));
        assert_eq!(numbers(holds.take_expired(secs(10))), [1]);
        assert!(holds.take_expired(Duration::MAX).is_empty());
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
        assert_eq!(numbers(holds.take_expired(secs(19))), [3]);
        assert_eq!(numbers(holds.take_expired(secs(20))), [1]);
        assert_eq!(holds.len(), 1);
    }

    #[test]
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    fn all_can_be_taken_at_once() {
        let mut holds = OpenHolds::default();
        holds.insert(1, Some(secs(10)), 'a');
        holds.insert(2, None, 'b');
        assert_eq!(numbers(holds.take_all()), [1, 2]);
        assert!(holds.none_due(|| secs(10)) && holds.remove(1).is_none());
    }
}
