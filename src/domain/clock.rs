//! Clocks: where time comes from.
//!
//! Only [`SystemClock`] reads the system's time; everything else is given a [`Clock`].

use std::{
    cell::Cell,
    fmt,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

pub use jiff::Timestamp;

/// A source of time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time of day, for expiries, calendar windows and logs. It may step back.
    fn now(&self) -> Timestamp;

    /// Time since an arbitrary origin, for rate limits and timeouts. It never steps back.
    fn elapsed(&self) -> Duration;
}

/// The machine's own time.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// The readings that [`SystemClock`] took on this thread since a decision began.
struct Readings {
    are_shared: Cell<bool>,
    now: Cell<Option<Timestamp>>,
    elapsed: Cell<Option<Duration>>,
}

thread_local! {
    static READINGS: Readings = const {
        Readings {
            are_shared: Cell::new(false),
            now: Cell::new(None),
            elapsed: Cell::new(None),
        }
    };
}

impl Readings {
    /// The reading taken earlier in this decision, or a new one.
    fn read<T: Copy>(
        slot: impl FnOnce(&Self) -> &Cell<Option<T>>,
        reading: impl FnOnce() -> T,
    ) -> T {
        READINGS.with(|readings| {
            if !readings.are_shared.get() {
                return reading();
            }
            let slot = slot(readings);
            slot.get().unwrap_or_else(|| {
                let reading = reading();
                slot.set(Some(reading));
                reading
            })
        })
    }
}

/// Runs `decide` at a single moment: on this thread [`SystemClock`] reads the machine's time at
/// most once meanwhile. Only for code that neither waits nor calls the service. A reading costs as
/// much as checking one window of a rate limit, and the layers of a stack would take eight.
#[inline]
pub(crate) fn at_one_moment<T>(decide: impl FnOnce() -> T) -> T {
    struct Shared;

    impl Drop for Shared {
        #[inline]
        fn drop(&mut self) {
            READINGS.with(|readings| {
                readings.are_shared.set(false);
                readings.now.set(None);
                readings.elapsed.set(None);
            });
        }
    }

    // A nested decision shares the outer one's moment.
    let _shared = READINGS.with(|readings| (!readings.are_shared.replace(true)).then(|| Shared));
    decide()
}

/// The origin of [`SystemClock::elapsed`]: the first reading.
static ORIGIN: LazyLock<Instant> = LazyLock::new(instant_now);

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn instant_now() -> Instant {
    Instant::now()
}

impl SystemClock {
    /// The clock that builders use by default.
    #[must_use]
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        Readings::read(|readings| &readings.now, Timestamp::now)
    }

    fn elapsed(&self) -> Duration {
        Readings::read(
            |readings| &readings.elapsed,
            || {
                let origin = *ORIGIN;
                instant_now().saturating_duration_since(origin)
            },
        )
    }
}

/// `moment` rounded up to a whole second. Tokens count in whole seconds, and nobody gets less time
/// than was promised.
pub(crate) fn whole_second_up(moment: Timestamp) -> Timestamp {
    let more = i64::from(moment.subsec_nanosecond() > 0);
    let second = moment.as_second().saturating_add(more);
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

/// The moment `micros` microseconds after 1970. Built from seconds and nanoseconds, because jiff's
/// own microsecond constructor does not reach the last second of its range.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn moment_of_micros(micros: i64) -> Option<Timestamp> {
    let nanos = micros.rem_euclid(1_000_000).saturating_mul(1_000);
    let seconds = micros.div_euclid(1_000_000);
    Timestamp::new(seconds, i32::try_from(nanos).ok()?).ok()
}

#[cfg(any(test, feature = "test-util"))]
mod manual {
    use std::sync::Mutex;

    use super::{Clock, Duration, Timestamp};
    use crate::sync::lock;

    /// A clock that moves only when it is told to.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::clock::{Clock, ManualClock};
    ///
    /// let clock = ManualClock::at("2026-03-29T00:59:59Z".parse()?);
    /// clock.advance(Duration::from_secs(2));
    /// assert_eq!(clock.now().to_string(), "2026-03-29T01:00:01Z");
    /// assert_eq!(clock.elapsed(), Duration::from_secs(2));
    /// # Ok::<(), jiff::Error>(())
    /// ```
    #[derive(Debug)]
    pub struct ManualClock {
        reading: Mutex<(Timestamp, Duration)>,
    }

    impl ManualClock {
        /// A clock that shows `now`.
        #[must_use]
        pub fn at(now: Timestamp) -> Self {
            Self {
                reading: Mutex::new((now, Duration::ZERO)),
            }
        }

        /// Moves both readings forward; saturates at the end of time.
        pub fn advance(&self, by: Duration) {
            let mut reading = lock(&self.reading);
            reading.0 = reading.0.saturating_add(by).unwrap_or(Timestamp::MAX);
            reading.1 = reading.1.saturating_add(by);
        }

        /// Sets the time of day alone, also backwards, as an administrator or NTP would.
        pub fn set(&self, now: Timestamp) {
            lock(&self.reading).0 = now;
        }
    }

    impl Default for ManualClock {
        /// A clock that shows 2026-01-01T00:00:00Z.
        fn default() -> Self {
            Self::at(Timestamp::constant(1_767_225_600, 0))
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> Timestamp {
            lock(&self.reading).0
        }

        fn elapsed(&self) -> Duration {
            lock(&self.reading).1
        }
    }
}

#[cfg(any(test, feature = "test-util"))]
pub use manual::ManualClock;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Until the machine's clock shows another nanosecond.
    fn later(than: Duration) -> Duration {
        loop {
            let elapsed = instant_now().saturating_duration_since(*ORIGIN);
            if elapsed > than {
                return elapsed;
            }
            thread::yield_now();
        }
    }

    #[test]
    fn a_decision_is_made_at_one_moment_and_the_next_one_later() {
        let first = at_one_moment(|| {
            let (elapsed, now) = (SystemClock.elapsed(), SystemClock.now());
            later(elapsed);
            let inner = at_one_moment(|| SystemClock.elapsed());
            assert_eq!([inner, SystemClock.elapsed()], [elapsed; 2]);
            assert_eq!(SystemClock.now(), now);
            elapsed
        });
        later(first);
        assert!(SystemClock.elapsed() > first, "nothing is kept");
        assert!(at_one_moment(|| SystemClock.elapsed()) > first);
    }

    #[test]
    fn a_decision_that_panics_keeps_no_moment() {
        let first = thread::spawn(|| {
            let mut first = Duration::ZERO;
            let decision = std::panic::AssertUnwindSafe(|| {
                at_one_moment(|| {
                    first = SystemClock.elapsed();
                    panic!("while deciding");
                });
            });
            assert!(std::panic::catch_unwind(decision).is_err());
            later(first);
            SystemClock.elapsed() > first
        });
        assert!(first.join().unwrap());
    }

    #[test]
    fn threads_share_no_moment() {
        at_one_moment(|| {
            let here = SystemClock.elapsed();
            later(here);
            let there = thread::spawn(|| SystemClock.elapsed());
            assert!(there.join().unwrap() > here);
        });
    }
}
