//! Days, weeks and months of a time zone.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::{Span, ToSpan, Zoned, tz::TimeZone};

use crate::{domain::clock::Timestamp, sync::lock};

/// The period of a calendar quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CalendarPeriod {
    /// From midnight to midnight.
    Day,
    /// From Monday to the next (ISO 8601).
    Week,
    /// From the first of a month to the next.
    Month,
}

impl CalendarPeriod {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    pub(super) const fn nominal(self) -> Duration {
        Duration::from_secs(match self {
            Self::Day => 86_400,
            Self::Week => 7 * 86_400,
            Self::Month => 30 * 86_400,
        })
    }

    fn span(self, periods: i64) -> Span {
        match self {
            Self::Day => periods.days(),
            Self::Week => periods.weeks(),
            Self::Month => periods.months(),
        }
    }
}

/// There is no such time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone called {name:?}")]
pub struct UnknownZone {
    name: String,
}

/// A time zone. A clone is a reference count.
#[derive(Clone, Debug)]
pub struct Zone(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    zone: TimeZone,
    /// The day, the week and the month looked up last.
    latest: Mutex<[Option<Bounds>; 3]>,
}

/// The starts of four consecutive windows, in seconds since 1970-01-01T00:00:00Z: the previous one,
/// the one that contains the moment, and the next two. A server whose clock differs finds its own
/// window among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds(pub(crate) [i64; 4]);

impl Bounds {
    /// The first second of the window, and the first after it.
    pub(crate) const fn window(self) -> (i64, i64) {
        let [_, start, end, _] = self.0;
        (start, end)
    }
}

impl Zone {
    /// Coordinated Universal Time.
    #[must_use]
    pub fn utc() -> Self {
        Self::of(TimeZone::UTC)
    }

    /// A zone of the IANA time zone database, like `Europe/Amsterdam`.
    ///
    /// # Errors
    /// [`UnknownZone`] when there is no such zone.
    pub fn named(name: &str) -> Result<Self, UnknownZone> {
        TimeZone::get(name).map(Self::of).map_err(|_| UnknownZone {
            name: name.to_owned(),
        })
    }

    fn of(zone: TimeZone) -> Self {
        Self(Arc::new(Inner {
            zone,
            latest: Mutex::default(),
        }))
    }

    pub(in crate::domain) fn time_zone(&self) -> &TimeZone {
        &self.0.zone
    }

    pub(super) fn name(&self) -> &str {
        self.0.zone.iana_name().unwrap_or("UTC")
    }

    /// The windows around `now`.
    pub(crate) fn bounds(&self, period: CalendarPeriod, now: Timestamp) -> Bounds {
        let second = now.as_second();
        let mut latest = lock(&self.0.latest);
        let [day, week, month] = &mut *latest;
        let slot = match period {
            CalendarPeriod::Day => day,
            CalendarPeriod::Week => week,
            CalendarPeriod::Month => month,
        };
        let covers = |bounds: &Bounds| {
            let (start, end) = bounds.window();
            (start..end).contains(&second)
        };
        match slot {
            Some(bounds) if covers(bounds) => *bounds,
            slot => *slot.insert(self.look_up(period, now)),
        }
    }

    fn look_up(&self, period: CalendarPeriod, now: Timestamp) -> Bounds {
        let local = now.to_zoned(self.0.zone.clone());
        let first = match period {
            CalendarPeriod::Day => Ok(local),
            CalendarPeriod::Week => {
                let since_monday = local.weekday().to_monday_zero_offset();
                local.checked_sub(since_monday.days())
            }
            CalendarPeriod::Month => local.first_of_month(),
        };
        // At the ends of the time range, where no such day exists, the window is the moment itself.
        let start = |periods: i64| {
            let moment = first.as_ref().ok().and_then(|first| {
                let moved = first.checked_add(period.span(periods)).ok()?;
                moved.start_of_day().ok()
            });
            let second = |moment: Zoned| moment.timestamp().as_second();
            moment.map_or_else(|| now.as_second().saturating_add(periods), second)
        };
        Bounds([start(-1), start(0), start(1), start(2)])
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.zone == other.0.zone
    }
}

impl Eq for Zone {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_23_or_25_hours_when_the_clocks_are_turned() {
        let zone = Zone::named("Europe/Amsterdam").unwrap();
        let hours = |now: &str| {
            let Bounds(bounds) = zone.bounds(CalendarPeriod::Day, now.parse().unwrap());
            let mut lengths = bounds.windows(2).map(|pair| (pair[1] - pair[0]) / 3_600);
            (lengths.next(), lengths.next(), lengths.next())
        };
        assert_eq!(
            hours("2026-03-29T12:00:00Z"),
            (Some(24), Some(23), Some(24))
        );
        assert_eq!(
            hours("2026-10-25T12:00:00Z"),
            (Some(24), Some(25), Some(24))
        );
    }

    /// The window that `now` lies in, as two moments in UTC.
    fn window(zone: &Zone, period: CalendarPeriod, now: &str) -> [String; 2] {
        let (start, end) = zone.bounds(period, now.parse().unwrap()).window();
        [start, end].map(|second| Timestamp::from_second(second).unwrap().to_string())
    }

    #[test]
    fn a_week_begins_on_monday_at_the_zone_s_midnight() {
        let zone = Zone::named("Europe/Amsterdam").unwrap();
        let window = |now: &str| window(&zone, CalendarPeriod::Week, now);
        // The clocks are turned on Sunday, the 29th of March.
        let week = ["2026-03-22T23:00:00Z", "2026-03-29T22:00:00Z"];
        assert_eq!(window("2026-03-22T23:00:00Z"), week);
        assert_eq!(window("2026-03-26T12:00:00Z"), week);
        assert_eq!(window("2026-03-29T21:59:59Z"), week);
        assert_eq!(
            window("2026-03-29T22:00:00Z"),
            ["2026-03-29T22:00:00Z", "2026-04-05T22:00:00Z"]
        );
        // A year's end in the middle of a week.
        assert_eq!(
            window("2027-01-01T00:00:00Z"),
            ["2026-12-27T23:00:00Z", "2027-01-03T23:00:00Z"]
        );
        let Bounds(bounds) = zone.bounds(
            CalendarPeriod::Week,
            "2026-03-26T12:00:00Z".parse().unwrap(),
        );
        let hours: Vec<_> = bounds
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) / 3_600)
            .collect();
        assert_eq!(hours, [168, 167, 168]);
    }

    #[test]
    fn a_month_ends_at_the_zone_s_midnight() {
        let zone = Zone::named("Europe/Amsterdam").unwrap();
        let window = |now: &str| window(&zone, CalendarPeriod::Month, now);
        let march = ["2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"];
        assert_eq!(window("2026-02-28T23:00:00Z"), march);
        assert_eq!(window("2026-03-31T21:59:59Z"), march);
        assert_ne!(window("2026-03-31T22:00:00Z"), march);
        assert!(Zone::named("Europe/Nowhere").is_err());
    }
}
