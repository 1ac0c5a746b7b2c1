//! Quotas: how many requests in how much time.

mod calendar;
mod set;
mod text;

use std::{
    borrow::Cow,
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

pub use calendar::{CalendarPeriod, UnknownZone, Zone};
pub(crate) use set::QuotaHeaders;
pub use set::{NoQuota, Quotas};

#[cfg(feature = "redis")]
pub(crate) use calendar::Bounds;

use crate::domain::clock::Timestamp;

/// A number of requests in a period.
///
/// There are three rules. The default is GCRA (the generic cell rate algorithm):
/// `Quota::per_minute(60)` admits 60 requests at once and one more each second; in any rolling
/// minute it admits fewer than 120. A [`strict`](Self::strict) quota admits at most its number in
/// any rolling period. A [calendar](Self::calendar) quota admits its number from one midnight to
/// the next, from Monday to Monday, or from the first of one month to the first of the next.
///
/// ```
/// use std::time::Duration;
/// use tollgate::quota::Quota;
///
/// let quota = Quota::per_minute(60).burst(10);
/// assert_eq!((quota.limit(), quota.burst_size(), quota.name()), (60, 10, "minute"));
/// assert_eq!(quota.period(), Duration::from_secs(60));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    name: Cow<'static, str>,
    limit: NonZeroU32,
    burst: NonZeroU32,
    period: Duration,
    /// See [`interval_nanos`](Self::interval_nanos); precomputed because every request needs it.
    interval_nanos: NonZeroU64,
    rule: Rule,
}

/// How requests are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// GCRA.
    Rolling,
    /// At most the limit in any rolling period.
    Strict,
    /// Days, weeks or months of a zone.
    Calendar(CalendarPeriod, Zone),
}

/// One millisecond to a thousand days.
const PERIOD_MAX: Duration = Duration::from_secs(1_000 * 86_400);

/// Seventy-three years, so that a burst in nanoseconds stays far from overflowing 64 bits.
const BURST_NANOS_MAX: u128 = 1 << 61;

/// The minimum and maximum number of slices in a strict quota's period.
const SLICES_MIN: u128 = 16;
pub(crate) const SLICES_MAX: usize = 32;

impl Quota {
    /// `limit` requests a second. 0 counts as 1: a quota that admits nothing is a refusal, not a
    /// quota.
    #[must_use]
    pub const fn per_second(limit: u32) -> Self {
        Self::of("second", limit, Duration::from_secs(1))
    }

    /// `limit` requests a minute.
    #[must_use]
    pub const fn per_minute(limit: u32) -> Self {
        Self::of("minute", limit, Duration::from_secs(60))
    }

    /// `limit` requests an hour.
    #[must_use]
    pub const fn per_hour(limit: u32) -> Self {
        Self::of("hour", limit, Duration::from_secs(3_600))
    }

    /// `limit` requests in `period`, which is clamped to one millisecond to a thousand days and
    /// truncated to whole milliseconds. The policy is called `custom` unless [`Quota::named`].
    #[must_use]
    pub const fn per(period: Duration, limit: u32) -> Self {
        Self::of("custom", limit, period)
    }

    /// `limit` requests in each day, week or month, in UTC unless [`in_zone`](Self::in_zone).
    ///
    /// ```
    /// use tollgate::quota::{CalendarPeriod, Quota, Zone};
    ///
    /// let quota = Quota::calendar(CalendarPeriod::Month, 10_000).in_zone(Zone::named("Europe/Amsterdam")?);
    /// assert_eq!((quota.limit(), quota.name()), (10_000, "month"));
    /// # Ok::<(), tollgate::quota::UnknownZone>(())
    /// ```
    #[must_use]
    pub fn calendar(period: CalendarPeriod, limit: u32) -> Self {
        let mut quota = Self::of(period.name(), limit, period.nominal());
        quota.rule = Rule::Calendar(period, Zone::utc());
        quota
    }

    const fn of(name: &'static str, limit: u32, period: Duration) -> Self {
        let limit = match NonZeroU32::new(limit) {
            Some(limit) => limit,
            None => NonZeroU32::MIN,
        };
        let period = if period.as_nanos() < 1_000_000 {
            Duration::from_millis(1)
        } else if period.as_nanos() > PERIOD_MAX.as_nanos() {
            PERIOD_MAX
        } else {
            Duration::new(
                period.as_secs(),
                period.subsec_millis().saturating_mul(1_000_000),
            )
        };
        Self {
            name: Cow::Borrowed(name),
            limit,
            burst: limit,
            period,
            interval_nanos: interval_nanos(period, limit),
            rule: Rule::Rolling,
        }
    }

    /// How many requests may come at once after a pause; the limit itself by default. 0 counts as
    /// 1, and a burst that would take over seventy years to refill is cut to that. Strict and
    /// calendar quotas ignore it.
    #[must_use]
    pub fn burst(mut self, burst: u32) -> Self {
        let most = BURST_NANOS_MAX
            .checked_div(u128::from(self.interval_nanos.get()))
            .and_then(|most| u32::try_from(most).ok())
            .unwrap_or(u32::MAX);
        self.burst = NonZeroU32::new(burst.min(most)).unwrap_or(NonZeroU32::MIN);
        self
    }

    /// Admits at most its number in any rolling period, wherever the period begins.
    ///
    /// The period is counted in slices, so that a key takes a fixed amount of memory: a slot is
    /// free again once its whole slice has left the period, at most a sixteenth of the period later
    /// than possible. Calendar quotas ignore this.
    #[must_use]
    pub fn strict(mut self) -> Self {
        if matches!(self.rule, Rule::Rolling) {
            self.rule = Rule::Strict;
        }
        self
    }

    /// The zone whose days, weeks or months a calendar quota counts; other quotas ignore it.
    #[must_use]
    pub fn in_zone(mut self, zone: Zone) -> Self {
        if let Rule::Calendar(_, of) = &mut self.rule {
            *of = zone;
        }
        self
    }

    /// The policy's name in `RateLimit` and `RateLimit-Policy`; characters that a header can't
    /// carry in a quoted string are dropped. Quotas that are counted together get distinct names.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        let speakable = |c: &char| (' '..='~').contains(c) && !matches!(c, '"' | '\\');
        self.name = Cow::Owned(name.chars().filter(speakable).collect());
        self
    }

    /// The policy's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Requests per period.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// The most requests at once, and so the most that one request may cost.
    #[must_use]
    pub const fn burst_size(&self) -> u32 {
        match self.rule {
            Rule::Rolling => self.burst.get(),
            Rule::Strict | Rule::Calendar(..) => self.limit.get(),
        }
    }

    /// The period; for a calendar quota nominally 24 hours, 7 or 30 days.
    #[must_use]
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// Whether it admits at most its number in any rolling period.
    #[must_use]
    pub const fn is_strict(&self) -> bool {
        matches!(self.rule, Rule::Strict)
    }

    /// The day, week or month that contains `now`, for a store of one's own: its first second, and
    /// the first after it, since 1970-01-01T00:00:00Z. `None` if this is no calendar quota.
    ///
    /// ```
    /// use tollgate::quota::{CalendarPeriod, Quota};
    ///
    /// let now = "2026-02-14T12:00:00Z".parse()?;
    /// let days = Quota::calendar(CalendarPeriod::Month, 9).calendar_window(now).map(|(start, end)| (end - start) / 86_400);
    /// assert_eq!(days, Some(28));
    /// assert_eq!(Quota::per_minute(9).calendar_window(now), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn calendar_window(&self, now: Timestamp) -> Option<(i64, i64)> {
        let Rule::Calendar(period, zone) = &self.rule else {
            return None;
        };
        Some(zone.bounds(*period, now).window())
    }

    /// The seconds in which a full burst refills; `None` if that is not a whole number.
    pub(crate) fn whole_seconds(&self) -> Option<u64> {
        let held = u128::from(self.burst_size());
        let nanos = self.period.as_nanos().checked_mul(held)?;
        let second = u128::from(self.limit.get()).checked_mul(1_000_000_000)?;
        let is_whole = nanos.checked_rem(second)? == 0;
        let seconds = u64::try_from(nanos.checked_div(second)?).ok()?;
        is_whole.then_some(seconds)
    }

    /// For a used-up quota: given the time until it is full again, the time until one request is
    /// free. The reading of a strict quota doesn't say when that is; for it the result is an upper
    /// bound.
    pub(crate) fn until_one(&self, reset: Duration) -> Duration {
        let others = match self.rule {
            Rule::Rolling => u64::from(self.burst.get()).saturating_sub(1),
            Rule::Strict | Rule::Calendar(..) => 0,
        };
        let nanos = self.interval_nanos.get().saturating_mul(others);
        let until = reset.saturating_sub(Duration::from_nanos(nanos));
        until.max(Duration::from_nanos(1))
    }

    /// Given the time until it is full again, the time until at most `used` units are in use. A
    /// strict quota doesn't say.
    #[cfg(feature = "redis")]
    pub(crate) fn until_room(&self, reset: Duration, used: u32) -> Option<Duration> {
        match self.rule {
            Rule::Rolling => {
                let later = self.interval_nanos.get().saturating_mul(used.into());
                Some(reset.saturating_sub(Duration::from_nanos(later)))
            }
            Rule::Calendar(..) => Some(reset),
            Rule::Strict => None,
        }
    }

    pub(crate) const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The time after which one more request is admitted; at least a nanosecond.
    pub(crate) const fn interval_nanos(&self) -> NonZeroU64 {
        self.interval_nanos
    }

    pub(crate) const fn burst_nonzero(&self) -> NonZeroU32 {
        self.burst
    }

    /// The length of a strict quota's slice: the largest power of two in microseconds that is at
    /// most a sixteenth of the period. So of any two lengths the shorter divides the longer, and
    /// moving counts between the slices of two quotas, back and forth, does not keep shifting them.
    pub(crate) fn slice(&self) -> Duration {
        let most = self.period.as_micros().checked_div(SLICES_MIN);
        let power = most.and_then(u128::checked_ilog2).unwrap_or(0);
        Duration::from_micros(1_u64.checked_shl(power).unwrap_or(u64::MAX))
    }

    /// The number of slices that count: the current one, and those before it that cover a whole
    /// period.
    pub(crate) fn slices(&self) -> usize {
        let slice = self.slice().as_micros().max(1);
        let covering = usize::try_from(self.period.as_micros().div_ceil(slice));
        covering
            .unwrap_or(SLICES_MAX)
            .min(SLICES_MAX)
            .saturating_add(1)
    }

    /// One of `parts` equal shares, rounded up: what one of that many processes admits on its own.
    #[must_use]
    pub fn share(&self, parts: NonZeroU32) -> Self {
        let share = |whole: NonZeroU32| {
            NonZeroU32::new(whole.get().div_ceil(parts.get())).unwrap_or(NonZeroU32::MIN)
        };
        let limit = share(self.limit);
        Self {
            limit,
            burst: share(self.burst),
            interval_nanos: interval_nanos(self.period, limit),
            ..self.clone()
        }
    }
}

#[expect(
    clippy::as_conversions,
    reason = "a thousand days in nanoseconds fit 64 bits, and `try_from` is not const"
)]
const fn interval_nanos(period: Duration, limit: NonZeroU32) -> NonZeroU64 {
    let interval = (period.as_nanos() as u64).checked_div(limit.get() as u64);
    let Some(interval) = interval else {
        return NonZeroU64::MIN;
    };
    match NonZeroU64::new(interval) {
        Some(interval) => interval,
        None => NonZeroU64::MIN,
    }
}
