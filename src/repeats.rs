//! Failures that an outage repeats with every call: how few lines tell an operator of them.

use std::{
    fmt::{self, Display, Write},
    hash::{DefaultHasher, Hasher},
    time::Duration,
};

use crate::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
    lock,
};

/// How long the same failure isn't logged again.
const EVERY: Duration = Duration::from_secs(10);

/// How many failures are told apart; any others count as one of these.
const TOLD_APART_MAX: usize = 8;

/// The failures of one task, or of one place in the code. The first is logged at once, and the same
/// again at most every ten seconds, with how many were left out since. Once something succeeds, one
/// line says so.
///
/// What fails and succeeds by turns is bounded as well: a failure that comes back within its ten
/// seconds is left out, and only one that was logged has an end to log.
#[derive(Debug)]
pub(crate) struct Repeats {
    /// Whether an end is to be logged; written under the lock.
    is_told: AtomicBool,
    known: Mutex<Vec<Known>>,
}

#[derive(Debug)]
struct Known {
    failure: u64,
    told_at: Duration,
    left_out: u64,
}

/// A line that is to be logged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogLine {
    /// How many failures were not logged since the last line; `None` for none, so that the field
    /// doesn't appear.
    pub(crate) left_out: Option<u64>,
}

impl Repeats {
    pub(crate) const fn new() -> Self {
        Self {
            is_told: AtomicBool::new(false),
            known: Mutex::new(Vec::new()),
        }
    }

    /// It failed, at this moment of the monotonic clock. `None`: the log has it already.
    pub(crate) fn failed(&self, failure: &impl Display, now: Duration) -> Option<LogLine> {
        let failure = digest(failure);
        let mut known = lock(&self.known);
        let is_new = known.iter().all(|known| known.failure != failure);
        if is_new && known.len() < TOLD_APART_MAX {
            known.push(Known {
                failure,
                told_at: now,
                left_out: 0,
            });
            self.is_told.store(true, Ordering::Relaxed);
            return Some(LogLine { left_out: None });
        }
        // The failure itself, or the one that was logged the longest ago.
        let found = known
            .iter_mut()
            .min_by_key(|known| (known.failure != failure, known.told_at))?;
        if now.saturating_sub(found.told_at) < EVERY {
            found.left_out = found.left_out.saturating_add(1);
            return None;
        }
        found.failure = failure;
        found.told_at = now;
        self.is_told.store(true, Ordering::Relaxed);
        Some(LogLine::of(&mut known))
    }

    /// It succeeded. `Some` if the last that the log has is a failure.
    pub(crate) fn succeeded(&self) -> Option<LogLine> {
        if !self.is_told.load(Ordering::Relaxed) {
            return None;
        }
        let mut known = lock(&self.known);
        let was_told = self.is_told.swap(false, Ordering::Relaxed);
        was_told.then(|| LogLine::of(&mut known))
    }
}

/// The failures of a task that writes for others: those that pass, and what can't be done at all.
/// That others can be written is no end of the latter.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[derive(Debug)]
pub(crate) struct RepeatsOfWriter {
    outage: Repeats,
    refusals: Repeats,
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
impl RepeatsOfWriter {
    pub(crate) const fn new() -> Self {
        Self {
            outage: Repeats::new(),
            refusals: Repeats::new(),
        }
    }

    /// It failed, as [`Repeats::failed`]; `is_passing` says whether it may be written later.
    pub(crate) fn failed(
        &self,
        failure: &impl Display,
        is_passing: bool,
        now: Duration,
    ) -> Option<LogLine> {
        let kind = if is_passing {
            &self.outage
        } else {
            &self.refusals
        };
        kind.failed(failure, now)
    }

    /// It wrote something. `Some` if the last that the log has of an outage is a failure.
    pub(crate) fn succeeded(&self) -> Option<LogLine> {
        self.outage.succeeded()
    }
}

impl LogLine {
    /// Counts what was left out, whatever the failure.
    fn of(known: &mut [Known]) -> Self {
        let counts = known
            .iter_mut()
            .map(|known| std::mem::take(&mut known.left_out));
        let left_out = counts.fold(0, u64::saturating_add);
        Self {
            left_out: (left_out > 0).then_some(left_out),
        }
    }
}

fn digest(failure: &impl Display) -> u64 {
    struct Text(DefaultHasher);

    impl Write for Text {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            self.0.write(part.as_bytes());
            Ok(())
        }
    }

    let mut text = Text(DefaultHasher::new());
    // A text that can't be written counts as far as it goes.
    let _ = write!(text, "{failure}");
    text.0.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    const fn line(left_out: u64) -> Option<LogLine> {
        Some(LogLine {
            left_out: if left_out == 0 { None } else { Some(left_out) },
        })
    }

    #[test]
    fn the_same_failure_is_told_at_once_and_then_now_and_then_with_a_count() {
        let repeats = Repeats::new();
        assert_eq!(repeats.failed(&"full", at(100)), line(0));
        for _ in 0..50 {
            assert_eq!(repeats.failed(&"full", at(101)), None);
        }
        assert_eq!(repeats.failed(&"full", at(109)), None);
        assert_eq!(repeats.failed(&"full", at(110)), line(51));
        assert_eq!(repeats.failed(&"full", at(119)), None);
        assert_eq!(repeats.failed(&"full", at(120)), line(1));
        assert_eq!(repeats.failed(&"full", at(500)), line(0));
    }

    #[test]
    fn another_failure_is_told_at_once() {
        let repeats = Repeats::new();
        assert_eq!(repeats.failed(&"full", at(0)), line(0));
        assert_eq!(
            repeats.failed(&format_args!("lo{}", "cked"), at(1)),
            line(0)
        );
        assert_eq!(repeats.failed(&"locked", at(2)), None);
        assert_eq!(repeats.failed(&"full", at(2)), None);
        assert_eq!(repeats.failed(&"full", at(10)), line(2));
        assert_eq!(repeats.failed(&"locked", at(10)), None);
        assert_eq!(repeats.failed(&"locked", at(11)), line(1));
    }

    #[test]
    fn that_it_is_good_again_is_told_once() {
        let repeats = Repeats::new();
        assert_eq!(repeats.succeeded(), None);
        assert_eq!(repeats.failed(&"full", at(0)), line(0));
        assert_eq!(repeats.failed(&"full", at(1)), None);
        assert_eq!(repeats.succeeded(), line(1));
        assert_eq!(repeats.succeeded(), None);
        assert_eq!(repeats.failed(&"full", at(10)), line(0));
        assert_eq!(repeats.succeeded(), line(0));
    }

    #[test]
    fn what_fails_and_succeeds_by_turns_is_bounded_too() {
        let repeats = Repeats::new();
        let mut lines = 0;
        for turn in 0..1_000 {
            let now = Duration::from_millis(turn * 50);
            lines += usize::from(repeats.failed(&"full", now).is_some());
            lines += usize::from(repeats.succeeded().is_some());
        }
        assert_eq!(lines, 10, "two in each ten seconds of fifty");
    }

    #[test]
    fn failures_of_ever_new_texts_are_bounded_too() {
        let repeats = Repeats::new();
        let failed = |text: u32, now| repeats.failed(&text, now);
        let told = |now| {
            (0..1_000)
                .filter(|text| failed(*text, now).is_some())
                .count()
        };
        assert_eq!(told(at(0)), TOLD_APART_MAX);
        assert_eq!(told(at(9)), 0);
        let left_out = 2 * 1_000 - u64::try_from(TOLD_APART_MAX).unwrap();
        assert_eq!(failed(5_000, at(10)), line(left_out));
        assert!(told(at(10)) < TOLD_APART_MAX);
        assert_eq!(lock(&repeats.known).len(), TOLD_APART_MAX);
    }
}
