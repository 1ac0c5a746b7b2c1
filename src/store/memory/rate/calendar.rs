//! A window that is a day, a week or a month in some time zone.
//!
//! Its word holds the window's first second in the upper half and the units used in the lower half.

use std::time::Duration;

use crate::{
    domain::{
        clock::Timestamp,
        quota::{CalendarPeriod, Quota, Zone},
    },
    store::WindowReading,
};

/// A day, a week or a month, and what was used in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CalendarWindow {
    /// Its first second.
    pub(super) start: u32,
    pub(super) used: u32,
    /// Time until the next window.
    pub(super) left: Duration,
}

impl CalendarWindow {
    /// The window that `now` falls in. Windows only move forward, so a clock that steps back frees
    /// nothing.
    pub(super) fn of(
        word: u64,
        period: CalendarPeriod,
        zone: &Zone,
        now: Option<Timestamp>,
    ) -> Self {
        let moment = now.unwrap_or(Timestamp::UNIX_EPOCH);
        let (start, end) = zone.bounds(period, moment).window();
        let start = u32::try_from(start.max(0)).unwrap_or(u32::MAX);
        let [.., a, b, c, d] = word.to_be_bytes();
        let used = u32::from_be_bytes([a, b, c, d]);
        let last = u32::try_from(word >> 32).unwrap_or(u32::MAX);
        let end = Timestamp::from_second(end).unwrap_or(Timestamp::MAX);
        Self {
            start: start.max(last),
            used: if last < start { 0 } else { used },
            left: Duration::try_from(end.duration_since(moment))
                .unwrap_or_default()
                .max(Duration::from_nanos(1)),
        }
    }

    /// The same window with `used` units used.
    pub(super) const fn with(self, used: u32) -> Self {
        Self { used, ..self }
    }

    /// How long until at most `used` units are in use.
    pub(super) const fn until(self, used: u32) -> Duration {
        if self.used > used {
            self.left
        } else {
            Duration::ZERO
        }
    }

    pub(super) const fn read(self, quota: &Quota) -> WindowReading {
        WindowReading {
            remaining: quota.limit().saturating_sub(self.used),
            reset: self.until(0),
        }
    }

    pub(super) fn word(self) -> u64 {
        (u64::from(self.start) << 32) | u64::from(self.used)
    }
}
