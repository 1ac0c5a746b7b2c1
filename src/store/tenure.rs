//! For how long a store may spend what it has set aside.

use std::{sync::PoisonError, time::Duration};

use crate::{
    domain::clock::Timestamp,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

/// How long after its last sign of life a process trusts that nobody takes it for dead. What is missing to the shortest
/// silence is for clocks that go at different speeds.
const TRUST: Duration = Duration::from_secs(4);

/// As whom a store is known to the others of its place, and for how long it surely is.
///
/// A store says every two seconds that it lives; one that has been silent for five, or longer, is taken for dead by
/// others, and what it held is resolved. So four seconds after a sign of life whoever spends by it must stop, by the
/// monotonic clock, and by the time of day as well, because a machine that slept may not have counted.
#[derive(Debug, Default)]
pub struct Tenure {
    instance: AtomicU64,
    /// Microseconds of the monotonic clock.
    until: AtomicU64,
    /// Microseconds since 1970.
    until_of_day: AtomicI64,
    /// Who writes, one at a time; those who read look at the others alone.
    confirmed: Mutex<Confirmed>,
}

#[derive(Debug, Default)]
struct Confirmed {
    elapsed: Duration,
    has_ended: bool,
}

impl Tenure {
    /// Notes a sign of life that is written down; the readings are from before it was. One that is older than what is
    /// known says nothing: it may be that of an instance which was replaced meanwhile.
    pub(super) fn confirm(&self, instance: u64, elapsed: Duration, now: Timestamp) {
        let mut confirmed = self.confirmed();
        if confirmed.has_ended || elapsed < confirmed.elapsed {
            return;
        }
        confirmed.elapsed = elapsed;
        let until = elapsed.saturating_add(TRUST).as_micros();
        let until_of_day = now.saturating_add(TRUST).unwrap_or(Timestamp::MAX);
        // The name first: with the name of old and the time of new, somebody would spend on.
        self.instance.store(instance, Ordering::SeqCst);
        self.until_of_day
            .store(until_of_day.as_microsecond(), Ordering::SeqCst);
        self.until
            .store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// The store takes leave.
    pub(super) fn end(&self) {
        let mut confirmed = self.confirmed();
        confirmed.has_ended = true;
        self.until.store(0, Ordering::SeqCst);
    }

    fn confirmed(&self) -> MutexGuard<'_, Confirmed> {
        self.confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// As whom the store is known now.
    #[must_use]
    pub fn instance(&self) -> u64 {
        self.instance.load(Ordering::SeqCst)
    }

    /// Whether what was taken as `instance` may be spent now.
    #[must_use]
    pub fn holds(&self, instance: u64, elapsed: Duration, now: Timestamp) -> bool {
        let until = self.until.load(Ordering::SeqCst);
        let until_of_day = self.until_of_day.load(Ordering::SeqCst);
        elapsed.as_micros() < u128::from(until)
            && now.as_microsecond() < until_of_day
            && self.instance() == instance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::{Clock, ManualClock};

    #[test]
    fn trust_ends_before_others_may_take_what_was_held() {
        let (tenure, clock) = (Tenure::default(), ManualClock::default());
        let holds = |instance| tenure.holds(instance, clock.elapsed(), clock.now());
        assert!(!holds(0), "nobody said that it lives");
        tenure.confirm(7, clock.elapsed(), clock.now());
        assert!(holds(7) && !holds(8));
        clock.advance(TRUST - Duration::from_micros(1));
        assert!(holds(7));
        clock.advance(Duration::from_micros(1));
        assert!(!holds(7));
        tenure.confirm(8, clock.elapsed(), clock.now());
        assert!(holds(8) && !holds(7));
        // A machine that slept: only the time of day went on.
        clock.set(clock.now() + TRUST);
        assert!(!holds(8));
        tenure.confirm(8, clock.elapsed(), clock.now());
        // A clock that is set back gives no more of it.
        clock.set(clock.now() - TRUST);
        clock.advance(TRUST);
        assert!(!holds(8));
        tenure.confirm(8, clock.elapsed(), clock.now());
        tenure.end();
        assert!(!holds(8));
        tenure.confirm(8, clock.elapsed(), clock.now());
        assert!(!holds(8), "it has taken leave");
    }

    #[test]
    fn a_late_sign_of_life_does_not_bring_back_who_was_replaced() {
        let (tenure, clock) = (Tenure::default(), ManualClock::default());
        let (late, late_of_day) = (clock.elapsed(), clock.now());
        clock.advance(Duration::from_millis(1));
        tenure.confirm(8, clock.elapsed(), clock.now());
        tenure.confirm(7, late, late_of_day);
        assert!(!tenure.holds(7, clock.elapsed(), clock.now()));
        assert!(tenure.holds(8, clock.elapsed(), clock.now()));
    }
}
