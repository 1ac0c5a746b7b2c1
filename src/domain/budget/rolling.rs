//! Rolling windows.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Thresholds;
use crate::domain::money::Money;

/// The number of slices in a window.
const SLICES: u32 = 60;

const SECONDS_MIN: u32 = 60;
const SECONDS_MAX: u32 = 366 * 86_400;

/// A window that rolls along with time: in any span of its length, no more than the limit is spent.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use tollgate::{
///     books::HoldRefusal,
///     budget::{RollingLimit, RollingWindow, SpendingLimits},
///     clock::ManualClock,
///     money::Money,
///     store::{AccountId, BudgetId, Ledger, MemoryStore},
///     usage::{Credit, Outcome, Settlement},
/// };
/// # use tollgate::{RequestId, clock::Clock, usage::{Call, Expiry, Hold, HoldRequest}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let clock = Arc::new(ManualClock::default());
/// let ledger = MemoryStore::builder().with_clock(clock.clone()).build();
/// let (account, key) = (AccountId::new("user-1")?, BudgetId::new("key-1")?);
/// ledger.credit(Credit { account: account.clone(), amount: "100".parse()?, reference: "first".into() }).await?;
///
/// // Two dollars in any five hours.
/// let window = RollingWindow::new(Duration::from_secs(5 * 3_600))?;
/// let limits = SpendingLimits {
///     rolling: Some(RollingLimit::new(window, "2".parse()?)),
///     ..SpendingLimits::default()
/// };
/// ledger.set_limits(&account, &key, limits).await?;
/// # let request = |amount| HoldRequest {
/// #     call: Call {
/// #         request_id: RequestId::generate(), account: account.clone(), principal: "user-1".into(), key: None,
/// #         route: "POST /chat".into(), started_at: clock.now(),
/// #     },
/// #     budgets: [key.clone()].into(), amount, lifetime: Hold::AS_LONG_AS_ITS_CALL, expiry: Expiry::Release,
/// #     idempotency: None,
/// # };
/// let two_dollars: Money = "2".parse()?;
/// let hold = ledger.hold(request(two_dollars)).await?.expect("it fits");
/// ledger.settle(hold, Settlement::new(two_dollars, Outcome::Completed)).await?;
///
/// // It is free again when its slice of five minutes has left the window wholly.
/// clock.advance(Duration::from_secs(5 * 3_600 - 1));
/// let refused = ledger.hold(request(two_dollars)).await?.expect_err("five hours aren't over");
/// let HoldRefusal::RollingLimitReached { wait: Some(wait) } = refused else { panic!("{refused}") };
/// assert!(wait <= Duration::from_secs(301));
/// clock.advance(wait);
/// assert!(ledger.hold(request(two_dollars)).await?.is_ok());
/// # Ok(()) }
/// ```
///
/// Spending is counted in slices, each a sixtieth of the window, rounded up to whole seconds. A
/// charge counts from its settlement until its whole slice has left the window: for at least the
/// window's length, and for less than one slice more. Money that is set aside counts for as long as
/// it is held. So the limit holds for every span, whether calls are dated by their beginning or by
/// their end. Only an overrun, a settlement above its hold, can exceed it, as with any limit.
///
/// A budget has one rolling window. For two (say five hours and a week), use two budgets
/// ([`SpendingLimitLayer::add_budget`](crate::SpendingLimitLayer::add_budget)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RollingWindow {
    seconds: u32,
}

/// The length is not valid for a rolling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a rolling window has a whole number of seconds, from one minute to 366 days, not {length:?}"
)]
pub struct InvalidWindow {
    length: Duration,
}

impl RollingWindow {
    /// A window of that length: a whole number of seconds from one minute to 366 days.
    ///
    /// # Errors
    /// [`InvalidWindow`] when it is anything else.
    pub fn new(length: Duration) -> Result<Self, InvalidWindow> {
        match u32::try_from(length.as_secs()) {
            Ok(seconds @ SECONDS_MIN..=SECONDS_MAX) if length.subsec_nanos() == 0 => {
                Ok(Self { seconds })
            }
            _ => Err(InvalidWindow { length }),
        }
    }

    /// How long it is.
    #[must_use]
    pub fn length(self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// The length of a slice. A charge counts for less than this longer than it must.
    #[must_use]
    pub fn slice(self) -> Duration {
        Duration::from_secs(self.seconds.div_ceil(SLICES).into())
    }

    pub(crate) fn seconds(self) -> i64 {
        self.seconds.into()
    }

    /// The slice that a second lies in.
    pub(crate) fn slice_of(self, second: i64) -> i64 {
        let width = i64::from(self.seconds.div_ceil(SLICES));
        second.checked_div_euclid(width).unwrap_or_default()
    }

    /// The first second of a slice.
    pub(crate) fn start_of(self, slice: i64) -> i64 {
        slice.saturating_mul(self.seconds.div_ceil(SLICES).into())
    }

    /// The first second at which a slice has wholly left the window.
    pub(crate) fn end_of(self, slice: i64) -> i64 {
        self.start_of(slice.saturating_add(1))
            .saturating_add(self.seconds())
    }
}

/// How much may be spent in a rolling window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollingLimit {
    /// How long the window is; as JSON, its seconds.
    #[serde(rename = "window_seconds")]
    pub window: RollingWindow,
    /// What may be spent in it. `None`: no limit.
    pub limit: Option<Money>,
    /// Limits that only raise an alert: each when a settlement crosses it, at most once in the
    /// length of the window.
    #[serde(default)]
    pub soft: Thresholds,
}

impl RollingLimit {
    /// At most `limit` in any span of the window's length.
    #[must_use]
    pub const fn new(window: RollingWindow, limit: Money) -> Self {
        Self {
            window,
            limit: Some(limit),
            soft: Thresholds::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_whole_seconds_and_its_length_has_bounds() {
        let window = |secs, nanos| RollingWindow::new(Duration::new(secs, nanos));
        for (secs, nanos) in [
            (0, 0),
            (59, 999_999_999),
            (60, 1),
            (31_622_401, 0),
            (u64::MAX, 0),
        ] {
            let refused = window(secs, nanos).unwrap_err().to_string();
            assert!(refused.contains("from one minute to 366 days"), "{refused}");
        }
        for (secs, slice) in [
            (60, 1),
            (61, 2),
            (18_000, 300),
            (86_400, 1_440),
            (31_622_400, 527_040),
        ] {
            let window = window(secs, 0).unwrap();
            assert_eq!(window.length(), Duration::from_secs(secs));
            assert_eq!(window.slice(), Duration::from_secs(slice));
        }
    }

    #[test]
    fn a_slice_leaves_when_all_of_it_is_out() {
        let window = RollingWindow::new(Duration::from_secs(61)).unwrap();
        for second in -5..200 {
            let slice = window.slice_of(second);
            assert!((window.start_of(slice)..window.start_of(slice) + 2).contains(&second));
            let counts_for = window.end_of(slice) - second;
            assert!((62..=63).contains(&counts_for), "{counts_for}");
        }
    }
}
