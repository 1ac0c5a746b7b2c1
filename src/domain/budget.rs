//! Spending limits, and the windows in which spending is counted.
//!
//! # Alerts
//!
//! Besides the limit that refuses, a window has up to eight [thresholds](Thresholds) that only
//! tell:
//!
//! | thresholds | of what was charged | told again |
//! |---|---|---|
//! | [`SoftLimits::daily`], [`monthly`](SoftLimits::monthly) | to calls that began in this day or month of the store's [`Calendar`] | in the next one |
//! | [`SoftLimits::total`] | since the budget's first call | not |
//! | [`RollingLimit::soft`] | in a span of the window's length that ends now | once that length has passed |
//!
//! - **A threshold is crossed by the settlement that brings the sum to it** or past it. The ledger
//!   decides that in the step that charges, so of calls that end at once, in one process or in
//!   many, one crosses it. What is only held doesn't count. After a refund that takes the sum below
//!   it, it can be crossed again (in a rolling window not before its length has passed).
//! - **At 100 percent of the limit it may come late or never:** a call whose hold doesn't fit is
//!   refused before the limit is reached. To hear before clients are refused, set one at 80 or 90.
//! - **An alert is told when the charge is written:** as a warning of `tracing` with the target
//!   `tollgate::ledger`, and to the listener of the store (`on_alert` of its builder), if there is
//!   one, in the process that wrote it. The listener must not block: hand the alert to a channel.
//!   For a call that is charged because its process died, that is the process which notices.
//! - **At most once.** Whatever is sent or tried again tells nothing twice. But nothing keeps an
//!   alert: a process that ends just after the charge is written, or on Redis an answer that is
//!   lost, loses it. What has been spent stays written
//!   ([`Ledger::budget`](crate::store::Ledger::budget)).
//! - **Behind a [`LeasedLedger`](crate::store::LeasedLedger)** the store hears of a charge when it
//!   is reported (within 100 ms), and tells then. What is reported, or settled, when its day or
//!   month has given way to the next counts in neither, and crosses no threshold of it.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tollgate::budget::{BudgetWindow, SoftLimits, SpendingLimits, Thresholds};
//! use tollgate::store::{AccountId, BudgetId, Ledger, MemoryStore};
//! # use tollgate::{RequestId, clock::{Clock, SystemClock}, money::Money};
//! # use tollgate::usage::{Call, Credit, Expiry, Hold, HoldRequest, Outcome, Settlement};
//!
//! let (sender, alerts) = std::sync::mpsc::sync_channel(64);
//! let ledger = MemoryStore::builder()
//!     .on_alert(move |alert| drop(sender.try_send(alert.clone())))
//!     .build();
//! let (ann, key) = (AccountId::new("ann")?, BudgetId::new("key-1")?);
//! let limits = SpendingLimits {
//!     monthly: Some("10".parse()?),
//!     soft: SoftLimits {
//!         monthly: Thresholds::percent_of("10".parse()?, [50, 90])?,
//!         ..SoftLimits::default()
//!     },
//!     ..SpendingLimits::default()
//! };
//! ledger.set_limits(&ann, &key, limits).await?;
//! # ledger.credit(Credit { account: ann.clone(), amount: "100".parse()?, reference: "first".into() }).await?;
//! # let spend = async |amount: &str| {
//! #     let amount: Money = amount.parse().unwrap();
//! #     let hold = HoldRequest {
//! #         call: Call {
//! #             request_id: RequestId::generate(), account: ann.clone(), principal: "ann".into(), key: None,
//! #             route: "POST /chat".into(), started_at: SystemClock::shared().now(),
//! #         },
//! #         budgets: key.clone().into(), amount, lifetime: Hold::AS_LONG_AS_ITS_CALL, expiry: Expiry::Release,
//! #         idempotency: None,
//! #     };
//! #     let hold = ledger.hold(hold).await.unwrap().unwrap();
//! #     ledger.settle(hold, Settlement::new(amount, Outcome::Completed)).await.unwrap();
//! # };
//! spend("4.99").await;
//! assert!(alerts.try_recv().is_err());
//! spend("0.01").await;
//! let alert = alerts.try_recv()?;
//! assert_eq!((alert.window, alert.limit), (BudgetWindow::Month, "5".parse()?));
//! spend("4").await;
//! assert_eq!(alerts.try_recv()?.limit, "9".parse()?);
//! assert!(alerts.try_recv().is_err());
//! # Ok(()) }
//! ```
//!
//! # A balance
//!
//! An account's balance has no thresholds of its own. It is what was paid in less what was charged,
//! so a budget that all calls of the account count in
//! ([`add_budget`](crate::SpendingLimitLayer::add_budget), with one name) tells when it is down to
//! 5 dollars: `total: Thresholds::with_left(paid_in, [five])?`, where `paid_in` is the sum of all
//! payments. Set them anew with each payment, before it is credited; whoever does both again after
//! a failure sets the same. A threshold that stays passed isn't told again; one that the payment
//! has lifted the balance over is, when the balance falls to it again. A refund has to name the
//! budget, as [`UsageEntry::refund`](crate::usage::UsageEntry::refund) does; a chargeback or a gift
//! counts as a payment. (What a chargeback takes itself isn't told: whoever makes it sees what is
//! left.)

mod json;
mod rolling;
mod thresholds;

use std::sync::Mutex;

use jiff::ToSpan;
use serde::{Deserialize, Serialize};

pub use super::budgets::Budgets;
use super::{AccountId, BudgetId, clock::Timestamp, money::Money, quota::Zone};

use crate::sync::lock;

pub use rolling::{InvalidWindow, RollingLimit, RollingWindow};
pub use thresholds::{InvalidThresholds, Thresholds};

/// How much may be spent in a window. `None`: no limit.
///
/// As JSON, limits that are absent are none, and a member of another name is refused: misspelt, a
/// limit would be no limit.
///
/// ```
/// use tollgate::budget::SpendingLimits;
///
/// let text = r#"{"daily": 5.25, "rolling": {"window_seconds": 18000, "limit": 2}}"#;
/// let limits: SpendingLimits = serde_json::from_str(text)?;
/// assert_eq!(limits.daily, Some("5.25".parse()?));
/// assert!(serde_json::from_str::<SpendingLimits>(r#"{"dayly": 5.25}"#).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpendingLimits {
    /// In a calendar day.
    pub daily: Option<Money>,
    /// In a calendar month.
    pub monthly: Option<Money>,
    /// Over all time.
    pub total: Option<Money>,
    /// In every time span of a chosen length. It carries its own soft limit.
    pub rolling: Option<RollingLimit>,
    /// Limits that only raise an alert and refuse nothing.
    pub soft: SoftLimits,
}

/// Limits that refuse nothing: crossing one raises a [`SpendingAlert`], once per window. A window
/// may have several, say at 50, 80 and 95 percent of what may be spent in it. A rolling window has
/// its own ([`RollingLimit::soft`]). [How alerts are told](crate::budget#alerts).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftLimits {
    /// In a calendar day: each once a day.
    pub daily: Thresholds,
    /// In a calendar month: each once a month.
    pub monthly: Thresholds,
    /// Over all time: each once.
    pub total: Thresholds,
}

impl SpendingLimits {
    /// Whether no limit is negative. A ledger fails with
    /// [`Refused`](crate::store::StoreErrorKind::Refused) if one is.
    #[must_use]
    pub fn are_sound(&self) -> bool {
        let rolling = self.rolling.as_ref().and_then(|rolling| rolling.limit);
        let hard = [self.daily, self.monthly, self.total, rolling];
        let soft = &self.soft;
        let soft = [&soft.daily, &soft.monthly, &soft.total, self.rolling_soft()];
        let soft = soft.into_iter().flat_map(Thresholds::as_slice).copied();
        !hard
            .into_iter()
            .flatten()
            .chain(soft)
            .any(Money::is_negative)
    }

    /// The soft limits of the rolling window.
    pub(crate) fn rolling_soft(&self) -> &Thresholds {
        static NONE: Thresholds = Thresholds::NONE;

        self.rolling.as_ref().map_or(&NONE, |rolling| &rolling.soft)
    }
}

/// A soft limit was crossed. Reported once per limit and window, and once more if it is crossed
/// again after a refund; for a rolling window, at most once in its length. A settlement that
/// crosses several is reported once for each of them, smallest first.
///
/// When a window's limits are changed, a limit that stays is not reported again. A new one that
/// spending has passed already is reported when it is crossed again: for a day or a month in the
/// next one.
///
/// As JSON, for a webhook, it has these members; amounts are numbers of dollars, and the window is
/// `day`, `month`, `total` or `rolling`. [How alerts are told](crate::budget#alerts).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SpendingAlert {
    /// The account that pays.
    pub account: AccountId,
    /// Which budget of the account.
    pub budget: BudgetId,
    /// In which window.
    pub window: BudgetWindow,
    /// The limit that was crossed.
    pub limit: Money,
    /// What has now been spent in the window.
    pub spent: Money,
}

/// The windows in which spending is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BudgetWindow {
    /// A calendar day.
    Day,
    /// A calendar month.
    Month,
    /// All time.
    Total,
    /// A span that ends now: a [`RollingWindow`].
    Rolling,
}

/// A moment as budgets see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since 1970-01-01T00:00:00Z, for rolling windows.
    pub second: i64,
    /// The day and the month that it lies in.
    pub windows: Windows,
}

/// Less than any day has, where clocks change too: a moment within them after the start of a day
/// lies in it, and needs no look-up.
const DAY_SECONDS_MIN: i64 = 20 * 3_600;

/// The day and the month that a moment lies in, by their first seconds since 1970-01-01T00:00:00Z.
///
/// It is stamped on a hold, so that a call counts in the windows in which it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Windows {
    /// The first second of the day.
    pub day: i64,
    /// The first second of the month.
    pub month: i64,
}

impl Windows {
    /// The later day and the later month.
    #[must_use]
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            day: self.day.max(other.day),
            month: self.month.max(other.month),
        }
    }
}

/// Determines days and months in one time zone.
///
/// ```
/// use tollgate::{budget::Calendar, quota::Zone};
///
/// let amsterdam = Calendar::in_zone(Zone::named("Europe/Amsterdam")?);
/// let before = amsterdam.windows("2026-03-28T22:59:59Z".parse()?);
/// let after = amsterdam.windows("2026-03-28T23:00:00Z".parse()?);
/// assert_eq!(after.day - before.day, 24 * 3600);
/// // The day on which the clocks go forward has 23 hours.
/// let next = amsterdam.windows("2026-03-29T22:00:00Z".parse()?);
/// assert_eq!(next.day - after.day, 23 * 3600);
/// assert_eq!(next.month, before.month);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Calendar {
    zone: Zone,
    /// The day looked up last: its windows, and the first second after it.
    latest: Mutex<(Windows, i64)>,
}

impl Calendar {
    /// Days and months of Coordinated Universal Time.
    #[must_use]
    pub fn utc() -> Self {
        Self::in_zone(Zone::utc())
    }

    /// Days and months of this zone.
    #[must_use]
    pub fn in_zone(zone: Zone) -> Self {
        Self {
            zone,
            latest: Mutex::new((Windows::default(), i64::MIN)),
        }
    }

    /// The day and the month of `now`.
    #[must_use]
    pub fn windows(&self, now: Timestamp) -> Windows {
        let second = now.as_second();
        let mut latest = lock(&self.latest);
        if !(latest.0.day..latest.1).contains(&second) {
            *latest = self.look_up(now);
        }
        latest.0
    }

    /// The windows stamped on a hold, if they aren't those that its call's start lies in.
    #[must_use]
    pub(crate) fn other_windows(&self, start: Timestamp, stamp: Windows) -> Option<Windows> {
        let since = start.as_second().saturating_sub(stamp.day);
        let is_surely_same = (0..DAY_SECONDS_MIN).contains(&since);
        (!is_surely_same && self.windows(start) != stamp).then_some(stamp)
    }

    /// `now`, with its day and its month.
    #[must_use]
    pub fn moment(&self, now: Timestamp) -> Moment {
        Moment {
            second: now.as_second(),
            windows: self.windows(now),
        }
    }

    /// When the window that `now` lies in ends, and the next one begins; `None` if it has no such
    /// end.
    #[must_use]
    pub fn end(&self, window: BudgetWindow, now: Timestamp) -> Option<Timestamp> {
        let today = now.to_zoned(self.zone.time_zone().clone()).date();
        let next = match window {
            BudgetWindow::Day => today.checked_add(1.day()),
            BudgetWindow::Month => today.first_of_month().checked_add(1.month()),
            BudgetWindow::Total | BudgetWindow::Rolling => return None,
        };
        let next = next.ok()?.to_zoned(self.zone.time_zone().clone()).ok()?;
        Some(next.timestamp())
    }

    fn look_up(&self, now: Timestamp) -> (Windows, i64) {
        let local = now.to_zoned(self.zone.time_zone().clone());
        let day = local.start_of_day();
        let month = local
            .first_of_month()
            .and_then(|first| first.start_of_day());
        // Computed from the date rather than as start plus 24 hours: where clocks go forward at
        // midnight, the day begins at one o'clock.
        let end = local
            .date()
            .checked_add(1.day())
            .and_then(|tomorrow| tomorrow.to_zoned(self.zone.time_zone().clone()));
        let second = |moment: Option<jiff::Zoned>| {
            moment.map_or(now.as_second(), |moment| moment.timestamp().as_second())
        };
        (
            Windows {
                day: second(day.ok()),
                month: second(month.ok()),
            },
            second(end.ok()),
        )
    }
}

impl Default for Calendar {
    fn default() -> Self {
        Self::utc()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn in_zone(name: &str) -> Calendar {
        Calendar::in_zone(Zone::named(name).unwrap())
    }

    #[test]
    fn the_day_after_one_without_a_midnight_begins_at_its_own_midnight() {
        // Chile's clocks go from 24:00 to 1:00: that day begins at one o'clock, the next at
        // midnight.
        let santiago = in_zone("America/Santiago");
        let short = santiago.windows(moment("2026-09-06T12:00:00Z"));
        assert_eq!(short.day, moment("2026-09-06T04:00:00Z").as_second());
        let late = santiago.windows(moment("2026-09-07T02:59:59Z"));
        assert_eq!(late, short);
        let next = santiago.windows(moment("2026-09-07T03:00:00Z"));
        assert_eq!(next.day, moment("2026-09-07T03:00:00Z").as_second());
    }

    #[test]
    fn a_window_ends_where_the_next_begins() {
        for zone in [
            "UTC",
            "Europe/Amsterdam",
            "America/Santiago",
            "Asia/Kathmandu",
        ] {
            let calendar = in_zone(zone);
            let mut second = moment("2025-12-01T00:00:00Z").as_second();
            for _ in 0..400 {
                let now = Timestamp::from_second(second).unwrap();
                let windows = calendar.windows(now);
                let ends = [BudgetWindow::Day, BudgetWindow::Month]
                    .map(|window| calendar.end(window, now).unwrap());
                let last = ends.map(|end| {
                    calendar.windows(Timestamp::from_second(end.as_second() - 1).unwrap())
                });
                assert_eq!((last[0].day, last[1].month), (windows.day, windows.month));
                let next = ends.map(|end| (calendar.windows(end), end.as_second()));
                assert_eq!(
                    (next[0].0.day, next[1].0.month),
                    (next[0].1, next[1].1),
                    "{zone} {now}"
                );
                second += 86_000;
            }
        }
        let utc = Calendar::utc();
        let now = moment("2026-02-28T23:59:59.5Z");
        for window in [BudgetWindow::Day, BudgetWindow::Month] {
            assert_eq!(utc.end(window, now), Some(moment("2026-03-01T00:00:00Z")));
        }
        for window in [BudgetWindow::Total, BudgetWindow::Rolling] {
            assert_eq!(utc.end(window, now), None);
        }
    }

    #[test]
    fn whatever_was_asked_before_the_answer_is_the_same() {
        for zone in [
            "America/Santiago",
            "Africa/Cairo",
            "America/Havana",
            "Europe/Lisbon",
        ] {
            let asked_before = in_zone(zone);
            let mut second = moment("2026-01-01T00:00:00Z").as_second();
            for _ in 0..365 * 48 {
                let now = Timestamp::from_second(second).unwrap();
                let fresh = in_zone(zone);
                assert_eq!(
                    asked_before.windows(now),
                    fresh.windows(now),
                    "{zone} {now}"
                );
                second += 1_800;
            }
        }
    }
}
