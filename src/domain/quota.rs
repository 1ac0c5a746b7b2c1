//! How many requests in how much time.

use std::{borrow::Cow, num::NonZeroU32, time::Duration};

/// A number of requests in a period, with a burst: GCRA (the generic cell rate algorithm).
///
/// `Quota::per_minute(60)` admits 60 requests at once and one more each second; in any rolling minute
/// it admits fewer than 120.
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
}

/// One second to a thousand days.
const PERIOD_MAX: Duration = Duration::from_secs(1_000 * 86_400);

impl Quota {
    /// `limit` requests a second. 0 is taken as 1: a quota that admits nothing is a refusal, not a quota.
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

    /// `limit` requests in `period`, which is brought into one millisecond to a thousand days; the
    /// policy is called `custom` unless [`Quota::named`].
    #[must_use]
    pub const fn per(period: Duration, limit: u32) -> Self {
        Self::of("custom", limit, period)
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
            period
        };
        Self {
            name: Cow::Borrowed(name),
            limit,
            burst: limit,
            period,
        }
    }

    /// How many requests may come at once after a rest; the limit itself unless set. 0 is taken as 1.
    #[must_use]
    pub const fn burst(mut self, burst: u32) -> Self {
        self.burst = match NonZeroU32::new(burst) {
            Some(burst) => burst,
            None => NonZeroU32::MIN,
        };
        self
    }

    /// The policy's name in `RateLimit` and `RateLimit-Policy`; what a header can't carry in a quoted
    /// string is left out of it.
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

    /// Requests a period.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// Requests at once.
    #[must_use]
    pub const fn burst_size(&self) -> u32 {
        self.burst.get()
    }

    /// The period.
    #[must_use]
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// The time after which one more request is admitted; at least a nanosecond.
    pub(crate) fn interval(&self) -> Duration {
        let interval = self
            .period
            .checked_div(self.limit.get())
            .unwrap_or(self.period);
        interval.max(Duration::from_nanos(1))
    }

    pub(crate) const fn burst_nonzero(&self) -> NonZeroU32 {
        self.burst
    }
}

/// Several quotas that must all admit: one decision, all or nothing. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas(Vec<Quota>);

impl Quotas {
    /// The quotas.
    #[must_use]
    pub fn as_slice(&self) -> &[Quota] {
        &self.0
    }
}

impl From<Quota> for Quotas {
    fn from(quota: Quota) -> Self {
        Self(vec![quota])
    }
}

impl<const N: usize> From<[Quota; N]> for Quotas {
    fn from(quotas: [Quota; N]) -> Self {
        const { assert!(N > 0, "no quota would be no limit") };
        Self(quotas.into())
    }
}
