//! What was spent against a budget, and what its limits refuse.

use std::time::Duration;

use super::{ChargedCall, HoldRefusal, Money, Rolling};
use crate::domain::budget::{
    BudgetWindow, Moment, RollingWindow, SpendingLimits, Thresholds, Windows,
};

/// What was spent in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// What was charged and not given back.
    pub settled: Money,
    /// What is set aside.
    pub held: Money,
}

impl Spent {
    /// The total including `amount`; `None` on overflow.
    pub(super) fn after(&self, amount: Money) -> Option<Money> {
        self.settled.checked_add(self.held)?.checked_add(amount)
    }

    fn admits(&self, amount: Money, limit: Option<Money>) -> bool {
        let Some(limit) = limit else { return true };
        self.after(amount).is_some_and(|after| after <= limit)
    }

    /// The same without what is set aside.
    fn charged(self) -> Self {
        Self {
            held: Money::ZERO,
            ..self
        }
    }

    fn left(&self, limit: Option<Money>) -> Option<Money> {
        limit.map(|limit| limit.saturating_sub(self.settled).saturating_sub(self.held))
    }

    fn reset_if(self, is_over: bool) -> Self {
        if is_over { Self::default() } else { self }
    }

    pub(super) fn hold(&mut self, amount: Money) {
        self.held = self.held.saturating_add(amount);
    }

    fn refund(&mut self, amount: Money) {
        self.settled = self.settled.saturating_sub(amount).max(Money::ZERO);
    }

    /// Tells of the soft limits that the charge just crossed.
    fn settle(
        &mut self,
        held: Money,
        charged: Money,
        soft: &Thresholds,
        mut tell: impl FnMut(Passed),
    ) {
        let before = self.settled;
        self.held = self.held.saturating_sub(held);
        self.settled = before.saturating_add(charged);
        for limit in soft.crossed(before, self.settled) {
            tell(Passed {
                limit,
                spent: self.settled,
            });
        }
    }
}

pub(super) struct Passed {
    pub(super) limit: Money,
    pub(super) spent: Money,
}

/// Separate limits within an account, and what was spent against them. Spending is counted whether
/// or not there is a limit, so a limit that is set later covers what came before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The limits; change them with [`set_limits`](Self::set_limits).
    pub limits: SpendingLimits,
    /// The windows that `day` and `month` refer to.
    pub windows: Windows,
    /// Spent during the day.
    pub day: Spent,
    /// Spent during the month.
    pub month: Spent,
    /// Spent in all.
    pub total: Spent,
    /// Charges in the rolling window; `None` if there never was a limit for one. For holds,
    /// `total.held` counts: every open hold is in the window. Removing the limit keeps these
    /// charges, so that a new limit of the same length continues where the old one stopped.
    pub rolling: Option<Box<Rolling>>,
}

impl Budget {
    /// The budget as of `now`: a window that has ended since the last hold counts as empty.
    #[must_use]
    pub fn rolled(mut self, now: Moment) -> Self {
        self.roll(now.windows, now.second);
        self
    }

    /// Moves on to the current windows. Never goes back.
    pub(super) fn roll(&mut self, windows: Windows, second: i64) {
        self.day = self.day.reset_if(windows.day > self.windows.day);
        self.month = self.month.reset_if(windows.month > self.windows.month);
        self.windows = self.windows.max(windows);
        if let Some(limit) = &self.limits.rolling {
            // A rolling limit that was written straight into `limits` starts counting now.
            self.count_in(limit.window, second);
        }
        if let Some(rolling) = &mut self.rolling {
            rolling.roll(second);
        }
    }

    /// Sets the limits, which apply from the next hold on; earlier spending counts too.
    ///
    /// A rolling window that is new, or has a new length, starts from what the previous rolling
    /// window knew, and from at least what was spent this day or month if that period lies wholly
    /// within the new window. Spending counts as late as it may have happened: what no slice
    /// accounts for counts as spent now.
    pub fn set_limits(&mut self, limits: SpendingLimits, now: Moment) {
        self.roll(now.windows, now.second);
        if let Some(limit) = &limits.rolling {
            self.count_in(limit.window, now.second);
        }
        if let Some(rolling) = &mut self.rolling {
            rolling.keep_told(self.limits.rolling_soft(), limits.rolling_soft());
        }
        self.limits = limits;
    }

    fn count_in(&mut self, window: RollingWindow, second: i64) {
        let known = self.rolling.as_deref();
        if known.is_some_and(|rolling| rolling.window() == window) {
            return;
        }
        let mut rolling = match known {
            Some(known) => known.recut(window, second),
            None => Rolling::new(window, second),
        };
        let is_within = |start: i64| second.saturating_sub(start) <= window.seconds();
        if is_within(self.windows.month) {
            rolling.at_least(self.month.settled);
        } else if is_within(self.windows.day) {
            rolling.at_least(self.day.settled);
        }
        self.rolling = Some(Box::new(rolling));
    }

    /// What counts in the rolling window at `second`, charged and held.
    fn spent_rolling(&self, second: i64) -> Spent {
        let rolling = self.rolling.as_deref();
        Spent {
            settled: rolling.map_or(Money::ZERO, |rolling| rolling.settled_at(second)),
            held: self.total.held,
        }
    }

    /// What is left under the tightest limit.
    pub(super) fn left(&self, now: Moment) -> Option<Money> {
        let day = self.day.reset_if(now.windows.day > self.windows.day);
        let month = self.month.reset_if(now.windows.month > self.windows.month);
        let limits = &self.limits;
        let rolling = limits.rolling.as_ref().and_then(|rolling| rolling.limit);
        let lefts = [
            day.left(limits.daily),
            month.left(limits.monthly),
            self.total.left(limits.total),
            rolling.and_then(|limit| self.spent_rolling(now.second).left(Some(limit))),
        ];
        lefts.into_iter().flatten().min()
    }

    /// The first window without room for `amount`.
    pub(super) fn lacks(&self, amount: Money, second: i64) -> Option<BudgetWindow> {
        self.first_without_room(amount, second, |spent| spent)
    }

    /// Why `amount` doesn't fit, whatever becomes of what is held.
    pub(super) fn refuses(&self, amount: Money, second: i64) -> Option<HoldRefusal> {
        let window = self.first_without_room(amount, second, Spent::charged)?;
        Some(match window {
            BudgetWindow::Rolling => HoldRefusal::RollingLimitReached {
                wait: self.wait(amount, second),
            },
            calendar => HoldRefusal::LimitReached(calendar),
        })
    }

    fn first_without_room(
        &self,
        amount: Money,
        second: i64,
        counted: impl Fn(Spent) -> Spent,
    ) -> Option<BudgetWindow> {
        let limits = &self.limits;
        let lacks = |spent, limit| !counted(spent).admits(amount, limit);
        if lacks(self.day, limits.daily) {
            Some(BudgetWindow::Day)
        } else if lacks(self.month, limits.monthly) {
            Some(BudgetWindow::Month)
        } else if lacks(self.total, limits.total) {
            Some(BudgetWindow::Total)
        } else {
            let limit = limits.rolling.as_ref()?.limit?;
            lacks(self.spent_rolling(second), Some(limit)).then_some(BudgetWindow::Rolling)
        }
    }

    fn wait(&self, amount: Money, second: i64) -> Option<Duration> {
        let limit = self.limits.rolling.as_ref()?.limit?;
        let room = limit.checked_sub(amount)?;
        let rolling = self.rolling.as_deref()?;
        (!room.is_negative())
            .then(|| rolling.wait(room, second))
            .flatten()
    }

    /// Ends a hold; tells of the soft limits that this crossed, of each window smallest first.
    pub(super) fn settle(
        &mut self,
        stamp: Windows,
        held: Money,
        charged: Money,
        second: i64,
        mut tell: impl FnMut(BudgetWindow, Passed),
    ) {
        let soft = &self.limits.soft;
        if self.windows.day == stamp.day {
            let tell = |passed| tell(BudgetWindow::Day, passed);
            self.day.settle(held, charged, &soft.daily, tell);
        }
        if self.windows.month == stamp.month {
            let tell = |passed| tell(BudgetWindow::Month, passed);
            self.month.settle(held, charged, &soft.monthly, tell);
        }
        let tell_total = |passed| tell(BudgetWindow::Total, passed);
        self.total.settle(held, charged, &soft.total, tell_total);
        if let Some(rolling) = &mut self.rolling {
            let soft = self.limits.rolling_soft();
            let tell = |passed| tell(BudgetWindow::Rolling, passed);
            rolling.settle(charged, second, soft, tell);
        }
    }

    /// Gives back what was charged, in the windows of its call, or in the current ones without one.
    pub(super) fn refund(&mut self, amount: Money, call: Option<&ChargedCall>, now: Moment) {
        self.roll(now.windows, now.second);
        let windows = call.map_or(self.windows, |call| call.windows);
        if self.windows.day == windows.day {
            self.day.refund(amount);
        }
        if self.windows.month == windows.month {
            self.month.refund(amount);
        }
        self.total.refund(amount);
        if let Some(rolling) = &mut self.rolling {
            rolling.refund(amount, call.map(|call| call.second));
        }
    }
}
