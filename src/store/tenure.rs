//! How long a store may spend what it has set aside.

use std::time::Duration;

use crate::{
    domain::clock::Timestamp,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicU64, Ordering},
        lock,
    },
};

/// How long after its last heartbeat a process assumes that it hasn't been declared dead. The
/// difference to the shortest recovery time allows for clocks that run at different speeds.
const TRUST: Duration = Duration::from_secs(4);

/// A store's current identity among the stores on the same database, and for how long it is
/// certain.
///
/// A store sends a heartbeat every two seconds. Once it has been silent for five seconds or longer,
/// others declare it dead and resolve what it held. So four seconds after a heartbeat anything that
/// spends on its behalf must stop, by the monotonic clock, and by the time of day as well, because
/// the monotonic clock may not have counted while the machine was suspended.
#[derive(Debug, Default)]
pub struct Tenure {
    instance: AtomicU64,
    /// In microseconds of the monotonic clock.
    until: AtomicU64,
    /// In microseconds since 1970.
    until_of_day: AtomicI64,
    /// Serializes writers; readers use only the other fields.
    confirmed: Mutex<Confirmed>,
}

#[derive(Debug, Default)]
struct Confirmed {
    elapsed: Duration,
    has_ended: bool,
}

impl Tenure {
    /// Records a stored heartbeat; the clock readings are from before it was stored. One that is
    /// older than the last is ignored: it may come from an instance that was replaced meanwhile.
    /// Only a store calls this, of its own tenure: whoever says that a dead instance is alive lets
    /// it spend what others have.
    pub fn confirm(&self, instance: u64, elapsed: Duration, now: Timestamp) {
        let mut confirmed = self.confirmed();
        if confirmed.has_ended || elapsed < confirmed.elapsed {
            return;
        }
        confirmed.elapsed = elapsed;
        let until = elapsed.saturating_add(TRUST).as_micros();
        let until_of_day = now.saturating_add(TRUST).unwrap_or(Timestamp::MAX);
        // The id first: with the old id and the new deadline, something could go on spending.
        self.instance.store(instance, Ordering::SeqCst);
        self.until_of_day
            .store(until_of_day.as_microsecond(), Ordering::SeqCst);
        self.until
            .store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// The store is closing: nothing that was taken as this instance is spent any more.
    pub fn end(&self) {
        let mut confirmed = self.confirmed();
        confirmed.has_ended = true;
        self.until.store(0, Ordering::SeqCst);
    }

    fn confirmed(&self) -> MutexGuard<'_, Confirmed> {
        lock(&self.confirmed)
    }

    /// The store's current instance.
    #[must_use]
    pub fn instance(&self) -> u64 {
        self.instance.load(Ordering::SeqCst)
    }

    /// Whether leases taken as `instance` may be spent now.
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
        assert!(!holds(0), "there was no heartbeat yet");
        tenure.confirm(7, clock.elapsed(), clock.now());
        assert!(holds(7) && !holds(8));
        clock.advance(TRUST - Duration::from_micros(1));
        assert!(holds(7));
        clock.advance(Duration::from_micros(1));
        assert!(!holds(7));
        tenure.confirm(8, clock.elapsed(), clock.now());
        assert!(holds(8) && !holds(7));
        // A machine that was suspended: only the time of day went on.
        clock.set(clock.now() + TRUST);
        assert!(!holds(8));
        tenure.confirm(8, clock.elapsed(), clock.now());
        // Setting the clock back doesn't extend it.
        clock.set(clock.now() - TRUST);
        clock.advance(TRUST);
        assert!(!holds(8));
        tenure.confirm(8, clock.elapsed(), clock.now());
        tenure.end();
        assert!(!holds(8));
        tenure.confirm(8, clock.elapsed(), clock.now());
        assert!(!holds(8), "it was closed");
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
